"""One hospital's own data: its cases, split by patient, prepared and held on its own disk."""

import itertools
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fedserdiff.data.cache import CachedCase, cached_cases
from fedserdiff.data.cases import BadCases, Case, SkippedCase, settle
from fedserdiff.data.site_cases import patient_of, site_cases
from fedserdiff.data.split import Split, split_patients
from fedserdiff.errors import DataError
from fedserdiff.settings.experiment import Settings, Site


@dataclass(frozen=True)
class Hospital:
    """A site and its prepared cases; no patient is in two of the lists.

    `validation` is empty where nobody asked for such patients. `skipped` are cases that it could not prepare.
    """

    site: Site
    training: tuple[CachedCase, ...]
    test: tuple[CachedCase, ...]
    validation: tuple[CachedCase, ...] = ()
    skipped: tuple[SkippedCase, ...] = ()

    @property
    def cases(self) -> tuple[CachedCase, ...]:
        """All of them, by name."""
        everyone = (*self.training, *self.validation, *self.test)
        return tuple(sorted(everyone, key=lambda cached: cached.case.name))

    @property
    def counts(self) -> dict[str, int]:
        """How many cases there are to train on, to choose settings by, where there are such, and to test on."""
        validation = {"validation": len(self.validation)} if self.validation else {}
        return {"training": len(self.training), **validation, "test": len(self.test)}

    @property
    def counted(self) -> str:
        """The counts in words."""
        *first, last = (f"{count} {side}" for side, count in self.counts.items())
        return f"{', '.join(first)} and {last} cases"

    def scored(self, config: Settings) -> tuple[CachedCase, ...]:
        """Return the cases whose scores a run of `config` reports: all scoring goes by it."""
        return self.validation if config.scoring.patients == "validation" else self.test


def open_hospital(
    site: Site,
    config: Settings,
    cache: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
    skip_bad: bool = False,
) -> Hospital:
    """Find, check and prepare a site's cases, and split them by patient.

    With `skip_bad`, cases that cannot be used are left out: the hospital's site names the others, and holds out those
    that it would have held out with all, to test on and to validate on.

    Raises
    ------
    DataError
        As `site_cases` and `split_patients`, and where too few cases can be used.
    BadCasesError
        Without `skip_bad`: of all cases that cannot be used. Every fault begins with the site's name.
    """
    bad: BadCases = {}
    skipped: list[SkippedCase] = []
    try:
        cases = site_cases(site, config, bad)
        if not bad:
            split_cases(site, cases, config)  # before hours of preparation
        ready = cached_cases(cases, config.data.grid, config.data.spacing_mm, cache, progress, bad)
        if bad and skip_bad:
            site, skipped = _without(site, cases, bad, config)
        elif bad:
            settle(bad, None)
    except DataError as error:
        name = f"site {site.name}: "
        raise type(error)(*(name + fault.removeprefix(name) for fault in error.faults)) from None
    return replace(hospital_of(site, ready, config), skipped=tuple(skipped))


def _without(site: Site, cases: Sequence[Case], bad: BadCases, config: Settings) -> tuple[Site, list[SkippedCase]]:
    """Return the site without its bad cases, everybody staying on their side; and those cases."""
    patients = {case.name: case.patient for case in cases} | {name: patient_of(site, name) for name in bad}
    split = split_patients(site, patients, config)
    sides = {name: split.side_of(patient) for name, patient in patients.items()}
    skipped = [SkippedCase(site.name, name, sides[name], bad[name]) for name in sorted(bad)]
    kept = {side: tuple(sorted(n for n in patients if n not in bad and sides[n] == side)) for side in sides.values()}
    if not all(kept.values()):
        what = "train, to validate and to test on" if split.validation else "train and to test on"
        raise DataError(f"too few cases can be used to {what}", *map(str, skipped))
    left = replace(
        site,
        cases=tuple(sorted(itertools.chain.from_iterable(kept.values()))),
        test_cases=kept["test"],
        validation_cases=kept.get("validation", ()),
    )
    return left, skipped


def hospital_of(site: Site, cases: Sequence[CachedCase], config: Settings) -> Hospital:
    """Split a site's prepared cases by patient.

    Raises
    ------
    DataError
        As `split_patients`.
    """
    split = split_cases(site, [c.case for c in cases], config)
    return Hospital(
        site=site,
        training=tuple(c for c in cases if c.case.patient in split.training),
        test=tuple(c for c in cases if c.case.patient in split.test),
        validation=tuple(c for c in cases if c.case.patient in split.validation),
    )


def leave_out(hospital: Hospital, names: Collection[str], config: Settings) -> Hospital:
    """Return the hospital without the cases of these names, its other patients split anew.

    Raises
    ------
    DataError
        As `remaining` and `hospital_of`.
    """
    return hospital_of(*remaining(hospital, names), config) if names else hospital


def remaining(hospital: Hospital, names: Collection[str]) -> tuple[Site, list[CachedCase]]:
    """Return what is left without the cases of these names: the site, which names them, and its cases by name.

    Raises
    ------
    DataError
        Where no case is left, or none of the site's `test_cases` or `validation_cases`.
    """
    site = hospital.site
    kept = [c for c in hospital.cases if c.case.name not in names]
    if not kept:
        raise DataError(f"site {site.name}: an earlier site brought every one of its patients: nothing is left")
    left: dict[str, Any] = {}
    for field in ("test_cases", "validation_cases"):
        named = getattr(site, field)
        left[field] = tuple(case for case in named if case not in names)
        if named and not left[field]:
            raise DataError(f"site {site.name}: an earlier site brought every patient of its {field}")
    return replace(site, cases=tuple(c.case.name for c in kept), **left), kept


def split_cases(site: Site, cases: Sequence[Case], config: Settings) -> Split:
    """Return a site's patients by side; raises as `split_patients`."""
    return split_patients(site, {case.name: case.patient for case in cases}, config)


@dataclass(frozen=True)
class Batch:
    """Training items: `image` (B, 4, *grid) and `truth` (B, 3, *grid), float32, and their `index` in the set.

    `mirrored` says that the items were flipped left to right.
    """

    image: torch.Tensor
    truth: torch.Tensor
    index: torch.Tensor
    mirrored: bool = False

    def mirror(self) -> "Batch":
        """Return the batch flipped left to right."""
        return Batch(self.image.flip(2), self.truth.flip(2), self.index, not self.mirrored)


class TrainingSet:
    """What a hospital trains on: every axial slice that shows brain (2D), or every volume (3D).

    Parameters
    ----------
    cases : sequence of CachedCase
        Training cases, at least one.
    config : Settings
        For the number of spatial dimensions.
    device : torch.device
        Where batches go.
    """

    def __init__(self, cases: Sequence[CachedCase], config: Settings, device: torch.device) -> None:
        self._cases = cases
        self._device = device
        self._slices = config.data.spatial_dims == 2
        self._grid, self._channels = config.data.grid, (len(config.data.modalities), len(config.data.regions))
        items: list[tuple[int, int]] = []
        shows_tumour: list[bool] = []
        for number, case in enumerate(cases):
            brain, tumour = case.prepared.slices()  # of the index: no round reads voxels to learn where tumour is
            if self._slices:
                items.extend((number, int(z)) for z in brain)
                shows_tumour.extend(np.isin(brain, tumour).tolist())
            else:
                items.append((number, 0))
                shows_tumour.append(len(tumour) > 0)
        self._items = items
        self._shows_tumour = torch.tensor(shows_tumour, dtype=torch.bool)
        self._tumour = torch.from_numpy(np.flatnonzero(shows_tumour))

    def __len__(self) -> int:
        return len(self._items)

    def draw(self, size: int, generator: torch.Generator) -> torch.Tensor:
        """Draw item indices: half of them, rounded down, from items that show tumour (our choice), shape (size,)."""
        of_tumour = size // 2 if len(self._tumour) else 0
        anywhere = torch.randint(0, len(self), (size - of_tumour,), generator=generator)
        if not of_tumour:
            return anywhere
        chosen = self._tumour[torch.randint(0, len(self._tumour), (of_tumour,), generator=generator)]
        return torch.cat([chosen, anywhere])

    def items_an_epoch(self, balanced: bool) -> int:
        """Return how many items `epoch` has in all its batches."""
        return len(self) + self._repeats(balanced)

    def epoch(self, size: int, generator: torch.Generator, balanced: bool) -> tuple[torch.Tensor, ...]:
        """Return one pass over all items, in a drawn order, in batches of `size` indices, the last as many as are left.

        Each item comes once. Where it is to be `balanced`, those that show tumour come again, pass after pass over
        them, until they are half of the epoch. Within a batch they come first.
        """
        extra, order = self._repeats(balanced), [torch.randperm(len(self), generator=generator)]
        while extra > 0:
            again = self._tumour[torch.randperm(len(self._tumour), generator=generator)][:extra]
            order.append(again)
            extra -= len(again)
        whole = torch.cat(order)
        if balanced:
            whole = whole[torch.randperm(len(whole), generator=generator)]
        return tuple(
            batch[(~self._shows_tumour[batch]).to(torch.uint8).argsort(stable=True)] for batch in whole.split(size)
        )

    def _repeats(self, balanced: bool) -> int:
        """Return how many times, in all, items that show tumour come again in an epoch."""
        tumour = len(self._tumour)
        return max(0, len(self) - 2 * tumour) if balanced and tumour else 0

    def batch(self, index: torch.Tensor) -> Batch:
        """Return the items at `index` (B,)."""
        x, y, z = self._grid
        depth = 1 if self._slices else z
        # Channels fastest, as the store has them; NumPy's zeros cost nothing where nothing is written.
        shapes = [(len(index), depth, y, x, channels) for channels in self._channels]
        image, truth = (torch.from_numpy(np.zeros(s, np.float32)).permute(0, 4, 3, 2, 1) for s in shapes)
        for place, item in enumerate(index.tolist()):
            number, at = self._items[item]
            (i, j, k), of_image, of_mask = self._cases[number].prepared.boxed(at if self._slices else None)
            k = slice(0, of_image.shape[-1]) if self._slices else k
            image[place, :, i, j, k] = torch.from_numpy(of_image)
            truth[place, :, i, j, k] = torch.from_numpy(of_mask)
        if self._slices:
            image, truth = image[..., 0], truth[..., 0]
        return Batch(image.to(self._device), truth.to(self._device), index)
