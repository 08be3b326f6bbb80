"""A trained model as one file to hand on: tensors in safetensors, config and labels as metadata. Nothing in it runs.

It names its network, though. Others' code runs where it is allowed by name, and nowhere else.
"""

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from fedserdiff.data.releases import Convention
from fedserdiff.diffusion.adapter import SiteAdapter
from fedserdiff.diffusion.refiner import Student
from fedserdiff.errors import ConfigError, DataError, StorageError
from fedserdiff.files import write_whole
from fedserdiff.segmenter import Segmenter
from fedserdiff.settings.experiment import Settings
from fedserdiff.settings.foreign import not_allowed

_FORMAT = "fedserdiff model 1"
_STUDENT, _ADAPTER = "student.", "adapter."


def load_student(config: Settings, file: Path) -> Student:
    """Load a student that a run directory holds, on the CPU; raises as `read_weights`."""
    student = Student(config)
    read_weights(file, student)
    return student.eval()


def read_weights(file: Path, module: nn.Module) -> None:
    """Give a module the weights that `torch.save` wrote to a file.

    Raises
    ------
    DataError
        If the file cannot be read, is damaged, or holds the weights of something else.
    """
    with _read_from(file):
        module.load_state_dict(torch.load(file, weights_only=True, map_location="cpu"))


def read_tensors(file: Path, like: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return tensors that `torch.save` wrote to a file, of the names and shapes of `like`; raises as `read_weights`."""
    with _read_from(file):
        tensors: dict[str, torch.Tensor] = torch.load(file, weights_only=True, map_location="cpu")
        if {name: tensor.shape for name, tensor in tensors.items()} != {name: one.shape for name, one in like.items()}:
            raise ValueError("other names or shapes")
        return tensors


@contextmanager
def _read_from(file: Path) -> Iterator[None]:
    """Say in one line what is wrong with a file of weights."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror or error})") from None
    except (RuntimeError, ValueError, TypeError, AttributeError, KeyError, EOFError, UnpicklingError) as error:
        reason = str(error).partition("\n")[0]
        raise DataError(f"{file}: damaged, or not the weights of this model ({reason})") from None


def save_model(file: Path, model: Segmenter) -> None:
    """Write a model to a file: no scan, no path, no name of a case is in it.

    Raises
    ------
    StorageError
        If it cannot be written.
    """
    state = {_STUDENT + name: tensor for name, tensor in model.student.state_dict().items()}
    if model.adapter is not None:
        state |= {_ADAPTER + name: tensor for name, tensor in model.adapter.state_dict().items()}
    convention = model.convention
    metadata = {
        "format": _FORMAT,
        "config": json.dumps(model.config.replace(sites=()).to_dict()),
        "convention": json.dumps(
            {
                "name": convention.name,
                "regions": {name: list(values) for name, values in convention.regions.items()},
                "labels": list(convention.labels),
                "channels": dict(model.channels),
            }
        ),
        "about": json.dumps(dict(model.about)),
    }
    # copies, as safetensors takes no two tensors that a network shares
    content = save({name: tensor.cpu().contiguous().clone() for name, tensor in state.items()}, metadata)
    try:
        write_whole(file, lambda opened: opened.write(content))
    except OSError as error:
        raise StorageError(f"{file}: cannot be written ({error.strerror})") from None


def load_model(file: Path | str, device: torch.device | str = "cpu", allow: Collection[str] = ()) -> Segmenter:
    """Load a model that `save_model` wrote; neither Flower nor Ray is needed.

    Parameters
    ----------
    file : Path
    device : torch.device, optional
    allow : collection of str, optional
        Names of methods and networks that do not come with fedserdiff and may run here: a file may name any.

    Raises
    ------
    ConfigError
        If the file names others.
    DataError
        If the file cannot be read, or is no such model.
    """
    try:
        with safe_open(str(file), "pt") as opened:
            metadata: dict[str, str] = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - no mapping
    except (OSError, SafetensorError) as error:
        raise DataError(f"{file}: no model can be read from it ({error})") from None
    if metadata.get("format") != _FORMAT:
        raise DataError(
            f"{file}: not a model of this software: {metadata.get('format', 'safetensors of another kind')}"
        )
    try:
        refused = not_allowed(json.loads(metadata["config"]), allow)
    except (ValueError, KeyError, AttributeError) as error:
        raise DataError(f"{file}: damaged, or of another version of this software ({error})") from None
    if refused:
        raise ConfigError(f"{file}: {refused}: where you have read and trust it, allow it by its name: --allow NAME")
    try:
        return _model(metadata, tensors).to(torch.device(device))
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError, ConfigError) as error:
        raise DataError(f"{file}: damaged, or of another version of this software ({error})") from None


def _model(metadata: dict[str, str], tensors: dict[str, torch.Tensor]) -> Segmenter:
    config = Settings.from_dict(json.loads(metadata["config"]))
    declared: dict[str, Any] = json.loads(metadata["convention"])
    regions = {str(name): tuple(int(v) for v in values) for name, values in declared["regions"].items()}
    labels = tuple(int(value) for value in declared["labels"])
    student = Student(config).eval()
    student.load_state_dict(_part(tensors, _STUDENT))
    adapter = None
    if of_adapter := _part(tensors, _ADAPTER):
        adapter = SiteAdapter(len(config.data.modalities))
        adapter.load_state_dict(of_adapter)
    return Segmenter(
        student=student,
        config=config,
        convention=Convention(str(declared["name"]), config.data.modalities, regions, labels),
        channels={str(name): int(number) for name, number in declared["channels"].items()},
        adapter=adapter,
        about={str(name): str(text) for name, text in json.loads(metadata["about"]).items()},
    )


def _part(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
