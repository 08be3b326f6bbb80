"""Score a folder of predicted label maps against the truth: Dice and HD95, as a whole and lesion by lesion."""

from fedserdiff.commands.score import app

if __name__ == "__main__":
    app()
