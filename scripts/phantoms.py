"""Write a stream of phantom hospitals, of brains or prostates, and the federation file that names them."""

from fedserdiff.commands.phantoms import app

if __name__ == "__main__":
    app()
