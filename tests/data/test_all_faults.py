"""One call names every fault in all cases, files and entries, up to a limit."""

import gzip
import json
import shutil
from pathlib import Path

import pytest
from hostile import CHANNELS, GRID, Spec, draw_case, encode
from typer.testing import CliRunner

from fedserdiff.commands import score
from fedserdiff.data.cache import cached_cases
from fedserdiff.data.cases import BadCases, find_cases, find_label_maps
from fedserdiff.data.decathlon import find_decathlon_cases, find_decathlon_label_maps, read_dataset
from fedserdiff.data.releases import RELEASES
from fedserdiff.errors import BadCasesError, ConfigError, DataError
from fedserdiff.federation import read_federation

RELEASE = RELEASES["brats2021"]
VOLUMES = draw_case()
FILES = {channel: gzip.compress(encode(VOLUMES[channel], Spec()), 1) for channel in CHANNELS}


def _name(number: int) -> str:
    return f"BraTS2021_{number:05d}"


def _file(folder: Path, number: int, channel: str) -> Path:
    return folder / _name(number) / f"{_name(number)}_{channel}.nii.gz"


def _write(folder: Path, count: int) -> Path:
    for number in range(count):
        (folder / _name(number)).mkdir(parents=True)
        for channel, content in FILES.items():
            _file(folder, number, channel).write_bytes(content)
    return folder


def _spoil(file: Path) -> None:
    """Change the checksum at the end of a compressed file."""
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(bytes(content))


def _lines(error: BaseException) -> dict[str, str]:
    """Return the reasons that a text tells, by file."""
    return dict(line.split(": ", 1) for line in str(error).splitlines())  # type: ignore[misc]


def test_every_case_that_lacks_a_file_is_named_with_every_file_that_it_lacks(tmp_path: Path) -> None:
    _write(tmp_path, 4)
    _file(tmp_path, 0, "t2").unlink()
    _file(tmp_path, 0, "seg").unlink()
    _file(tmp_path, 2, "flair").unlink()
    _file(tmp_path, 2, "flair").mkdir()
    (tmp_path / _name(9)).symlink_to("gone")

    with pytest.raises(BadCasesError) as caught:
        find_cases(tmp_path, RELEASE)

    assert _lines(caught.value) == {
        str(_file(tmp_path, 0, "t2")): f"modality t2 of case {_name(0)} is missing",
        str(_file(tmp_path, 0, "seg")): f"segmentation of case {_name(0)} is missing",
        str(_file(tmp_path, 2, "flair")): "a directory: a NIfTI file is expected",
        str(tmp_path / _name(9)): "a symbolic link to a missing file",
    }
    bad: BadCases = {}
    assert [case.name for case in find_cases(tmp_path, RELEASE, bad=bad)] == [_name(1), _name(3)]
    assert {name: len(faults) for name, faults in bad.items()} == {_name(0): 2, _name(2): 1, _name(9): 1}


def test_every_case_that_cannot_be_prepared_is_named_and_the_others_are_prepared(tmp_path: Path) -> None:
    scans = _write(tmp_path / "scans", 6)
    _spoil(_file(scans, 1, "t1"))
    _spoil(_file(scans, 1, "seg"))
    truncated = _file(scans, 3, "t2")
    truncated.write_bytes(truncated.read_bytes()[:100])
    _file(scans, 4, "flair").write_bytes(encode(VOLUMES["flair"][:-1], Spec()))
    _file(scans, 5, "t1ce").write_bytes(encode(VOLUMES["t1ce"], Spec(origin=(-80.0, 126.0, -72.0))))
    _file(scans, 5, "seg").write_bytes(encode(VOLUMES["seg"] * 7, Spec()))
    cases = find_cases(scans, RELEASE)

    with pytest.raises(BadCasesError) as caught:
        cached_cases(cases, GRID, 1.0, tmp_path / "cache")

    told = _lines(caught.value)
    expected = {(1, "t1"): "damaged", (1, "seg"): "damaged", (3, "t2"): "damaged", (4, "flair"): "shape (11, 14, 10)"}
    expected |= {(5, "t1ce"): "affine differs", (5, "seg"): "label 7, 14, 28 is not one"}
    assert set(told) == {str(_file(scans, *place)) for place in expected}
    assert all(reason in told[str(_file(scans, *place))] for place, reason in expected.items())
    assert len(list((tmp_path / "cache").iterdir())) == 1, "cases 0 and 2 are of the same content"
    bad: BadCases = {}
    ready = cached_cases(cases, GRID, 1.0, tmp_path / "cache", bad=bad)
    assert [cached.case.name for cached in ready] == [_name(0), _name(2)]
    assert {name: len(faults) for name, faults in bad.items()} == {_name(1): 2, _name(3): 1, _name(4): 1, _name(5): 2}


def test_a_text_names_twenty_and_counts_the_rest(tmp_path: Path) -> None:
    _write(tmp_path, 23)
    for number in range(23):
        _file(tmp_path, number, "t1").unlink()
    with pytest.raises(BadCasesError) as caught:
        find_cases(tmp_path, RELEASE)
    *named, last = str(caught.value).splitlines()
    assert [line.partition(":")[0] for line in named] == [str(_file(tmp_path, number, "t1")) for number in range(20)]
    assert last == "and 3 more, 23 in all"


def test_every_bad_case_of_a_decathlon_dataset_is_named(tmp_path: Path) -> None:
    table = {"channel_names": {"0": "T2", "1": "ADC"}, "labels": {"background": 0, "lesion": 1}}
    (tmp_path / "dataset.json").write_text(json.dumps(table))
    for folder in ("imagesTr", "labelsTr"):
        (tmp_path / folder).mkdir()
    for name in "abc":
        (tmp_path / "labelsTr" / f"{name}.nii.gz").touch()
        for number in range(2):
            (tmp_path / "imagesTr" / f"{name}_{number:04d}.nii.gz").touch()
    (tmp_path / "imagesTr" / "a_0000.nii.gz").unlink()
    (tmp_path / "imagesTr" / "c_0000.nii.gz").unlink()
    (tmp_path / "imagesTr" / "c_0001.nii.gz").unlink()
    for name in "ac":
        (tmp_path / "labelsTr" / f"{name}.nii.gz").unlink()
        (tmp_path / "labelsTr" / f"{name}.nii.gz").mkdir()
    expected = {f"{folder}/{name}.nii.gz" for folder, name in (("labelsTr", "a"), ("labelsTr", "c"))}

    with pytest.raises(DataError) as caught:
        find_decathlon_label_maps(tmp_path / "labelsTr")
    assert {str(Path(file).relative_to(tmp_path)) for file in _lines(caught.value)} == expected
    with pytest.raises(BadCasesError) as caught:
        find_decathlon_cases(tmp_path, read_dataset(tmp_path))
    expected |= {f"imagesTr/{name}.nii.gz" for name in ("a_0000", "c_0000", "c_0001")}
    assert {str(Path(file).relative_to(tmp_path)) for file in _lines(caught.value)} == expected


def test_every_segmentation_that_is_missing_or_there_twice_is_named(tmp_path: Path) -> None:
    _write(tmp_path, 3)
    _file(tmp_path, 0, "seg").unlink()
    _file(tmp_path, 2, "seg").unlink()
    shutil.copy(_file(tmp_path, 1, "seg"), tmp_path / f"{_name(1)}.nii.gz")
    with pytest.raises(DataError) as caught:
        find_label_maps(tmp_path, RELEASE)
    assert [name for name in map(_name, range(3)) if name in str(caught.value)] == list(map(_name, range(3)))
    assert len(caught.value.faults) == 3


def test_every_prediction_that_cannot_be_scored_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    truth, predictions = _write(tmp_path / "truth", 4), tmp_path / "predictions"
    predictions.mkdir()
    for number, values in enumerate((VOLUMES["seg"], VOLUMES["seg"] * 0.7, VOLUMES["seg"][1:], VOLUMES["seg"])):
        (predictions / f"{_name(number)}.nii.gz").write_bytes(encode(values, Spec(dtype="f4")))
    _spoil(_file(truth, 1, "seg"))
    arguments = [str(predictions), str(truth), "--release", "brats2021", "--out", str(tmp_path / "scores.csv")]

    done = CliRunner().invoke(score.app, arguments)

    assert done.exit_code == 1
    assert "Traceback" not in done.output
    for name in (f"{_name(1)}.nii.gz", f"{_name(1)}_seg.nii.gz", f"{_name(2)}.nii.gz"):
        assert done.output.count(f"/{name}: ") == 1, name
    assert not (tmp_path / "scores.csv").exists()


def test_every_mistake_in_a_federation_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "federation.toml"
    (tmp_path / "data").mkdir()
    file.write_text(
        """colour = "red"
[[site]]
name = "north"
release = "brats1999"
path = "data"
[[site]]
name = "west"
relase = "brats2021"
path = ""
[[site]]
name = "east"
release = "brats2021"
path = "nowhere"
[[site]]
name = "south"
release = "brats2021"
path = "data"
[[site]]
name = "south"
release = "brats2021"
path = "data"
"""
    )
    with pytest.raises(ConfigError) as caught:
        read_federation(file)
    expected = [
        "unknown entry colour", "site 1: release: unknown release 'brats1999'", "site 2: release: is missing",
        "site 2: relase: unknown field", "site 2: path: '' is not a filled str", "site 3: path: ",
        "site 5: name: 'south' is taken by an earlier site",
    ]  # fmt: skip
    assert len(caught.value.faults) == len(expected)
    for fault, says in zip(caught.value.faults, expected, strict=True):
        assert fault.startswith(f"{file}: {says}")
