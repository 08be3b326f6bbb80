"""Where the cases are in a folder: each in its own folder, nested or not, or as files side by side."""

import re
from dataclasses import dataclass, field
from pathlib import Path

from fedserdiff.data.nifti import EXTENSIONS, SHADOWS, is_directory, unreadable
from fedserdiff.data.releases import Release
from fedserdiff.errors import DataError

_DEEPEST = 4
"""Most folders between a site's folder and a case's: downloads have up to three (our choice)."""

_MAY_BE_CASES = (*EXTENSIONS, ".zip", ".tar", ".tar.gz", ".tgz", ".7z", ".dcm", ".mha", ".nrrd")
"""Endings of files to report if they belong to no case: images, and archives that are not unpacked."""


@dataclass
class Layout:
    """The contents of a folder.

    Attributes
    ----------
    places : dict of str to list of Path
        Folders that may hold the files of each case, its own first.
    bad : dict of str to tuple of str
        Faults of a case's folder, by case.
    others : list of str
        Files and folders that may be cases but are not named as one: paths relative to the folder, sorted.
    """

    places: dict[str, list[Path]] = field(default_factory=dict)
    bad: dict[str, tuple[str, ...]] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)


def look(folder: Path, release: Release) -> Layout:
    """Find the cases of `release` in a folder by file and folder names alone.

    A folder with the name of a case holds that case. A file named as a modality or segmentation of a case belongs to
    that case, in any folder. Other folders are searched. Files that systems add are ignored.

    Raises
    ------
    DataError
        If the folder cannot be read.
    """
    found = Layout()
    _look_into(folder, folder, release, found)
    found.others.sort()
    return found


def entries_of(folder: Path) -> list[Path]:
    """Return the entries of a folder.

    Raises
    ------
    DataError
        If it cannot be read.
    """
    try:
        return list(folder.iterdir())
    except OSError as error:
        raise unreadable(folder, error) from None


def stem_of(name: str) -> str | None:
    """Return a NIfTI file's name without its extension; None for other file names."""
    return next((name.removesuffix(end) for end in EXTENSIONS if name.endswith(end)), None)


def called_after_a_case(name: str, release: Release) -> bool:
    """Return whether a name begins with that of a case, as ``CASE-t1c`` does."""
    ends = (match.start() for match in re.finditer("[-_]", name))
    return any(release.patient_of(name[:end]) for end in (*ends, len(name)))


def _look_into(folder: Path, root: Path, release: Release, found: Layout) -> None:
    for entry in sorted(entries_of(folder)):
        if entry.name.startswith(SHADOWS):
            continue
        stem = stem_of(entry.name)
        if stem is not None and (case := release.case_of(stem)):
            places = found.places.setdefault(case, [])
            if folder not in places:
                places.append(folder)
        elif release.patient_of(entry.name):
            _note_folder(entry, found)
        elif entry.name.lower().endswith(_MAY_BE_CASES):
            if stem is None or not called_after_a_case(stem, release):
                found.others.append(str(entry.relative_to(root)))
        elif entry.is_dir():
            _look_below(entry, root, release, found)


def _note_folder(entry: Path, found: Layout) -> None:
    """Add the folder of a case to `found`."""
    try:
        if is_directory(entry):
            found.places.setdefault(entry.name, []).insert(0, entry)
    except DataError as error:
        found.bad[entry.name] = error.faults


def _look_below(entry: Path, root: Path, release: Release, found: Layout) -> None:
    """Search a folder that is not a case's; if it holds no case, report the folder, not its contents."""
    inner = Layout()
    if len(entry.relative_to(root).parts) <= _DEEPEST:
        try:
            _look_into(entry, root, release, inner)
        except DataError:  # an unreadable folder, which is reported
            inner = Layout()
    for case, places in inner.places.items():
        found.places.setdefault(case, []).extend(places)
    found.bad |= inner.bad
    found.others += inner.others if inner.places or inner.bad else [str(entry.relative_to(root))]
