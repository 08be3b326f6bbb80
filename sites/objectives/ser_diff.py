"""SER-Diff: L = L_seg + λ · L_KD, with features distilled at replayed error maps (arXiv 2510.06283)."""

from collections.abc import Callable

import torch

from fedserdiff.device import to_device
from fedserdiff.diffusion.draws import draw_noise
from fedserdiff.diffusion.lesson import Lesson, Replay
from fedserdiff.diffusion.refiner import Student
from fedserdiff.methods.method import Distilling
from fedserdiff.seeding import generator
from fedserdiff.settings.experiment import Settings
from fedserdiff.threads import each
from fedserdiff.wire import ERROR_MAPS, Memory, from_levels, to_levels
from sites.objectives.base import NOTHING_KEPT, SEGMENTATION, Objective
from sites.training_set import Batch, TrainingSet


class SerDiffObjective(Objective):
    """The paper's dual loss. Without a teacher (stage 1), or with λ = 0, it is exactly L_seg.

    The teacher's conditional maps are made once in each round for a pool of training items. They are used twice: as
    Ê_old in the context of the hospital's own batches, and as replayed maps in distillation. They never leave the
    hospital. Patches of a batch have other positions than those of the pool, so they have no Ê_old, and the maps are
    only used for distillation.
    """

    _bank: torch.Tensor | None
    _pool: torch.Tensor
    _maps: torch.Tensor
    _row_of: torch.Tensor
    _rows: torch.Generator
    _noise: torch.Generator

    @property
    def distilled(self) -> Student | None:
        """The teacher to distil from: None in stage 1 and with λ = 0."""
        return self.teacher if Distilling.of(self.config.method).lambda_kd > 0 else None

    def begin(self, training_set: TrainingSet, site: str, stage: int, server_round: int) -> None:
        """Draw the pool, sample the teacher's conditional map of each of its items, and load the bank's maps."""
        if self.distilled is None:
            return
        config = self.config
        self._training_set = training_set
        device = training_set.device
        self._rows = generator(config.seed, "replay", site, stage, server_round)
        self._noise = generator(config.seed, "replay-noise", site, stage, server_round, device=device)
        items = generator(config.seed, "conditional-maps", site, stage)  # the same maps in every round
        noise = generator(config.seed, "conditional-maps-noise", site, stage, device=device)
        if config.training.patch:
            self._pool = training_set.draw(config.replay.conditional_maps, items)
        else:
            size = min(config.replay.conditional_maps, len(training_set))
            self._pool = torch.randperm(len(training_set), generator=items)[:size]
            self._row_of = torch.full((len(training_set),), -1)
            self._row_of[self._pool] = torch.arange(size)
        self._maps = self._noisy(self._conditional_maps(self.distilled, training_set, self._pool, noise), items)
        kept = self.memory.get(ERROR_MAPS)
        self._bank = None if kept is None else self._noisy(from_levels(kept["maps"]), items)

    def _noisy(self, maps: torch.Tensor, draws: torch.Generator) -> torch.Tensor:
        """Add the noise with which a study degrades replayed maps; none by default."""
        spoilt = self.config.replay.map_noise
        return maps if spoilt == 0 else (maps + spoilt * torch.randn(maps.shape, generator=draws)).clamp(-1, 1)

    def lessons(self, batch: Batch, noise: torch.Generator) -> dict[str, Lesson]:
        """Return the batch's lesson, with the teacher's maps and a replay if there is a teacher."""
        if self.distilled is None:
            return super().lessons(batch, noise)
        replay = self._replayed(self.distilled) if self.config.replay.batch_size > 0 else None
        old_map = None if self.config.training.patch else self._old_maps(batch)
        return {SEGMENTATION: Lesson(batch.image, batch.truth, noise, self.adapter, old_map, replay)}

    def _old_maps(self, batch: Batch) -> torch.Tensor:
        """Return Ê_old of each item of a batch, zeros for items outside the pool."""
        rows = self._row_of[batch.index]
        maps = self._maps[rows.clamp(min=0)] * (rows >= 0).reshape(-1, *[1] * (self._maps.ndim - 1))
        return batch.follow(to_device(maps, batch.image.device))

    def _replayed(self, teacher: Student) -> Replay:
        """Return randomly drawn conditional maps with their context and, if there are any, maps from the bank."""
        config = self.config
        from_bank = 0 if self._bank is None else config.replay.batch_size // 2
        rows = torch.randint(0, len(self._pool), (config.replay.batch_size - from_bank,), generator=self._rows)
        with torch.no_grad():
            image = self.seen(self._training_set.batch(self._pool[rows]).image)
        bank = None
        if self._bank is not None and from_bank:
            drawn = torch.randint(0, len(self._bank), (from_bank,), generator=self._rows)
            bank = to_device(self._bank[drawn], image.device)
        t, noise = draw_noise((config.replay.batch_size, *self._maps.shape[1:]), self._noise)
        maps = to_device(self._maps[rows], image.device)
        return Replay(image, teacher, Distilling.of(config.method).gamma, t, noise, maps, bank=bank)

    def consolidate(self, student: Student, training_set: TrainingSet, site: str, stage: int) -> Memory:
        """Return error maps of the student as int8, from the branch that the config allows.

        ``null`` starts from noise with an empty context: patients' data reach the maps only through the weights.
        ``mri`` is conditioned on the hospital's scans, so a map shows its patient's contour.
        """
        config = self.config
        if config.shared_error_maps == "none":
            return NOTHING_KEPT
        noise = generator(config.seed, "shared-maps-noise", site, stage, device=training_set.device)
        if config.shared_error_maps == "mri":
            items = generator(config.seed, "shared-maps", site, stage)
            drawn = training_set.draw(config.replay.shared_maps, items)
            maps = self._conditional_maps(student, training_set, drawn, noise)
        else:
            maps = _unconditional_maps(student, config, noise)
        return {ERROR_MAPS: {"maps": to_levels(maps)}}

    def _conditional_maps(
        self, student: Student, training_set: TrainingSet, index: torch.Tensor, noise: torch.Generator
    ) -> torch.Tensor:
        """Return, on the host, a student's error map for each of the hospital's training items at `index`."""
        maps = torch.empty(len(index), len(self.config.data.regions), *student.spatial_shape)

        @torch.no_grad()  # in each thread
        def sample(part: tuple[torch.Tensor, torch.Tensor]) -> None:
            rows, start = part
            image = self.seen(training_set.batch(index[rows]).image)
            maps[rows] = student.predict(image, self.config.replay.map_steps, start).error_map.cpu()

        _in_parts(student, len(index), self.config, noise, sample)
        return maps


def _unconditional_maps(student: Student, config: Settings, noise: torch.Generator) -> torch.Tensor:
    """Return, on the host, `shared_maps` error maps that a student generates only from noise: (N, 3, *grid)."""
    maps = torch.empty(config.replay.shared_maps, len(config.data.regions), *student.spatial_shape)

    def sample(part: tuple[torch.Tensor, torch.Tensor]) -> None:
        rows, start = part
        maps[rows] = student.sample(student.null_context(len(rows)), config.replay.map_steps, start).cpu()

    _in_parts(student, config.replay.shared_maps, config, noise, sample)
    return maps


def _in_parts(
    student: Student,
    count: int,
    config: Settings,
    noise: torch.Generator,
    sample: Callable[[tuple[torch.Tensor, torch.Tensor]], None],
) -> None:
    """Sample `count` maps, one batch at a time, each from its rows and its initial noise."""
    parts = torch.arange(count).split(config.training.batch_size)
    each(noise.device, sample, ((rows, student.noise(len(rows), noise)) for rows in parts))
