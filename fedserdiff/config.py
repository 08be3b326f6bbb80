"""The experiment's configuration: one frozen dataclass, and the named profiles that fill it."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from types import MappingProxyType
from typing import Any, Literal, get_args

from fedserdiff.data.releases import BRATS_MODALITIES, BRATS_REGIONS
from fedserdiff.errors import ConfigError
from fedserdiff.methods import get_method

Teacher = Literal["first", "latest"]
Participation = Literal["arriving", "cumulative"]
SharedErrorMaps = Literal["auto", "null", "mri", "none"]
Precision = Literal["auto", "bf16", "fp32"]
SiteFailure = Literal["fail", "go-on"]


@dataclass(frozen=True)
class Site:
    """One hospital: `name`, the `release` its data follow, the `path` of its data and, optionally, its cases by name.

    An empty `cases` means every case of the release found under `path`. An empty `test_cases` means that patients are
    held out by the config's `test_share`; otherwise these of the `cases` are, and no other.
    """

    name: str
    release: str
    path: str
    cases: tuple[str, ...] = ()
    test_cases: tuple[str, ...] = ()


_FRACTIONAL = (
    "lambda_kd", "gamma", "map_noise", "ewc_weight", "rehearsal_share", "inertia", "spacing_mm", "test_share",
    "learning_rate", "cpus_per_site", "gpus_per_site", "site_timeout_s", "stage_timeout_s", "max_update_rms",
    "egress_quota_mb", "dp_noise", "dp_clip",
)  # fmt: skip

_MOST_REGIONS = 8

_NOT_OF_FIRST_STAGE = (  # what only comes into play once there is a past to keep
    "lambda_kd", "gamma", "teacher", "participation", "shared_error_maps", "map_noise", "ewc_weight",
    "rehearsal_share", "replay_batch", "conditional_maps", "shared_maps", "map_steps", "inversion_steps",
)  # fmt: skip

OF_ONE_MACHINE = (  # may differ between the coordinator and the hospitals of one experiment
    "sites", "cpus_per_site", "gpus_per_site", "site_timeout_s", "stage_timeout_s", "max_update_rms", "egress_quota_mb",
    "retries", "site_failure",
)  # fmt: skip


@dataclass(frozen=True)
class ExperimentConfig:
    """Everything that determines a run's result, and where it runs.

    Attributes
    ----------
    method : str
        Name of a method in `fedserdiff.methods.METHODS`.
    seed : int
        Seeds every generator of the run: phantom patients, weights, batches, noise. At least 0.
    profile : str
        The named profile that the remaining defaults came from.
    sites : tuple of Site
        The hospitals in order of arrival.
    modalities, regions : tuple of str
        Image channels and region channels, the same at every hospital, in the order in which networks have them.
    rounds : int
        Federated rounds a stage.
    lambda_kd : float
        λ, the weight of distillation or replay against segmentation (the paper leaves it open; 1 is our choice).
    gamma : float
        γ, the weight of the covariance term within distillation (our choice: 1).
    teacher : {"first", "latest"}
        The student frozen after stage 1 (the paper), or after every stage.
    participation : {"arriving", "cumulative"}
        Who trains in stage k: the new site alone, or all that have arrived.
    shared_error_maps : {"auto", "null", "mri", "none"}
        The maps a hospital shares: from the teacher's unconditional branch, conditioned on its scans, or none. ``auto``
        is what the method does where nobody asks: ``error_maps``.
    map_noise : float
        Standard deviation of Gaussian noise added to every error map that SER-Diff replays, to study it.
    ewc_weight : float
        Weight of elastic weight consolidation's penalty (our choice).
    rehearsal_share : float
        Share of each past site's training patients that rehearsal keeps, in (0, 1].
    inertia : float
        β in [0, 1): the share of the standing student kept at each aggregation (our choice: 0).
    spatial_dims : {2, 3}
        2 trains on axial slices, 3 on whole volumes.
    grid : tuple of int
        Voxels of the working grid (X, Y, Z), each a multiple of `stem_factor × 2**(levels − 1)` where convolved.
    spacing_mm : float
        Voxel size of the working grid; a brain too large for the grid is sampled more coarsely, never cut.
    phantom_patients : int
        Patients of each phantom hospital, test patients included.
    test_share : float
        Share of patients held out for testing, in (0, 1); at least one patient.
    stem_factor : int
        Space-to-depth factor in front of both networks.
    coarse_channels, refiner_channels : tuple of int
        Features a level of the coarse network and of the residual diffusion.
    steps_per_stage, epochs_per_stage : int
        Length of a stage in optimisation steps, each of which draws its batch, half of it from items that show tumour;
        or in passes over the site's training items, each item once in an order drawn anew. The other is 0.
    balance_epochs : bool
        Whether a pass goes over items that show tumour again and again until they are half of it.
    batch_size : int
        Slices (2D) or volumes (3D) a step.
    learning_rate : float
        Adam's initial rate, annealed to 0 by a cosine over the stage.
    precision : {"auto", "bf16", "fp32"}
        Precision of the convolutions; losses and weights stay fp32. ``auto`` is bf16 where the hardware computes in it,
        else fp32.
    sampling_steps : int
        K, DDIM steps at inference, from 1 to 1000. 1 is fastest: the refiner's E₀-prediction from pure noise.
    map_steps : int
        DDIM steps of every error map that is replayed or shared, from 1 to 1000: one step would give their mean alone.
    replay_batch : int
        Replayed samples a step. Of SER-Diff's maps half are the hospital's conditional ones, half the bank's (where
        both exist).
    conditional_maps : int
        Training items whose conditional teacher map is made for a stage: the pool that replay draws from.
    inversion_steps : int
        SER-Diff+'s contrast inversion: steps by which an arriving hospital learns its adapter; 0 is no adapter.
    shared_maps : int
        Synthetic samples (error maps, or images with masks) a hospital shares when a teacher is made.
    cpus_per_site, gpus_per_site : float
        What Ray reserves for a hospital that is at work; torch uses as many threads as CPUs.
    site_timeout_s, stage_timeout_s : float
        How long the coordinator waits for a site to appear, and for a round or evaluation to end.
    retries : int
        How often a site gets a message again that it failed at for a reason that may pass: its worker was killed, its
        machine's memory was full, an error inside it (our choice: 2). On a CPU the same message gives the same answer,
        to the last bit.
    site_failure : {"fail", "go-on"}
        What becomes of a stage when a participant has failed for good: it fails, or goes on without the site where
        others take part; the results then name the round. A stage that nobody trained fails in either case.
    max_update_rms : float
        The most that a round may change a student's weights, as root mean square over all of them; a hospital sends no
        other, and the coordinator takes no other (our choice: a whole first stage of profile ``laptop`` changes 0.021).
    dp_noise, dp_clip : float
        Local differential privacy: Gaussian noise on what a round changes, as a multiple of its sensitivity, and the L2
        norm to which the change is clipped first; noise 0 is off, and clips nothing (`sites.local_privacy`).
    egress_quota_mb : float
        Most megabytes (10⁶ bytes) that may leave one hospital in a federation, all messages together.
    evaluate_every : int
        N: after every N-th stage and after the last, all of the sites to evaluate score the student; after the others
        the site whose stage it was and the next to arrive (our choice: 1, every stage; `strategies.evaluation_plan`).
    evaluate_sites : int
        How many sites score it then, a sample drawn once from the seed; 0, or more than there are, is all of them.
    allow_overlap : bool
        Keep patients that an earlier site brought already: a leak into the test set, and the results say so.
    """

    method: str = "ser-diff-plus"  # keeps most without a raw scan: docs/explanation/retention.md
    seed: int = 0
    profile: str = "laptop"
    sites: tuple[Site, ...] = ()
    modalities: tuple[str, ...] = BRATS_MODALITIES
    regions: tuple[str, ...] = BRATS_REGIONS
    rounds: int = 2
    lambda_kd: float = 1.0
    gamma: float = 1.0
    teacher: Teacher = "first"
    participation: Participation = "arriving"
    shared_error_maps: SharedErrorMaps = "auto"
    map_noise: float = 0.0
    ewc_weight: float = 10000.0
    rehearsal_share: float = 0.25
    inertia: float = 0.0
    spatial_dims: Literal[2, 3] = 2
    grid: tuple[int, int, int] = (48, 64, 48)
    spacing_mm: float = 3.0
    phantom_patients: int = 20
    test_share: float = 0.2
    stem_factor: int = 2
    coarse_channels: tuple[int, ...] = (16, 16, 32)
    refiner_channels: tuple[int, ...] = (16, 16, 32)
    steps_per_stage: int = 300
    epochs_per_stage: int = 0
    balance_epochs: bool = False
    batch_size: int = 16
    learning_rate: float = 2e-3
    precision: Precision = "auto"
    sampling_steps: int = 4
    map_steps: int = 4
    replay_batch: int = 8
    conditional_maps: int = 192
    shared_maps: int = 64
    inversion_steps: int = 300
    cpus_per_site: float = 2
    gpus_per_site: float = 0
    site_timeout_s: float = 120
    stage_timeout_s: float = 7 * 24 * 3600
    retries: int = 2
    site_failure: SiteFailure = "fail"
    max_update_rms: float = 0.1
    dp_noise: float = 0.0
    dp_clip: float = 10.0
    egress_quota_mb: float = 1000
    evaluate_every: int = 1
    evaluate_sites: int = 0
    allow_overlap: bool = False

    def __post_init__(self) -> None:
        self._check_choices()
        self._check_numbers()
        self._check_grid()
        self._check_channels()
        self._check_noise()

    def _check_choices(self) -> None:
        choices = {
            "teacher": get_args(Teacher),
            "participation": get_args(Participation),
            "shared_error_maps": get_args(SharedErrorMaps),
            "precision": get_args(Precision),
            "site_failure": get_args(SiteFailure),
            "spatial_dims": (2, 3),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ConfigError(f"{name}: {getattr(self, name)!r} is not one of {', '.join(map(repr, allowed))}")
        for name in ("allow_overlap", "balance_epochs"):
            if not isinstance(getattr(self, name), bool):  # not among the choices: 1 == True
                raise ConfigError(f"{name}: {getattr(self, name)!r} is not True or False")

    def _check_numbers(self) -> None:
        least: dict[str, float] = {
            "seed": 0, "rounds": 1, "lambda_kd": 0, "gamma": 0, "map_noise": 0, "ewc_weight": 0, "rehearsal_share": 0,
            "phantom_patients": 2, "stem_factor": 1,
            "batch_size": 1, "replay_batch": 0, "inversion_steps": 0, "conditional_maps": 1, "shared_maps": 1,
            "cpus_per_site": 1, "gpus_per_site": 0, "steps_per_stage": 0, "epochs_per_stage": 0,
            "spacing_mm": 0, "learning_rate": 0, "site_timeout_s": 0, "stage_timeout_s": 0, "inertia": 0,
            "sampling_steps": 1, "map_steps": 1, "test_share": 0, "max_update_rms": 0, "egress_quota_mb": 0,
            "retries": 0, "evaluate_every": 1, "evaluate_sites": 0, "dp_noise": 0, "dp_clip": 0,
        }  # fmt: skip
        for name, minimum in least.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise ConfigError(f"{name}: {value!r} is not a number")
            if value < minimum:
                raise ConfigError(f"{name}: {value} is less than {minimum}")
            if name not in _FRACTIONAL and not isinstance(value, int):
                raise ConfigError(f"{name}: {value} is not a whole number")
        for name in (
            "spacing_mm", "learning_rate", "site_timeout_s", "stage_timeout_s", "max_update_rms", "egress_quota_mb",
            "dp_clip",
        ):  # fmt: skip
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name}: {getattr(self, name)} is not positive")
        if not 0 <= self.inertia < 1:
            raise ConfigError(f"inertia: {self.inertia} is not in [0, 1)")
        if not 0 < self.test_share < 1:
            raise ConfigError(f"test_share: {self.test_share} is not between 0 and 1")
        if not 0 < self.rehearsal_share <= 1:
            raise ConfigError(f"rehearsal_share: {self.rehearsal_share} is not in (0, 1]")
        for name in ("sampling_steps", "map_steps"):
            if not 1 <= getattr(self, name) <= 1000:
                raise ConfigError(f"{name}: {getattr(self, name)} is not between 1 and 1000")
        if (self.steps_per_stage == 0) == (self.epochs_per_stage == 0):
            raise ConfigError("steps_per_stage, epochs_per_stage: set one of them, and leave the other 0")
        if self.balance_epochs and not self.epochs_per_stage:
            raise ConfigError("balance_epochs: a stage counted in steps is balanced already: leave it False")
        if self.rounds > (self.steps_per_stage or self.epochs_per_stage):
            raise ConfigError(f"rounds: {self.rounds} is more than a stage's steps: a round would train nothing")

    def _check_channels(self) -> None:
        for name in ("modalities", "regions"):
            channels = getattr(self, name)
            if (
                not channels
                or not all(isinstance(c, str) and c for c in channels)
                or len(set(channels)) < len(channels)
            ):
                raise ConfigError(f"{name}: {channels!r} are not names, at least one, each once")
        if len(self.regions) > _MOST_REGIONS:
            raise ConfigError(f"regions: {self.regions!r} are more than the {_MOST_REGIONS} that pictures tell apart")

    def _check_noise(self) -> None:
        """See that noise on what rounds change covers all that hospitals tell of their training patients."""
        if self.dp_noise == 0:
            return
        method = get_method(self.method)
        if method.breaks_privacy or method.hands_over not in ("", "error-maps"):
            raise ConfigError(f"dp_noise: {self.method} shares more of its patients than the noise on weights covers")
        if self.error_maps == "mri":
            raise ConfigError("dp_noise: error maps made of scans (mri) are not covered by the noise on weights")

    def _check_grid(self) -> None:
        if len(self.grid) != 3 or min(self.grid) < 1:
            raise ConfigError(f"grid: {self.grid} is not three numbers of voxels, each at least 1")
        for channels in (self.coarse_channels, self.refiner_channels):
            if not channels or any(c < 8 or c % 8 for c in channels):
                raise ConfigError(f"coarse_channels, refiner_channels: {channels} are not all multiples of 8")
            factor = self.stem_factor * 2 ** (len(channels) - 1)
            if any(n % factor for n in self.grid[: self.spatial_dims]):
                raise ConfigError(
                    f"grid: {self.grid} is not a multiple of {factor}, which {len(channels)} levels behind a stem of "
                    f"factor {self.stem_factor} need"
                )

    def replace(self, **changes: Any) -> "ExperimentConfig":
        """Return a copy with `changes`, checked like a new one."""
        return dataclasses.replace(self, **changes)

    def of_first_stage(self) -> "ExperimentConfig":
        """Return what stage 1 of the config's method depends on, everything else at its default.

        Runs for which this is equal train the same student in stage 1, unless their method plans it otherwise.
        """
        defaults = {f.name: f.default for f in dataclasses.fields(self) if f.name in _NOT_OF_FIRST_STAGE}
        return self.replace(**{**defaults, "method": "fine-tune"})

    @property
    def error_maps(self) -> str:
        """The maps that a hospital shares, never ``auto``: ``null``, ``mri`` or ``none``."""
        return get_method(self.method).error_maps if self.shared_error_maps == "auto" else self.shared_error_maps

    @property
    def noise_deviation(self) -> float:
        """Standard deviation of the noise on a round's change of each weight: `dp_noise` times the sensitivity, 2C."""
        return 2 * self.dp_clip * self.dp_noise

    def releases(self, site: int) -> int:
        """Return in how many rounds the hospital with this number, from 0, trains: as often its change is released."""
        return self.rounds * (len(self.sites) - site if self.participation == "cumulative" else 1)

    @property
    def agreed(self) -> dict[str, Any]:
        """What coordinator and hospitals of one experiment agree on: all that determines the result, JSON-ready.

        Paths, devices, time-outs, what happens on failures and a hospital's own limits on what leaves it do not count.
        """
        agreed = {
            name: float(value) if name in _FRACTIONAL else value  # 1 and 1.0 are one setting
            for name, value in self.to_dict().items()
            if name not in OF_ONE_MACHINE
        }
        agreed["sites"] = [[site.name, site.release] for site in self.sites]
        return agreed

    @property
    def fingerprint(self) -> int:
        """A number that tells experiments apart: 63 bits of a SHA-256 of what was `agreed`, and of the software."""
        text = json.dumps([version("fedserdiff"), self.agreed], sort_keys=True)
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration as JSON-ready values."""
        return json.loads(json.dumps(dataclasses.asdict(self)))  # type: ignore[no-any-return]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ExperimentConfig":
        """Rebuild a configuration written by `to_dict`.

        Raises
        ------
        ConfigError
            Where a field is unknown or its value is not allowed.
        """
        values = {name: value for name, value in values.items() if name not in ("versions", "data")}  # a run's
        unknown = sorted(set(values) - {f.name for f in dataclasses.fields(cls)})
        if unknown:
            raise ConfigError(f"unknown field {', '.join(unknown)}")
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        fields["sites"] = tuple(
            Site(s["name"], s["release"], s["path"], tuple(s.get("cases", ())), tuple(s.get("test_cases", ())))
            for s in values.get("sites", ())
        )
        return cls(**fields)


PROFILES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        # The default: 2D slices, a run of three phantom hospitals in less than three minutes on two cores.
        "laptop": {},
        # As the paper trains: 3D at 1 mm, batch 4, 200 epochs a task (arXiv 2510.06283); the widths are ours.
        "paper": {
            "spatial_dims": 3, "grid": (160, 192, 160), "spacing_mm": 1.0, "batch_size": 4, "rounds": 10,
            "steps_per_stage": 0, "epochs_per_stage": 200, "learning_rate": 2e-4,
            "coarse_channels": (32, 64, 128, 256), "refiner_channels": (32, 64, 128, 256),
            "phantom_patients": 40, "replay_batch": 4, "conditional_maps": 32, "shared_maps": 16,
            "egress_quota_mb": 50_000.0,
        },
        # 3D small enough for two cores: to try the 3D code path, not for figures.
        "laptop-3d": {
            "spatial_dims": 3, "grid": (32, 40, 32), "spacing_mm": 4.5, "batch_size": 2, "phantom_patients": 10,
            "steps_per_stage": 60, "replay_batch": 2, "conditional_maps": 8, "shared_maps": 8,
        },
        # For tests: everything happens, nothing is learnt.
        "smoke": {
            "grid": (16, 24, 16), "spacing_mm": 8.0, "phantom_patients": 3, "steps_per_stage": 4, "batch_size": 4,
            "coarse_channels": (8, 16), "refiner_channels": (8, 16), "replay_batch": 2, "conditional_maps": 6,
            "shared_maps": 4, "inversion_steps": 2, "sampling_steps": 2, "map_steps": 2, "cpus_per_site": 1,
        },
    }
)  # fmt: skip


def make_config(profile: str, **changes: Any) -> ExperimentConfig:
    """Return the configuration of a named profile with `changes` on top.

    Raises
    ------
    ConfigError
        Where the profile is unknown or a value is not allowed.
    """
    if profile not in PROFILES:
        raise ConfigError(f"unknown profile {profile!r}: choose one of {', '.join(PROFILES)}")
    return ExperimentConfig(**{**PROFILES[profile], "profile": profile, **changes})
