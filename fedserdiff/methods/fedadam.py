"""Federated averaging with Adam at the coordinator."""

from fedserdiff.methods.method import Method, Together

METHOD = Method(
    "fedadam",
    "FedAvg with Adam at the coordinator (arXiv 2003.00295)",
    "strategies.fine_tune:FineTune",
    "sites.objectives.fine_tune:FineTuneObjective",
    Together,
    arrival="together",
    aggregation="FedAdam",
)
