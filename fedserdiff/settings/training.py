"""Training settings: stages, rounds, and the optimisation within them."""

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
        2,
        "Rounds of training and aggregation in each stage, except for methods that have their own setting "
        "(`method.rounds`).",
        ge=1,
    )
    arrival: Literal["method", Arrival] = setting(
        "method",
        "How hospitals arrive: `in-turn`, one in each stage, or `together`, all in one stage. `method` is `together` "
        "for methods in which all hospitals train from the start, such as `fedavg`, otherwise `in-turn`.",
        after_first_stage=True,
    )
    participation: Participation = setting(
        "arriving",
        "Who trains in a stage if hospitals arrive in turn: `arriving` (only the new site) or `cumulative` (all "
        "sites that have arrived).",
        after_first_stage=True,
    )
    steps_per_stage: int = setting(
        300,
        "Length of a stage in optimisation steps. Each step draws a batch at random, `training.tumour_share` of it "
        "from items that show tumour. 0 if the stage is counted in epochs.",
        ge=0,
    )
    epochs_per_stage: int = setting(
        0,
        "Length of a stage in epochs: passes over the site's training items, each item once, in a new random order. "
        "0 if the stage is counted in steps.",
        ge=0,
    )
    balance_epochs: bool = setting(
        False,
        "Whether an epoch repeats items that show tumour until they make up `training.tumour_share` of it.",
    )
    patch: tuple[Positive, ...] = setting(
        (),
        "Patch size in voxels along each convolved axis. A new patch is drawn each time an item is; scans are "
        "segmented with sliding windows of this size. It must be a multiple as `data.grid` must; empty is the whole "
        "slice or volume.",
    )
    tumour_share: float = setting(
        0.5,
        "Share of a batch drawn from items that show tumour, rounded down. The same share of patches is centred on a "
        "tumour voxel; there chance decides between rounding down and up.",
        ge=0,
        lt=1,
    )
    batch_size: int = setting(16, "Slices (volumes in 3D) in each step; lower it if GPU memory is not enough.", ge=1)
    samples_a_pass: int = setting(
        0,
        "Slices or volumes, including replayed ones, that go through a network at a time; gradients accumulate over "
        "a step's passes. Fewer need less memory; 0 is the whole step. Each pass has its own Dice loss.",
        ge=0,
    )
    checkpointing: bool = setting(
        False,
        "Whether activations are recomputed for the gradients instead of stored. This needs less memory, and a step "
        "takes about a third longer. The result is the same.",
    )
    learning_rate: float = setting(
        2e-3,
        "Adam's peak learning rate, annealed to 0 by a cosine over the part of the stage after the warm-up.",
        gt=0,
    )
    warmup: float = setting(
        0.0, "Share of a stage's steps over which the learning rate rises linearly, before the cosine.", ge=0, lt=1
    )
    weight_decay: float = setting(
        0.0,
        "AdamW's decoupled weight decay on convolutions and other matrices; norms, biases and adapters have none. 0 "
        "is Adam.",
        ge=0,
    )
    clip_norm: float = setting(
        0.0,
        "L2 norm to which a step's gradient is clipped, separately for the coarse network (with its adapter) and the "
        "refiner; 0 is off.",
        ge=0,
    )
    ema: float = setting(
        0.0,
        "Decay of an exponential moving average (EMA) of the weights, which a round then returns and which is "
        "scored. 0 is off: the last weights are used. After n steps of a round the decay is at most (1 + n) / (10 + "
        "n).",
        ge=0,
        lt=1,
    )
    validate_every: int = setting(
        0,
        "Steps between validations, which measure Dice on the hospital's own validation patients. Results are "
        "written with losses, learning rate and speed to `curves.csv` in its folder. A round's last step is "
        "validated too; 0 is never.",
        ge=0,
    )
    keep: Keep = setting(
        "last",
        "Which weights a round returns: the `last`, or the `best` by mean refined Dice at its validations.",
    )
    patience: int = setting(
        0,
        "A round stops early after this many validations in a row without a better mean refined Dice; 0 is never.",
        ge=0,
    )
    drop_context: float = setting(
        0.1,
        "Probability that a sample's whole context is dropped, which trains the refiner's unconditional branch.",
        ge=0,
        le=1,
    )
    drop_old_map: float = setting(
        0.2,
        "Probability that only a sample's teacher map is dropped, because the student must also run without a teacher.",
        ge=0,
        le=1,
    )


UNVALIDATED: Mapping[str, Any] = MappingProxyType(
    {"training.validate_every": 0, "training.keep": "last", "training.patience": 0}
)
"""Settings that turn validation during training off."""


def rounds_of(training: Training, method: MethodSettings) -> tuple[str, int]:
    """Return the name of the setting for a stage's rounds, the method's own if it has one, and their number.

    For a combination of methods, the first method's setting counts. A method's own number is limited to the stage's
    steps or epochs, since every round has to train.
    """
    if not issubclass(get_method(method.name).parts[0].settings, Together):
        return "training.rounds", training.rounds
    rounds = Together.of(method).rounds
    return "method.rounds", min(rounds, training.steps_per_stage or training.epochs_per_stage)


def one_round(training: Training, method: MethodSettings) -> dict[str, int]:
    """Return the change, by setting name, that gives a stage one round."""
    return {rounds_of(training, method)[0]: 1}
