"""What a round does to its batches beside mirroring them, as the settings have it."""

import torch

from fedserdiff.augmentation.chance import draw, reach, strengthened
from fedserdiff.seeding import generator
from fedserdiff.settings.experiment import Settings
from sites.training_set import Batch


class Augmenter:
    """Changes training batches, each by parameters of its own; leaves them as they are where augmentation is off.

    Parameters
    ----------
    config : Settings
    device : torch.device
        Where batches are.
    purpose : str or int
        What the batches are for, such as the site, the stage and the round.

    Attributes
    ----------
    margin : tuple of int
        Voxels about a patch, at either end of each axis, with which batches have to come: what moves into a patch is
        there. Whole slices and volumes have 0, as nothing is beyond them.
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
        """Return a batch that is changed, or itself; nothing waits for the device."""
        if self._settings.strength == "off":
            return batch
        shape = (*batch.image.shape[:2], *self._shape)
        parameters = draw(shape, self._settings, self._spacing_mm, self._samples, self._generator)
        return batch.augment(parameters, self._shape)
