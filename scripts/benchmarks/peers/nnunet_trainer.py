"""Changes to nnU-Net's classes: its trainer stops after the given minutes, and its fingerprint is faster."""

from typing import Any

from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from benchmarks.peers.budget import Budget

_EXPONENT = 0.9  # of nnU-Net's polynomial schedule
_INTENSITIES = 10**6  # voxels over all cases; nnU-Net uses 10⁸


class TimedTrainer(nnUNetTrainer):  # type: ignore[misc]  # nnU-Net is not annotated
    """The recipe of `nnUNetTrainer` with a time limit: network, loss, SGD, augmentation and oversampling are unchanged.

    The learning rate falls to 0 as in nnU-Net, (1 − t)^0.9, but t is the elapsed share of the minutes instead of 1,000
    epochs. There is no validation during training, because nnU-Net also predicts with its last weights.

    Attributes
    ----------
    iterations : int
        Number of training batches.
    used_s : float
        Seconds of the budget that they took.
    """

    iterations = 0
    used_s = 0.0

    def train_within(self, budget: Budget) -> None:
        """Train until the minutes are over, which start with the first batch. No weights are saved."""
        self.disable_checkpointing = True
        self.on_train_start()
        self.network.train()
        while (left := budget.left) > 0:
            for group in self.optimizer.param_groups:
                group["lr"] = self.initial_lr * left**_EXPONENT
            self.train_step(next(self.dataloader_train))
            self.iterations += 1
        self.used_s = budget.used_s
        self.on_train_end()

    def plot_network_architecture(self) -> None:
        """Draw nothing."""


class QuickFingerprint(DatasetFingerprintExtractor):  # type: ignore[misc]  # nnU-Net is not annotated
    """nnU-Net's fingerprint with intensities of fewer voxels, which only CT normalisation uses and take gigabytes."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.num_foreground_voxels_for_intensitystats = _INTENSITIES
