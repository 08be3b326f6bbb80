"""Feature distillation on the hospital's own data, without generated or replayed error maps."""

import torch

from fedserdiff.diffusion.draws import draw_noise
from fedserdiff.diffusion.lesson import Lesson, Replay
from fedserdiff.diffusion.refiner import Student
from fedserdiff.methods.method import Distilling
from fedserdiff.seeding import generator
from sites.objectives.base import SEGMENTATION, Objective
from sites.training_set import Batch, TrainingSet


class DistillObjective(Objective):
    """L = L_seg + λ · L_KD, with L_KD at the true errors of the teacher's own P on the batch.

    This is SER-Diff without its error maps, with the same features, weight and number of samples in each step: the
    baseline for the maps. Without a teacher (stage 1), or with λ = 0, it is exactly L_seg.
    """

    def begin(self, training_set: TrainingSet, site: str, stage: int, server_round: int) -> None:
        """Seed the noise of the distilled error maps."""
        device = training_set.device
        self._replay = generator(self.config.seed, "replay-noise", site, stage, server_round, device=device)

    def lessons(self, batch: Batch, noise: torch.Generator) -> dict[str, Lesson]:
        """Return the batch's lesson, with the teacher's true errors on it if there is a teacher."""
        replays = Distilling.of(self.config.method).lambda_kd > 0 and self.config.replay.batch_size > 0
        replay = self._true_errors(self.teacher, batch) if self.teacher is not None and replays else None
        return {SEGMENTATION: Lesson(batch.image, batch.truth, noise, replay=replay)}

    def _true_errors(self, teacher: Student, batch: Batch) -> Replay:
        """Return the true errors of the teacher's own P, on as many items of the batch as SER-Diff replays maps."""
        samples = self.config.replay.batch_size
        image, truth = batch.image[:samples], batch.truth[:samples]
        t, noise = draw_noise(truth.shape, self._replay)
        return Replay(image, teacher, Distilling.of(self.config.method).gamma, t, noise, truth, true_errors=True)
