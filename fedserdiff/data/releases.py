"""The naming and label convention of each release: declared, never guessed from data.

A release is a table of TOML. Those of the BraTS and FeTS challenges come with the package, a file each in ``declared/``
that names its source; a user's own stands in an experiment's file or in a file of its own. Datasets in the Decathlon's
layout declare theirs in their own way: `fedserdiff.data.decathlon`.
"""

import difflib
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from fedserdiff import plugins
from fedserdiff.data.release_fields import CHECKS, SEG
from fedserdiff.errors import ConfigError, DataError, Faults
from fedserdiff.text import read_text

BRATS_MODALITIES = ("t1", "t1ce", "t2", "flair")
"""Order of the image channels of a federation of BraTS releases."""

BRATS_REGIONS = ("tc", "wt", "et")
"""Order of its region channels: MONAI's (tumour core, whole tumour, enhancing tumour)."""

_LEAST_PROBABILITY = 1e-6  # so that 0 and 1 can be outvoted


@dataclass(frozen=True)
class Convention:
    """What a hospital's files mean: its images' modalities, its segmentations' labels, and the regions they make up.

    Attributes
    ----------
    name : str
        Name used in federation files, such as ``brats2021``.
    modalities : tuple of str
        In the order of the image channels.
    regions : mapping of str to tuple of int
        In the order of the region channels: label values whose union is each region.
    labels : tuple of int
        Every label value that is defined, background included.
    """

    name: str
    modalities: tuple[str, ...]
    regions: Mapping[str, tuple[int, ...]]
    labels: tuple[int, ...]

    def agreed(self, modalities: Sequence[str], regions: Sequence[str]) -> Self:
        """Return the convention with the modalities and regions that a federation agreed on, in its order.

        Raises
        ------
        DataError
            Where one of them is not among the convention's.
        """
        for what, wanted, known in (("modality", modalities, self.modalities), ("region", regions, self.regions)):
            absent = [name for name in wanted if name not in known]
            if absent:
                raise DataError(f"{self.name} has no {what} {', '.join(absent)}; it has {', '.join(known)}")
        return replace(self, modalities=tuple(modalities), regions={name: self.regions[name] for name in regions})

    def region_masks(self, labels: NDArray[np.integer]) -> NDArray[np.bool_]:
        """Turn a label map of shape (X, Y, Z) into region masks of shape (regions, X, Y, Z).

        Raises
        ------
        DataError
            Where a voxel holds a label that is not defined.
        """
        unknown = sorted(set(np.unique(labels).tolist()) - set(self.labels))
        if unknown:
            others = self.alike_with(unknown)
            hint = f"; release {' or '.join(others)} has it: is the site's release right?" if others else ""
            raise DataError(
                f"label {', '.join(map(str, unknown))} is not one of {self.name}'s "
                f"({', '.join(map(str, self.labels))}){hint}"
            )
        return np.stack([np.isin(labels, values) for values in self.regions.values()])

    def alike_with(self, labels: Sequence[int]) -> list[str]:
        """Return the names of releases that have these labels, and whose cases are named as this one's."""
        return []

    @property
    def painting_order(self) -> tuple[int, ...]:
        """Numbers of the regions from the one of most labels to the one of fewest: smaller ones are painted over."""
        sizes = [len(values) for values in self.regions.values()]
        return tuple(sorted(range(len(sizes)), key=lambda number: -sizes[number]))

    def label_map(self, probabilities: NDArray[np.floating]) -> NDArray[np.uint16]:
        """Return the most probable label map of shape (X, Y, Z).

        Where regions of probability ½ and more are just those of a label, as nested and disjoint regions mostly are,
        it is that label. Elsewhere no label says what they say, such as enhancing tumour that is no tumour: then it is
        the label whose regions, and whose alone, are most probable together, p being independent (our choice; nnU-Net
        lets the smallest region win).

        Parameters
        ----------
        probabilities : ndarray of shape (regions, X, Y, Z)
            In [0, 1].
        """
        members = np.array([[label in values for values in self.regions.values()] for label in self.labels])
        pairs = zip(map(tuple, members.tolist()[::-1]), self.labels[::-1], strict=True)
        own = dict(pairs)  # of labels alike the first one stands
        own |= {(False,) * len(self.regions): 0}  # background, and what is no region's
        said = np.asarray(probabilities >= 0.5)
        painted = np.zeros(said.shape[1:], np.uint16)
        unsaid = said.any(0)
        for member, label in own.items():
            here = np.logical_and.reduce([of if inside else ~of for of, inside in zip(said, member, strict=True)])
            painted[here] = label
            unsaid &= ~here
        if unsaid.any():
            p = np.clip(probabilities[:, unsaid].astype(np.float64), _LEAST_PROBABILITY, 1 - _LEAST_PROBABILITY)
            inside = np.array(sorted(own, key=sum, reverse=True), np.float64)  # of equals, the one of most regions
            together = inside @ np.log(p) + (1 - inside) @ np.log1p(-p)
            labels = np.array([own[tuple(map(bool, row))] for row in inside], np.uint16)
            painted[unsaid] = labels[together.argmax(0)]
        return painted

    def written(self, probabilities: NDArray[np.floating]) -> NDArray[np.bool_]:
        """Return region masks as a scorer of files sees them: of the label map, (regions, X, Y, Z)."""
        return self.region_masks(self.label_map(probabilities))


@dataclass(frozen=True)
class Release(Convention):
    """A release's convention: of a challenge, a collection or a hospital's own export.

    Attributes
    ----------
    case_pattern : str
        Regular expression of a case's name; its group ``patient`` is the patient's identity.
    example : str
        A case name in this convention, for error messages.
    separator : str
        Between the case's name and a file's suffix.
    suffixes : mapping of str to str
        File suffix of each modality.
    grid : tuple of int, optional
        Voxels of a volume at 1 mm, where all have the same.
    seg_aliases : mapping of str to str
        Segmentations that the release itself ships under another name.
    segmentation : str
        File suffix of the segmentation.
    """

    case_pattern: str
    example: str
    separator: str
    suffixes: Mapping[str, str]
    grid: tuple[int, int, int] | None = None
    seg_aliases: Mapping[str, str] = field(default_factory=dict)
    segmentation: str = SEG

    def patient_of(self, case_name: str) -> str | None:
        """Return the patient's identity in `case_name`, or None where the name is not of this release."""
        match = re.fullmatch(self.case_pattern, case_name)
        return match.group("patient") if match else None

    def file_stem(self, case_name: str, channel: str) -> str:
        """Return the file name, without extension, of a modality (or ``seg``) of a case."""
        suffix = self.segmentation if channel == SEG else self.suffixes.get(channel, channel)
        return f"{case_name}{self.separator}{suffix}"

    def case_of(self, stem: str) -> str | None:
        """Return whose file has this name, without extension; None where it is none of a modality or segmentation."""
        for channel in (*self.suffixes, SEG):
            end = self.file_stem("", channel)
            if stem.endswith(end) and self.patient_of(stem[: -len(end)]):
                return stem[: -len(end)]
        return None

    def alike_with(self, labels: Sequence[int]) -> list[str]:
        return [r.name for r in RELEASES.values() if set(labels) <= set(r.labels) and r.patient_of(self.example)]

    @property
    def table(self) -> dict[str, Any]:
        """The table that declares the release, JSON-ready: `own_release` makes the same release of it."""
        return {
            "name": self.name,
            "case_pattern": self.case_pattern,
            "example": self.example,
            "separator": self.separator,
            "modalities": dict(self.suffixes),
            "segmentation": self.segmentation,
            "regions": {name: list(values) for name, values in self.regions.items()},
            "labels": list(self.labels),
            "seg_aliases": dict(self.seg_aliases),
            **({} if self.grid is None else {"grid": list(self.grid)}),
        }


FILE_END = ".toml"
"""How the name of a file ends that declares a release."""

ENTRY_POINTS = "fedserdiff.releases"
"""The group of entry points by which an installed package brings releases, each a `Release`."""

_REQUIRED = ("name", "case_pattern", "example", "modalities", "regions")


def read_release_file(file: Path) -> Release:
    """Return the release that a TOML file of its own declares.

    Raises
    ------
    ConfigError
        As `read_text` and `own_release`, and where the file cannot be read or is no TOML.
    """
    try:
        table = tomllib.loads(read_text(file))
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror})") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file}: not valid TOML: {error}") from None
    return own_release(table, str(file))


def own_release(table: Any, where: str) -> Release:
    """Return the release that a user's table declares, in TOML or in a run's ``config.json``.

    Raises
    ------
    ConfigError
        Naming, after `where`, each field that is missing, unknown, or does not say what it should, and where a release
        that is there already has its name.
    """
    release = _read_release(table, where)
    if release.name in RELEASES or plugins.is_foreign(release.name, ENTRY_POINTS, RELEASES):
        raise ConfigError(f"{where}: name: there is a release {release.name} already: give it another name")
    return release


def _read_release(table: Any, where: str) -> Release:
    if not isinstance(table, Mapping):
        raise ConfigError(f"{where}: {table!r} is no table: declare a release by {', '.join(_REQUIRED)}")
    faults = Faults(ConfigError)
    for name in table:
        if name not in CHECKS:
            close = difflib.get_close_matches(name, CHECKS, 1)
            meant = f"did you mean {close[0]}?" if close else f"choose from {', '.join(CHECKS)}"
            faults.add(f"{where}: {name}: unknown field: {meant}")
    for name in _REQUIRED:
        if name not in table:
            faults.add(f"{where}: {name}: is missing")
    faults.check()
    values: dict[str, Any] = {}
    for name, check in CHECKS.items():
        if name in table:
            try:
                values[name] = check(table[name])
            except ValueError as error:
                faults.add(f"{where}: {name}: {error}")
    faults.check()
    regions = values.pop("regions")
    suffixes = values.pop("modalities")
    of_regions = {value for own in regions.values() for value in own}
    labels = tuple(sorted({0, *of_regions, *values.pop("labels", ())}))
    release = Release(
        modalities=tuple(suffixes), regions=regions, labels=labels, suffixes=suffixes, **{"separator": "_", **values}
    )
    if release.patient_of(release.example) is None:
        raise ConfigError(f"{where}: example: {release.example!r} is no name as case_pattern has them")
    stems = [release.file_stem("", channel) for channel in (*release.modalities, SEG)]
    if len(set(stems)) < len(stems):
        raise ConfigError(f"{where}: modalities: two of {', '.join(stems)} are the same file of a case")
    return release


def _packaged() -> dict[str, Release]:
    folder = files("fedserdiff.data") / "declared"
    entries = sorted((entry for entry in folder.iterdir() if entry.name.endswith(FILE_END)), key=lambda one: one.name)
    read = (_read_release(tomllib.loads(entry.read_text(encoding="utf-8")), entry.name) for entry in entries)
    return {release.name: release for release in read}


RELEASES: Mapping[str, Release] = MappingProxyType(_packaged())
"""The releases that come with the package, by name."""


def get_release(name: str) -> Release:
    """Return the release called `name`: it comes with the package, or an installed package or ``module:object`` has it.

    Raises
    ------
    ConfigError
        Where no such release is declared; the text lists those that are.
    """
    if name in RELEASES:
        return RELEASES[name]
    release = plugins.load(name, ENTRY_POINTS, RELEASES, "release")
    if not isinstance(release, Release):
        raise ConfigError(f"release {name}: is a {type(release).__name__}, no Release")
    return release


def release_or_file(name: str) -> Release:
    """Return the release that a command line names: as `get_release`, or a file ``NAME.toml`` that declares it.

    Raises
    ------
    ConfigError
        As `get_release` and `read_release_file`.
    """
    return read_release_file(Path(name)) if name.endswith(FILE_END) else get_release(name)


def is_foreign(name: str) -> bool:
    """Say whether a release's name is of code that does not come with fedserdiff."""
    return plugins.is_foreign(name, ENTRY_POINTS, RELEASES)
