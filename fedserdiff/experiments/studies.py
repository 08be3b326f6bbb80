"""The registry of studies: one line for each, with the object to import when the study is needed."""

import pkgutil
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from fedserdiff.errors import ConfigError

if TYPE_CHECKING:
    from fedserdiff.comparison.studies import Study

STUDIES: Mapping[str, str] = MappingProxyType(
    {
        "ablation": "fedserdiff.comparison.replay_studies:ABLATION",
        "adapter": "fedserdiff.comparison.adapter_study:ADAPTER",
        "lambda": "fedserdiff.comparison.replay_studies:LAMBDA",
        "teacher-noise": "fedserdiff.comparison.replay_studies:TEACHER_NOISE",
        "teacher-data": "fedserdiff.comparison.stream_studies:TEACHER_DATA",
        "stream-length": "fedserdiff.comparison.stream_studies:STREAM_LENGTH",
        "orders": "fedserdiff.comparison.order_study:ORDERS",
        "steps": "fedserdiff.experiments.step_study:STEPS",
    }
)
"""Import paths by name, in the order of ``--study all``."""


def check_study(name: str) -> None:
    """Check that a study called `name` exists.

    Raises
    ------
    ConfigError
        If there is none; the text lists the existing studies.
    """
    if name not in STUDIES:
        raise ConfigError(f"--study: unknown study {name!r}: choose one of {', '.join(STUDIES)}, or all")


def get_study(name: str) -> "Study":
    """Return one of `STUDIES`."""
    study: Study = pkgutil.resolve_name(STUDIES[name])
    return study
