"""Scans to segment, which need neither an expert segmentation nor the naming of a release."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from errno import ENOENT
from pathlib import Path

from fedserdiff.data.nifti import EXTENSIONS, SHADOWS, check_is_file, unreadable
from fedserdiff.data.releases import BRATS_MODALITIES, RELEASES
from fedserdiff.errors import DataError
from fedserdiff.text import first_few

_NO_IMAGES = (".csv", ".tsv", ".txt", ".md", ".json", ".xlsx", ".pdf", ".html", ".png")  # often lie beside scans
_OTHER_IMAGES = (".dcm", ".ima", ".mha", ".mhd", ".nrrd", ".nhdr", ".mgz", ".mnc", ".hdr", ".img", ".zip")
_SUFFIXES = {suffix: m for release in RELEASES.values() for m, suffix in release.suffixes.items()}
_MODALITY = re.compile(rf"(?:(?P<name>.+)[-_])?(?P<suffix>{'|'.join(_SUFFIXES)})", re.IGNORECASE)
_SEGMENTATION = re.compile(r"(?:.+[-_])?seg", re.IGNORECASE)
_SEGMENTATIONS = {alias for release in RELEASES.values() for alias in release.seg_aliases.values()}
_NUMBERED = re.compile(r"(?P<name>.+)_(?P<number>\d{4})")
_MOST_NAMES = 3  # file names in one sentence


@dataclass(frozen=True)
class Scan:
    """One scan on disk.

    Attributes
    ----------
    name : str
        Name for its segmentation.
    images : tuple of Path
        One file per modality, in the model's order.
    channels : tuple of int
        As for `fedserdiff.data.cases.Case`.
    """

    name: str
    images: tuple[Path, ...]
    channels: tuple[int, ...] = ()


@dataclass(frozen=True)
class FoundScans:
    """The contents of the paths that were given.

    Attributes
    ----------
    scans : list of Scan
        Scans, by folder and name.
    left : list of str
        Paths that may be a patient's but are not scans that the model can read, each with the reason.
    unread : list of Path
        Images beside those of a scan that are not a modality of any release.
    """

    scans: list[Scan] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    unread: list[Path] = field(default_factory=list)


def find_scans(paths: Sequence[Path], modalities: Sequence[str], channels: Mapping[str, int]) -> FoundScans:
    """Return the scans at `paths`: each is a folder of scans, a folder of such folders, or a file of a scan.

    Modality files are named as in any BraTS release: ``NAME_t1.nii.gz``, … or ``NAME-t1n.nii.gz``, …, in upper or
    lower case. A single scan in a folder takes the folder's name; several take the names of their files. If `channels`
    numbers the modalities, files ``NAME_0000.nii.gz``, … and 4D files ``NAME.nii.gz`` are also read. A number beyond
    the dataset's modalities is part of the name: every file is then a scan by itself, as ``liver_0003.nii.gz`` is for a
    model of one modality.

    Raises
    ------
    DataError
        If there is no scan, or a path cannot be read.
    """
    found = FoundScans()
    for folder, (files, enumerated) in _images(paths, _expected(modalities), found.left).items():
        _read_folder(folder, files, enumerated, modalities, channels, found)
    if not found.scans:
        raise DataError("; ".join(found.left))
    return found


def named_scan(name: str, images: Mapping[str, Path], modalities: Sequence[str]) -> Scan:
    """Return a scan from one file per modality.

    Raises
    ------
    DataError
        If a modality is missing, or the model does not use it.
    """
    unknown = [modality for modality in images if modality not in modalities]
    missing = [modality for modality in modalities if modality not in images]
    if unknown or missing:
        wrong = f"no {', '.join(missing)}" if missing else f"{', '.join(unknown)} is not one of them"
        raise DataError(f"scan {name}: the model needs {', '.join(modalities)}: {wrong}")
    return Scan(name, tuple(images[modality] for modality in modalities))


def _images(paths: Sequence[Path], expected: str, left: list[str]) -> dict[Path, tuple[list[Path], bool]]:
    """Return NIfTI files by folder, and whether that folder was searched; add paths without any to `left`."""
    folders: dict[Path, tuple[list[Path], bool]] = {}
    for path in dict.fromkeys(paths):
        if not path.exists():
            raise unreadable(path, FileNotFoundError(ENOENT, os.strerror(ENOENT)))
        if path.is_dir():
            known = len(folders), len(left)
            for entry in _look_into(path, folders, left):
                inner = _look_into(entry, folders, left)
                deep = [folder for folder in inner if _holds_images(folder)]
                left += [f"{folder}: nested too deeply to be searched: give its path instead" for folder in deep]
                if entry not in folders and not deep and (why := _why_without_images(entry)):
                    left.append(f"{entry}: {why}")
            if path not in folders and known == (len(folders), len(left)):
                left.append(f"{path}: no scan here: {expected}")
        elif not _is_nifti(path):
            left.append(f"{path}: not a NIfTI file")
        elif path not in (given := folders.setdefault(path.parent, ([], False))[0]):
            given.append(path)
    return folders


def _look_into(folder: Path, folders: dict[Path, tuple[list[Path], bool]], left: list[str]) -> list[Path]:
    """Record a folder's NIfTI files in `folders`, add its other images to `left`, and return its subfolders."""
    entries = _entries(folder)
    images = [entry for entry in entries if _is_nifti(entry)]
    if images:
        folders[folder] = images, True
    for entry in entries:
        if entry.is_symlink() and not entry.exists() and entry not in images:
            left.append(str(unreadable(entry, FileNotFoundError())))
        elif entry.name.lower().endswith(_OTHER_IMAGES):
            left.append(f"{entry}: not a NIfTI file")
    return [entry for entry in entries if entry not in images and entry.is_dir()]


def _holds_images(folder: Path) -> bool:
    return any(_is_nifti(Path(name)) for _, _, names in os.walk(folder) for name in names)


def _why_without_images(folder: Path) -> str | None:
    """Return what a folder without images holds that may be a patient's; None if it holds only tables and texts."""
    entries = _entries(folder)
    others = [entry.name for entry in entries if not entry.name.lower().endswith((*_NO_IMAGES, *_OTHER_IMAGES))]
    if not entries:
        return "is empty"
    return f"holds no NIfTI file, but {first_few(others, _MOST_NAMES)}" if others else None


def _read_folder(
    folder: Path,
    files: Sequence[Path],
    enumerated: bool,
    modalities: Sequence[str],
    channels: Mapping[str, int],
    found: FoundScans,
) -> None:
    """Add the scans of one folder's NIfTI files, and the files that are not part of one, to `found`."""
    images = [f for f in files if not _SEGMENTATION.fullmatch(_stem(f)) and _stem(f) not in _SEGMENTATIONS]
    if not images:
        found.left.append(f"{folder}: holds only segmentations")
    named: dict[str, dict[str, list[Path]]] = {}
    others = []
    for image in images:
        match = _MODALITY.fullmatch(_stem(image)) if set(modalities) <= set(BRATS_MODALITIES) else None
        if match is None:
            others.append(image)
        else:
            modality = _SUFFIXES[match["suffix"].lower()]
            named.setdefault(match["name"] or "", {}).setdefault(modality, []).append(image)
    if channels and not named:
        _read_numbered(folder, images, modalities, channels, found)
        return
    of_folder = folder.resolve().name
    whole = []
    for name, by_modality in named.items():
        called = of_folder if not name or (enumerated and len(named) == 1) else name
        candidates = {m: by_modality.get(m, []) for m in modalities}
        missing = {m: folder / _file_like(name, m, by_modality) for m in modalities}
        if _add(called, candidates, missing, (), found):
            whole.append(name)
    beside = [o for o in others if any(n in ("", of_folder) or _stem(o).startswith((f"{n}-", f"{n}_")) for n in whole)]
    found.unread.extend(beside)
    if strays := [other.name for other in others if other not in beside]:
        listed = first_few(strays, _MOST_NAMES)
        found.left.append(f"{folder}: {listed}: not named as a modality of the model: {_expected(modalities)}")


def _read_numbered(
    folder: Path, images: Sequence[Path], modalities: Sequence[str], channels: Mapping[str, int], found: FoundScans
) -> None:
    """Add the scans of files that are numbered by modality, or that hold all modalities."""
    split: dict[str, dict[int, list[Path]]] = {}
    for image in images:
        if match := _NUMBERED.fullmatch(_stem(image)):
            split.setdefault(match["name"], {}).setdefault(int(match["number"]), []).append(image)
    stems = {_stem(image) for image in images}
    split = {name: files for name, files in split.items() if max(files) < len(channels) and name not in stems}
    if len(channels) == 1 and len(split) < len(stems):
        split = {}  # some file is not numbered as the first modality: use all full names
    of_modality = {path for files in split.values() for paths in files.values() for path in paths}
    whole: dict[str, list[Path]] = {}
    for image in images:
        if image not in of_modality:
            whole.setdefault(_stem(image), []).append(image)
    numbers = [channels[modality] for modality in modalities]
    for name, files in sorted([*split.items(), *((stem, {}) for stem in whole)]):
        if name in split:
            candidates = {m: files.get(channels[m], []) for m in modalities}
            expected = {m: folder / f"{name}_{channels[m]:04d}.nii.gz" for m in modalities}
            _add(name, candidates, expected, (), found)
        else:
            _add(name, dict.fromkeys(modalities, whole[name]), {}, tuple(numbers), found)


def _add(
    name: str,
    candidates: Mapping[str, Sequence[Path]],
    expected: Mapping[str, Path],
    channels: tuple[int, ...],
    found: FoundScans,
) -> bool:
    """Add a scan if each of its modalities has one file, else record the faults; return whether it was added."""
    wrong: list[str] = []
    images: list[Path] = []
    for modality, paths in candidates.items():
        files = [path for path in paths if path.is_file()] or paths  # an archive may hold a folder with a file's name
        if not files:
            wrong.append(f"{expected[modality]}: modality {modality} of scan {name} is missing")
        elif len(files) > 1:
            others = ", ".join(file.name for file in files[1:])
            wrong.append(f"{files[0]}: modality {modality} of scan {name} is also in {others}: keep one")
        else:
            try:
                check_is_file(files[0])
            except DataError as refusal:
                wrong.append(str(refusal))
            images += files
    if not wrong:
        found.scans.append(Scan(name, tuple(images), channels))
    found.left.extend(dict.fromkeys(wrong))
    return not wrong


def _file_like(name: str, modality: str, others: Mapping[str, Sequence[Path]]) -> str:
    """Return the expected name of a scan's missing file, from the names of its other files."""
    ends = {_stem(path)[len(name) :].lower() for paths in others.values() for path in paths}
    alike = [r for r in RELEASES.values() if ends & {f"{r.separator}{suffix}" for suffix in r.suffixes.values()}]
    release = (alike or list(RELEASES.values()))[0]
    return f"{release.file_stem(name, modality).removeprefix('' if name else release.separator)}{EXTENSIONS[0]}"


def _expected(modalities: Sequence[str]) -> str:
    release = next((r for r in RELEASES.values() if set(modalities) <= set(r.suffixes)), None)
    stems = ["NAME"] if release is None else [release.file_stem("NAME", modality) for modality in modalities]
    return f"expected files {', '.join(f'{stem}{EXTENSIONS[0]}' for stem in stems)}, or name each with --image"


def _is_nifti(path: Path) -> bool:
    return path.name.lower().endswith(EXTENSIONS)


def _stem(file: Path) -> str:
    ending = next(end for end in EXTENSIONS if file.name.lower().endswith(end))
    return file.name[: -len(ending)]


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith(SHADOWS))
    except OSError as error:
        raise unreadable(folder, error) from None
