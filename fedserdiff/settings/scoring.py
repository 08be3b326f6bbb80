"""The settings of scoring: inference, what is done to masks, and what is measured when."""

from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, Field

from fedserdiff.settings.declaration import Group, setting

ExtraMetric = Literal["sensitivity", "specificity", "nsd", "lesion_dice"]
NotNegative = Annotated[float, Field(ge=0)]


def _once(values: tuple[ExtraMetric, ...]) -> tuple[ExtraMetric, ...]:
    if len(set(values)) < len(values):
        raise ValueError(f"a list of {', '.join(get_args(ExtraMetric))}, each once at most")
    return values


class Scoring(Group):
    """Inference, whose scores a run reports, and when which sites score a student."""

    sampling_steps: int = setting(
        4, "K, the DDIM steps by which a student refines its mask; 1 is fastest.", ge=1, le=1000
    )
    flips: bool = setting(
        False,
        "Whether each scan is also segmented left for right, and probabilities are the means of both: twice the time.",
    )
    overlap: float = setting(
        0.5,
        "Share of a window's width by which neighbouring windows overlap, where `training.patch` has scans segmented "
        "by windows; Gaussian weights blend them.",
        ge=0,
        lt=1,
    )
    least_ml: tuple[NotNegative, ...] = setting(
        (),
        "Millilitres that a connected component of each region, in the order of `data.regions`, has to have to stay in "
        "a mask that is scored or written; empty is 0 for all.",
    )
    least_et_ml: float = setting(
        0.0, "Millilitres that region `et` has to have; where a mask has less, all of it becomes tumour core.", ge=0
    )
    least_from: Literal["settings", "validation"] = setting(
        "settings",
        "Where these two come from: `validation` has each hospital choose them anew for every student, for the best "
        "mean Dice of its own validation patients.",
    )
    patients: Literal["test", "validation"] = setting(
        "test",
        "Whose scores a run reports: `validation` to choose settings by, so that no choice is made on test patients.",
    )
    extra_metrics: Annotated[tuple[ExtraMetric, ...], AfterValidator(_once)] = setting(
        (),
        "Scores whose means leave a hospital beside those of Dice and HD95, and stand in R: `sensitivity`, "
        "`specificity`, `nsd` (at 1 mm), `lesion_dice`. Its own table has all of them whatever this says.",
    )
    hd95: Literal["voxels", "area"] = setting(
        "voxels",
        "How HD95 takes 95 % of a surface: of its `voxels`, or, as the organisers of BraTS 2023 do, of its `area`; "
        "then a region that is missed or made up has 374 mm.",
    )
    evaluate_every: int = setting(
        1,
        "After every so many stages, and the last, all sites score the student; after the others only the site whose "
        "stage it was and the next one.",
        ge=1,
    )
    evaluate_sites: int = setting(0, "How many sites, drawn by the seed, score it then; 0 is all of them.", ge=0)

    @property
    def metrics(self) -> tuple[str, ...]:
        """The scores whose means leave a hospital."""
        return ("dice", "hd95", *self.extra_metrics)
