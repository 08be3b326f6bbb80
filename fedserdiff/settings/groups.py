"""The settings that every experiment has, by subject. A method's own are declared beside the method."""

import difflib
import json
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from fedserdiff.data.releases import BRATS_MODALITIES, BRATS_REGIONS
from fedserdiff.methods.method import Strategy
from fedserdiff.networks import NETWORKS, UNET, is_foreign, names
from fedserdiff.settings.declaration import Group, setting

MOST_REGIONS = 8
"""More regions than that no picture tells apart."""

PhantomStream = Literal["contrast", "patients"]
Precision = Literal["auto", "bf16", "fp16", "fp32"]
SiteFailure = Literal["fail", "go-on"]


def _names(values: tuple[str, ...]) -> tuple[str, ...]:
    if not values or not all(values) or len(set(values)) < len(values):
        raise ValueError("a list of names, at least one, each once")
    return values


def _regions(values: tuple[str, ...]) -> tuple[str, ...]:
    if len(values) > MOST_REGIONS:
        raise ValueError(f"a list of at most the {MOST_REGIONS} that pictures tell apart")
    return _names(values)


def _network(name: str) -> str:
    if name in NETWORKS or is_foreign(name):
        return name
    close = difflib.get_close_matches(name, names(), 1)
    meant = f": did you mean {close[0]}?" if close else ""
    raise ValueError(f"one of {', '.join(names())}, or MODULE:OBJECT{meant}")


def _arguments(values: dict[str, Any]) -> dict[str, Any]:
    """Return arguments as a JSON file would bring them back, a copy."""
    try:
        return dict(json.loads(json.dumps(values, allow_nan=False)))
    except (TypeError, ValueError):
        raise ValueError("a table of numbers, texts, lists and tables") from None


def _widths(values: tuple[int, ...]) -> tuple[int, ...]:
    if not values or any(value < 8 or value % 8 for value in values):
        raise ValueError("a list of multiples of 8, one a level")
    return values


Positive = Annotated[int, Field(ge=1)]
Widths = Annotated[tuple[int, ...], AfterValidator(_widths)]


class Data(Group):
    """Scans, and how they are prepared."""

    modalities: Annotated[tuple[str, ...], AfterValidator(_names)] = setting(
        BRATS_MODALITIES, "Image channels, the same at every hospital, in the order in which networks have them."
    )
    regions: Annotated[tuple[str, ...], AfterValidator(_regions)] = setting(
        BRATS_REGIONS, "Regions to segment, the same at every hospital, in the order in which networks have them."
    )
    spatial_dims: Literal[2, 3] = setting(2, "2 trains on axial slices, 3 on whole volumes.")
    grid: tuple[Positive, Positive, Positive] = setting(
        (48, 64, 48),
        "Voxels of the working grid (X, Y, Z): of the axes that are convolved a multiple of "
        "`network.stem_factor` × 2^(levels − 1).",
    )
    spacing_mm: float = setting(
        3.0,
        "Voxel size of the working grid. A brain too large for the grid is sampled more coarsely, by one "
        "factor for all axes, never cut.",
        gt=0,
    )
    test_share: float = setting(0.2, "Share of patients held out for testing; at least one patient.", gt=0, lt=1)
    validation_share: float = setting(
        0.0,
        "Share of patients held out to choose settings by, beside those to test on; at least one patient where it is "
        "above 0.",
        ge=0,
        lt=1,
    )
    phantom_stream: PhantomStream = setting(
        "contrast",
        "Which phantom hospitals arrive: `contrast`, whose scanners differ more than real ones, or `patients`, whose "
        "patients differ as those of BraTS' hospitals do.",
    )
    phantom_patients: int = setting(
        20,
        "Patients of each phantom hospital, those held out included; in the stream `patients` of a hospital of "
        "middling size.",
        ge=2,
    )
    allow_overlap: bool = setting(
        False, "Keep patients that an earlier site brought: a leak into the test set, and the results say so."
    )


class Network(Group):
    """The student's two networks."""

    stem_factor: int = setting(2, "Space-to-depth factor in front of the residual diffusion and of `unet`.", ge=1)
    coarse: Annotated[str, AfterValidator(_network)] = setting(
        UNET,
        f"The coarse network: {', '.join(f'`{name}`' for name in NETWORKS)}, one that an installed package brings, or "
        "`module:object`.",
    )
    coarse_arguments: Annotated[dict[str, Any], AfterValidator(_arguments)] = setting(
        {}, "Arguments of a coarse network other than `unet`, by name."
    )
    coarse_channels: Widths = setting(
        (16, 16, 32), "Features a level of the coarse network where it is `unet`, multiples of 8."
    )
    refiner_channels: Widths = setting((16, 16, 32), "Features a level of the residual diffusion, multiples of 8.")
    precision: Precision = setting(
        "auto",
        "Precision of the convolutions; losses and weights stay fp32. `auto` is bf16 where the hardware computes in "
        "it, fp16 on older GPUs that have tensor cores, else fp32.",
    )

    def __hash__(self) -> int:
        return hash(tuple(value for name, value in self if name != "coarse_arguments"))


class Aggregation(Group):
    """How one student is made of those that a round's participants send back."""

    strategy: Literal["method", Strategy] = setting(
        "method",
        "Flower's strategy of that name. All weigh hospitals by their cases but `FedMedian` and `FedTrimmedAvg`, to "
        "which each counts the same. `method` is `FedAvg`, but for methods named after another.",
    )
    fraction_train: float = setting(
        1.0,
        "Share of a stage's hospitals that train in a round, at least one, drawn anew each round.",
        gt=0,
        le=1,
    )
    inertia: Annotated[float, Field(ge=0, lt=1)] | Literal["method"] = setting(
        "method",
        "The most that a stage, from the second on, keeps of the student that it began with: weights are interpolated "
        "by the training cases of the hospitals before and of its own. `method` is 0.5 by `lesion-replay`, else 0.",
        after_first_stage=True,
    )
    server_learning_rate: float = setting(
        1.0, "`FedAvgM` alone: the share of the mean change, with its momentum, that is made.", gt=0
    )
    server_momentum: float = setting(
        0.9, "`FedAvgM` alone: the share of the last round's momentum that the next one keeps.", ge=0, lt=1
    )
    eta: float = setting(
        0.01,
        "`FedAdagrad`, `FedAdam` and `FedYogi` alone: η, the coordinator's learning rate, and roughly what a round "
        "moves a weight by.",
        gt=0,
    )
    beta_1: float = setting(0.9, "`FedAdam` and `FedYogi` alone: β₁, the decay of the first moment.", ge=0, lt=1)
    beta_2: float = setting(0.99, "`FedAdam` and `FedYogi` alone: β₂, the decay of the second moment.", ge=0, lt=1)
    tau: float = setting(
        1e-3,
        "`FedAdagrad`, `FedAdam` and `FedYogi` alone: τ, added to the root of the second moment: a weight that changes "
        "by much less hardly moves.",
        gt=0,
    )
    beta: float = setting(
        0.2,
        "`FedTrimmedAvg` alone: the share of hospitals left out at either end, weight by weight, rounded down.",
        ge=0,
        lt=0.5,
    )


class Replay(Group):
    """What methods that replay draw and share."""

    batch_size: int = setting(
        8,
        "Replayed samples a step. Of error maps half are the hospital's conditional ones, half the bank's, where both "
        "exist.",
        ge=0,
        after_first_stage=True,
    )
    conditional_maps: int = setting(
        192,
        "Training items whose conditional teacher map is made for a stage: the pool that replay draws from.",
        ge=1,
        after_first_stage=True,
    )
    shared_maps: int = setting(
        64,
        "Synthetic samples (error maps, or images with masks) that a hospital shares when a teacher is made.",
        ge=1,
        after_first_stage=True,
    )
    map_steps: int = setting(
        4,
        "DDIM steps of every error map that is replayed or shared; one step would give their mean alone.",
        ge=1,
        le=1000,
        after_first_stage=True,
    )
    map_noise: float = setting(
        0.0,
        "Standard deviation of Gaussian noise added to every error map that is replayed, to study it.",
        ge=0,
        after_first_stage=True,
    )


class Privacy(Group):
    """Noise on what leaves a hospital, and limits of it."""

    dp_noise: float = setting(
        0.0,
        "Local differential privacy: Gaussian noise on what a round changes, as a multiple of its sensitivity; 0 is "
        "off.",
        ge=0,
    )
    dp_clip: float = setting(10.0, "L2 norm to which a round's change is clipped before that noise.", gt=0)
    max_update_rms: float = setting(
        0.1,
        "The most that a round may change a student's weights, as root mean square over all of them: a hospital sends "
        "no other change, and the coordinator takes no other.",
        gt=0,
        one_machine=True,
    )
    egress_quota_mb: float = setting(
        1000.0,
        "Most megabytes (10⁶ bytes) that may leave one hospital in a federation, all messages together.",
        gt=0,
        one_machine=True,
    )
    statistics: bool = setting(
        True,
        "Answer a coordinator that asks for statistics of the training patients before training.",
        one_machine=True,
    )


class Machine(Group):
    """Where an experiment runs, how long it waits, and what becomes of failures."""

    cpus_per_site: float = setting(
        2.0, "CPUs that Ray reserves for a site at work; torch uses as many threads.", ge=1, one_machine=True
    )
    gpus_per_site: float = setting(0.0, "GPUs that Ray reserves for a site at work.", ge=0, one_machine=True)
    repeatable: bool = setting(
        True,
        "Have a GPU sum in the same order each time, which costs time; false lets it choose its kernels.",
        one_machine=True,
    )
    compile: bool = setting(
        False,
        "Have torch compile a training step, which takes minutes at the start, and a C++ compiler. Not measured on a "
        "GPU yet; on a CPU it does not pay.",
        one_machine=True,
    )
    site_timeout_s: float = setting(
        120.0,
        "Seconds that the coordinator waits for a site to appear; those in which it is connected and prepares its "
        "cases do not count, up to `stage_timeout_s`.",
        gt=0,
        one_machine=True,
    )
    stage_timeout_s: float = setting(
        7.0 * 24 * 3600,
        "Seconds that the coordinator waits for a round or an evaluation to end.",
        gt=0,
        one_machine=True,
    )
    retries: int = setting(
        2,
        "How often a site is asked again where its worker dies or runs out of memory, not a GPU's.",
        ge=0,
        one_machine=True,
    )
    site_failure: SiteFailure = setting(
        "fail",
        "What a stage does where a site has failed for good: `fail`, or `go-on` with the others.",
        one_machine=True,
    )
