"""How long a training step takes, on a CPU or on a GPU, which is given steps long before it has done them."""

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
    """Ends a round whose time is up."""


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
    """Return the seconds of a step, a figure for each block of steps of one round as any hospital trains.

    The clock is read between blocks alone, once the device has done all that it was given: within a block nothing waits
    for it that would not wait in a run.

    Parameters
    ----------
    student : Student
        It learns.
    order : Order
        Of a stage's only round.
    hospital : Hospital
    config : Settings
    blocks, size : int
        How many blocks, and the steps of each, an even number where all are to cost the same: every second step
        perturbs P.
    warm_up : int
        Steps before the first block.
    limit_s : float
        Seconds after which no further block begins; one is timed in any case.
    """
    device = student.device
    steps = warm_up + blocks * size + 1  # a step ends beside the next one's beginning: the last would be too short
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
