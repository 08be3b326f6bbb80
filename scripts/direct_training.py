"""One hospital's stage by plain calls, with no Flower and no Ray."""

from fedserdiff.config import ExperimentConfig, Site
from fedserdiff.diffusion.refiner import Student
from sites.hospital import Hospital
from sites.training import Order, Progress, run_round


def train_stage(
    student: Student,
    stage: int,
    hospital: Hospital,
    config: ExperimentConfig,
    progress: Progress = lambda step, steps, terms: None,
) -> None:
    """Train `student` in place for all rounds of a stage, by a method that opens no other hospital."""
    for server_round in range(1, config.rounds + 1):
        run_round(student, Order(stage, server_round), hospital, _no_other, config, progress)


def _no_other(site: Site) -> Hospital:
    raise AssertionError("fine-tuning opens no other hospital")
