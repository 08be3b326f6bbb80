"""A federated continual-learning simulator for brain-tumour segmentation.

>>> import fedserdiff as fs
>>> run = fs.simulate(3, "smoke")
>>> run.R
"""

import getpass
import importlib
import os
import sys
import tempfile
from typing import TYPE_CHECKING, Any

from fedserdiff.text import spell_out

if TYPE_CHECKING:
    from fedserdiff.experiments.api import Comparison, Run, compare, simulate
    from fedserdiff.model_file import load_model
    from fedserdiff.settings.experiment import Settings, Site
    from fedserdiff.settings.sources import make_settings

__all__ = ["Comparison", "Run", "Settings", "Site", "compare", "load_model", "make_settings", "simulate"]

_OFFERED = {
    "Comparison": "fedserdiff.experiments.api",
    "Run": "fedserdiff.experiments.api",
    "Settings": "fedserdiff.settings.experiment",
    "Site": "fedserdiff.settings.experiment",
    "compare": "fedserdiff.experiments.api",
    "load_model": "fedserdiff.model_file",
    "make_settings": "fedserdiff.settings.sources",
    "simulate": "fedserdiff.experiments.api",
}
"""Module of each public name; a name is imported on first access."""


def __getattr__(name: str) -> Any:
    if name not in _OFFERED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_OFFERED[name]), name)


# Flower, Ray and MLflow report usage to their makers by default; a hospital's tool must not. Flower reads its variable
# on first import, so this package must be imported before it. Processes that Ray starts inherit the variables.
os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"

# A container's user may have no passwd entry, but on import MONAI needs a user name, and Flower a home directory.
try:
    getpass.getuser()
except (KeyError, OSError):
    os.environ["LOGNAME"] = f"uid-{os.getuid()}"
if not os.path.isabs(os.path.expanduser("~")):
    os.environ.setdefault("FLWR_HOME", os.path.join(tempfile.gettempdir(), f"flwr-{os.getuid()}"))


def be_a_program() -> None:
    """Make this process independent of its shell's plotting backend and character encoding.

    Only our own programs call it; in library use, the calling program keeps its backend. The backend opens no windows.
    Without this, matplotlib cannot even be imported if ``MPLBACKEND``, as set in a notebook, names a missing backend.
    """
    os.environ["MPLBACKEND"] = "Agg"
    for stream in (sys.stdout, sys.stderr):
        spell_out(stream)
