"""Datasets of any organ in the Medical Segmentation Decathlon's layout: ``imagesTr``, ``labelsTr``, ``dataset.json``.

The dataset declares its own modalities and labels in its ``dataset.json``, in the Decathlon's words (``modality``,
``labels`` by value; Antonelli et al., Nature Communications 2022) or in nnU-Net's (``channel_names``, ``labels`` by
name, where a list of values is a region). A case's modalities are one 4D file, or files that end in ``_0000``,
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
"""What federation files call a dataset in this layout."""

TABLE = "dataset.json"
LABELS = "labelsTr"

_RESERVED = ("mean", "ignore")  # a mean over regions; labels that nobody scores, which are not supported
_MOST_NAME = 64
_NUMBER = re.compile(r"_\d{4}$")  # of a modality, at the end of a name


@dataclass(frozen=True)
class DecathlonDataset(Convention):
    """What a ``dataset.json`` declares.

    Attributes
    ----------
    channels : mapping of str to int
        By modality, its number in the files.
    """

    channels: Mapping[str, int]


def read_dataset(folder: Path) -> DecathlonDataset:
    """Read the ``dataset.json`` of a folder.

    Raises
    ------
    ConfigError
        As `read_text`.
    DataError
        Where it is missing or unreadable, or declares modalities or labels in neither way.
    """
    file = folder / TABLE
    try:
        table = json.loads(read_text(file))
    except FileNotFoundError:
        raise DataError(f"{file}: is missing: a dataset declares its modalities and labels there") from None
    except OSError as error:
        raise unreadable(file, error) from None
    except ValueError as error:
        raise DataError(f"{file}: not valid JSON: {error}") from None
    if not isinstance(table, dict):
        raise DataError(f"{file}: not a table of modalities and labels")
    channels = _channels(table, file)
    regions = _regions(table, file)
    labels = sorted({0, *(value for values in regions.values() for value in values)})
    return DecathlonDataset(MSD, tuple(channels), regions, tuple(labels), channels)


def find_decathlon_cases(
    folder: Path, dataset: DecathlonDataset, only: Sequence[str] = (), bad: BadCases | None = None
) -> list[Case]:
    """Return the cases of ``imagesTr`` and ``labelsTr``, by name; `only` restricts them to the names given.

    Every case is a patient of its own: names tell no follow-ups. Cases that lack a file are entered in `bad`; without
    it they are refused.

    Raises
    ------
    DataError
        Where a folder cannot be read or holds no case, or a case of `only` is missing.
    BadCasesError
        Of all cases that cannot be used, without `bad`.
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
    """Return the label maps ``CASE.nii.gz`` in a folder by their case's name, in order.

    Passed over are files ``CASE-*`` of one of `cases`: what a segmenter writes beside its label map of it.

    Raises
    ------
    DataError
        Where the folder is missing or cannot be read, or holds none.
    """
    found, faults = {}, Faults(DataError)
    for name, stem in _names(folder, cases).items():
        with faults.caught():
            found[name] = _label_map(folder, name, stem)
    faults.check()
    return found


def _names(folder: Path, cases: Collection[str] = ()) -> dict[str, str]:
    """Return the names of `find_decathlon_label_maps` with their files', whether or not these can be used."""
    maps = {
        readable(stem): stem
        for stem in sorted(set(_stems(folder)))
        if not any(readable(stem).startswith(f"{case}-") for case in cases if case != readable(stem))
    }
    if not maps:
        raise DataError(f"{folder}: no segmentation here: expected files such as case_001.nii.gz")
    return maps


def _label_map(folder: Path, name: str, stem: str) -> Path:
    return existing_file([folder], [stem], f"segmentation of case {name}")


def unlabelled_images(folder: Path) -> list[str]:
    """Return the names of files in ``imagesTr`` of which ``labelsTr`` has no label map.

    Raises
    ------
    DataError
        Where a folder cannot be read.
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
        raise DataError(f"{file}: {key}: a modality is named twice")
    return {name: number for number, name in enumerate(names)}


def _regions(table: Mapping[str, Any], file: Path) -> dict[str, tuple[int, ...]]:
    declared = table.get("labels")
    if not isinstance(declared, dict) or not declared:
        raise DataError(f'{file}: labels: declare every label, such as {{"0": "background", "1": "PZ"}}')
    if all(str(value).isdecimal() for value in declared):  # the Decathlon's way
        declared = {str(name): int(value) for value, name in declared.items()}
    regions = {}
    for name, values in declared.items():
        of_region = values if isinstance(values, list) else [values]
        if not of_region or not all(type(value) is int and 0 <= value < 2**16 for value in of_region):
            raise DataError(f"{file}: labels: {name}: {values!r} is not a label value, or a list of them")
        if of_region != [0]:  # background
            regions[_name(name, "labels", file)] = tuple(dict.fromkeys(of_region))
    if not regions or any(0 in values for values in regions.values()):
        raise DataError(f"{file}: labels: 0 is background, and at least one other label is needed")
    return regions


def _name(value: object, key: str, file: Path) -> str:
    """Return a modality's or region's name, which stands in files and messages."""
    if not isinstance(value, str) or not 1 <= len(value) <= _MOST_NAME or not value.isprintable() or "." in value:
        raise DataError(f"{file}: {key}: {value!r} is not a name of 1 to {_MOST_NAME} letters without a full stop")
    if value in _RESERVED:
        raise DataError(f"{file}: {key}: {value!r} cannot be a name here")
    return value


def _stems(folder: Path) -> list[str]:
    try:
        files = [entry.name for entry in folder.iterdir()]
    except FileNotFoundError:
        raise DataError(f"{folder}: no such directory") from None
    except OSError as error:
        raise unreadable(folder, error) from None
    seen = [name for name in files if not name.startswith(".")]  # archives made on a Mac hold a ._name for each
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
