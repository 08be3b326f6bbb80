"""The naming and label conventions of releases: declared, never guessed from data.

A release is a TOML table. Those of the BraTS and FeTS challenges come with the package, one file each in ``declared/``,
with its source. Users declare their own in an experiment file or in a separate file. Datasets in the Decathlon's layout
declare their convention in another format: `fedserdiff.data.decathlon`.
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
"""Order of the image channels in a federation of BraTS releases."""

BRATS_REGIONS = ("tc", "wt", "et")
"""Order of the region channels, as in MONAI: tumour core, whole tumour, enhancing tumour."""

_LEAST_PROBABILITY = 1e-6  # so that probabilities of 0 and 1 can be outvoted


@dataclass(frozen=True)
class Convention:
    """What a hospital's files mean: image modalities, segmentation labels, and the regions that labels make up.

    Attributes
    ----------
    name : str
        Name used in federation files, such as ``brats2021``.
    modalities : tuple of str
        Modalities, in the order of the image channels.
    regions : mapping of str to tuple of int
        Label values whose union is each region, in the order of the region channels.
    labels : tuple of int
        All defined label values, including background.
    """

    name: str
    modalities: tuple[str, ...]
    regions: Mapping[str, tuple[int, ...]]
    labels: tuple[int, ...]

    def agreed(self, modalities: Sequence[str], regions: Sequence[str]) -> Self:
        """Return this convention restricted to the modalities and regions a federation agreed on, in that order.

        Raises
        ------
        DataError
            If the convention lacks one of them.
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
            If a voxel holds an undefined label.
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
        """Return the names of releases that define these labels and share this one's case naming."""
        return []

    @property
    def painting_order(self) -> tuple[int, ...]:
        """Region numbers, from the region with the most labels to that with the fewest, which is painted last."""
        sizes = [len(values) for values in self.regions.values()]
        return tuple(sorted(range(len(sizes)), key=lambda number: -sizes[number]))

    def label_map(self, probabilities: NDArray[np.floating]) -> NDArray[np.uint16]:
        """Return the most probable label map of shape (X, Y, Z).

        If the regions with probability ½ or more are exactly those of a label, as is usual for nested and disjoint
        regions, a voxel gets that label. Otherwise no label matches them, for example enhancing tumour outside the
        whole tumour. The voxel then gets the label whose set of regions is jointly most probable, with independent
        probabilities (our choice; nnU-Net lets the smallest region win).

        Parameters
        ----------
        probabilities : ndarray of shape (regions, X, Y, Z)
            Region probabilities in [0, 1].
        """
        members = np.array([[label in values for values in self.regions.values()] for label in self.labels])
        pairs = zip(map(tuple, members.tolist()[::-1]), self.labels[::-1], strict=True)
        own = dict(pairs)  # labels with the same regions: the first one wins
        own |= {(False,) * len(self.regions): 0}  # background, and labels in no region
        said = np.asarray(probabilities >= 0.5)
        painted = np.zeros(said.shape[1:], np.uint16)
        unsaid = said.any(0)
        for member, label in own.items():
            here = np.logical_and.reduce([of if inside else ~of for of, inside in zip(said, member, strict=True)])
            painted[here] = label
            unsaid &= ~here
        if unsaid.any():
            p = np.clip(probabilities[:, unsaid].astype(np.float64), _LEAST_PROBABILITY, 1 - _LEAST_PROBABILITY)
            inside = np.array(sorted(own, key=sum, reverse=True), np.float64)  # ties go to the label in most regions
            together = inside @ np.log(p) + (1 - inside) @ np.log1p(-p)
            labels = np.array([own[tuple(map(bool, row))] for row in inside], np.uint16)
            painted[unsaid] = labels[together.argmax(0)]
        return painted

    def written(self, probabilities: NDArray[np.floating]) -> NDArray[np.bool_]:
        """Return the region masks of the label map, (regions, X, Y, Z), as a scorer of files sees them."""
        return self.region_masks(self.label_map(probabilities))


@dataclass(frozen=True)
class Release(Convention):
    """The convention of a release: of a challenge, a collection or a hospital's own export.

    Attributes
    ----------
    case_pattern : str
        Regular expression for case names; its group ``patient`` is the patient's identity.
    example : str
        Example of a case name, for error messages.
    separator : str
        Text between the case name and a file's suffix.
    suffixes : mapping of str to str
        File suffix of each modality.
    grid : tuple of int, optional
        Size of a volume at 1 mm in voxels, if all volumes share it.
    seg_aliases : mapping of str to str
        Segmentations that the release ships under another name: file stem by case name.
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
        """Return the patient's identity in `case_name`, or None if the name does not follow this release."""
        match = re.fullmatch(self.case_pattern, case_name)
        return match.group("patient") if match else None

    def file_stem(self, case_name: str, channel: str) -> str:
        """Return the file name, without extension, of a case's modality or segmentation (``seg``)."""
        suffix = self.segmentation if channel == SEG else self.suffixes.get(channel, channel)
        return f"{case_name}{self.separator}{suffix}"

    def case_of(self, stem: str) -> str | None:
        """Return the case of a file name without extension; None if it is not a modality or segmentation."""
        for channel in (*self.suffixes, SEG):
            end = self.file_stem("", channel)
            if stem.endswith(end) and self.patient_of(stem[: -len(end)]):
                return stem[: -len(end)]
        return None

    def alike_with(self, labels: Sequence[int]) -> list[str]:
        return [r.name for r in RELEASES.values() if set(labels) <= set(r.labels) and r.patient_of(self.example)]

    @property
    def table(self) -> dict[str, Any]:
        """The table that declares the release, ready for JSON; `own_release` turns it back into the release."""
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
"""Ending of a file that declares a release."""

ENTRY_POINTS = "fedserdiff.releases"
"""Group of entry points through which installed packages provide releases, each a `Release`."""

_REQUIRED = ("name", "case_pattern", "example", "modalities", "regions")


def read_release_file(file: Path) -> Release:
    """Return the release that a TOML file declares.

    Raises
    ------
    ConfigError
        As for `read_text` and `own_release`, and if the file cannot be read or is not valid TOML.
    """
    try:
        table = tomllib.loads(read_text(file))
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror})") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file}: not valid TOML: {error}") from None
    return own_release(table, str(file))


def own_release(table: Any, where: str) -> Release:
    """Return the release that a user's table declares, from TOML or from a run's ``config.json``.

    Raises
    ------
    ConfigError
        If a field is missing, unknown or invalid, or another release already has this name. The message begins with
        `where` and covers all such fields.
    """
    release = _read_release(table, where)
    if release.name in RELEASES or plugins.is_foreign(release.name, ENTRY_POINTS, RELEASES):
        raise ConfigError(f"{where}: name: there is a release {release.name} already: choose another name")
    return release


def _read_release(table: Any, where: str) -> Release:
    if not isinstance(table, Mapping):
        raise ConfigError(f"{where}: {table!r} is not a table: declare a release with {', '.join(_REQUIRED)}")
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
        raise ConfigError(f"{where}: example: {release.example!r} does not match case_pattern")
    stems = [release.file_stem("", channel) for channel in (*release.modalities, SEG)]
    if len(set(stems)) < len(stems):
        raise ConfigError(f"{where}: modalities: two of {', '.join(stems)} name the same file of a case")
    return release


def _packaged() -> dict[str, Release]:
    folder = files("fedserdiff.data") / "declared"
    entries = sorted((entry for entry in folder.iterdir() if entry.name.endswith(FILE_END)), key=lambda one: one.name)
    read = (_read_release(tomllib.loads(entry.read_text(encoding="utf-8")), entry.name) for entry in entries)
    return {release.name: release for release in read}


RELEASES: Mapping[str, Release] = MappingProxyType(_packaged())
"""The releases that come with the package, by name."""


def get_release(name: str) -> Release:
    """Return the release called `name`, from this package, another installed package, or a ``module:object``.

    Raises
    ------
    ConfigError
        If there is no such release; the message lists the known ones.
    """
    if name in RELEASES:
        return RELEASES[name]
    release = plugins.load(name, ENTRY_POINTS, RELEASES, "release")
    if not isinstance(release, Release):
        raise ConfigError(f"release {name}: is a {type(release).__name__}, not a Release")
    return release


def release_or_file(name: str) -> Release:
    """Return the release that a command line names: a name for `get_release`, or a file ``NAME.toml``.

    Raises
    ------
    ConfigError
        As for `get_release` and `read_release_file`.
    """
    return read_release_file(Path(name)) if name.endswith(FILE_END) else get_release(name)


def is_foreign(name: str) -> bool:
    """Return whether a release's name refers to code that does not come with fedserdiff."""
    return plugins.is_foreign(name, ENTRY_POINTS, RELEASES)
