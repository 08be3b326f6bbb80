"""The settings of an experiment. Each one is declared once, as a field of its group's class."""
