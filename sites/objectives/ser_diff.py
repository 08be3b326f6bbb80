"""SER-Diff: L = L_seg + λ · L_KD, features distilled at replayed error maps (arXiv 2510.06283)."""

import torch

from fedserdiff.diffusion.objective import Lesson, Replay, replay_of
from fedserdiff.diffusion.refiner import Student
from fedserdiff.methods.method import Distilling
from fedserdiff.seeding import generator
from fedserdiff.settings.experiment import Settings
from fedserdiff.threads import each
from fedserdiff.wire import ERROR_MAPS, Memory, from_levels, to_levels
from sites.hospital import Batch, TrainingSet
from sites.objectives.base import NOTHING_KEPT, SEGMENTATION, Objective


class SerDiffObjective(Objective):
    """The paper's dual loss; without a teacher (stage 1), or with λ = 0, it is L_seg to the last digit.

    The teacher's conditional maps are made once a round for a pool of training items. They serve twice: as Ê_old in
    the context of the hospital's own batches, and as replayed maps in distillation. They never leave the hospital.
    """

    _bank: torch.Tensor | None
    _pool: torch.Tensor
    _maps: torch.Tensor
    _row_of: torch.Tensor
    _replay: torch.Generator

    @property
    def distilled(self) -> Student | None:
        """The teacher that the student is held to: none in stage 1, and none where λ = 0."""
        return self.teacher if Distilling.of(self.config.method).lambda_kd > 0 else None

    def begin(self, training_set: TrainingSet, site: str, stage: int, server_round: int) -> None:
        """Draw the pool, sample the teacher's conditional map of each of its items, and take the bank's maps."""
        if self.distilled is None:
            return
        config = self.config
        self._training_set = training_set
        self._replay = generator(config.seed, "replay", site, stage, server_round)
        noise = generator(config.seed, "conditional-maps", site, stage)  # the same maps in every round
        size = min(config.replay.conditional_maps, len(training_set))
        self._pool = torch.randperm(len(training_set), generator=noise)[:size]
        self._row_of = torch.full((len(training_set),), -1)
        self._row_of[self._pool] = torch.arange(size)
        self._maps = self._noisy(self._conditional_maps(self.distilled, training_set, self._pool, noise), noise)
        kept = self.memory.get(ERROR_MAPS)
        self._bank = None if kept is None else self._noisy(from_levels(kept["maps"]), noise)

    def _noisy(self, maps: torch.Tensor, noise: torch.Generator) -> torch.Tensor:
        """Add the noise by which a study spoils the maps that are replayed; none by default."""
        if self.config.replay.map_noise == 0:
            return maps
        return (maps + self.config.replay.map_noise * torch.randn(maps.shape, generator=noise).to(maps.device)).clamp(
            -1, 1
        )

    def lessons(self, batch: Batch, noise: torch.Generator) -> dict[str, Lesson]:
        """Return the batch's lesson, with the teacher's maps of it and a replay where there is a teacher."""
        if self.distilled is None:
            return super().lessons(batch, noise)
        replay = self._replayed(self.distilled) if self.config.replay.batch_size > 0 else None
        return {SEGMENTATION: Lesson(batch.image, batch.truth, noise, self._old_maps(batch), replay)}

    def _old_maps(self, batch: Batch) -> torch.Tensor:
        """Return Ê_old of each item of a batch, zeros for items outside the pool."""
        rows = self._row_of[batch.index]
        maps = self._maps[rows.clamp(min=0)] * (rows >= 0).reshape(-1, *[1] * (self._maps.ndim - 1)).to(
            self._maps.device
        )
        return maps.flip(2) if batch.mirrored else maps

    def _replayed(self, teacher: Student) -> Replay:
        """Return a draw of conditional maps with their context and, where there are any, maps of the bank."""
        config = self.config
        from_bank = 0 if self._bank is None else config.replay.batch_size // 2
        rows = torch.randint(0, len(self._pool), (config.replay.batch_size - from_bank,), generator=self._replay)
        with torch.no_grad():
            image = self.seen(self._training_set.batch(self._pool[rows]).image)

        def replayed(coarse: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            maps, context = self._maps[rows], teacher.context(image, coarse)
            if self._bank is None or not from_bank:
                return maps, context
            drawn = torch.randint(0, len(self._bank), (from_bank,), generator=self._replay)
            of_bank = self._bank[drawn].to(maps.device)
            return torch.cat([maps, of_bank]), torch.cat([context, teacher.null_context(from_bank)])

        return replay_of(teacher, image, replayed, Distilling.of(config.method).gamma, self._replay)

    def consolidate(self, student: Student, training_set: TrainingSet, site: str, stage: int) -> Memory:
        """Return maps of the student, from the branch that the config allows, as int8.

        ``null`` starts from noise with an empty context: no patient's data reach it but through the weights.
        ``mri`` is conditioned on the hospital's scans: a map then shows its patient's contour.
        """
        config = self.config
        if config.shared_error_maps == "none":
            return NOTHING_KEPT
        noise = generator(config.seed, "shared-maps", site, stage)
        if config.shared_error_maps == "mri":
            drawn = training_set.draw(config.replay.shared_maps, noise)
            maps = self._conditional_maps(student, training_set, drawn, noise)
        else:
            maps = _unconditional_maps(student, config, noise)
        return {ERROR_MAPS: {"maps": to_levels(maps)}}

    def _conditional_maps(
        self, student: Student, training_set: TrainingSet, index: torch.Tensor, noise: torch.Generator
    ) -> torch.Tensor:
        """Return a student's error map of each of the hospital's training items at `index`: (N, 3, *grid)."""
        start = student.noise(len(index), noise)
        maps = torch.empty_like(start)

        @torch.no_grad()  # in each thread
        def sample(rows: torch.Tensor) -> None:
            image = self.seen(training_set.batch(index[rows]).image)
            maps[rows] = student.predict(image, self.config.replay.map_steps, start[rows]).error_map

        each(start.device, sample, torch.arange(len(index)).split(self.config.training.batch_size))
        return maps


def _unconditional_maps(student: Student, config: Settings, noise: torch.Generator) -> torch.Tensor:
    """Return `shared_maps` error maps that a student generates from noise alone: (N, 3, *grid)."""
    start = student.noise(config.replay.shared_maps, noise)
    maps = torch.empty_like(start)

    def sample(rows: torch.Tensor) -> None:
        maps[rows] = student.sample(student.null_context(len(rows)), config.replay.map_steps, start[rows])

    each(start.device, sample, torch.arange(len(start)).split(config.training.batch_size))
    return maps
