"""Memory aware synapses."""

from fedserdiff.methods.ewc import EwcSettings
from fedserdiff.methods.method import Method
from fedserdiff.settings.declaration import setting


class MasSettings(EwcSettings):
    """Settings of MAS."""

    weight: float = setting(
        1000.0, "Weight of the penalty on moving weights that earlier hospitals need.", ge=0, after_first_stage=True
    )


METHOD = Method(
    "mas",
    "weights that the outputs at earlier hospitals depend on are held in place (arXiv 1711.09601)",
    "strategies.ewc:Ewc",
    "sites.objectives.mas:MasObjective",
    MasSettings,
    terms=("segmentation", "consolidation"),
    hands_over="fisher",
    records="fedserdiff.reply_schema:fisher",
)
