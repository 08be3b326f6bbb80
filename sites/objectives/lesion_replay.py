"""Lesion replay: earlier hospitals' lesions are painted into a hospital's scans, from moments over patients."""

import math
from collections.abc import Mapping

import torch

from fedserdiff.device import to_device
from fedserdiff.diffusion.lesson import Lesson
from fedserdiff.diffusion.refiner import Student
from fedserdiff.lesions.brush import Painter, whitening
from fedserdiff.lesions.moments import moments_of, nothing_to_share
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
"""Number of samples to paint an earlier hospital's lesions into for scoring students (our choice)."""


class LesionReplayObjective(Objective):
    """L = L_seg + δ · λ · P / (P + n) · L_KD on batches in which some samples show lesions of earlier hospitals.

    δ is the setting `distillation`, P the number of earlier hospitals' patients and n that of the hospital's own (our
    choice). A student forgets a population of patients: a hospital whose patients have no enhancing tumour teaches it
    that there is none. Painted samples show earlier hospitals' lesions, whose labels are known. The latest student is
    distilled only on them, where it is right. Both weights follow the numbers of patients: a large hospital learns
    mostly from its own scans, and a small hospital's scans are not memorised. In stage 1 it is exactly L_seg.
    """

    _painter: Painter | None = None
    _share = _past = 0.0  # painted share of a batch, and earlier hospitals' share of all patients so far

    @property
    def _own(self) -> LesionReplaySettings:
        return LesionReplaySettings.of(self.config.method)

    def begin(self, training_set: TrainingSet, site: str, stage: int, server_round: int) -> None:
        """Prepare the earlier hospitals' moments and the texture of the hospital's own lesions."""
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
        """Return the lesson of the batch, partly painted if there are earlier hospitals."""
        count = 0 if self._painter is None else self._drawn_count(len(batch.image))
        if self._painter is None or count == 0:
            return super().lessons(batch, noise)
        order = to_device(torch.randperm(len(batch.image), generator=self._draws), batch.image.device)
        # shuffled, because samples with tumour come first in a batch
        image, truth = batch.image[order], batch.truth[order]
        brush = self._painter.draw(image[:count].shape, self._draws, self._noise)
        painted, mask = paint(image[:count], truth[:count], brush, self._whitening)
        image, truth = torch.cat([painted, image[count:]]), torch.cat([mask, truth[count:]])
        distils = self._own.lambda_kd > 0 and self._own.distillation > 0
        teacher = self.teacher if distils else None
        return {SEGMENTATION: Lesson(image, truth, noise, teacher=teacher, taught=count, gamma=self._own.gamma)}

    def _drawn_count(self, size: int) -> int:
        """Return the number of painted samples in a batch; the fraction is rounded up or down by chance."""
        return math.floor(self._share * size + float(torch.rand(1, generator=self._draws)))

    def weight(self, term: str) -> float:
        """Return, for distillation, δ · λ times the earlier hospitals' share of all patients so far."""
        own = self._own
        return own.distillation * own.lambda_kd * self._past if term == DISTILLATION else super().weight(term)

    def retained(self, student: Student, hospital: Hospital, stage: int) -> Mapping[str, int]:
        """Return the Dice of teacher and student on earlier hospitals' lesions, by hospital and region, in per cent.

        Scans of validation patients are painted if there are any, otherwise those of training patients. The student is
        the stage's final student, interpolated with the teacher by the numbers of patients.
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
            self.remarks.append(nothing_to_share(least))
        return {LESION_MOMENTS: {name: torch.from_numpy(getattr(moments, name))[None] for name in moments.names()}}
