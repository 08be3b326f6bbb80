"""Fine-tuning: only L_seg on the hospital's own data."""

from sites.objectives.base import Objective


class FineTuneObjective(Objective):
    """L = L_seg."""
