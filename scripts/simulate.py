"""Simulate a federation: hospitals arrive one after another, and one student learns from each."""

from fedserdiff.commands.simulate import app

if __name__ == "__main__":
    app()
