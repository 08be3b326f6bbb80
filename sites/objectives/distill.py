"""Feature distillation on the hospital's own data: no error map is generated, none is replayed."""

import torch

from fedserdiff.diffusion.objective import coarse_distance, replay_distance, segmentation_terms
from fedserdiff.diffusion.refiner import Student
from fedserdiff.seeding import generator
from sites.hospital import Batch, TrainingSet
from sites.objectives.base import Objective


class DistillObjective(Objective):
    """L = L_seg + λ · L_KD, with L_KD at the true errors of the teacher's own P on the batch.

    SER-Diff without its error maps: the same features, weight and number of samples a step; it is what the maps have
    to beat. Without a teacher (stage 1), or with λ = 0, it is L_seg to the last digit.
    """

    def begin(self, training_set: TrainingSet, site: str, stage: int, server_round: int) -> None:
        """Seed the noise of the distilled error maps."""
        self._replay = generator(self.config.seed, "replay", site, stage, server_round)

    def terms(self, student: Student, batch: Batch, perturb: bool, noise: torch.Generator) -> dict[str, torch.Tensor]:
        """Return ``segmentation`` and, with a teacher, ``distillation`` = λ · L_KD."""
        config = self.config
        terms = {"segmentation": segmentation_terms(student, batch.image, batch.truth, None, perturb, noise).total}
        if self.teacher is not None and config.lambda_kd > 0 and config.replay_batch > 0:
            image, truth = batch.image[: config.replay_batch], batch.truth[: config.replay_batch]
            of_coarse, coarse = coarse_distance(student, self.teacher, image, config.gamma)
            context = self.teacher.context(image, coarse)
            maps = truth - coarse
            of_refiner = replay_distance(student, self.teacher, maps, context, config.gamma, self._replay)
            terms["distillation"] = config.lambda_kd * (of_coarse + of_refiner)
        return terms
