"""One hospital's stage by direct calls, without Flower and Ray."""

from collections.abc import Callable

from fedserdiff import wire
from fedserdiff.diffusion.refiner import Student
from fedserdiff.settings.experiment import Settings, Site
from sites.hospital import Hospital
from sites.training import Order, Progress, run_round


def train_stage(
    student: Student,
    stage: int,
    hospital: Hospital,
    config: Settings,
    progress: Progress = lambda step, steps, terms: None,
) -> None:
    """Train `student` in place for all rounds of a stage, with a method that opens no other hospital."""
    in_rounds(
        student, config, lambda number: run_round(student, Order(stage, number), hospital, no_other, config, progress)
    )


def in_rounds(student: Student, config: Settings, train: Callable[[int], object]) -> None:
    """Call `train`, which trains `student` in place, with each round number of a stage.

    The change of each round is rounded as in messages, so that the student equals the one from a run with Flower.
    """
    for server_round in range(1, config.rounds + 1):
        received = wire.weights_to_record(student)
        train(server_round)
        wire.load_weights(student, wire.changed(received, wire.change_to_record(student, received)))


def no_other(site: Site) -> Hospital:
    """Refuse to open another hospital: the methods timed here need none."""
    raise AssertionError("this method opens no other hospital")
