"""The weights that a hospital has for itself, by methods such as FedBN: none of them leaves."""

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
    """Return the names of the weights that stay at a hospital by the config's method; none by most methods."""
    first = get_method(config.method.name).parts[0]
    names: tuple[str, ...] = half_of(first, first.objective).personal(student)
    return names


def put_on(student: Student, own: Weights) -> None:
    """Give a student these weights in place of those of the same names."""
    weights = dict(student.named_parameters())
    with torch.no_grad():
        for name, values in own.items():
            weights[name].copy_(values)


def load_personal(student: Student, folder: Path, config: Settings, site: str, before: When) -> bool:
    """Give a student the weights that a site had for itself before a stage and round; say whether it had any by then.

    Raises
    ------
    RecordsError, DataError
        As `KeptRounds.load`.
    """
    names = personal_names(student, config)
    if not names:
        return False
    own = _kept(folder, config, site).load(before, _named(student, names))
    if own is not None:
        put_on(student, own)
    return own is not None


def withhold(student: Student, began: Weights, received: Weights) -> dict[str, torch.Tensor]:
    """Take a hospital's own weights out of a student that it has trained, and return them as it keeps them.

    They are rounded as all other weights are on their way to the coordinator, so that a hospital alone has the same
    student whatever it keeps for itself.

    Parameters
    ----------
    student : Student
        Has the weights received in their place afterwards: what leaves says that they have not changed.
    began, received : mapping
        Its own weights as the round began with them, and as the coordinator sent them.
    """
    ended = _named(student, tuple(received))
    kept = {name: began[name] + (ended[name] - began[name]).half().float() for name in received}
    put_on(student, received)
    return {name: weight.cpu() for name, weight in kept.items()}


def own_weights(student: Student, config: Settings) -> dict[str, torch.Tensor]:
    """Return a copy of the weights of a student that stay at a hospital, by name."""
    return _named(student, personal_names(student, config))


def save_personal(folder: Path, config: Settings, site: str, own: Weights, when: When) -> None:
    """Keep a site's own weights as they are after a round."""
    _kept(folder, config, site).save(dict(own), when)


def _named(student: Student, names: tuple[str, ...]) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in student.named_parameters() if name in names}


def _kept(folder: Path, config: Settings, site: str) -> KeptRounds:
    return KeptRounds(folder, "personal", config, site)
