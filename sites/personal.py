"""Personal weights of a hospital, for methods such as FedBN: they never leave."""

from collections.abc import Mapping
from pathlib import Path

import torch

from fedserdiff.diffusion.refiner import Student
from fedserdiff.methods import get_method, half_of
from fedserdiff.settings.experiment import Settings
from sites.kept_rounds import KeptRounds, When

Weights = Mapping[str, torch.Tensor]
"""Weights by name."""


def personal_names(student: Student, config: Settings) -> tuple[str, ...]:
    """Return the names of the weights that stay at a hospital with the config's method; most methods have none."""
    first = get_method(config.method.name).parts[0]
    names: tuple[str, ...] = half_of(first, first.objective).personal(student)
    return names


def put_on(student: Student, own: Weights) -> None:
    """Replace a student's weights of the same names with these."""
    weights = dict(student.named_parameters())
    with torch.no_grad():
        for name, values in own.items():
            weights[name].copy_(values)


def load_personal(student: Student, folder: Path, config: Settings, site: str, before: When) -> bool:
    """Load into a student the personal weights of a site from before a stage and round; return whether there were any.

    Raises
    ------
    RecordsError, DataError
        As in `KeptRounds.load`.
    """
    names = personal_names(student, config)
    if not names:
        return False
    own = _kept(folder, config, site).load(before, _named(student, names))
    if own is not None:
        put_on(student, own)
    return own is not None


def withhold(student: Student, began: Weights, received: Weights) -> dict[str, torch.Tensor]:
    """Remove a hospital's personal weights from a student that it has trained, and return them in the form it keeps.

    They are rounded like the weights that go to the coordinator, so that a single hospital gets the same student
    whether weights are personal or not.

    Parameters
    ----------
    student : Student
        Afterwards it has the received weights in their place, so that what leaves shows no change of them.
    began, received : mapping
        The personal weights at the start of the round, and as the coordinator sent them.
    """
    ended = _named(student, tuple(received))
    kept = {name: began[name] + (ended[name] - began[name]).half().float() for name in received}
    put_on(student, received)
    return {name: weight.cpu() for name, weight in kept.items()}


def own_weights(student: Student, config: Settings) -> dict[str, torch.Tensor]:
    """Return a copy of the student's weights that stay at a hospital, by name."""
    return _named(student, personal_names(student, config))


def save_personal(folder: Path, config: Settings, site: str, own: Weights, when: When) -> None:
    """Save a site's personal weights after a round."""
    _kept(folder, config, site).save(dict(own), when)


def _named(student: Student, names: tuple[str, ...]) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in student.named_parameters() if name in names}


def _kept(folder: Path, config: Settings, site: str) -> KeptRounds:
    return KeptRounds(folder, "personal", config, site)
