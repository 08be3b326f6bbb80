"""Where cases lie below a folder: in folders of their own, nested or not, or as files side by side."""

import re
from dataclasses import dataclass, field
from pathlib import Path

from fedserdiff.data.nifti import EXTENSIONS, SHADOWS, is_directory, unreadable
from fedserdiff.data.releases import Release
from fedserdiff.errors import DataError

_DEEPEST = 4
"""Folders that may lie between a site's own and a case's: downloads have up to three (our choice)."""

_MAY_BE_CASES = (*EXTENSIONS, ".zip", ".tar", ".tar.gz", ".tgz", ".7z", ".dcm", ".mha", ".nrrd")
"""Endings of files that are told where they are of no case: of images, and of archives that are not unpacked."""


@dataclass
class Layout:
    """What lies below a folder.

    Attributes
    ----------
    places : dict of str to list of Path
        By case, the folders that may hold its files: its own first.
    bad : dict of str to tuple of str
        What is wrong with the folder of a case.
    others : list of str
        What may be a case but is named as none, relative to the folder and in order: files, and folders without a case.
    """

    places: dict[str, list[Path]] = field(default_factory=dict)
    bad: dict[str, tuple[str, ...]] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)


def look(folder: Path, release: Release) -> Layout:
    """Find the cases of `release` below a folder by names alone.

    A folder that is called as a case holds that case. A file that is called as a case's modality or segmentation is
    that case's, in any folder. Other folders are looked into. What systems put beside files is passed over.

    Raises
    ------
    DataError
        Where the folder cannot be read.
    """
    found = Layout()
    _look_into(folder, folder, release, found)
    found.others.sort()
    return found


def entries_of(folder: Path) -> list[Path]:
    """Return what lies in a folder.

    Raises
    ------
    DataError
        Where it cannot be read.
    """
    try:
        return list(folder.iterdir())
    except OSError as error:
        raise unreadable(folder, error) from None


def stem_of(name: str) -> str | None:
    """Return a NIfTI file's name without its extension; None for another name."""
    return next((name.removesuffix(end) for end in EXTENSIONS if name.endswith(end)), None)


def called_after_a_case(name: str, release: Release) -> bool:
    """Say whether a name begins with a case's, as ``CASE-t1c`` does."""
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
    """Enter the folder of a case."""
    try:
        if is_directory(entry):
            found.places.setdefault(entry.name, []).insert(0, entry)
    except DataError as error:
        found.bad[entry.name] = error.faults


def _look_below(entry: Path, root: Path, release: Release, found: Layout) -> None:
    """Look into a folder that is no case's; where no case is in it, it is told, and not what is in it."""
    inner = Layout()
    if len(entry.relative_to(root).parts) <= _DEEPEST:
        try:
            _look_into(entry, root, release, inner)
        except DataError:  # a folder of the system's, which is told
            inner = Layout()
    for case, places in inner.places.items():
        found.places.setdefault(case, []).extend(places)
    found.bad |= inner.bad
    found.others += inner.others if inner.places or inner.bad else [str(entry.relative_to(root))]
