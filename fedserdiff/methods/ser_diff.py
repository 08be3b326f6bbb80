"""SER-Diff, as published."""

from fedserdiff.methods.method import Distilling, Method, SharedErrorMaps
from fedserdiff.settings.declaration import setting


class SerDiffSettings(Distilling):
    """Settings of SER-Diff."""

    shared_error_maps: SharedErrorMaps = setting(
        "null",
        "Error maps that a hospital shares: `null` (from the teacher's unconditional branch, without patients' data), "
        "`mri` (generated from its scans) or `none`.",
        after_first_stage=True,
    )


METHOD = Method(
    "ser-diff",
    "teacher features distilled at replayed synthetic error maps (arXiv 2510.06283)",
    "strategies.ser_diff:SerDiff",
    "sites.objectives.ser_diff:SerDiffObjective",
    SerDiffSettings,
    terms=("segmentation", "distillation"),
    hands_over="error-maps",
    records="fedserdiff.reply_schema:error_maps",
)
