"""Name the preloaded Python as the one that starts what this process starts."""

import os
import sys

if "PRELOADED_FOLDER" in os.environ:
    sys.executable = os.path.join(os.environ["PRELOADED_FOLDER"], "python")
