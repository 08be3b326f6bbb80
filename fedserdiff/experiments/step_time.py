"""Duration of a training step on a CPU or a GPU; a GPU receives steps long before it executes them."""

import math
import time
from contextlib import suppress
from itertools import pairwise

from fedserdiff.device import finish
from fedserdiff.diffusion.refiner import Student
from fedserdiff.settings.experiment import Settings
from fedserdiff.settings.training import UNVALIDATED, one_round
from sites.hospital import Hospital
from sites.training import Order, run_round


class _EnoughError(Exception):
    """Raised to end a round whose time is up."""


def step_seconds(
    student: Student,
    order: Order,
    hospital: Hospital,
    config: Settings,
    blocks: int,
    size: int,
    warm_up: int = 1,
    limit_s: float = math.inf,
) -> list[float]:
    """Return the seconds of a step, one value for each block of steps, in one round of normal training.

    The clock is read only between blocks, after the device has finished its work. Within a block nothing waits for the
    device that would not wait in a run.

    Parameters
    ----------
    student : Student
        The student to train.
    order : Order
        The order for a stage's only round.
    hospital : Hospital
    config : Settings
    blocks, size : int
        Number of blocks and steps in each. Use an even number of steps if all blocks should cost the same, because
        every second step perturbs P.
    warm_up : int
        Number of steps before the first block.
    limit_s : float
        Seconds after which no further block begins; at least one is timed.
    """
    device = student.device
    # a step overlaps with the start of the next one, so the last would be too short
    steps = warm_up + blocks * size + 1
    length = {"training.steps_per_stage": steps, "training.epochs_per_stage": 0}
    only = {**length, **one_round(config.training, config.method), **UNVALIDATED}
    ends: list[float] = []

    def ended(done: int, *about: object) -> None:
        if done == steps or done < warm_up or (done - warm_up) % size:
            return
        finish(device)
        ends.append(time.perf_counter())
        if len(ends) > 1 and ends[-1] - ends[0] > limit_s:
            raise _EnoughError

    with suppress(_EnoughError):
        run_round(student, order, hospital, lambda site: hospital, config.replace(only), ended)
    return [(end - start) / size for start, end in pairwise(ends)]
