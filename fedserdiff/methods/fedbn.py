"""FedBN: federated averaging of all weights but those of normalisation."""

from fedserdiff.methods.method import Method, Together

METHOD = Method(
    "fedbn",
    "FedAvg, but each hospital keeps its own weights of normalisation (arXiv 2102.07623)",
    "strategies.fine_tune:FineTune",
    "sites.objectives.personal:FedBNObjective",
    Together,
    knows_origin=True,
    arrival="together",
)
