"""Export a run's final student as one file to hand on: safetensors, with its config; nothing in it runs."""

from fedserdiff.commands.export import app

if __name__ == "__main__":
    app()
