"""Compilation with torch if `machine.compile` is set: fewer and larger kernels, but a start-up of minutes."""

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
    """Return a function of tensors, compiled if the settings ask for it.

    It is recompiled for each batch shape and each other condition that changes its control flow, up to torch's limit of
    8 times per process; after that it runs uncompiled. CUDA graphs are not used: they would overwrite gradients that
    accumulate over passes, and losses that are read one step later.
    """
    if not machine.compile:
        return function
    torch.use_deterministic_algorithms(machine.repeatable, warn_only=True)  # for the compiler, too
    return torch.compile(function, dynamic=False)


def check_compiler(machine: Machine) -> None:
    """Check with a trial that torch can compile on this machine, if the settings ask for it.

    Raises
    ------
    ConfigError
        If it cannot compile: a C++ compiler is missing or fails.
    """
    if not machine.compile:
        return
    try:
        torch.compile(_trial)(torch.ones(16, device=use_device(machine)))
    except Exception as error:  # noqa: BLE001 - torch's compilers may raise anything
        raise ConfigError(
            f"machine.compile: torch cannot compile here ({one_line(error)}): install g++, name a C++ compiler in the "
            "environment variable CXX, or set machine.compile to false"
        ) from None


def _trial(x: torch.Tensor) -> torch.Tensor:
    return torch.tanh(x) + 1
