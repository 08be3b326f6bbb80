"""Scoring settings: inference, post-processing of masks, and what is measured when."""

from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, Field

from fedserdiff.settings.declaration import Group, setting

ExtraMetric = Literal["sensitivity", "specificity", "nsd", "lesion_dice"]
NotNegative = Annotated[float, Field(ge=0)]


def _once(values: tuple[ExtraMetric, ...]) -> tuple[ExtraMetric, ...]:
    if len(set(values)) < len(values):
        raise ValueError(f"a list of {', '.join(get_args(ExtraMetric))}, each at most once")
    return values


class Scoring(Group):
    """Inference, the patients whose scores a run reports, and when which sites score a student."""

    sampling_steps: int = setting(
        4, "K, the number of DDIM steps with which a student refines its mask; 1 is fastest.", ge=1, le=1000
    )
    flips: bool = setting(
        False,
        "Whether each scan is also segmented with left and right flipped and the probabilities are averaged; takes "
        "twice the time.",
    )
    overlap: float = setting(
        0.5,
        "Share of a window's width by which neighbouring windows overlap in sliding-window inference (used if "
        "`training.patch` is set); Gaussian weights blend them.",
        ge=0,
        lt=1,
    )
    least_ml: tuple[NotNegative, ...] = setting(
        (),
        "Smallest volume in ml that a connected component needs to stay in a mask that is scored or written: one "
        "value for each region, in the order of `data.regions`; empty is 0 for all.",
    )
    least_et_ml: float = setting(
        0.0, "Smallest volume in ml of region `et`; if a mask has less, all of it becomes tumour core.", ge=0
    )
    least_from: Literal["settings", "validation"] = setting(
        "settings",
        "Source of these two thresholds: with `validation`, each hospital chooses them for every student, for the "
        "best mean Dice of its own validation patients.",
    )
    patients: Literal["test", "validation"] = setting(
        "test",
        "Whose scores a run reports: use `validation` when choosing settings, so that no choice is made on test "
        "patients.",
    )
    extra_metrics: Annotated[tuple[ExtraMetric, ...], AfterValidator(_once)] = setting(
        (),
        "Metrics whose means leave a hospital in addition to Dice and HD95, and appear in R: `sensitivity`, "
        "`specificity`, `nsd` (at 1 mm), `lesion_dice`. The hospital's own table always has all of them.",
    )
    hd95: Literal["voxels", "area"] = setting(
        "voxels",
        "How HD95 takes the 95th percentile over a surface: of its `voxels`, or of its `area`, as the organisers of "
        "BraTS 2023 do; with `area` a region that is missed or false positive counts as 374 mm.",
    )
    evaluate_every: int = setting(
        1,
        "All sites score the student after every so many stages and after the last. After the other stages, only the "
        "site that trained and the next one do.",
        ge=1,
    )
    evaluate_sites: int = setting(
        0, "How many sites, drawn with the seed, score the student then; 0 is all of them.", ge=0
    )

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics whose means leave a hospital."""
        return ("dice", "hd95", *self.extra_metrics)
