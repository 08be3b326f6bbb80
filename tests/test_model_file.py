"""An exported model: as good as the run's, readable without Flower or Ray, and without other content."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from example_plugin import NETWORK, SOURCES
from safetensors import safe_open
from safetensors.torch import save_file
from students import lively_student

from fedserdiff.data.phantom.generate import write_phantom_hospital
from fedserdiff.data.releases import get_release
from fedserdiff.data.scans import find_scans
from fedserdiff.diffusion.adapter import SiteAdapter
from fedserdiff.errors import ConfigError, DataError
from fedserdiff.model_file import load_model, save_model
from fedserdiff.segmenter import Segmenter
from fedserdiff.settings.experiment import Settings, Site
from fedserdiff.settings.sources import make_settings

CONFIG = make_settings("smoke", seed=3, sites=(Site("north", "brats2021", "/secret/place", ("BraTS2021_00001",)),))


def model(config: Settings = CONFIG, adapter: SiteAdapter | None = None) -> Segmenter:
    convention = get_release("brats2021")
    return Segmenter(lively_student(config), config, convention, {}, adapter, {"method": "fine-tune", "seed": "3"})


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_phantom_hospital(tmp_path_factory.mktemp("phantom"), "contrast", 1, 1, 8.0, 0)
    return next(folder.iterdir())


def test_a_loaded_model_says_what_the_saved_one_says(tmp_path: Path, case: Path) -> None:
    adapter = SiteAdapter(4)
    adapter.signs.fill_(-1)
    for kept in (None, adapter):
        original = model(adapter=kept)
        save_model(tmp_path / "model.safetensors", original)
        loaded = load_model(tmp_path / "model.safetensors")
        (scan,) = find_scans([case], CONFIG.data.modalities, {}).scans
        ours, theirs = original.segment(scan), loaded.segment(scan)
        assert ours.probabilities.any()
        np.testing.assert_array_equal(ours.probabilities, theirs.probabilities)
        np.testing.assert_array_equal(ours.labels(), theirs.labels())
        assert loaded.convention.region_masks(theirs.labels()).shape[0] == 3
        assert loaded.about == {"method": "fine-tune", "seed": "3"}


def test_labels_are_refined_probabilities_of_a_half_in_the_labels_that_are_asked_for(case: Path) -> None:
    (scan,) = find_scans([case], CONFIG.data.modalities, {}).scans
    said = model().segment(scan)
    tc, wt, et = said.probabilities >= 0.5
    agree = (tc <= wt) & (et <= tc)  # elsewhere no label says what they say
    assert 0 < agree.sum() < agree.size
    for release, value in (("brats2021", 4), ("brats2023-gli", 3)):
        expected = np.select([et, tc, wt], [value, 1, 2], 0)
        np.testing.assert_array_equal(said.labels(get_release(release))[agree], expected[agree])
    assert np.abs(said.error_map).max() <= 1
    brain = said.scan.voxels != 0
    outside = np.ones(brain.shape, bool)
    outside[tuple(slice(a.min(), a.max() + 1) for a in np.nonzero(brain))] = False
    assert not said.probabilities[:, outside].any()


def test_three_lines_without_flower_or_ray_load_and_segment(tmp_path: Path, case: Path) -> None:
    save_model(tmp_path / "model.safetensors", model())
    files = {m: str(case / f"{case.name}_{m}.nii.gz") for m in ("t1", "t1ce", "t2", "flair")}
    lines = [
        "from fedserdiff.model_file import load_model",
        f"model = load_model({str(tmp_path / 'model.safetensors')!r})",
        f"labels = model.segment_files({case.name!r}, **{files!r}).labels()",
    ]
    absent = "import sys\nfor name in ('flwr', 'ray'):\n    sys.modules[name] = None\n"  # as if not installed
    tell = "\nprint(labels.shape, int((labels > 0).sum()))"
    done = subprocess.run(
        [sys.executable, "-c", absent + "\n".join(lines) + tell], capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr
    (scan,) = find_scans([case], CONFIG.data.modalities, {}).scans
    expected = model().segment(scan).labels()
    assert done.stdout.strip() == f"{expected.shape} {int((expected > 0).sum())}"


def test_no_path_and_no_case_goes_along(tmp_path: Path) -> None:
    save_model(tmp_path / "model.safetensors", model())
    content = (tmp_path / "model.safetensors").read_bytes()
    assert b"secret" not in content
    assert b"BraTS2021_0" not in content
    assert b"north" not in content


def test_what_is_no_model_is_refused_with_a_reason(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    with pytest.raises(DataError, match=r"model\.safetensors: cannot be read as a model"):
        load_model(file)
    file.write_bytes(b"PK\3\4 no tensors")
    with pytest.raises(DataError, match="cannot be read as a model"):
        load_model(file)
    save_file({"a": torch.zeros(1)}, file)
    with pytest.raises(DataError, match="not a model of fedserdiff: another kind of safetensors file"):
        load_model(file)
    save_model(file, model())
    with safe_open(str(file), "pt") as opened:
        about = opened.metadata()
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - no mapping
    for damage in ({"config": "{"}, {"config": json.dumps({"colour": 1})}, {"convention": "{}"}):
        save_file(tensors, file, {**about, **damage})
        with pytest.raises(DataError, match="damaged, or from another version"):
            load_model(file)
    tensors.popitem()
    save_file(tensors, file, about)
    with pytest.raises(DataError, match="damaged, or from another version"):
        load_model(file)


def test_the_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Exception, match="cannot be written"):
        save_model(tmp_path / "file" / "model.safetensors", model())
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_model_of_another_network_is_saved_and_loaded_whole(tmp_path: Path, case: Path) -> None:
    config = CONFIG.replace({"network.coarse": "segresnet", "network.coarse_arguments": {"init_filters": 16}})
    original = model(config)
    save_model(tmp_path / "model.safetensors", original)
    (scan,) = find_scans([case], CONFIG.data.modalities, {}).scans
    loaded = load_model(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(loaded.segment(scan).probabilities, original.segment(scan).probabilities)


def test_a_file_that_names_code_of_others_is_refused_unless_that_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(SOURCES))
    config = CONFIG.replace({"network.coarse": NETWORK})
    save_model(tmp_path / "model.safetensors", model(config))
    with pytest.raises(ConfigError, match=f"the network {NETWORK} does not come with fedserdiff.*--allow NAME"):
        load_model(tmp_path / "model.safetensors", allow=["another"])
    loaded = load_model(tmp_path / "model.safetensors", allow=[NETWORK])
    assert loaded.student.coarse.state_dict().keys() == model(config).student.coarse.state_dict().keys()
