"""An allowed value other than the default for every setting, for tests that go through all settings."""

from collections.abc import Iterator
from typing import Any

from fedserdiff.methods import METHODS
from fedserdiff.settings.declaration import Declared
from fedserdiff.settings.experiment import Settings, settings_of

_OTHERS: dict[str, Any] = {
    "data.modalities": ("T2", "ADC"),
    "data.regions": ("PZ", "TZ"),
    "data.phantom_stream": "contrast",
    "data.spatial_dims": 3,
    "data.grid": (32, 48, 32),
    "network.coarse_channels": (16, 24),
    "network.refiner_channels": (24, 16),
    "network.stem_factor": 4,
    "network.precision": "fp32",
    "network.coarse": "segresnet",
    "network.coarse_arguments": {"init_filters": 16},
    "training.keep": "best",
    "training.patch": (16, 16),
    "training.participation": "cumulative",
    "training.arrival": "together",
    "augmentation.strength": "on",
    "augmentation.scaling_range": (0.8, 1.2),
    "augmentation.elastic_every_mm": 64.0,
    "augmentation.noise_range": (0.1, 0.2),
    "augmentation.blur_range": (1.0, 2.0),
    "augmentation.brightness_range": (0.9, 1.1),
    "augmentation.contrast_range": (0.9, 1.1),
    "augmentation.low_resolution_range": (0.4, 0.6),
    "augmentation.gamma_range": (0.5, 2.0),
    "aggregation.strategy": "FedAdam",
    "aggregation.inertia": 0.25,
    "method.teacher": "latest",
    "method.shared_error_maps": "mri",
    "scoring.patients": "validation",
    "scoring.extra_metrics": ("nsd", "lesion_dice"),
    "scoring.hd95": "area",
    "scoring.least_ml": (0.1, 0.5, 0.2),
    "scoring.least_from": "validation",
    "machine.site_failure": "go-on",
}

_OTHERS_OF_METHODS: dict[tuple[str, str], Any] = {("lesion-replay", "method.teacher"): "first"}
"""Where a method's own value is the one above."""

_WITH: dict[str, dict[str, Any]] = {
    "training.epochs_per_stage": {"training.steps_per_stage": 0, "training.rounds": 1},
    "training.keep": {"training.validate_every": 2},
    "training.patience": {"training.validate_every": 2},
    "training.balance_epochs": {"training.steps_per_stage": 0, "training.epochs_per_stage": 4},
}
"""Settings that others have to follow."""


def every_setting() -> Iterator[tuple[str, Declared]]:
    """Yield each setting with a method that has it: of those of every method with one that goes with all of them."""
    seen = set()
    for method in ("distill", *METHODS):
        for one in settings_of(method):
            key = one.name if not one.name.startswith("method.") else (method, one.name)
            if key not in seen:
                seen.add(key)
                yield method, one


def other_value(settings: Settings, name: str) -> Any:
    """Return an allowed value that a setting does not have; None where it has one alone."""
    was = settings.value(name)
    if (settings.method.name, name) in _OTHERS_OF_METHODS:
        return _OTHERS_OF_METHODS[settings.method.name, name]
    if name in _OTHERS:
        return None if was == _OTHERS[name] else _OTHERS[name]
    if isinstance(was, bool):
        return not was
    if isinstance(was, int):
        return was + 1
    return was + 1 if name.startswith("machine.") else was / 2 or 0.5


def changes_for(settings: Settings, name: str) -> dict[str, Any] | None:
    """Return the changes by which a setting, and what has to follow it, takes another value."""
    value = other_value(settings, name)
    return None if value is None else {**_WITH.get(name, {}), name: value}
