"""SER-Diff+: SER-Diff behind a site adapter."""

from typing import Literal

from fedserdiff.methods.method import Method, SharedErrorMaps
from fedserdiff.methods.ser_diff import SerDiffSettings
from fedserdiff.settings.declaration import setting


class SerDiffPlusSettings(SerDiffSettings):
    """Settings of SER-Diff+ (values are our choice, measured: docs/explanation/retention.md)."""

    teacher: Literal["latest"] = setting(
        "latest", "The student that teaches: always the latest.", after_first_stage=True
    )
    shared_error_maps: SharedErrorMaps = setting(
        "none",
        "Error maps that a hospital shares: `null` (from the teacher's unconditional branch, no patient goes in), "
        "`mri` (made of its scans) or `none`.",
        after_first_stage=True,
    )
    inversion_steps: int = setting(
        300,
        "Contrast inversion: steps by which an arriving hospital learns its adapter; 0 is no adapter.",
        ge=0,
        after_first_stage=True,
    )
    inversion_rate: float = setting(5e-3, "Adam's initial rate in contrast inversion.", gt=0, after_first_stage=True)
    inversion_batch_share: float = setting(
        0.5,
        "Batch of contrast inversion as a share of `training.batch_size`: more steps of fewer samples take the adapter "
        "further for the same time.",
        gt=0,
        le=1,
        after_first_stage=True,
    )
    adapter_rate: float = setting(
        0.5,
        "Rate by which the adapter learns on with the student, as a share of `training.learning_rate`.",
        ge=0,
        after_first_stage=True,
    )
    distillation: float = setting(
        0.3,
        "Weight of distillation as a share of λ: the samples themselves are distilled, and outputs with features.",
        ge=0,
        after_first_stage=True,
    )
    taught_share: float = setting(
        0.5,
        "Share of a batch that is distilled, the part that is drawn from items with tumour.",
        gt=0,
        le=1,
        after_first_stage=True,
    )


METHOD = Method(
    "ser-diff-plus",
    "SER-Diff behind a site adapter: each hospital's contrast is translated to the one that the teacher knows",
    "strategies.ser_diff_plus:SerDiffPlus",
    "sites.objectives.ser_diff_plus:SerDiffPlusObjective",
    SerDiffPlusSettings,
    terms=("segmentation", "distillation"),
    hands_over="error-maps",
    records="fedserdiff.reply_schema:error_maps",
    knows_origin=True,
)
