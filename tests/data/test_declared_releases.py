"""A release that a user declares in TOML: errors name the mistakes, and the experiment carries the release."""

import json
import re
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from fedserdiff.data.preprocess import prepare_case
from fedserdiff.data.releases import own_release, release_or_file
from fedserdiff.data.site_cases import patient_of, site_cases
from fedserdiff.deployment.kit import Coordinator, HospitalKit
from fedserdiff.deployment.provisioning import provision
from fedserdiff.errors import ConfigError
from fedserdiff.experiment_file import layers_of_file
from fedserdiff.federation import read_federation
from fedserdiff.settings.experiment import Settings, Site
from fedserdiff.settings.foreign import foreign
from fedserdiff.settings.sources import make_settings

# As the collection UPENN-GBM names its files: scans in folders, segmentations side by side in another.
DECLARATION = """\
name = "upenn-gbm"
case_pattern = '(?P<patient>UPENN-GBM-\\d{5})_\\d{2}'
example = "UPENN-GBM-00002_11"
modalities = { t1 = "T1", t1ce = "T1GD", t2 = "T2", flair = "FLAIR" }
segmentation = "segm"
regions = { tc = [1, 4], wt = [1, 2, 4], et = 4 }
"""
SITE = '[[site]]\nname = "upenn"\nrelease = "upenn-gbm"\npath = "scans"\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two patients' scans, one of them scanned twice."""
    for case in ("UPENN-GBM-00002_11", "UPENN-GBM-00002_21", "UPENN-GBM-00003_11"):
        scans, segs = tmp_path / "scans" / "images_structural" / case, tmp_path / "scans" / "images_segm"
        scans.mkdir(parents=True)
        segs.mkdir(exist_ok=True)
        image = np.zeros((12, 12, 12), np.int16)
        image[2:10, 2:10, 2:10] = np.random.default_rng(0).integers(100, 1000, (8, 8, 8))
        for end in ("T1", "T1GD", "T2", "FLAIR"):
            nib.save(nib.Nifti1Image(image, np.eye(4)), scans / f"{case}_{end}.nii.gz")
        seg = np.zeros((12, 12, 12), np.uint8)
        seg[4:8, 4:8, 4:8] = 2
        seg[5:7, 5:7, 5:7] = 4
        nib.save(nib.Nifti1Image(seg, np.eye(4)), segs / f"{case}_segm.nii.gz")
    return tmp_path


def _federation(folder: Path, declared: str, site: str = SITE) -> Path:
    file = folder / "federation.toml"
    file.write_text(declared + site)
    return file


def test_scans_are_read_by_a_table_of_the_federation_file(folder: Path) -> None:
    (site,) = read_federation(_federation(folder, f"[[release]]\n{DECLARATION}"))
    config = make_settings("smoke", {"data.grid": (16, 16, 16), "data.spacing_mm": 1.0})
    cases = site_cases(site, config)
    assert [(case.name, case.patient) for case in cases] == [
        ("UPENN-GBM-00002_11", "UPENN-GBM-00002"),
        ("UPENN-GBM-00002_21", "UPENN-GBM-00002"),
        ("UPENN-GBM-00003_11", "UPENN-GBM-00003"),
    ]
    assert patient_of(site, "UPENN-GBM-00003_11") == "UPENN-GBM-00003"
    prepared = prepare_case(cases[0], config.data.grid, 1.0)
    assert prepared.mask.reshape(3, -1).sum(1).tolist() == [8, 64, 8]


def test_a_file_of_its_own_is_the_same_release(folder: Path) -> None:
    (folder / "releases").mkdir()
    (folder / "releases" / "upenn.toml").write_text(DECLARATION)
    here = read_federation(_federation(folder, f"[[release]]\n{DECLARATION}"))
    own = read_federation(_federation(folder, "", SITE.replace("upenn-gbm", "releases/upenn.toml")))
    assert own == here
    assert release_or_file(str(folder / "releases" / "upenn.toml")) == here[0].declared


def test_settings_stand_beside_it(folder: Path) -> None:
    file = _federation(folder, f"seed = 3\n[[release]]\n{DECLARATION}")
    assert layers_of_file(file).settings().seed == 3


def test_a_run_goes_on_by_what_its_config_says(folder: Path) -> None:
    sites = read_federation(_federation(folder, f"[[release]]\n{DECLARATION}"))
    config = make_settings("smoke", sites=sites)
    written = json.loads(json.dumps(config.to_dict(), sort_keys=True))
    again = Settings.from_dict(written)
    assert again.sites[0].declared is not None
    assert again.sites[0].stated_release == config.sites[0].stated_release
    assert again.fingerprint == config.fingerprint
    assert list(foreign(written)) == [], "it is data, and needs nobody's leave"
    (folder / "config.json").write_text(json.dumps({**written, "provenance": {}}))
    (read,) = read_federation(folder / "config.json")
    assert (read.name, read.path, read.stated_release) == ("upenn", sites[0].path, sites[0].stated_release)


def test_the_fingerprint_covers_what_it_says(folder: Path) -> None:
    def fingerprint(text: str) -> int:
        return make_settings("smoke", sites=read_federation(_federation(folder, f"[[release]]\n{text}"))).fingerprint

    one = fingerprint(DECLARATION)
    assert fingerprint(DECLARATION + "# a remark\n") == one
    for old, new in (("et = 4", "et = 1"), ('"T1GD"', '"T1C"'), (r"\d{5}", r"\d+")):
        assert fingerprint(DECLARATION.replace(old, new)) != one


def test_deployed_hospitals_get_it_with_their_kit(folder: Path) -> None:
    sites = read_federation(_federation(folder, f"[[release]]\n{DECLARATION}"))
    (folder / "kits").mkdir()
    provision(folder / "kits", make_settings("smoke", sites=sites), "federation.example.org:8443", {})
    kit = HospitalKit.load(folder / "kits" / "sites" / "upenn")
    assert kit.config.sites == sites
    assert kit.config.fingerprint == Coordinator.load(folder / "kits" / "coordinator").config.fingerprint
    assert len(site_cases(kit.config.sites[0], kit.config)) == 3


def test_a_kit_cannot_give_another_meaning_to_a_release_that_comes_with_the_package(folder: Path) -> None:
    table = own_release({**_table(), "name": "mine"}, "x").table
    with pytest.raises(ConfigError, match="site north: release: name: there is a release brats2021 already"):
        Settings.from_dict({"sites": [{"name": "north", "release": {**table, "name": "brats2021"}, "path": ""}]})


def _table() -> dict[str, Any]:
    return {
        "name": "north-mri",
        "case_pattern": r"(?P<patient>N\d+)",
        "example": "N1",
        "modalities": {"t1": "T1", "t2": "T2"},
        "regions": {"wt": [1, 2]},
    }


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"modalites": {}}, "modalites: unknown field: did you mean modalities"),
        ({"xyz": 1}, "xyz: unknown field: choose from name, case_pattern, example"),
        ({"name": None}, "name: is missing"),
        ({"regions": None}, "regions: is missing"),
        ({"name": "north mri"}, "name: 'north mri' is not a name"),
        ({"name": "msd"}, "name: 'msd' is not a name"),
        ({"name": "brats2021"}, "name: there is a release brats2021 already"),
        ({"case_pattern": "N(1"}, "case_pattern: .* is not a regular expression"),
        ({"case_pattern": "N1"}, r"case_pattern: 'N1' does not mark the patient: write \(\?P<patient>"),
        ({"example": "M1"}, "example: 'M1' does not match case_pattern"),
        ({"modalities": {}}, "modalities: name at least one"),
        ({"modalities": {"seg": "x"}}, "modalities: name at least one modality, and call none 'seg'"),
        ({"modalities": {"t1": "../../x"}}, "modalities: '../../x' must not contain '/'"),
        ({"modalities": {"t1": "T", "t2": "T"}}, "modalities: two of _T, _T, _seg name the same file"),
        ({"segmentation": 3}, "segmentation: 3 is not a text"),
        ({"regions": {"wt": [0]}}, "regions: 0 is background"),
        ({"regions": {"wt": ["1"]}}, r"regions: \['1'\] is not a label"),
        ({"labels": [70000]}, r"labels: \[70000\] is not a label"),
        ({"grid": [1, 2]}, r"grid: \[1, 2\] is not a grid"),
    ],
)
def test_a_mistake_is_one_line_with_the_field(change: dict[str, Any], says: str) -> None:
    table = {name: value for name, value in {**_table(), **change}.items() if value is not None}
    with pytest.raises(ConfigError, match=f"^f.toml: {says}") as caught:
        own_release(table, "f.toml")
    assert "\n" not in str(caught.value)


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        own_release({**_table(), "regions": {}, "grid": 3}, "f.toml")
    assert len(caught.value.faults) == 2


@pytest.mark.parametrize(
    ("declared", "site", "says"),
    [
        (f"[release]\n{DECLARATION}", SITE, r"release: write each release as a \[\[release\]\] table"),
        (f"[[release]]\n{DECLARATION}" * 2, SITE, "release 2: name: 'upenn-gbm' is taken by an earlier release"),
        (
            f"[[release]]\n{DECLARATION}",
            SITE.replace('"upenn-gbm"', '"upen-gbm"'),
            "site 1: release: unknown release 'upen-gbm': did you mean upenn-gbm, declared above",
        ),
        ("", SITE, "site 1: release: unknown release 'upenn-gbm'"),
        ("", SITE.replace("upenn-gbm", "gone.toml"), "site 1: release: .*gone.toml: cannot be read .No such file"),
    ],
)
def test_a_mistake_in_a_federation_file_names_file_and_site(folder: Path, declared: str, site: str, says: str) -> None:
    file = _federation(folder, declared, site)
    with pytest.raises(ConfigError, match=f"^{re.escape(str(file))}: {says}"):
        read_federation(file)


def test_equal_sites_of_other_declarations_are_not_equal() -> None:
    one, other = own_release(_table(), "x"), own_release({**_table(), "labels": [5]}, "x")
    assert Site("a", "north-mri", "", declared=one) != Site("a", "north-mri", "", declared=other)
    assert hash(make_settings("smoke", sites=(Site("a", "north-mri", "", declared=one),)))
