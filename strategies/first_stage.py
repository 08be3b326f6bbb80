"""A shared stage 1, computed once for all methods that start with it: nothing can be forgotten yet."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from flwr.app import ArrayRecord

from fedserdiff import wire
from fedserdiff.diffusion.refiner import Student
from fedserdiff.errors import ConfigError
from fedserdiff.methods import get_method
from fedserdiff.origin import Scans
from fedserdiff.settings.experiment import Settings
from strategies.results import Scores
from strategies.run_directory import RunDirectory
from strategies.stream import ArrivalStream, make_stream

_SECONDS = ("evaluation 0", "stage 1", "evaluation 1")


@dataclass(frozen=True)
class FirstStage:
    """A trained and scored stage 1: its student, rows 0 and 1 of R, and their costs."""

    arrays: ArrayRecord
    rows: tuple[Scores, Scores]
    losses: Mapping[str, float]
    bytes_out: Mapping[str, Mapping[str, int]]
    bytes_in: Mapping[str, Mapping[str, int]]
    seconds: Mapping[str, float]

    @classmethod
    def load(cls, run: Path, config: Settings, scans: Scans) -> "FirstStage":
        """Load the directory of a run that stopped after stage 1, to continue from with `config` on these `scans`.

        Raises
        ------
        ConfigError
            If that run's stage 1 is not the one that `config` starts with.
        """
        different = RunDirectory(run).read_origin().difference(config.of_first_stage(), scans)
        if different or not begins_with_first_stage(config):
            raise ConfigError(f"{run}: its stage 1 is not that of this {config.method.name} run {different}".rstrip())
        results = json.loads((run / "results.json").read_text())
        student = Student(config)
        student.load_state_dict(torch.load(run / "student.pt", weights_only=True))
        first, second = (
            {
                site: {
                    f"{mask}.{metric}.{region}": results[key][metric][region][row][column]
                    for mask, key in (("coarse", "R_coarse"), ("refined", "R"))
                    for metric in config.scoring.metrics
                    for region in config.data.regions
                }
                for column, site in enumerate(results["sites"])
                if results["R"]["dice"]["mean"][row][column] is not None  # not every site has to score every stage
            }
            for row in (0, 1)
        )
        return cls(
            arrays=wire.weights_to_record(student),
            rows=(first, second),
            losses=results["losses"][0],
            bytes_out=results["bytes_out"],
            bytes_in=results["bytes_in"],
            seconds={name: results["seconds"][name] for name in _SECONDS},
        )


def begins_with_first_stage(config: Settings) -> bool:
    """Return whether the config's method starts with the common stage 1 of methods whose hospitals arrive in turn.

    A method of hospitals that train together has its own stage 1 even if they arrive in turn: FedProx adds its term.
    """
    sites = [site.name for site in config.sites]
    in_turn = get_method(config.method.name).arrival == config.arrival == "in-turn"
    return in_turn and make_stream(config).stages(sites)[0] == ArrivalStream(config).stages(sites)[0]
