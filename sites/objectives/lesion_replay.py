"""Lesion replay: earlier hospitals' lesions painted into the hospital's own scans, from moments over patients."""

import math
from collections.abc import Mapping

import torch

from fedserdiff.device import to_device
from fedserdiff.diffusion.lesson import Lesson
from fedserdiff.diffusion.refiner import Student
from fedserdiff.lesions.brush import Painter, whitening
from fedserdiff.lesions.moments import moments_of
from fedserdiff.lesions.painting import paint
from fedserdiff.lesions.retention import after, before, watched_places
from fedserdiff.methods.lesion_replay import LesionReplaySettings
from fedserdiff.seeding import generator
from fedserdiff.wire import LESION_MOMENTS, Memory
from sites.hospital import Hospital
from sites.objectives.base import DISTILLATION, SEGMENTATION, Objective
from sites.retention import interpolated, painted_dice
from sites.training_set import Batch, TrainingSet

_SLICES, _VOLUMES = 64, 8
"""How many samples an earlier hospital's lesions are painted into to score students (our choice)."""


class LesionReplayObjective(Objective):
    """L = L_seg + δ · λ · P / (P + n) · L_KD on batches of which some samples show lesions of earlier hospitals.

    δ is the setting `distillation`, P the number of their patients and n that of the hospital's own (our choice). What
    a student forgets is a population of patients: of a hospital whose patients have no enhancing tumour it learns that
    there is none. Painted samples show it the earlier ones' lesions, whose labels are known; the latest student is
    distilled on them alone, where it is right. How much both weigh goes by patients: a large hospital learns of its own
    scans above all, and the scans of a small one are not learnt by heart. Without a past it is L_seg to the last digit.
    """

    _painter: Painter | None = None
    _share = _past = 0.0  # of a batch that is painted, and of all patients so far that are of earlier hospitals

    @property
    def _own(self) -> LesionReplaySettings:
        return LesionReplaySettings.of(self.config.method)

    def begin(self, training_set: TrainingSet, site: str, stage: int, server_round: int) -> None:
        """Take the earlier hospitals' moments, and the texture of the hospital's own lesions."""
        kept = self.memory.get(LESION_MOMENTS)
        if kept is None or not (painter := Painter(kept, self.config.data.spacing_mm)).earlier_patients:
            return
        earlier, own_patients = painter.earlier_patients, len({case.case.patient for case in training_set.cases})
        painted = self._own.painted_share * earlier
        self._share = painted / (painted + own_patients)
        self._past = earlier / (earlier + own_patients)
        device = training_set.device
        own = moments_of(training_set.cases, self.config.data.spacing_mm, least=1)
        self._whitening = to_device(whitening(torch.from_numpy(own.within)), device)
        self._draws = generator(self.config.seed, "lesions", site, stage, server_round)
        self._noise = generator(self.config.seed, "lesions-noise", site, stage, server_round, device=device)
        self._painter = painter

    def lessons(self, batch: Batch, noise: torch.Generator) -> dict[str, Lesson]:
        """Return the lesson of the batch, some of it painted, where there is a past."""
        count = 0 if self._painter is None else self._drawn_count(len(batch.image))
        if self._painter is None or count == 0:
            return super().lessons(batch, noise)
        order = to_device(torch.randperm(len(batch.image), generator=self._draws), batch.image.device)
        image, truth = batch.image[order], batch.truth[order]  # those with tumour come first in a batch
        brush = self._painter.draw(image[:count].shape, self._draws, self._noise)
        painted, mask = paint(image[:count], truth[:count], brush, self._whitening)
        image, truth = torch.cat([painted, image[count:]]), torch.cat([mask, truth[count:]])
        distils = self._own.lambda_kd > 0 and self._own.distillation > 0
        teacher = self.teacher if distils else None
        return {SEGMENTATION: Lesson(image, truth, noise, teacher=teacher, taught=count, gamma=self._own.gamma)}

    def _drawn_count(self, size: int) -> int:
        """Return how many samples of a batch are painted: chance decides what is left over of the share."""
        return math.floor(self._share * size + float(torch.rand(1, generator=self._draws)))

    def weight(self, term: str) -> float:
        """Return δ · λ for distillation, and of that the share of earlier hospitals' patients among all so far."""
        own = self._own
        return own.distillation * own.lambda_kd * self._past if term == DISTILLATION else super().weight(term)

    def retained(self, student: Student, hospital: Hospital, stage: int) -> Mapping[str, int]:
        """Return, by earlier hospital and region, the Dice of teacher and of student on its lesions, in percent.

        Scans of validation patients are painted, where there are some, else those of training patients. The student is
        the one that the stage ends with, as far as patients tell how much it keeps of the teacher.
        """
        config, kept = self.config, self.memory.get(LESION_MOMENTS)
        if kept is None or self._painter is None or self.teacher is None:
            return {}
        places = watched_places(config, config.rounds, kept["patients"].flatten().tolist())
        if not places:
            return {}
        site, device = hospital.site.name, student.device
        samples = TrainingSet(hospital.validation or hospital.training, config, device)
        count = _SLICES if config.data.spatial_dims == 2 else _VOLUMES
        index = samples.draw(count, generator(config.seed, "retention-items", site, stage))
        told: dict[str, int] = {}
        ended = interpolated(student, self.teacher, min(config.inertia, self._past))
        for place in places:
            dice = painted_dice(
                (self.teacher, ended),
                samples,
                index,
                Painter({name: values[place - 1 : place] for name, values in kept.items()}, config.data.spacing_mm),
                self._whitening,
                generator(config.seed, "retention", site, stage, place),
                generator(config.seed, "retention-noise", site, stage, place, device=device),
                config.training.batch_size,
                config.scoring.sampling_steps,
            )
            for region, was, now in zip(config.data.regions, *dice.tolist(), strict=True):
                if not math.isnan(was):
                    told |= {before(place, region): round(100 * was), after(place, region): round(100 * now)}
        return told

    def consolidate(self, student: object, training_set: TrainingSet, site: str, stage: int) -> Memory:
        """Return the moments of the hospital's lesions, float32, each of shape (1, …)."""
        least = self._own.least_patients
        moments = moments_of(training_set.cases, self.config.data.spacing_mm, least)
        if not moments.patients.any():
            self.remarks.append(
                "shares no moments of its lesions, so that later hospitals paint none of them: fewer than "
                f"method.least_patients = {least} of its training patients have a lesion"
            )
        return {LESION_MOMENTS: {name: torch.from_numpy(getattr(moments, name))[None] for name in moments.names()}}
