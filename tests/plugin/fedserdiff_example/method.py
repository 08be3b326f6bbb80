"""Size prior: keeps the share of a scan that a student predicts as tumour near that of earlier hospitals."""

from fedserdiff.methods.method import Method, MethodSettings
from fedserdiff.settings.declaration import setting

SHARES = "region-shares"
"""The record that is handed over: the mean share of an image in each region, as the student sees it."""


class SizePriorSettings(MethodSettings):
    """Settings of the size prior."""

    strength: float = setting(1.0, "Weight of the prior against segmentation.", ge=0, after_first_stage=True)


METHOD = Method(
    "size-prior",
    "the share of an image that is tumour is held to earlier hospitals'",
    "fedserdiff_example.strategy:SizePrior",
    "fedserdiff_example.objective:SizePriorObjective",
    SizePriorSettings,
    terms=("segmentation", "prior"),
    hands_over=SHARES,
    records="fedserdiff_example.records:region_shares",
)
