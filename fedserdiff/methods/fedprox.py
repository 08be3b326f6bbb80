"""FedProx: federated averaging in which hospitals' students stay near the round's initial student."""

from fedserdiff.methods.method import Method, Together
from fedserdiff.settings.declaration import setting


class FedProxSettings(Together):
    """Settings of FedProx."""

    mu: float = setting(0.01, "μ, the weight of the penalty on changes from the round's initial student.", ge=0)


METHOD = Method(
    "fedprox",
    "FedAvg with a penalty on changes from the student at the start of a round (arXiv 1812.06127)",
    "strategies.fine_tune:FineTune",
    "sites.objectives.fedprox:FedProxObjective",
    FedProxSettings,
    terms=("segmentation", "proximity"),
    arrival="together",
)
