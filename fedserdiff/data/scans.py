"""Scans to segment: nobody's segmentation of them is needed, nor a name of any release."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedserdiff.data.cases import existing_file
from fedserdiff.data.nifti import EXTENSIONS, unreadable
from fedserdiff.data.releases import RELEASES
from fedserdiff.errors import DataError


@dataclass(frozen=True)
class Scan:
    """One scan on disk.

    Attributes
    ----------
    name : str
        What its segmentation is called.
    images : tuple of Path
        A file of each modality, in the model's order.
    channels : tuple of int
        As `fedserdiff.data.cases.Case` has them.
    """

    name: str
    images: tuple[Path, ...]
    channels: tuple[int, ...] = ()


def find_scans(path: Path, modalities: Sequence[str], channels: Mapping[str, int]) -> list[Scan]:
    """Return the scans at a path, by name: those of one folder's cases, one case's folder, or one 4D file.

    A case's folder holds its modalities as any BraTS release names them: ``NAME_t1.nii.gz``, …, or ``NAME-t1n.nii.gz``,
    …, where NAME is the folder's. Where `channels` numbers the modalities, files ``NAME_0000.nii.gz``, … and 4D files
    ``NAME.nii.gz`` are read too.

    Raises
    ------
    DataError
        Where there is none, a path cannot be read, or a case lacks a modality.
    """
    if path.is_file():
        return [_of_file(path, modalities, channels)]
    if (case := _of_folder(path, modalities)) is not None:
        return [case]
    entries = _entries(path)
    cases = [case for entry in entries if entry.is_dir() and (case := _of_folder(entry, modalities)) is not None]
    if cases:
        return cases
    files = [entry for entry in entries if entry.name.endswith(EXTENSIONS)]
    if not channels or not files:
        shown = (
            ", ".join(f"NAME{stem}.nii.gz" for stem in _stems(modalities)[0]) if _stems(modalities) else "NAME.nii.gz"
        )
        raise DataError(
            f"{path}: no scan here: expected a folder NAME of files {shown}, or name each file with --image"
        )
    split = {f.name[: -len("_0000") - len(end)] for end in EXTENSIONS for f in files if f.name.endswith(f"_0000{end}")}
    if not split:
        return [_of_file(file, modalities, channels) for file in files]
    return [
        Scan(
            name,
            tuple(
                existing_file(path, [f"{name}_{channels[m]:04d}"], f"modality {m} of scan {name}") for m in modalities
            ),
        )
        for name in sorted(split)
    ]


def named_scan(name: str, images: Mapping[str, Path], modalities: Sequence[str]) -> Scan:
    """Return the scan whose modalities' files are given one by one.

    Raises
    ------
    DataError
        Where a modality is missing, or is not the model's.
    """
    unknown = [modality for modality in images if modality not in modalities]
    missing = [modality for modality in modalities if modality not in images]
    if unknown or missing:
        wrong = f"no {', '.join(missing)}" if missing else f"{', '.join(unknown)} is none of them"
        raise DataError(f"scan {name}: the model needs {', '.join(modalities)}: {wrong}")
    return Scan(name, tuple(images[modality] for modality in modalities))


def _stems(modalities: Sequence[str]) -> list[list[str]]:
    """Return what follows a case's name in its files, as each BraTS release has it, once for each way."""
    known = [r for r in RELEASES.values() if set(modalities) <= set(r.suffixes)]
    ways = [[f"{release.separator}{release.suffixes[m]}" for m in modalities] for release in known]
    return [way for place, way in enumerate(ways) if way not in ways[:place]]


def _of_folder(folder: Path, modalities: Sequence[str]) -> Scan | None:
    """Return the scan of a case's folder; None where it holds not even one of a release's files."""
    for way in _stems(modalities):
        stems = [f"{folder.name}{stem}" for stem in way]
        if any((folder / f"{stem}{end}").exists() for stem in stems for end in EXTENSIONS):
            files = [
                existing_file(folder, [stem], f"modality {modality} of scan {folder.name}")
                for stem, modality in zip(stems, modalities, strict=True)
            ]
            return Scan(folder.name, tuple(files))
    return None


def _of_file(file: Path, modalities: Sequence[str], channels: Mapping[str, int]) -> Scan:
    if not channels:
        raise DataError(
            f"{file}: one file: the model needs {', '.join(modalities)}: give their folder, or name each with --image"
        )
    name = file.name.removesuffix(".gz").removesuffix(".nii")
    return Scan(name, (file,) * len(modalities), tuple(channels[modality] for modality in modalities))


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise unreadable(folder, error) from None
