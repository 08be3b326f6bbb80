"""Datasets of any organ in the Medical Segmentation Decathlon's layout: ``imagesTr``, ``labelsTr``, ``dataset.json``.

A dataset declares its modalities and labels in its ``dataset.json``, either in the Decathlon's format (``modality``,
``labels`` by value; Antonelli et al., Nature Communications 2022) or in nnU-Net's (``channel_names``, ``labels`` by
name, with a list of values for a region). A case's modalities are one 4D file, or files that end in ``_0000``,
``_0001``, ….
"""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedserdiff.data.cases import BadCases, Case, existing_file, settle
from fedserdiff.data.nifti import EXTENSIONS, unreadable
from fedserdiff.data.releases import Convention
from fedserdiff.errors import DataError, Faults
from fedserdiff.text import read_text, readable

MSD = "msd"
"""The `release` of a site in this layout, in federation files."""

TABLE = "dataset.json"
LABELS = "labelsTr"

_RESERVED = ("mean", "ignore")  # "mean" is the mean over regions; "ignore" labels are not supported
_MOST_NAME = 64
_NUMBER = re.compile(r"_\d{4}$")  # the number of a modality at the end of a file name


@dataclass(frozen=True)
class DecathlonDataset(Convention):
    """The convention that a ``dataset.json`` declares.

    Attributes
    ----------
    channels : mapping of str to int
        Number of each modality in the files.
    """

    channels: Mapping[str, int]


def read_dataset(folder: Path) -> DecathlonDataset:
    """Read the ``dataset.json`` of a folder.

    Raises
    ------
    ConfigError
        As for `read_text`.
    DataError
        If the file is missing or unreadable, or declares modalities or labels in neither format.
    """
    file = folder / TABLE
    try:
        table = json.loads(read_text(file))
    except FileNotFoundError:
        raise DataError(f"{file}: is missing: it must declare the dataset's modalities and labels") from None
    except OSError as error:
        raise unreadable(file, error) from None
    except ValueError as error:
        raise DataError(f"{file}: not valid JSON: {error}") from None
    if not isinstance(table, dict):
        raise DataError(f"{file}: not a JSON object with modalities and labels")
    channels = _channels(table, file)
    regions = _regions(table, file)
    labels = sorted({0, *(value for values in regions.values() for value in values)})
    return DecathlonDataset(MSD, tuple(channels), regions, tuple(labels), channels)


def find_decathlon_cases(
    folder: Path, dataset: DecathlonDataset, only: Sequence[str] = (), bad: BadCases | None = None
) -> list[Case]:
    """Return the cases of ``imagesTr`` and ``labelsTr``, by name.

    Every case counts as a patient of its own, because names do not identify follow-up scans. `only` restricts the cases
    to the names given. Cases that lack a file are added to `bad`; without `bad`, they raise an error.

    Raises
    ------
    DataError
        If a folder cannot be read or holds no case, or a case of `only` is missing.
    BadCasesError
        Without `bad`: names all cases that cannot be used.
    """
    names = _names(folder / LABELS)
    missing = sorted(set(only) - set(names))
    if missing:
        raise DataError(f"{folder / LABELS}: no case {', '.join(missing)} here")
    wanted = set(only or names)
    found: BadCases = {}
    cases = []
    for name, stem in names.items():
        if name in wanted:
            try:
                cases.append(_case(folder, name, stem, dataset))
            except DataError as error:
                found[name] = error.faults
    settle(found, bad)
    return cases


def find_decathlon_label_maps(folder: Path, cases: Collection[str] = ()) -> dict[str, Path]:
    """Return the label maps ``CASE.nii.gz`` in a folder by case name, sorted.

    Files ``CASE-*`` of one of `cases` are ignored: a segmenter writes these beside its label map.

    Raises
    ------
    DataError
        If the folder is missing or cannot be read, or holds no label map.
    """
    found, faults = {}, Faults(DataError)
    for name, stem in _names(folder, cases).items():
        with faults.caught():
            found[name] = _label_map(folder, name, stem)
    faults.check()
    return found


def _names(folder: Path, cases: Collection[str] = ()) -> dict[str, str]:
    """Return the file stems of `find_decathlon_label_maps` by case name, without checking the files."""
    maps = {
        readable(stem): stem
        for stem in sorted(set(_stems(folder)))
        if not any(readable(stem).startswith(f"{case}-") for case in cases if case != readable(stem))
    }
    if not maps:
        raise DataError(f"{folder}: no segmentation found: expected files such as case_001.nii.gz")
    return maps


def _label_map(folder: Path, name: str, stem: str) -> Path:
    return existing_file([folder], [stem], f"segmentation of case {name}")


def unlabelled_images(folder: Path) -> list[str]:
    """Return the names of files in ``imagesTr`` without a label map in ``labelsTr``.

    Raises
    ------
    DataError
        If a folder cannot be read.
    """
    labelled = set(_stems(folder / LABELS))
    stems = sorted(set(_stems(folder / "imagesTr")))
    return [readable(stem) for stem in stems if stem not in labelled and _NUMBER.sub("", stem) not in labelled]


def _channels(table: Mapping[str, Any], file: Path) -> dict[str, int]:
    key = "channel_names" if "channel_names" in table else "modality"
    declared = table.get(key)
    declared = declared if isinstance(declared, dict) else {}
    numbers = [str(number) for number in range(len(declared))]
    if not numbers or set(declared) != set(numbers):
        raise DataError(f'{file}: {key}: declare every modality by its number, such as {{"0": "T2", "1": "ADC"}}')
    names = [_name(declared[number], key, file) for number in numbers]
    if len(set(names)) < len(names):
        raise DataError(f"{file}: {key}: two modalities have the same name")
    return {name: number for number, name in enumerate(names)}


def _regions(table: Mapping[str, Any], file: Path) -> dict[str, tuple[int, ...]]:
    declared = table.get("labels")
    if not isinstance(declared, dict) or not declared:
        raise DataError(f'{file}: labels: declare every label, such as {{"0": "background", "1": "PZ"}}')
    if all(str(value).isdecimal() for value in declared):  # the Decathlon's format
        declared = {str(name): int(value) for value, name in declared.items()}
    regions = {}
    for name, values in declared.items():
        of_region = values if isinstance(values, list) else [values]
        if not of_region or not all(type(value) is int and 0 <= value < 2**16 for value in of_region):
            raise DataError(f"{file}: labels: {name}: {values!r} is not a label value or a list of label values")
        if of_region != [0]:  # background
            regions[_name(name, "labels", file)] = tuple(dict.fromkeys(of_region))
    if not regions or any(0 in values for values in regions.values()):
        raise DataError(f"{file}: labels: 0 is background, and at least one other label is needed")
    return regions


def _name(value: object, key: str, file: Path) -> str:
    """Return the name of a modality or region after checking that files and messages can use it."""
    if not isinstance(value, str) or not 1 <= len(value) <= _MOST_NAME or not value.isprintable() or "." in value:
        raise DataError(f"{file}: {key}: {value!r} is not a name of 1 to {_MOST_NAME} characters without a full stop")
    if value in _RESERVED:
        raise DataError(f"{file}: {key}: {value!r} is reserved: choose another name")
    return value


def _stems(folder: Path) -> list[str]:
    try:
        files = [entry.name for entry in folder.iterdir()]
    except FileNotFoundError:
        raise DataError(f"{folder}: no such directory") from None
    except OSError as error:
        raise unreadable(folder, error) from None
    seen = [name for name in files if not name.startswith(".")]  # archives made on a Mac hold a ._name beside each file
    return [name.removesuffix(end) for end in EXTENSIONS for name in seen if name.endswith(end)]


def _case(folder: Path, name: str, stem: str, dataset: DecathlonDataset) -> Case:
    images = folder / "imagesTr"
    numbers = [dataset.channels[modality] for modality in dataset.modalities]
    whole = any((images / f"{stem}{end}").exists() for end in EXTENSIONS)
    files, faults = [], Faults(DataError)
    with faults.caught():
        files.append(_label_map(folder / LABELS, name, stem))
    for modality, number in zip(dataset.modalities, numbers, strict=True):
        with faults.caught():
            if whole:
                files.append(existing_file([images], [stem], f"images of case {name}"))
            else:
                files.append(existing_file([images], [f"{stem}_{number:04d}"], f"modality {modality} of case {name}"))
    faults.check()
    return Case(name, name, tuple(files[1:]), files[0], dataset, tuple(numbers) if whole else ())
