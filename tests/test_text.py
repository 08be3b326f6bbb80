"""Text files are read in every form in which editors save UTF-8; errors name other encodings and say what to do."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

from fedserdiff.data.decathlon import read_dataset
from fedserdiff.data.name_mapping import read_name_mapping
from fedserdiff.data.site_cases import site_cases
from fedserdiff.deployment.kit import Coordinator, HospitalKit
from fedserdiff.deployment.provisioning import provision
from fedserdiff.errors import ConfigError, FedSerDiffError
from fedserdiff.federation import read_federation
from fedserdiff.launch import Resources, simulate
from fedserdiff.report.trackers import check_tracker
from fedserdiff.seeding import generator
from fedserdiff.settings.experiment import Site
from fedserdiff.settings.sources import make_settings
from fedserdiff.text import first_few

FEDERATION = '# Fédération\n[[site]]\nname = "north"\nrelease = "brats2021"\npath = "."\n'
DATASET = {"modality": {"0": "T2"}, "labels": {"0": "background", "1": "PZ"}, "name": "Prostate d’été"}
BAD_NAME = os.fsdecode(b"Patient_M\xfcller")
"""As a Windows share mounted without an encoding shows it."""

READERS: dict[str, tuple[str, str, Callable[[Path], object]]] = {
    "federation file": ("federation.toml", FEDERATION, read_federation),
    "name mapping": ("names.csv", "BraTS2021_00001,BraTS20_Training_001,é\n", read_name_mapping),
    "dataset.json": ("dataset.json", json.dumps(DATASET, ensure_ascii=False), lambda file: read_dataset(file.parent)),
    "site.toml": ("site.toml", "# é\n", HospitalKit.load),
    "federation.json": ("federation.json", '{"é": 1}', lambda file: Coordinator.load(file.parent)),
}
"""Every kind of text file that people write or edit: its name, a content with a letter beyond ASCII, its reader."""


def outcome(read: Callable[[Path], object], file: Path) -> object:
    """What a reader returns, or says."""
    try:
        return read(file)
    except FedSerDiffError as error:
        return str(error)


@pytest.mark.parametrize("kind", READERS)
def test_a_byte_order_mark_makes_no_difference(tmp_path: Path, kind: str) -> None:
    name, text, read = READERS[kind]
    found = []
    for encoding in ("utf-8", "utf-8-sig"):
        (tmp_path / name).write_text(text, encoding=encoding)
        found.append(outcome(read, tmp_path / name))
    assert found[0] == found[1]
    assert "not valid" not in str(found[0])


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize(
    ("encoding", "said"),
    [
        ("utf-16", "is text in UTF-16: save it as text in UTF-8"),
        ("utf-16-le", "holds null characters: it is text in UTF-16, or not text: save it as text in UTF-8"),
        ("utf-32", "is text in UTF-32: save it as text in UTF-8"),
        ("cp1252", "not text in UTF-8 (byte 0xe9): save it as text in UTF-8"),
    ],
)
def test_another_encoding_is_named_with_what_to_do(tmp_path: Path, kind: str, encoding: str, said: str) -> None:
    name, text, read = READERS[kind]
    file = tmp_path / name
    file.write_text(text.replace("’", "'"), encoding=encoding)
    with pytest.raises(ConfigError) as error:
        read(file)
    assert str(error.value).startswith(f"{file}: ")
    assert said in str(error.value)


def test_the_line_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    file = tmp_path / "federation.toml"
    file.write_bytes(FEDERATION.encode() + b"\n# Universit\xe4t\n")
    with pytest.raises(ConfigError, match=r"line 7: not text in UTF-8 \(byte 0xe4\)"):
        read_federation(file)


def test_cases_of_any_name_are_found_by_a_name_that_can_be_shown_and_written(tmp_path: Path) -> None:
    for folder in ("imagesTr", "labelsTr"):
        (tmp_path / folder).mkdir()
        for name in (BAD_NAME, "plain"):
            (tmp_path / folder / f"{name}.nii.gz").touch()
    (tmp_path / "dataset.json").write_text(json.dumps(DATASET))
    config = make_settings("smoke", {"data.modalities": ("T2",), "data.regions": ("PZ",)})
    cases = site_cases(Site("north", "msd", str(tmp_path)), config)
    assert [case.name for case in cases] == [r"Patient_M\xfcller", "plain"]
    assert cases[0].patient.encode() == rb"Patient_M\xfcller"
    assert os.fsencode(cases[0].seg.name) == os.fsencode(cases[0].images[0].name) == b"Patient_M\xfcller.nii.gz"
    (named,) = site_cases(Site("north", "msd", str(tmp_path), (r"Patient_M\xfcller",)), config)
    assert named == cases[0]


def test_noise_of_a_case_of_any_name_is_its_own() -> None:
    drawn = [generator(0, "evaluation", name).initial_seed() for name in (BAD_NAME, r"Patient_M\xfcller", "Patient_M")]
    assert drawn[0] == drawn[1] != drawn[2]


def test_what_ray_and_trackers_cannot_name_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboard")
    with pytest.raises(
        ConfigError, match="tensorboard cannot write into a folder whose name is not UTF-8; give another --out"
    ):
        check_tracker("tensorboard", tmp_path / BAD_NAME)
    monkeypatch.setattr("sys.argv", ["simulate.py", BAD_NAME])
    with pytest.raises(ConfigError, match="Ray accepts only UTF-8 names") as error:
        simulate(ServerApp(), ClientApp(), 1, Resources(1), tmp_path / "flower.log", 1)
    assert str(error.value).startswith(BAD_NAME)


def test_a_place_that_no_site_toml_can_name_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    site = Site("north", "brats2021", str(tmp_path / BAD_NAME))
    with pytest.raises(ConfigError, match=r"site north: path: .*: not UTF-8, so site\.toml cannot hold it"):
        provision(tmp_path / "out", make_settings("smoke", method="ser-diff", sites=(site,)), "localhost:1", {})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("count", "told"), [(0, ""), (1, "a"), (3, "a, b, c"), (4, "a, b, c and 1 more"), (26, "a, b, c and 23 more")]
)
def test_a_sentence_names_the_first_few_and_counts_the_rest(count: int, told: str) -> None:
    assert first_few("abcdefghijklmnopqrstuvwxyz"[:count], 3) == told
