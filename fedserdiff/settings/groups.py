"""The settings of every experiment, by subject. A method's own settings are declared beside the method."""

import difflib
import json
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from fedserdiff.data.releases import BRATS_MODALITIES, BRATS_REGIONS
from fedserdiff.methods.method import Strategy
from fedserdiff.networks import NETWORKS, UNET, is_foreign, names
from fedserdiff.settings.declaration import Group, setting

MOST_REGIONS = 8
"""The number of regions that pictures can show in distinct colours."""

PhantomStream = Literal["contrast", "patients"]
Precision = Literal["auto", "bf16", "fp16", "fp32"]
SiteFailure = Literal["fail", "go-on"]


def _names(values: tuple[str, ...]) -> tuple[str, ...]:
    if not values or not all(values) or len(set(values)) < len(values):
        raise ValueError("a list of at least one name, without repeats")
    return values


def _regions(values: tuple[str, ...]) -> tuple[str, ...]:
    if len(values) > MOST_REGIONS:
        raise ValueError(f"a list of at most {MOST_REGIONS} names, the number that pictures can tell apart")
    return _names(values)


def _network(name: str) -> str:
    if name in NETWORKS or is_foreign(name):
        return name
    close = difflib.get_close_matches(name, names(), 1)
    meant = f": did you mean {close[0]}?" if close else ""
    raise ValueError(f"one of {', '.join(names())}, or MODULE:OBJECT{meant}")


def _arguments(values: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of the arguments as they come back from a JSON file."""
    try:
        return dict(json.loads(json.dumps(values, allow_nan=False)))
    except (TypeError, ValueError):
        raise ValueError("a table of numbers, strings, lists and tables") from None


def _widths(values: tuple[int, ...]) -> tuple[int, ...]:
    if not values or any(value < 8 or value % 8 for value in values):
        raise ValueError("a list of multiples of 8, one for each level")
    return values


Positive = Annotated[int, Field(ge=1)]
Widths = Annotated[tuple[int, ...], AfterValidator(_widths)]


class Data(Group):
    """Scans and their preparation."""

    modalities: Annotated[tuple[str, ...], AfterValidator(_names)] = setting(
        BRATS_MODALITIES, "Image channels, the same at every hospital, in the order of the networks' input channels."
    )
    regions: Annotated[tuple[str, ...], AfterValidator(_regions)] = setting(
        BRATS_REGIONS, "Regions to segment, the same at every hospital, in the order of the networks' output channels."
    )
    spatial_dims: Literal[2, 3] = setting(2, "2 trains on axial slices, 3 on volumes.")
    grid: tuple[Positive, Positive, Positive] = setting(
        (48, 64, 48),
        "Voxels of the working grid (X, Y, Z). Along the convolved axes they must be a multiple of "
        "`network.stem_factor` × 2^(levels − 1).",
    )
    spacing_mm: float = setting(
        3.0,
        "Voxel size of the working grid in mm. A brain too large for the grid is never cropped: it is sampled more "
        "coarsely, by one factor for all axes.",
        gt=0,
    )
    test_share: float = setting(0.2, "Share of patients held out for testing; at least one patient.", gt=0, lt=1)
    validation_share: float = setting(
        0.0,
        "Share of patients held out for choosing settings, in addition to the test patients; at least one patient if "
        "above 0.",
        ge=0,
        lt=1,
    )
    phantom_stream: PhantomStream = setting(
        "patients",
        "Which phantom hospitals arrive: in `patients` their patients differ as those of the BraTS hospitals do, in "
        "`contrast` their scanners differ more than real ones.",
    )
    phantom_patients: int = setting(
        20,
        "Patients of each phantom hospital, including those held out; in the stream `patients`, those of a "
        "medium-sized hospital.",
        ge=2,
    )
    phantom_test_patients: int = setting(
        10,
        "Least number of test patients of a phantom hospital. If `data.test_share` holds out fewer, further patients "
        "join for testing alone.",
        ge=1,
    )
    allow_overlap: bool = setting(
        False,
        "Keep patients that an earlier site already brought. This leaks into the test set, and the results say so.",
    )


class Network(Group):
    """The student's two networks."""

    stem_factor: int = setting(
        2, "Space-to-depth factor at the input of the residual diffusion network and of `unet`.", ge=1
    )
    coarse: Annotated[str, AfterValidator(_network)] = setting(
        UNET,
        f"The coarse network: {', '.join(f'`{name}`' for name in NETWORKS)}, one from an installed package, or "
        "`module:object`.",
    )
    coarse_arguments: Annotated[dict[str, Any], AfterValidator(_arguments)] = setting(
        {}, "Keyword arguments of a coarse network other than `unet`."
    )
    coarse_channels: Widths = setting(
        (16, 16, 32), "Feature channels at each level of the coarse network if it is `unet`; multiples of 8."
    )
    refiner_channels: Widths = setting(
        (16, 16, 32), "Feature channels at each level of the residual diffusion network; multiples of 8."
    )
    precision: Precision = setting(
        "auto",
        "Precision of the convolutions; losses and weights stay in fp32. `auto` is bf16 if the hardware supports it, "
        "fp16 on older GPUs with tensor cores, otherwise fp32.",
    )

    def __hash__(self) -> int:
        return hash(tuple(value for name, value in self if name != "coarse_arguments"))


class Aggregation(Group):
    """How the students that a round's participants return are aggregated into one."""

    strategy: Literal["method", Strategy] = setting(
        "method",
        "The Flower strategy of that name. `FedMedian` and `FedTrimmedAvg` count all hospitals equally; the others "
        "weight them by their cases. `method` is `FedAvg`, except for methods named after another strategy.",
    )
    fraction_train: float = setting(
        1.0,
        "Share of a stage's hospitals that train in a round, at least one; drawn again each round.",
        gt=0,
        le=1,
    )
    inertia: Annotated[float, Field(ge=0, lt=1)] | Literal["method"] = setting(
        "method",
        "Largest share that a stage, from the second on, keeps of the student it began with. Weights are "
        "interpolated by the training cases of earlier hospitals and of its own. `method` is 0.25 for "
        "`lesion-replay`, otherwise 0.",
        after_first_stage=True,
    )
    server_learning_rate: float = setting(
        1.0, "Only `FedAvgM`: factor on the mean change, momentum included, that is applied.", gt=0
    )
    server_momentum: float = setting(
        0.9, "Only `FedAvgM`: share of the last round's momentum that the next round keeps.", ge=0, lt=1
    )
    eta: float = setting(
        0.01,
        "Only `FedAdagrad`, `FedAdam` and `FedYogi`: η, the coordinator's learning rate; roughly the change of a "
        "weight in a round.",
        gt=0,
    )
    beta_1: float = setting(0.9, "Only `FedAdam` and `FedYogi`: β₁, the decay of the first moment.", ge=0, lt=1)
    beta_2: float = setting(0.99, "Only `FedAdam` and `FedYogi`: β₂, the decay of the second moment.", ge=0, lt=1)
    tau: float = setting(
        1e-3,
        "Only `FedAdagrad`, `FedAdam` and `FedYogi`: τ, added to the root of the second moment; a weight whose "
        "changes are much smaller hardly moves.",
        gt=0,
    )
    beta: float = setting(
        0.2,
        "Only `FedTrimmedAvg`: share of hospitals trimmed at each end, weight by weight, rounded down.",
        ge=0,
        lt=0.5,
    )


class Replay(Group):
    """What replay methods draw and share."""

    batch_size: int = setting(
        8,
        "Replayed samples in each step. For error maps, half come from the hospital's conditional maps and half from "
        "the bank, if both exist.",
        ge=0,
        after_first_stage=True,
    )
    conditional_maps: int = setting(
        192,
        "Training items for which a stage makes a conditional teacher map: the pool that replay draws from.",
        ge=1,
        after_first_stage=True,
    )
    shared_maps: int = setting(
        64,
        "Synthetic samples (error maps, or images with masks) that a hospital shares when a teacher is frozen.",
        ge=1,
        after_first_stage=True,
    )
    map_steps: int = setting(
        4,
        "DDIM steps for each error map that is replayed or shared; a single step would give only the mean of the maps.",
        ge=1,
        le=1000,
        after_first_stage=True,
    )
    map_noise: float = setting(
        0.0,
        "Standard deviation of Gaussian noise added to every replayed error map, for studies of replay.",
        ge=0,
        after_first_stage=True,
    )


class Privacy(Group):
    """Noise on what leaves a hospital, and limits on its size."""

    dp_noise: float = setting(
        0.0,
        "Local differential privacy: standard deviation of the Gaussian noise on a round's weight change, as a "
        "multiple of its sensitivity; 0 is off.",
        ge=0,
    )
    dp_clip: float = setting(
        10.0, "L2 norm to which a round's weight change is clipped before that noise is added.", gt=0
    )
    max_update_rms: float = setting(
        0.1,
        "Largest change of a student's weights in a round, as the root mean square over all weights. A hospital does "
        "not send a larger change, and the coordinator does not accept one.",
        gt=0,
        one_machine=True,
    )
    egress_quota_mb: float = setting(
        1000.0,
        "Limit in megabytes (10⁶ bytes) on what may leave one hospital in a federation, all messages together.",
        gt=0,
        one_machine=True,
    )
    statistics: bool = setting(
        True,
        "Answer a coordinator that asks for statistics of the training patients before training.",
        one_machine=True,
    )


class Machine(Group):
    """Where an experiment runs, how long it waits, and how it handles failures."""

    cpus_per_site: float = setting(
        2.0, "CPUs that Ray reserves for a working site; torch uses as many threads.", ge=1, one_machine=True
    )
    gpus_per_site: float = setting(0.0, "GPUs that Ray reserves for a working site.", ge=0, one_machine=True)
    repeatable: bool = setting(
        True,
        "Whether a GPU adds in the same order each time, which costs time; false lets it choose its kernels.",
        one_machine=True,
    )
    compile: bool = setting(
        False,
        "Whether torch compiles the training step. This needs a C++ compiler and takes minutes at the start. It is "
        "not yet measured on a GPU, and does not pay off on a CPU.",
        one_machine=True,
    )
    site_timeout_s: float = setting(
        120.0,
        "Seconds that the coordinator waits for a site to appear. Time in which the site is connected and prepares "
        "its cases does not count, up to `stage_timeout_s`.",
        gt=0,
        one_machine=True,
    )
    stage_timeout_s: float = setting(
        7.0 * 24 * 3600,
        "Seconds that the coordinator waits for a round or an evaluation to finish.",
        gt=0,
        one_machine=True,
    )
    retries: int = setting(
        2,
        "How often a site is asked again if its worker dies or runs out of main memory (not GPU memory).",
        ge=0,
        one_machine=True,
    )
    site_failure: SiteFailure = setting(
        "fail",
        "What a stage does once a site has failed for good: `fail`, or `go-on` with the other sites.",
        one_machine=True,
    )
