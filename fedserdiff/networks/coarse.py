"""Construction of a student's coarse network, and checks that it can be sent and distilled."""

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

_SAMPLES = 2  # some layers refuse a batch of one


def build_coarse(config: Settings) -> nn.Module:
    """Return the untrained coarse network of an experiment, with weights from torch's global generator.

    Raises
    ------
    ConfigError
        As for `check_coarse`.
    """
    check_coarse(config)
    return _built(config.network, config.data, config.sample_shape)


def check_coarse(config: Settings) -> None:
    """Check that an experiment's coarse network can be built, accepts the experiment's images, and fits a student.

    The network is tried on the meta device if possible, otherwise with two samples of zeros, once per process. The
    default network fits all allowed settings and is not tried.

    Raises
    ------
    ConfigError
        If the network cannot be used. The message is one line with ``network.coarse`` and the reason.
    """
    if config.network.coarse != UNET or config.network.coarse_arguments:
        _checked(config.network, config.data, config.sample_shape)


def with_features(network: nn.Module, image: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Return a network's logits for images, and the features that are distilled.

    The features are those that the network's own ``with_features(image)`` returns with the logits: tensors (B, C,
    *grid) of any grid. A network without this method is distilled at its logits (our choice).
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
        raise ConfigError(f"{where}: is a {type(build).__name__}, not a function that builds a network")
    try:
        built = build(dims, len(data.modalities), len(data.regions), shape, **own, **arguments)
    except MemoryError:
        raise
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    except Exception as error:  # noqa: BLE001 - third-party code may raise anything
        reason = plugins.one_line(error)
        raise ConfigError(f"{where}: cannot be built with network.coarse_arguments {arguments} ({reason})") from None
    if not isinstance(built, nn.Module):
        raise ConfigError(f"{where}: builds a {type(built).__name__}, not a torch.nn.Module")
    return built


def _see_that_it_crosses(network: nn.Module, again: nn.Module, where: str) -> None:
    """Check that all trained weights are float32, and that all buffers are the same each time it is built."""
    weights = dict(network.named_parameters())
    if not weights:
        raise ConfigError(f"{where}: has no trainable weights")
    for name, weight in weights.items():
        if is_lazy(weight):
            raise ConfigError(f"{where}: {name} has no shape before the first image: give its module all sizes")
        if weight.dtype != torch.float32:
            kind = str(weight.dtype).removeprefix("torch.")
            raise ConfigError(f"{where}: {name} is of type {kind}: weights must be float32")
    others = dict(again.named_buffers())
    for name, buffer in network.named_buffers():
        if name not in others or not torch.equal(buffer, others[name]):
            raise ConfigError(
                f"{where}: buffer {name} differs each time the network is built, but only weights are sent: make it a "
                "parameter, or the same each time"
            )


def _see_that_it_fits(network: nn.Module, data: Data, shape: tuple[int, ...], where: str) -> None:
    """Check that a network accepts images of the grid, returns logits there, and does not change its buffers."""
    image = torch.zeros(_SAMPLES, len(data.modalities), *shape)
    wanted = (_SAMPLES, len(data.regions), *shape)
    name = "data.grid" if shape == data.grid[: data.spatial_dims] else "training.patch"
    try:
        tried = deepcopy(network).to("meta").train()
        logits, features, changed = _tried(tried, image.to("meta"))
    except Exception:  # noqa: BLE001 - it may need real values; a true fault shows with those, too
        try:
            logits, features, changed = _tried(deepcopy(network).train(), image)
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - third-party code may raise anything
            told = f"cannot take images of shape {tuple(image.shape)} ({plugins.one_line(error)})"
            raise ConfigError(f"{where}: {told}: does {name} suit this network?") from None
    if not isinstance(logits, torch.Tensor):
        raise ConfigError(f"{where}: returns a {type(logits).__name__} instead of one tensor of logits")
    if tuple(logits.shape) != wanted:
        raise ConfigError(f"{where}: returns logits of shape {tuple(logits.shape)} instead of {wanted}")
    if not all(isinstance(f, torch.Tensor) and f.ndim >= 2 and len(f) == _SAMPLES for f in features):
        raise ConfigError(f"{where}: with_features must return tensors of shape (B, C, *grid)")
    if changed:
        raise ConfigError(
            f"{where}: {changed[0]} changes with every image, like running statistics: these are not sent, and would "
            "reveal information about patients: choose another normalisation, such as group or instance normalisation"
        )


@torch.no_grad()
def _tried(network: nn.Module, image: torch.Tensor) -> tuple[Any, list[Any], list[str]]:
    """Return a network's logits and features for images, and the names of the buffers that they changed."""
    before = {name: (buffer, buffer._version) for name, buffer in network.named_buffers()}
    logits, features = with_features(network, image)
    after = {name: (buffer, buffer._version) for name, buffer in network.named_buffers()}
    changed = [
        name
        for name, (buffer, version) in after.items()
        if name not in before or before[name][0] is not buffer or before[name][1] != version
    ]
    return logits, list(features), changed
