"""Federated averaging with momentum at the coordinator."""

from fedserdiff.methods.method import Method, Together

METHOD = Method(
    "fedavgm",
    "FedAvg with momentum at the coordinator (arXiv 1909.06335)",
    "strategies.fine_tune:FineTune",
    "sites.objectives.fine_tune:FineTuneObjective",
    Together,
    arrival="together",
    aggregation="FedAvgM",
)
