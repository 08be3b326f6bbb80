"""A student's coarse network by its settings, and what one has to be to cross the wire and to be distilled."""

from collections.abc import Callable
from copy import deepcopy
from functools import lru_cache
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from fedserdiff import plugins
from fedserdiff.errors import ConfigError
from fedserdiff.networks import ENTRY_POINTS, NETWORKS, UNET
from fedserdiff.settings.experiment import Settings
from fedserdiff.settings.groups import Data, Network

_SAMPLES = 2  # some layers take a single one for a mistake


def build_coarse(config: Settings) -> nn.Module:
    """Return the coarse network of an experiment, untrained: its weights are drawn from torch's generator.

    Raises
    ------
    ConfigError
        As for `check_coarse`.
    """
    check_coarse(config)
    return _built(config.network, config.data, config.sample_shape)


def check_coarse(config: Settings) -> None:
    """See that an experiment's coarse network can be built, takes what it is shown, and is one that a student can have.

    What is built is tried with no values where it can be, else with two samples of zeros; once a process. The network
    that is the default fits all settings that are allowed.

    Raises
    ------
    ConfigError
        In one line that names ``network.coarse`` and what is wrong with it.
    """
    if config.network.coarse != UNET or config.network.coarse_arguments:
        _checked(config.network, config.data, config.sample_shape)


def with_features(network: nn.Module, image: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Return a network's logits of images, and the features at which it is distilled.

    They are what its own ``with_features(image)`` gives beside the logits, tensors (B, C, *grid) of any grid; a network
    that has no such method is distilled at its logits (our choice).
    """
    own: Callable[[torch.Tensor], tuple[torch.Tensor, list[torch.Tensor]]] | None = getattr(
        network, "with_features", None
    )
    if own is None:
        logits: torch.Tensor = network(image)
        return logits, [logits]
    return own(image)


@lru_cache(maxsize=16)
def _checked(network: Network, data: Data, shape: tuple[int, ...]) -> None:
    where = f"network.coarse: {network.coarse}"
    with torch.random.fork_rng(devices=[]):
        built = _built(network, data, shape)
        _see_that_it_crosses(built, _built(network, data, shape), where)
        _see_that_it_fits(built, data, shape, where)


def _built(network: Network, data: Data, shape: tuple[int, ...]) -> nn.Module:
    name = network.coarse
    where = f"network.coarse: {name}"
    arguments: dict[str, Any] = deepcopy(network.coarse_arguments)
    own = {"channels": network.coarse_channels, "factor": network.stem_factor} if name == UNET else {}
    dims = data.spatial_dims
    build = plugins.load(NETWORKS.get(name, name), ENTRY_POINTS, NETWORKS, "network.coarse: network")
    if not callable(build):
        raise ConfigError(f"{where}: is a {type(build).__name__}, no function that builds a network")
    try:
        built = build(dims, len(data.modalities), len(data.regions), shape, **own, **arguments)
    except MemoryError:
        raise
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    except Exception as error:  # noqa: BLE001 - others' code may raise anything
        reason = plugins.one_line(error)
        raise ConfigError(f"{where}: cannot be built with network.coarse_arguments {arguments} ({reason})") from None
    if not isinstance(built, nn.Module):
        raise ConfigError(f"{where}: builds a {type(built).__name__}, no torch.nn.Module")
    return built


def _see_that_it_crosses(network: nn.Module, again: nn.Module, where: str) -> None:
    """See that what is learnt is float32 weights, and that all else it holds is the same each time it is built."""
    weights = dict(network.named_parameters())
    if not weights:
        raise ConfigError(f"{where}: has no weights to learn")
    for name, weight in weights.items():
        if is_lazy(weight):
            raise ConfigError(f"{where}: {name} has no shape before the first image: give its module all its sizes")
        if weight.dtype != torch.float32:
            kind = str(weight.dtype).removeprefix("torch.")
            raise ConfigError(f"{where}: {name} is of type {kind}: weights cross the wire as float32")
    others = dict(again.named_buffers())
    for name, buffer in network.named_buffers():
        if name not in others or not torch.equal(buffer, others[name]):
            raise ConfigError(
                f"{where}: buffer {name} comes out otherwise each time it is built: weights alone cross the wire, so "
                "make it a parameter, or the same each time"
            )


def _see_that_it_fits(network: nn.Module, data: Data, shape: tuple[int, ...], where: str) -> None:
    """See that it takes the images of the grid, gives logits there, and changes nothing of itself meanwhile."""
    image = torch.zeros(_SAMPLES, len(data.modalities), *shape)
    wanted = (_SAMPLES, len(data.regions), *shape)
    name = "data.grid" if shape == data.grid[: data.spatial_dims] else "training.patch"
    try:
        tried = deepcopy(network).to("meta").train()
        logits, features, changed = _tried(tried, image.to("meta"))
    except Exception:  # noqa: BLE001 - it may need values, and where it is wrong it is wrong with them, too
        try:
            logits, features, changed = _tried(deepcopy(network).train(), image)
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - others' code may raise anything
            told = f"cannot take images of shape {tuple(image.shape)} ({plugins.one_line(error)})"
            raise ConfigError(f"{where}: {told}: is {name} one for it?") from None
    if not isinstance(logits, torch.Tensor):
        raise ConfigError(f"{where}: gives a {type(logits).__name__} instead of one tensor of logits")
    if tuple(logits.shape) != wanted:
        raise ConfigError(f"{where}: gives logits of shape {tuple(logits.shape)} instead of {wanted}")
    if not all(isinstance(f, torch.Tensor) and f.ndim >= 2 and len(f) == _SAMPLES for f in features):
        raise ConfigError(f"{where}: with_features gives something other than tensors of shape (B, C, *grid)")
    if changed:
        raise ConfigError(
            f"{where}: {changed[0]} changes with every image, as running statistics do: they would not cross the wire, "
            "and tell of patients: choose another normalisation, such as of groups or instances"
        )


@torch.no_grad()
def _tried(network: nn.Module, image: torch.Tensor) -> tuple[Any, list[Any], list[str]]:
    """Return a network's logits and features of images, and the names of the buffers that changed meanwhile."""
    before = {name: (buffer, buffer._version) for name, buffer in network.named_buffers()}
    logits, features = with_features(network, image)
    after = {name: (buffer, buffer._version) for name, buffer in network.named_buffers()}
    changed = [
        name
        for name, (buffer, version) in after.items()
        if name not in before or before[name][0] is not buffer or before[name][1] != version
    ]
    return logits, list(features), changed
