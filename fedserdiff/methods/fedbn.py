"""FedBN: federated averaging of all weights except those of normalisation layers."""

from fedserdiff.methods.method import Method, Together

METHOD = Method(
    "fedbn",
    "FedAvg, but each hospital keeps its own normalisation weights (arXiv 2102.07623)",
    "strategies.fine_tune:FineTune",
    "sites.objectives.personal:FedBNObjective",
    Together,
    knows_origin=True,
    arrival="together",
)
