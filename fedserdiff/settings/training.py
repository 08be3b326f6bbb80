"""The settings of training: stages, rounds, and the optimisation within them."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

from fedserdiff.methods import get_method
from fedserdiff.methods.method import Arrival, MethodSettings, Together
from fedserdiff.settings.declaration import Group, setting
from fedserdiff.settings.groups import Positive

Participation = Literal["arriving", "cumulative"]
Keep = Literal["last", "best"]


class Training(Group):
    """Stages, rounds and the optimisation within them."""

    rounds: int = setting(
        2, "Rounds of training and averaging a stage, but for methods that say their own (`method.rounds`).", ge=1
    )
    arrival: Literal["method", Arrival] = setting(
        "method",
        "How hospitals arrive: `in-turn`, one a stage, or `together`, all in one stage. `method` is `together` by "
        "methods of federated learning from the start, such as `fedavg`, else `in-turn`.",
        after_first_stage=True,
    )
    participation: Participation = setting(
        "arriving",
        "Who trains in a stage of hospitals that arrive in turn: `arriving` (the new site alone) or `cumulative` (all "
        "that have arrived).",
        after_first_stage=True,
    )
    steps_per_stage: int = setting(
        300,
        "Length of a stage in optimisation steps, each of which draws its batch, `training.tumour_share` of it from "
        "items that show tumour. 0 where epochs count.",
        ge=0,
    )
    epochs_per_stage: int = setting(
        0,
        "Length of a stage in passes over the site's training items, each once in an order drawn anew. 0 where steps "
        "count.",
        ge=0,
    )
    balance_epochs: bool = setting(
        False,
        "Whether a pass goes over items that show tumour again and again until they are `training.tumour_share` of it.",
    )
    patch: tuple[Positive, ...] = setting(
        (),
        "Voxels along each axis that is convolved of what networks see at a time: a patch of a slice or volume, drawn "
        "anew each time the item is; scans are segmented by windows of this size. Multiples as of `data.grid`; empty "
        "is the whole slice or volume.",
    )
    tumour_share: float = setting(
        0.5,
        "Share of a batch, rounded down, that is drawn to show tumour: from items that do, and patches centred on a "
        "voxel of it, of which chance decides whether the share is rounded down or up.",
        ge=0,
        lt=1,
    )
    batch_size: int = setting(
        16, "Slices, or volumes in 3D, a step: fewer where a GPU's memory does not suffice.", ge=1
    )
    samples_a_pass: int = setting(
        0,
        "Slices or volumes, replayed ones included, that go through a network at a time; the gradients of a step's "
        "passes add up. 0 is all of a step: fewer take less memory. Each pass has its own Dice.",
        ge=0,
    )
    checkpointing: bool = setting(
        False,
        "Compute the networks' activations again for the gradients instead of keeping them: less memory, and a step "
        "takes about a third longer. The result is the same.",
    )
    learning_rate: float = setting(
        2e-3,
        "Adam's highest rate, annealed to 0 by a cosine over the stage, or over what its warm-up leaves of it.",
        gt=0,
    )
    warmup: float = setting(
        0.0, "Share of a stage's steps over which the learning rate rises linearly, before its cosine.", ge=0, lt=1
    )
    weight_decay: float = setting(
        0.0,
        "AdamW's decoupled weight decay, of convolutions and other matrices: norms, biases and adapters have none. 0 "
        "is Adam.",
        ge=0,
    )
    clip_norm: float = setting(
        0.0,
        "L2 norm to which a step's gradient is clipped, the coarse network's (with its adapter) and the refiner's each "
        "by itself; 0 is off.",
        ge=0,
    )
    ema: float = setting(
        0.0,
        "Decay of an exponential moving average (EMA) of the weights: it is what a round returns and what is scored. "
        "0 is off: the last weights are. After n steps of a round the decay is (1 + n) / (10 + n) at most.",
        ge=0,
        lt=1,
    )
    validate_every: int = setting(
        0,
        "Steps of a stage between validations: Dice on the hospital's own validation patients, written with losses, "
        "rate and speed to `curves.csv` in its folder; a round's last step is one, too. 0 is never.",
        ge=0,
    )
    keep: Keep = setting(
        "last",
        "Which weights a round returns: the `last`, or the `best` of its validations by mean refined Dice.",
    )
    patience: int = setting(
        0,
        "Validations in a row without a better mean refined Dice after which a round ends early; 0 is never.",
        ge=0,
    )
    drop_context: float = setting(
        0.1,
        "Probability that a sample's whole context is dropped: what remains is the refiner's unconditional branch.",
        ge=0,
        le=1,
    )
    drop_old_map: float = setting(
        0.2,
        "Probability that a sample's teacher map alone is dropped: the student must also run with no teacher.",
        ge=0,
        le=1,
    )


UNVALIDATED: Mapping[str, Any] = MappingProxyType(
    {"training.validate_every": 0, "training.keep": "last", "training.patience": 0}
)
"""Settings by which nobody validates while training."""


def rounds_of(training: Training, method: MethodSettings) -> tuple[str, int]:
    """Return the setting that says how many rounds a stage has, a method's own where it has one, and how many.

    Of several methods as one it is the first that says so. A method's own are no more than the stage's steps or epochs,
    since every round has to train.
    """
    if not issubclass(get_method(method.name).parts[0].settings, Together):
        return "training.rounds", training.rounds
    rounds = Together.of(method).rounds
    return "method.rounds", min(rounds, training.steps_per_stage or training.epochs_per_stage)


def one_round(training: Training, method: MethodSettings) -> dict[str, int]:
    """Return what to change so that a stage has one round, by the setting's name."""
    return {rounds_of(training, method)[0]: 1}
