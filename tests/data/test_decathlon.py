"""Datasets with a ``dataset.json``, as in the Decathlon and nnU-Net: one 4D file per case, or a file per modality."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

from fedserdiff.data.cache import cached_cases
from fedserdiff.data.decathlon import find_decathlon_cases, read_dataset
from fedserdiff.data.preprocess import prepare_case
from fedserdiff.data.site_cases import passed_over_note, site_cases
from fedserdiff.errors import DataError
from fedserdiff.settings.experiment import Site
from fedserdiff.settings.sources import make_settings

DECATHLON = {"modality": {"0": "T2", "1": "ADC"}, "labels": {"0": "background", "1": "PZ", "2": "TZ"}}
NNUNET = {"channel_names": {"0": "ADC", "1": "T2"}, "labels": {"background": 0, "gland": [1, 2], "TZ": 2, "PZ": 1}}
GRID = (16, 16, 16)
Write = Callable[..., dict[str, NDArray[Any]]]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a case's images, one 4D file or one a modality in the order given, and labels; return the volumes."""

    def call(name: str, *order: str, split: bool = False, seed: int = 0) -> dict[str, NDArray[Any]]:
        rng = np.random.default_rng(seed)
        volumes = {m: rng.integers(1, 1000, (9, 8, 7)).astype(np.float32) for m in ("T2", "ADC")}
        labels = rng.integers(0, 3, (9, 8, 7)).astype(np.uint8)
        for folder in ("imagesTr", "labelsTr"):
            (tmp_path / folder).mkdir(exist_ok=True)
        if split:
            for number, modality in enumerate(order):
                nib.save(
                    nib.Nifti1Image(volumes[modality], np.eye(4)), tmp_path / f"imagesTr/{name}_{number:04d}.nii.gz"
                )
        else:
            together = np.stack([volumes[m] for m in order], -1)
            nib.save(nib.Nifti1Image(together, np.eye(4)), tmp_path / "imagesTr" / f"{name}.nii.gz")
        nib.save(nib.Nifti1Image(labels, np.eye(4)), tmp_path / "labelsTr" / f"{name}.nii.gz")
        return {**volumes, "labels": labels}

    return call


def declare(folder: Path, table: object) -> None:
    (folder / "dataset.json").write_text(json.dumps(table))


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize(("table", "order"), [(DECATHLON, ("T2", "ADC")), (NNUNET, ("ADC", "T2"))])
def test_modalities_and_regions_go_by_name_however_the_dataset_numbers_them(
    tmp_path: Path, write: Write, table: dict[str, Any], order: tuple[str, str], split: bool
) -> None:
    declare(tmp_path, table)
    volumes = write("case_7", *order, split=split)
    config = make_settings("smoke", {"data.modalities": ("T2", "ADC"), "data.regions": ("TZ", "PZ")})

    (case,) = site_cases(Site("north", "msd", str(tmp_path)), config)
    prepared = prepare_case(case, GRID, 1.0)

    assert (case.name, case.patient) == ("case_7", "case_7")
    inner = prepared.image[:, 3:12, 4:12, 4:11].astype(np.float64)
    for channel, modality in enumerate(("T2", "ADC")):
        values = volumes[modality].astype(np.float64)
        np.testing.assert_allclose(inner[channel], (values - values.mean()) / values.std(), atol=2e-3)
    np.testing.assert_array_equal(prepared.truth, np.stack([volumes["labels"] == 2, volumes["labels"] == 1]))


def test_a_region_of_several_labels_is_their_union_and_the_background_none(tmp_path: Path) -> None:
    declare(tmp_path, NNUNET)
    dataset = read_dataset(tmp_path)
    assert dict(dataset.regions) == {"gland": (1, 2), "TZ": (2,), "PZ": (1,)}
    assert dataset.labels == (0, 1, 2)
    assert dataset.modalities == ("ADC", "T2")


def test_one_modality_is_enough_and_is_a_3d_file(tmp_path: Path) -> None:
    declare(tmp_path, {"modality": {"0": "MRI"}, "labels": {"0": "background", "1": "heart"}})
    values = np.arange(1, 28, dtype=np.int16).reshape(3, 3, 3)
    for folder, volume in (("imagesTr", values), ("labelsTr", values % 2)):
        (tmp_path / folder).mkdir()
        nib.save(nib.Nifti1Image(volume, np.eye(4)), tmp_path / folder / "la_1.nii.gz")
    (case,) = find_decathlon_cases(tmp_path, read_dataset(tmp_path))
    prepared = prepare_case(case, GRID, 1.0)
    assert prepared.image.shape == (1, *GRID)
    assert prepared.truth.sum() == 14


def test_cases_are_those_of_labels_and_a_macs_shadow_files_are_none(tmp_path: Path, write: Write) -> None:
    declare(tmp_path, DECATHLON)
    for name in ("b", "a", "c"):
        write(name, "T2", "ADC")
    for folder in ("imagesTr", "labelsTr"):
        (tmp_path / folder / "._a.nii.gz").write_bytes(b"\0\5\26\7")
    dataset = read_dataset(tmp_path)
    assert [case.name for case in find_decathlon_cases(tmp_path, dataset)] == ["a", "b", "c"]
    assert [case.name for case in find_decathlon_cases(tmp_path, dataset, ["c"])] == ["c"]
    with pytest.raises(DataError, match=r"labelsTr: no case d here"):
        find_decathlon_cases(tmp_path, dataset, ["d"])


def test_scans_without_a_label_map_are_told(tmp_path: Path, write: Write) -> None:
    write("a", "T2", "ADC")
    write("b", "T2", "ADC", split=True)
    site = Site("north", "msd", str(tmp_path))
    assert passed_over_note(site) is None
    for name in ("c.nii.gz", "d_0000.nii.gz", "d_0001.nii.gz", "._e.nii.gz"):
        (tmp_path / "imagesTr" / name).touch()
    assert passed_over_note(site) == "site north: ignored, without a label map: c, d_0000, d_0001"


def test_what_files_mean_is_part_of_what_a_prepared_case_is_known_by(tmp_path: Path, write: Write) -> None:
    write("a", "T2", "ADC")
    prepared = []
    for labels in (DECATHLON["labels"], {"0": "background", "1": "TZ", "2": "PZ"}):
        declare(tmp_path, {**DECATHLON, "labels": labels})
        config = make_settings("smoke", {"data.modalities": ("T2", "ADC"), "data.regions": ("PZ", "TZ")})
        cases = site_cases(Site("north", "msd", str(tmp_path)), config)
        prepared.append(cached_cases(cases, GRID, 1.0, tmp_path / "cache")[0].prepared)
    np.testing.assert_array_equal(prepared[0].truth, prepared[1].truth[::-1])


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ([], "not a JSON object"),
        ({"labels": DECATHLON["labels"]}, "modality: declare every modality by its number"),
        ({**DECATHLON, "modality": {"1": "T2"}}, "modality: declare every modality by its number"),
        ({**DECATHLON, "modality": {"0": "T2", "1": "T2"}}, "modality: two modalities have the same name"),
        ({**DECATHLON, "modality": {"0": ""}}, "modality: '' is not a name"),
        ({**DECATHLON, "modality": {"0": "a.b"}}, "modality: 'a.b' is not a name"),
        ({"modality": {"0": "T2"}}, "labels: declare every label"),
        ({**DECATHLON, "labels": {"0": "background"}}, "labels: 0 is background, and at least one"),
        ({**DECATHLON, "labels": {"background": 0, "all": [0, 1]}}, "labels: 0 is background"),
        ({**DECATHLON, "labels": {"background": 0, "PZ": "one"}}, "labels: PZ: 'one' is not a label value"),
        ({**DECATHLON, "labels": {"background": 0, "PZ": []}}, r"labels: PZ: \[\] is not a label value"),
        ({**DECATHLON, "labels": {"background": 0, "PZ": 1, "ignore": 2}}, "labels: 'ignore' is reserved"),
        ({**DECATHLON, "labels": {"background": 0, "mean": 1}}, "labels: 'mean' is reserved"),
    ],
)
def test_a_table_that_declares_too_little_is_refused_naming_file_and_field(
    tmp_path: Path, table: object, said: str
) -> None:
    declare(tmp_path, table)
    with pytest.raises(DataError, match=rf"dataset\.json: {said}"):
        read_dataset(tmp_path)


def test_missing_and_damaged_tables_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"dataset\.json: is missing"):
        read_dataset(tmp_path)
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(DataError, match=r"dataset\.json: not valid JSON"):
        read_dataset(tmp_path)


def test_what_a_hospital_lacks_of_what_was_agreed_is_named(tmp_path: Path, write: Write) -> None:
    declare(tmp_path, DECATHLON)
    write("a", "T2", "ADC")
    site = Site("north", "msd", str(tmp_path))
    with pytest.raises(DataError, match="msd has no modality DCE; it has T2, ADC"):
        site_cases(site, make_settings("smoke", {"data.modalities": ("T2", "DCE"), "data.regions": ("PZ",)}))
    with pytest.raises(DataError, match="msd has no region gland; it has PZ, TZ"):
        site_cases(site, make_settings("smoke", {"data.modalities": ("T2",), "data.regions": ("gland",)}))


def test_a_file_with_fewer_modalities_than_declared_and_a_case_without_images_are_named(
    tmp_path: Path, write: Write
) -> None:
    declare(tmp_path, {**DECATHLON, "modality": {"0": "T2", "1": "ADC", "2": "DCE"}})
    write("a", "T2", "ADC")
    (case,) = find_decathlon_cases(tmp_path, read_dataset(tmp_path))
    with pytest.raises(DataError, match=r"a\.nii\.gz: shape \(9, 8, 7, 2\): there is no modality number 2"):
        prepare_case(case, GRID, 1.0)
    (tmp_path / "imagesTr" / "a.nii.gz").unlink()
    with pytest.raises(DataError, match=r"a_0000\.nii\.gz: modality T2 of case a is missing"):
        find_decathlon_cases(tmp_path, read_dataset(tmp_path))
