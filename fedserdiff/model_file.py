"""A trained model as one shareable file: tensors in safetensors, settings and labels as metadata, no executable code.

The file names its network, however. Third-party code runs only if you allow it by name.
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
    """Load a student from a run directory on the CPU; raise the errors of `read_weights`."""
    student = Student(config)
    read_weights(file, student)
    return student.eval()


def read_weights(file: Path, module: nn.Module) -> None:
    """Load weights that `torch.save` wrote to a file into a module.

    Raises
    ------
    DataError
        If the file cannot be read, is damaged, or holds the weights of another module.
    """
    with _read_from(file):
        module.load_state_dict(torch.load(file, weights_only=True, map_location="cpu"))


def read_tensors(file: Path, like: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return tensors from a `torch.save` file, with the names and shapes of `like`; raise as `read_weights` does."""
    with _read_from(file):
        tensors: dict[str, torch.Tensor] = torch.load(file, weights_only=True, map_location="cpu")
        if {name: tensor.shape for name, tensor in tensors.items()} != {name: one.shape for name, one in like.items()}:
            raise ValueError("names or shapes differ")
        return tensors


@contextmanager
def _read_from(file: Path) -> Iterator[None]:
    """Turn any error in reading a file of weights into a one-line `DataError`."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror or error})") from None
    except (RuntimeError, ValueError, TypeError, AttributeError, KeyError, EOFError, UnpicklingError) as error:
        reason = str(error).partition("\n")[0]
        raise DataError(f"{file}: damaged, or not the weights of this model ({reason})") from None


def save_model(file: Path, model: Segmenter) -> None:
    """Write a model to a file, which contains no scans, paths or case names.

    Raises
    ------
    StorageError
        If the file cannot be written.
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
    # copies, because safetensors does not accept tensors that share memory
    content = save({name: tensor.cpu().contiguous().clone() for name, tensor in state.items()}, metadata)
    try:
        write_whole(file, lambda opened: opened.write(content))
    except OSError as error:
        raise StorageError(f"{file}: cannot be written ({error.strerror})") from None


def load_model(file: Path | str, device: torch.device | str = "cpu", allow: Collection[str] = ()) -> Segmenter:
    """Load a model that `save_model` wrote; this needs neither Flower nor Ray.

    Parameters
    ----------
    file : Path
    device : torch.device, optional
    allow : collection of str, optional
        Names of third-party methods and networks that may run here; a file may name any.

    Raises
    ------
    ConfigError
        If the file names third-party code that is not allowed.
    DataError
        If the file cannot be read, or is not such a model.
    """
    try:
        with safe_open(str(file), "pt") as opened:
            metadata: dict[str, str] = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - no mapping
    except (OSError, SafetensorError) as error:
        raise DataError(f"{file}: cannot be read as a model ({error})") from None
    if metadata.get("format") != _FORMAT:
        raise DataError(
            f"{file}: not a model of fedserdiff: {metadata.get('format', 'another kind of safetensors file')}"
        )
    try:
        refused = not_allowed(json.loads(metadata["config"]), allow)
    except (ValueError, KeyError, AttributeError) as error:
        raise DataError(f"{file}: damaged, or from another version of fedserdiff ({error})") from None
    if refused:
        raise ConfigError(f"{file}: {refused}: if you have read and trust it, allow it by name: --allow NAME")
    try:
        return _model(metadata, tensors).to(torch.device(device))
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError, ConfigError) as error:
        raise DataError(f"{file}: damaged, or from another version of fedserdiff ({error})") from None


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
