"""Score a folder of predicted label maps against the truth: Dice and HD95, for the whole scan and for each lesion."""

from fedserdiff.commands.score import app

if __name__ == "__main__":
    app()
