"""Fine-tuning: L_seg on the hospital's own data, and nothing else."""

from sites.objectives.base import Objective


class FineTuneObjective(Objective):
    """L = L_seg."""
