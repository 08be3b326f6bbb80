"""Federated averaging, with all hospitals from the start."""

from fedserdiff.methods.method import Method, Together

METHOD = Method(
    "fedavg",
    "all hospitals train from the start, and students are averaged every round (arXiv 1602.05629)",
    "strategies.fine_tune:FineTune",
    "sites.objectives.fine_tune:FineTuneObjective",
    Together,
    arrival="together",
)
