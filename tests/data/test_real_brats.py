"""Eleven published BraTS cases, if FEDSERDIFF_BRATS names a folder of them.

It holds BraTS2020, BraTS2021 and BraTS2023-GLI, each with cases as published (see `CASES`).
"""

import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from fedserdiff.data.cache import CachedCase, cached_cases
from fedserdiff.data.cases import find_cases
from fedserdiff.data.overlap import VOXELS, Overlap, find_overlap
from fedserdiff.data.releases import RELEASES
from fedserdiff.settings.sources import make_settings

FOLDER = os.environ.get("FEDSERDIFF_BRATS")
pytestmark = pytest.mark.skipif(FOLDER is None, reason="FEDSERDIFF_BRATS names no folder of real BraTS cases")

RELEASE_OF = {"BraTS2020": "brats2020", "BraTS2021": "brats2021", "BraTS2023-GLI": "brats2023-gli"}
CASES = {
    "BraTS2020": ["BraTS20_Training_001"],
    "BraTS2021": [f"BraTS2021_{n:05d}" for n in (0, 2, 3, 5, 6, 8, 495)],
    "BraTS2023-GLI": [f"BraTS-GLI-{n:05d}-000" for n in (0, 2, 12)],
}
PLACES = [(folder, number) for folder, names in CASES.items() for number in range(len(names))]
Sites = dict[str, list[CachedCase]]


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Sites:
    config = make_settings("laptop")
    assert FOLDER is not None
    prepared = {}
    for folder, name in RELEASE_OF.items():
        found = find_cases(Path(FOLDER) / folder, RELEASES[name])
        root = tmp_path_factory.mktemp(folder)
        prepared[folder] = cached_cases(found, config.data.grid, config.data.spacing_mm, root)
    return prepared


def test_all_eleven_cases_are_found_and_prepared(sites: Sites) -> None:
    assert {folder: [c.case.name for c in cases] for folder, cases in sites.items()} == CASES
    for cached in (cached for cases in sites.values() for cached in cases):
        prepared = cached.prepared
        assert prepared.image.shape == (4, 48, 64, 48)
        assert np.isfinite(prepared.image).all()
        assert prepared.geometry.shape == (240, 240, 155)
        assert prepared.geometry.spacing_mm == (1, 1, 1)
        brain = (prepared.image != 0).any(0)
        assert all(abs(channel[brain].astype(np.float64).mean()) < 0.1 for channel in prepared.image)


@pytest.mark.parametrize(("folder", "number"), PLACES)
def test_regions_hold_the_voxels_that_the_file_labels(sites: Sites, folder: str, number: int) -> None:
    cached = sites[folder][number]
    seg = np.asarray(nib.load(cached.case.seg).dataobj)
    enhancing = 3 if folder == "BraTS2023-GLI" else 4

    counts = cached.prepared.truth.sum((1, 2, 3), dtype=np.int64).tolist()

    assert counts == [
        np.isin(seg, (1, enhancing)).sum(),
        np.isin(seg, (1, 2, enhancing)).sum(),
        (seg == enhancing).sum(),
    ]
    assert counts[1] > 1000
    assert counts[1] == np.count_nonzero(seg)


@pytest.mark.parametrize(("folder", "number", "dtype"), [("BraTS2021", 6, np.uint16), ("BraTS2023-GLI", 0, np.float32)])
def test_segmentations_of_unusual_type_are_among_them(sites: Sites, folder: str, number: int, dtype: type) -> None:
    assert nib.load(sites[folder][number].case.seg).get_data_dtype() == dtype


@pytest.mark.parametrize(("folder", "number"), PLACES)
def test_mask_on_the_working_grid_agrees_with_the_scans_own(sites: Sites, folder: str, number: int) -> None:
    prepared = sites[folder][number].prepared
    back = prepared.geometry.to_scan(torch.from_numpy(np.array(prepared.mask)).float()).numpy() >= 0.5
    truth = prepared.truth.astype(bool)
    dice = 2 * (back[1] & truth[1]).sum() / (back[1].sum() + truth[1].sum())
    assert dice > 0.9


def test_the_two_duplicates_are_found_from_voxels_alone(sites: Sites) -> None:
    assert find_overlap(sites) == [
        Overlap("BraTS2023-GLI", "BraTS-GLI-00000-000", "BraTS2021", "BraTS2021_00000", VOXELS),
        Overlap("BraTS2023-GLI", "BraTS-GLI-00002-000", "BraTS2021", "BraTS2021_00002", VOXELS),
    ]
