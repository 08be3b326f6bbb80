"""SER-Diff+: SER-Diff behind a site adapter."""

from typing import Literal

from fedserdiff.methods.method import Method, SharedErrorMaps
from fedserdiff.methods.ser_diff import SerDiffSettings
from fedserdiff.settings.declaration import setting


class SerDiffPlusSettings(SerDiffSettings):
    """Settings of SER-Diff+ (values are our choice, measured: docs/explanation/retention.md)."""

    teacher: Literal["latest"] = setting(
        "latest", "Student that is frozen as the teacher: always the `latest`.", after_first_stage=True
    )
    shared_error_maps: SharedErrorMaps = setting(
        "none",
        "Error maps that a hospital shares: `null` (from the teacher's unconditional branch, without patients' data), "
        "`mri` (generated from its scans) or `none`.",
        after_first_stage=True,
    )
    inversion_steps: int = setting(
        300,
        "Steps of contrast inversion, in which an arriving hospital trains its adapter; 0 means no adapter.",
        ge=0,
        after_first_stage=True,
    )
    inversion_rate: float = setting(
        5e-3, "Adam's initial learning rate in contrast inversion.", gt=0, after_first_stage=True
    )
    inversion_batch_share: float = setting(
        0.5,
        "Batch size of contrast inversion as a share of `training.batch_size`: in the same time, more steps with fewer "
        "samples improve the adapter more.",
        gt=0,
        le=1,
        after_first_stage=True,
    )
    adapter_rate: float = setting(
        0.5,
        "Learning rate of the adapter during the student's training, as a share of `training.learning_rate`.",
        ge=0,
        after_first_stage=True,
    )
    distillation: float = setting(
        0.3,
        "Weight of distillation as a share of λ. The hospital's samples are distilled, with features and outputs.",
        ge=0,
        after_first_stage=True,
    )
    taught_share: float = setting(
        0.5,
        "Share of a batch that is distilled, taken from the part drawn from items with tumour.",
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
