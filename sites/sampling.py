"""Which training items each step of a stage learns from: draws, or passes over all of them."""

import math

import torch

from fedserdiff.seeding import generator
from fedserdiff.settings.experiment import Settings
from sites.training_set import TrainingSet


class Sampling:
    """The steps of a stage, and the items of each.

    A stage that is counted in steps draws each batch anew, half of it from items that show tumour. One that is counted
    in epochs passes over the items, in an order that follows from the config's seed, `purpose` and the epoch alone: a
    round that is asked for again takes the same.

    Parameters
    ----------
    training_set : TrainingSet
    config : Settings
        For the stage's length and the batch size.
    purpose : str or int
        What the items are for, such as the site and the stage.
    length : int
        How many times as long as the config has it the stage is.

    Attributes
    ----------
    steps : int
        Optimisation steps of the whole stage.
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
        """Return the indices of the items of a step, from 0: those that show tumour come first.

        `draws` is used where the stage is counted in steps.
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
