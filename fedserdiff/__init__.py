"""What both sides of the wire share: configuration, data, the diffusion model, scores, reports, records."""

import getpass
import os
import sys
import tempfile

from fedserdiff.text import spell_out

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
