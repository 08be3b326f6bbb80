"""Export a run's final student as one shareable safetensors file with its settings and no executable code."""

from fedserdiff.commands.export import app

if __name__ == "__main__":
    app()
