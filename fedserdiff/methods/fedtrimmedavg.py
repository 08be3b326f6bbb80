"""Federated averaging without extreme weights."""

from fedserdiff.methods.method import Method, Together

METHOD = Method(
    "fedtrimmedavg",
    "FedAvg without the hospitals with extreme values, for each weight (arXiv 1803.01498)",
    "strategies.fine_tune:FineTune",
    "sites.objectives.fine_tune:FineTuneObjective",
    Together,
    arrival="together",
    aggregation="FedTrimmedAvg",
)
