"""FedProx: federated averaging with hospitals held near the student of the round."""

from fedserdiff.methods.method import Method, Together
from fedserdiff.settings.declaration import setting


class FedProxSettings(Together):
    """Settings of FedProx."""

    mu: float = setting(0.01, "μ, the weight of the penalty on moving weights away from the round's student.", ge=0)


METHOD = Method(
    "fedprox",
    "FedAvg with hospitals held near the student that a round begins with (arXiv 1812.06127)",
    "strategies.fine_tune:FineTune",
    "sites.objectives.fedprox:FedProxObjective",
    FedProxSettings,
    terms=("segmentation", "proximity"),
    arrival="together",
)
