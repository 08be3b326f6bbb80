"""Elastic weight consolidation."""

from fedserdiff.methods.method import Method, MethodSettings
from fedserdiff.settings.declaration import setting


class EwcSettings(MethodSettings):
    """Settings of EWC."""

    weight: float = setting(
        10000.0, "Weight of the penalty on changing weights that earlier hospitals need.", ge=0, after_first_stage=True
    )


METHOD = Method(
    "ewc",
    "weights that earlier hospitals need are held in place (arXiv 1612.00796)",
    "strategies.ewc:Ewc",
    "sites.objectives.ewc:EwcObjective",
    EwcSettings,
    terms=("segmentation", "consolidation"),
    hands_over="fisher",
    records="fedserdiff.reply_schema:fisher",
)
