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
"""What the package offers, by the module that has it: each is imported when it is first asked for."""


def __getattr__(name: str) -> Any:
    if name not in _OFFERED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_OFFERED[name]), name)


# Flower, Ray and MLflow report usage to their makers by default. A hospital's tool phones nobody. Flower reads its
# variable when it is first imported, so this package is imported before it; the processes that Ray starts inherit all.
os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"

# A container's user may have no entry in passwd. MONAI asks for the user's name as it is imported, Flower for a home.
try:
    getpass.getuser()
except (KeyError, OSError):
    os.environ["LOGNAME"] = f"uid-{os.getuid()}"
if not os.path.isabs(os.path.expanduser("~")):
    os.environ.setdefault("FLWR_HOME", os.path.join(tempfile.gettempdir(), f"flwr-{os.getuid()}"))


def be_a_program() -> None:
    """Make this process independent of the shell that it was started from: a notebook's, one of few letters.

    Our own programs call it; a library's user keeps the backend of the program at hand. It opens no window: matplotlib
    cannot even be imported where ``MPLBACKEND`` names a backend that is not installed.
    """
    os.environ["MPLBACKEND"] = "Agg"
    for stream in (sys.stdout, sys.stderr):
        spell_out(stream)
