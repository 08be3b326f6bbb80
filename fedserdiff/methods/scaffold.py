"""SCAFFOLD: federated averaging in which control variates correct each hospital's drift."""

from fedserdiff.methods.method import Method, Together
from fedserdiff.settings.declaration import setting


class ScaffoldSettings(Together):
    """Settings of SCAFFOLD."""

    correction: float = setting(
        1.0, "Weight of the correction c − cᵢ in the gradient of each step; with 0 it is FedAvg.", ge=0
    )


METHOD = Method(
    "scaffold",
    "FedAvg with each hospital's drift corrected by control variates (arXiv 1910.06378)",
    "strategies.scaffold:Scaffold",
    "sites.objectives.scaffold:ScaffoldObjective",
    ScaffoldSettings,
    hands_over="control",
    records="fedserdiff.reply_schema:control",
    every_round=True,
    arrival="together",
)
