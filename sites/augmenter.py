"""Augmentation of a round's batches by the settings, except mirroring."""

import torch

from fedserdiff.augmentation.chance import draw, reach, strengthened
from fedserdiff.seeding import generator
from fedserdiff.settings.experiment import Settings
from sites.training_set import Batch


class Augmenter:
    """A function that augments training batches with random parameters, or returns them unchanged if augmentation is
    off.

    Parameters
    ----------
    config : Settings
    device : torch.device
        Device of the batches.
    purpose : str or int
        What the batches are used for, such as the site, the stage and the round.

    Attributes
    ----------
    margin : tuple of int
        Voxels that batches need around a patch, at both ends of each axis, so that what moves into the patch exists. 0
        for whole slices and volumes, because nothing is beyond them.
    """

    def __init__(self, config: Settings, device: torch.device, *purpose: str | int) -> None:
        own = config.augmentation
        self._settings = strengthened(own) if own.strength == "strong" else own
        self._spacing_mm, self._shape = config.data.spacing_mm, config.sample_shape
        moves = config.training.patch and own.strength != "off"
        self.margin = reach(self._shape, self._settings, self._spacing_mm) if moves else (0,) * len(self._shape)
        self._samples = generator(config.seed, "augmentation-samples", *purpose)
        self._generator = generator(config.seed, "augmentation", *purpose, device=device)

    def __call__(self, batch: Batch) -> Batch:
        """Return an augmented batch, or the batch itself, without waiting for the device."""
        if self._settings.strength == "off":
            return batch
        shape = (*batch.image.shape[:2], *self._shape)
        parameters = draw(shape, self._settings, self._spacing_mm, self._samples, self._generator)
        return batch.augment(parameters, self._shape)
