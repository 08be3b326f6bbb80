"""Phantom prostates: data of another organ in code that was written for brains."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

from fedserdiff.commands import phantoms
from fedserdiff.data.phantom.prostate import MODALITIES, REGIONS, write_prostate_hospital
from fedserdiff.data.preprocess import prepare_case
from fedserdiff.data.site_cases import site_cases
from fedserdiff.errors import ConfigError
from fedserdiff.experiment_file import layers_of_file
from fedserdiff.federation import read_federation
from fedserdiff.settings.experiment import Settings
from fedserdiff.settings.sources import make_settings

CONFIG = make_settings("smoke", {"data.modalities": MODALITIES, "data.regions": REGIONS})


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prostates")
    done = CliRunner().invoke(phantoms.app, [str(folder), "--organ", "prostate", "--profile", "smoke", "--sites", "2"])
    assert done.exit_code == 0, done.output
    return folder / "phantom-prostates.toml"


def test_a_stream_of_prostates_is_read_as_any_federation_is(federation: Path) -> None:
    data = layers_of_file(federation).settings().data
    assert (data.modalities, data.regions) == (("T2", "ADC"), ("PZ", "TZ"))
    sites = read_federation(federation)
    assert [site.release for site in sites] == ["msd", "msd"]
    names = [[case.name for case in site_cases(site, CONFIG)] for site in sites]
    assert [len(own) for own in names] == [3, 3]
    assert not set(names[0]) & set(names[1])


def test_zones_lie_side_by_side_in_a_gland_of_a_mans_size_and_look_as_their_tissues(federation: Path) -> None:
    for site in read_federation(federation):
        for case in site_cases(site, CONFIG):
            prepared = prepare_case(case, CONFIG.data.grid, CONFIG.data.spacing_mm)
            pz, tz = prepared.truth.astype(bool)
            assert not (pz & tz).any()
            assert 15 < float((pz | tz).sum()) * 8.0**3 / 1000 < 120  # millilitres
            t2, adc = np.moveaxis(np.asarray(nib.load(case.images[0]).dataobj), -1, 0)
            assert adc[pz].mean() > adc[tz].mean()
            assert t2[pz].mean() > t2[tz].mean()
            assert (t2 > 0).all(), "no scanner gives a patient's surroundings exactly 0"


def test_the_same_seed_draws_the_same_men(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_prostate_hospital(tmp_path / name, 4, 1, 8.0, seed)
    a, b, c = (nib.load(tmp_path / n / "imagesTr" / "prostate_4000.nii.gz").get_fdata() for n in "abc")
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)


def test_without_its_channels_a_federation_of_declared_datasets_is_refused(federation: Path, tmp_path: Path) -> None:
    text = federation.read_text()
    for field in ("modalities", "regions"):
        file = tmp_path / f"no-{field}.toml"
        lines = [line for line in text.splitlines() if not line.startswith(field)]
        file.write_text("\n".join(lines).replace('path = "', f'path = "{federation.parent}/'))
        with pytest.raises(ConfigError, match=rf"{field}: is missing: list above the first .*such as {field} = \["):
            read_federation(file)


def test_brains_are_the_hospitals_of_simulate_and_numbers_begin_at_1(tmp_path: Path) -> None:
    run = CliRunner().invoke
    done = run(phantoms.app, [str(tmp_path), "--profile", "smoke", "--first", "3", "--sites", "1", "--seed", "2"])
    assert done.exit_code == 0, done.output
    (site,) = read_federation(tmp_path / "phantom-brains.toml")
    assert (site.name, site.release) == ("site-3", "brats2023-gli")
    assert layers_of_file(tmp_path / "phantom-brains.toml").settings().data == make_settings().data
    assert Settings(sites=(site,)).data.modalities == ("t1", "t1ce", "t2", "flair")
    assert "--first, --sites: must be at least 1" in run(phantoms.app, [str(tmp_path), "--first", "0"]).output
