"""One hospital's stage by plain calls, with no Flower and no Ray."""

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
    """Train `student` in place for all rounds of a stage, by a method that opens no other hospital."""
    in_rounds(
        student, config, lambda number: run_round(student, Order(stage, number), hospital, no_other, config, progress)
    )


def in_rounds(student: Student, config: Settings, train: Callable[[int], object]) -> None:
    """Call `train`, which trains `student` in place, with the number of each round of a stage.

    What a round changes is rounded as it is on the wire, so that the student is the one that Flower would bring.
    """
    for server_round in range(1, config.rounds + 1):
        received = wire.weights_to_record(student)
        train(server_round)
        wire.load_weights(student, wire.changed(received, wire.change_to_record(student, received)))


def no_other(site: Site) -> Hospital:
    """Open no other hospital: the methods that are timed here ask for none."""
    raise AssertionError("this method opens no other hospital")
