"""nnU-Net as a peer: its raw dataset compared with scans on disk, its split, its regions, and a run if installed."""

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fedserdiff.data.releases import Convention
from fedserdiff.errors import ConfigError
from fedserdiff.federation import phantom_federation
from fedserdiff.settings.experiment import Site
from fedserdiff.settings.sources import make_settings
from sites.hospital import Hospital, open_hospital

Volumes = dict[str, NDArray[Any]]
CONFIG = make_settings("smoke", {"data.grid": (16, 16, 16), "data.spacing_mm": 2.0}, method="fine-tune")
NAMES = [f"BraTS20_Training_00{n}" for n in range(1, 6)]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Import a module of ``scripts/``."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "scripts")
    return importlib.import_module


@pytest.fixture
def hospital(tmp_path: Path, draw_volumes: Callable[..., Volumes], write_case: Callable[..., Path]) -> Hospital:
    """Five patients of 2 mm, the last two to test and to validate on."""
    for seed, name in enumerate(NAMES):
        write_case(tmp_path / "scans", draw_volumes(seed), "brats2020", name, spacing_mm=(2.0, 2.0, 2.0))
    site = Site("north", "brats2020", str(tmp_path / "scans"), (), (NAMES[4],), (NAMES[3],))
    return open_hospital(site, CONFIG, tmp_path / "cache")


def test_raw_dataset_is_what_the_scans_say(
    script: Callable[[str], ModuleType], hospital: Hospital, tmp_path: Path
) -> None:
    raw = tmp_path / "raw"
    script("benchmarks.peers.nnunet_dataset").write_dataset(hospital, raw)
    assert sorted(file.name for file in (raw / "labelsTr").iterdir()) == [f"{name}.nii.gz" for name in NAMES[:4]]
    assert len(list((raw / "imagesTr").iterdir())) == 4 * 4

    about = json.loads((raw / "dataset.json").read_text())
    assert about["channel_names"] == {"0": "t1", "1": "t1ce", "2": "t2", "3": "flair"}
    labels = {name: value for name, value in about["labels"].items() if name != "background"}
    assert about["numTraining"] == 4
    for name in NAMES[:4]:
        folder = tmp_path / "scans" / name
        seg = nib.as_closest_canonical(nib.load(folder / f"{name}_seg.nii.gz")).get_fdata()[2:10, 1:12, 2:8]
        written = nib.load(raw / "labelsTr" / f"{name}.nii.gz")
        assert written.header.get_zooms() == (2.0, 2.0, 2.0)
        painted = np.asarray(written.dataobj)
        assert painted.shape == (16, 16, 16)
        own = {region: np.isin(painted, values) for region, values in labels.items()}
        # the brain's box in the grid's middle
        inner = tuple(slice((16 - n) // 2, (16 - n) // 2 + n) for n in seg.shape)
        for region, values in {"wt": (1, 2, 4), "tc": (1, 4), "et": (4,)}.items():
            assert np.array_equal(own[region][inner], np.isin(seg, values))
            assert own[region].sum() == np.isin(seg, values).sum() > 0
        for number, region in enumerate(labels):  # each region is exported over those before it
            last = painted == about["regions_class_order"][number]
            assert own[region][last].all()
        scan = nib.as_closest_canonical(nib.load(folder / f"{name}_t2.nii.gz")).get_fdata()[2:10, 1:12, 2:8]
        image = np.asarray(nib.load(raw / "imagesTr" / f"{name}_0002.nii.gz").dataobj)
        assert np.allclose(image[inner], (scan - scan.mean()) / scan.std(), atol=2e-3)
        assert np.count_nonzero(image) == np.count_nonzero(image[inner])


def test_split_is_ours(script: Callable[[str], ModuleType], hospital: Hospital, tmp_path: Path) -> None:
    module = script("benchmarks.peers.nnunet_dataset")
    module.write_split(hospital, tmp_path / "splits.json")
    assert json.loads((tmp_path / "splits.json").read_text()) == [{"train": NAMES[:3], "val": [NAMES[3]]}]
    nobody = Hospital(hospital.site, hospital.training, hospital.test)
    module.write_split(nobody, tmp_path / "splits.json")
    assert json.loads((tmp_path / "splits.json").read_text()) == [{"train": NAMES[:3], "val": NAMES[:3]}]


def test_regions_that_no_label_map_holds_are_refused(script: Callable[[str], ModuleType]) -> None:
    region_labels = script("benchmarks.peers.nnunet_dataset").region_labels
    apart = Convention("prostate", ("t2",), {"pz": (1,), "tz": (2,), "all": (1, 2)}, (0, 1, 2))
    assert region_labels(apart) == {"all": [1, 2, 3], "pz": [2], "tz": [3]}
    crossing = Convention("odd", ("t2",), {"a": (1, 2), "b": (2, 3)}, (0, 1, 2, 3))
    with pytest.raises(ConfigError, match="regions a and b overlap partly"):
        region_labels(crossing)


@pytest.mark.parametrize("has_regions", [True, False])
def test_probabilities_come_back_in_our_order_and_axes(
    script: Callable[[str], ModuleType], hospital: Hospital, has_regions: bool
) -> None:
    """The predictor has nnU-Net's axes (Z, Y, X) and its regions wt, tc, et; ours are (X, Y, Z) and tc, wt, et."""
    cached = hospital.test[0]
    seen: dict[str, Any] = {}

    def predict(image: NDArray[Any], properties: dict[str, Any], *rest: Any) -> tuple[None, NDArray[np.float32]]:
        seen.update(image=image, properties=properties)
        regions = [image[0], image[1], image[2]]
        return None, np.stack(regions if has_regions else [image[3], *regions])

    predictor = SimpleNamespace(
        label_manager=SimpleNamespace(has_regions=has_regions), predict_single_npy_array=predict
    )
    found = script("benchmarks.peers.nnunet")._predict(predictor, [1, 0, 2], cached).refined
    image = torch.from_numpy(np.asarray(cached.prepared.image, np.float32)).clamp(0, 1)
    assert torch.equal(found, image[[1, 0, 2]])
    assert seen["properties"]["spacing"] == [2.0, 2.0, 2.0]


def test_nnunet_itself_trains_for_its_minutes(
    script: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("nnunetv2")
    config = make_settings("smoke", method="fine-tune")
    hospital = open_hospital(phantom_federation(1, config, tmp_path / "phantom")[0], config, tmp_path / "cache")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results", "nnUNet_compile", "nnUNet_n_proc_DA"):
        monkeypatch.setenv(name, "")  # so that what it sets does not outlive the test
        monkeypatch.delenv(name)
    module = script("benchmarks.peers.nnunet")
    budget = script("benchmarks.peers.budget").Budget(0.02, torch.device("cpu"))
    trained = module.train_nnunet("2d", hospital, config, budget)
    assert trained.iterations >= 1
    assert trained.used_s >= 1.2
    found = trained.predict(hospital.test[0]).refined
    assert found.shape == (3, *config.data.grid)
    assert 0 <= found.min() <= found.max() <= 1
    predictor = trained.predict.args[0]
    assert predictor.label_manager.foreground_regions == [(1, 2, 3), (2, 3), (3,)]  # wt, tc, et
    assert trained.predict.args[1] == [1, 0, 2]
