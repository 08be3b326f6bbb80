"""What torch compiles where `machine.compile` asks for it: fewer and larger kernels, for a start of minutes."""

from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

from fedserdiff.device import use_device
from fedserdiff.errors import ConfigError
from fedserdiff.plugins import one_line
from fedserdiff.settings.groups import Machine

P = ParamSpec("P")
T = TypeVar("T")


def as_asked(function: Callable[P, T], machine: Machine) -> Callable[P, T]:
    """Return a function of tensors, compiled where an experiment's settings ask for it.

    It is compiled anew for each shape of a batch and for what else decides its course, up to torch's bound of 8 times
    a process; beyond that it runs as it is. CUDA graphs are not used: they would write over gradients that add up from
    pass to pass, and over losses that are read a step later.
    """
    if not machine.compile:
        return function
    torch.use_deterministic_algorithms(machine.repeatable, warn_only=True)  # as `use_device`, and the compiler is told
    return torch.compile(function, dynamic=False)


def check_compiler(machine: Machine) -> None:
    """See that torch can compile on this machine, by a trial, where an experiment's settings ask for it.

    Raises
    ------
    ConfigError
        If it cannot: a C++ compiler is missing, or fails.
    """
    if not machine.compile:
        return
    try:
        torch.compile(_trial)(torch.ones(16, device=use_device(machine)))
    except Exception as error:  # noqa: BLE001 - whatever torch's compilers raise
        raise ConfigError(
            f"machine.compile: torch cannot compile here ({one_line(error)}): install g++, or name a C++ compiler in "
            "the environment variable CXX, or leave it false"
        ) from None


def _trial(x: torch.Tensor) -> torch.Tensor:
    return torch.tanh(x) + 1
