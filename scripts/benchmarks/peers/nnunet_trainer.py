"""What is changed of nnU-Net's classes: its trainer stops when its minutes are over, its fingerprint is quick."""

from typing import Any

from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from benchmarks.peers.budget import Budget

_EXPONENT = 0.9  # of nnU-Net's polynomial
_INTENSITIES = 10**6  # of all cases together; nnU-Net has 10⁸


class TimedTrainer(nnUNetTrainer):  # type: ignore[misc]  # nnU-Net is not annotated
    """The recipe of `nnUNetTrainer`: network, loss, SGD, augmentation and oversampling are all its own.

    Its rate falls to 0 as it does there, (1 − t)^0.9, where t is the share of the minutes that is over, and not of
    1,000 epochs. It validates nothing on the way: nnU-Net predicts with its last weights, too.

    Attributes
    ----------
    iterations : int
        Batches that it learnt from.
    used_s : float
        Seconds of the budget that they took.
    """

    iterations = 0
    used_s = 0.0

    def train_within(self, budget: Budget) -> None:
        """Train until the minutes are over; what comes before the first batch does not count. No weights are saved."""
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
    """nnU-Net's fingerprint, with intensities of fewer voxels: they normalise CT alone, and take gigabytes."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.num_foreground_voxels_for_intensitystats = _INTENSITIES
