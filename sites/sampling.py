"""The training items of each step in a stage: random draws, or epochs over all items."""

import math

import torch

from fedserdiff.seeding import generator
from fedserdiff.settings.experiment import Settings
from sites.training_set import TrainingSet


class Sampling:
    """The steps of a stage and the items of each step.

    In a stage counted in steps, each batch is drawn at random, `training.tumour_share` of it from items that show
    tumour. In a stage counted in epochs, the order of the items depends only on the config's seed, `purpose` and the
    epoch, so a repeated round uses the same batches.

    Parameters
    ----------
    training_set : TrainingSet
    config : Settings
        Settings with the stage's length and the batch size.
    purpose : str or int
        What the items are used for, such as the site and the stage.
    length : int
        Length of the stage as a multiple of the config's.

    Attributes
    ----------
    steps : int
        Number of optimisation steps in the whole stage.
    """

    def __init__(self, training_set: TrainingSet, config: Settings, *purpose: str | int, length: int = 1) -> None:
        self._training_set, self._config, self._purpose = training_set, config, purpose
        items = training_set.items_an_epoch(config.training.balance_epochs)
        self._steps_an_epoch = math.ceil(items / config.training.batch_size)
        self.steps = length * (
            config.training.steps_per_stage or config.training.epochs_per_stage * self._steps_an_epoch
        )
        self._epoch = -1
        self._batches: tuple[torch.Tensor, ...] = ()

    def items(self, step: int, draws: torch.Generator) -> torch.Tensor:
        """Return the indices of a step's items (steps count from 0); those that show tumour come first.

        `draws` is only used if the stage is counted in steps.
        """
        config = self._config
        if config.training.steps_per_stage:
            return self._training_set.draw(config.training.batch_size, draws)
        epoch, place = divmod(step, self._steps_an_epoch)
        if epoch != self._epoch:
            order = generator(config.seed, "epoch", *self._purpose, epoch)
            self._batches = self._training_set.epoch(config.training.batch_size, order, config.training.balance_epochs)
            self._epoch = epoch
        return self._batches[place]
