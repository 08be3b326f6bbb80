"""FedPer: federated averaging of all weights except those of each network's last layer."""

from fedserdiff.methods.method import Method, Together

METHOD = Method(
    "fedper",
    "FedAvg, but each hospital keeps its own last layer of both networks (arXiv 1912.00818)",
    "strategies.fine_tune:FineTune",
    "sites.objectives.personal:FedPerObjective",
    Together,
    knows_origin=True,
    arrival="together",
)
