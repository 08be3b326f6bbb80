import re
from pathlib import Path

import pytest

from fedserdiff.errors import ConfigError
from fedserdiff.federation import name_mapping_of, phantom_federation, read_federation
from fedserdiff.settings.experiment import Settings, Site
from fedserdiff.settings.sources import make_settings

GOOD = """\
[[site]]
name = "north"
release = "brats2021"
path = "scans/north"

[[site]]
name = "East_2.b"
release = "brats2023-gli"
path = "scans/east"
cases = ["BraTS-GLI-00002-000", "BraTS-GLI-00000-000"]
test_cases = ["BraTS-GLI-00000-000"]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the two directories that `GOOD` names, and not the working directory."""
    for name in ("north", "east"):
        (tmp_path / "scans" / name).mkdir(parents=True)
    return tmp_path


def _write(folder: Path, text: str) -> Path:
    file = folder / "federation.toml"
    file.write_text(text, encoding="utf-8")
    return file


def test_sites_come_in_the_files_order_with_paths_relative_to_it(folder: Path) -> None:
    assert read_federation(_write(folder, GOOD)) == (
        Site("north", "brats2021", str(folder / "scans" / "north")),
        Site(
            "East_2.b",
            "brats2023-gli",
            str(folder / "scans" / "east"),
            ("BraTS-GLI-00002-000", "BraTS-GLI-00000-000"),
            ("BraTS-GLI-00000-000",),
        ),
    )


def test_cases_may_be_held_out_of_all_that_lie_in_the_folder(folder: Path) -> None:
    file = _write(folder, GOOD.replace('cases = ["BraTS-GLI-00002-000", "BraTS-GLI-00000-000"]\n', "", 1))
    assert read_federation(file)[1] == Site(
        "East_2.b", "brats2023-gli", str(folder / "scans" / "east"), (), ("BraTS-GLI-00000-000",)
    )


def test_cases_may_be_named_to_validate_on(folder: Path) -> None:
    file = _write(folder, GOOD + 'validation_cases = ["BraTS-GLI-00002-000"]\n')
    (_, east) = read_federation(file)
    assert (east.test_cases, east.validation_cases) == (("BraTS-GLI-00000-000",), ("BraTS-GLI-00002-000",))
    written = make_settings("smoke", sites=(east,))
    assert Settings.from_dict(written.to_dict()) == written


def test_relative_file_and_absolute_paths_work_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    absolute = (folder / "scans" / "east").as_posix()
    _write(folder, GOOD.replace("scans/east", absolute))
    monkeypatch.chdir(folder / "scans")

    sites = read_federation(Path("../federation.toml"))

    assert [Path(site.path) for site in sites] == [folder / "scans" / "north", folder / "scans" / "east"]


def test_name_mapping_is_relative_to_the_file_and_optional(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder / "scans")
    assert name_mapping_of(_write(folder, GOOD)) is None
    for given in ("tables/m.csv", (folder / "tables" / "m.csv").as_posix()):
        file = _write(folder, f'name_mapping = "{given}"\n{GOOD}')
        assert name_mapping_of(Path("../federation.toml")) == (folder / "tables" / "m.csv").resolve()
        assert [site.name for site in read_federation(file)] == ["north", "East_2.b"]
        assert read_federation(file, paths=False) == read_federation(_write(folder, GOOD), paths=False)


def test_name_mapping_that_is_no_path_is_refused(folder: Path) -> None:
    file = _write(folder, f"name_mapping = []\n{GOOD}")
    with pytest.raises(ConfigError, match=re.escape(f"{file}: name_mapping: [] is not a filled str")):
        name_mapping_of(file)


# What is changed in the good file, and what the error says after the file's name.
@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ('"north"\n', '"north\n', "not valid TOML: .*line 2"),
        ('"brats2021"', '"brats21"', "site 1: release: unknown release 'brats21': did you mean brats2021"),
        ('"East_2.b"', '"north"', "site 2: name: 'north' is taken by an earlier site"),
        ('path = "scans/east"\n', "", "site 2: path: is missing"),
        ('name = "north"\n', "", "site 1: name: is missing"),
        ('release = "brats2021"\n', "", "site 1: release: is missing"),
        ("scans/east", "scans/west", "site 2: path: .*west is not a directory"),
        ("scans/east", "federation.toml", "site 2: path: .*federation.toml is not a directory"),
        ("cases =", "case =", "site 2: case: unknown field: choose from name, release, path, cases"),
        ('"north"\n', "3\n", "site 1: name: 3 is not a filled str"),
        ('"north"\n', '""\n', "site 1: name: '' is not a filled str"),
        ('"scans/north"', '["scans/north"]', r"site 1: path: \['scans/north'\] is not a filled str"),
        ('["BraTS-GLI-00002-000", "BraTS-GLI-00000-000"]', '"BraTS-GLI-00002-000"', "site 2: cases: .* a filled list"),
        ('["BraTS-GLI-00002-000", "BraTS-GLI-00000-000"]', "[]", r"site 2: cases: \[\] is not a filled list"),
        ('["BraTS-GLI-00002-000", ', "[2, ", "site 2: cases: every case name must be a string"),
        ('["BraTS-GLI-00000-000"]', "[0]", "site 2: test_cases: every case name must be a string"),
        ('["BraTS-GLI-00000-000"]', "[]", r"site 2: test_cases: \[\] is not a filled list"),
        ('["BraTS-GLI-00000-000"]', '"BraTS-GLI-00000-000"', "site 2: test_cases: .* is not a filled list"),
        (
            '["BraTS-GLI-00000-000"]',
            '["BraTS-GLI-00002-000", "BraTS-GLI-00001-000"]',
            "site 2: test_cases: 'BraTS-GLI-00001-000' is not one of the site's cases$",
        ),
        (
            "test_cases =",
            "test-cases =",
            "site 2: test-cases: unknown field: choose from .*, cases, test_cases, validation_cases$",
        ),
        (
            "test_cases =",
            'validation_cases = ["BraTS-GLI-00001-000"]\ntest_cases =',
            "site 2: validation_cases: 'BraTS-GLI-00001-000' is not one of the site's cases$",
        ),
        (
            "test_cases =",
            'validation_cases = ["BraTS-GLI-00000-000"]\ntest_cases =',
            "site 2: validation_cases: 'BraTS-GLI-00000-000' is also one of the test_cases$",
        ),
        ("test_cases =", "validation_cases = [1]\ntest_cases =", "site 2: validation_cases: every case name must be a"),
        ('"north"\n', '"north/../../x"\n', "site 1: name: 'north/../../x' may hold letters, digits"),
        ('"north"\n', '"nörd"\n', "site 1: name: 'nörd' may hold letters, digits"),
        ('"north"\n', '"north pole"\n', "site 1: name: 'north pole' may hold letters, digits"),
        ('"north"\n', '".."\n', "site 1: name: '..' is not a name for a folder"),
        (
            "[[site]]\nname",
            "rounds = 2\n[[site]]\nname",
            "unknown entry rounds: choose from name_mapping, modalities, regions, profile, .*site",
        ),
        ("[[site]]\nname", "name_mapping = 3\n[[site]]\nname", "name_mapping: 3 is not a filled str"),
        ("[[site]]\nname", 'name_mapping = ""\n[[site]]\nname', "name_mapping: '' is not a filled str"),
        (
            'path = "scans/north"\n',
            'path = "scans/north"\nname_mapping = "m.csv"\n',
            r"site 1: name_mapping: applies to all sites: write it above the first \[\[site\]\]",
        ),
    ],
)
def test_mistake_is_refused_naming_file_site_and_field(folder: Path, old: str, new: str, complaint: str) -> None:
    assert old in GOOD
    file = _write(folder, GOOD.replace(old, new, 1))
    with pytest.raises(ConfigError, match=f"^{re.escape(str(file))}: {complaint}"):
        read_federation(file)


@pytest.mark.parametrize("text", ["seed = 1", "site = []", '[site]\nname = "north"', 'site = "north"'])
def test_file_without_sites_is_refused(folder: Path, text: str) -> None:
    file = _write(folder, text)
    with pytest.raises(ConfigError, match=re.escape(f"{file}: no [[site]]: name at least one hospital")):
        read_federation(file)


def test_site_that_is_no_table_is_refused(folder: Path) -> None:
    file = _write(folder, 'site = ["north"]')
    with pytest.raises(ConfigError, match=re.escape(f"{file}: site 1: write it as a [[site]] table")):
        read_federation(file)


def test_file_that_cannot_be_read_is_refused(folder: Path) -> None:
    for path, reason in ((folder / "gone.toml", "No such file"), (folder, "Is a directory")):
        with pytest.raises(ConfigError, match=f"{re.escape(str(path))}: cannot be read .{reason}"):
            read_federation(path)


def test_file_that_is_no_text_is_refused(folder: Path) -> None:
    file = folder / "federation.toml"
    file.write_bytes(b"\x80\x81[")
    with pytest.raises(ConfigError, match=re.escape(f"{file}: line 1: not text in UTF-8")):
        read_federation(file)


def test_phantom_federation_writes_its_sites_in_order_of_arrival(tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    config = make_settings("smoke", {"data.phantom_patients": 2})

    sites = phantom_federation(3, config, tmp_path, lambda *step: seen.append(step))

    assert [(site.name, site.release) for site in sites] == [
        ("site-1", "brats2020"),
        ("site-2", "brats2021"),
        ("site-3", "brats2023-gli"),
    ]
    assert all(Path(site.path).is_absolute() and Path(site.path).parent == tmp_path for site in sites)
    assert seen == [(f"site-{n}", done, of) for n, of in ((1, 3), (2, 2), (3, 2)) for done in range(of + 1)]


def test_seed_spacing_and_size_of_phantoms_are_the_configurations(tmp_path: Path) -> None:
    config = make_settings("smoke", {"data.phantom_patients": 2})
    changed = [
        config,
        config.replace(seed=1),
        config.replace({"data.spacing_mm": 9.0}),
        config.replace({"data.phantom_patients": 4}),
        config.replace({"data.phantom_stream": "contrast"}),
    ]
    paths = {phantom_federation(1, c, tmp_path)[0].path for c in [*changed, *changed]}
    assert len(paths) == 5


def test_hospitals_of_the_stream_patients_have_many_patients_or_few(tmp_path: Path) -> None:
    config = make_settings("smoke", {"data.phantom_stream": "patients", "data.phantom_patients": 8})
    sites = phantom_federation(2, config, tmp_path)
    assert [len(list(Path(site.path).iterdir())) for site in sites] == [12, 4]


def test_phantom_federation_of_nobody_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="sites: 0 is less than 1"):
        phantom_federation(0, make_settings("smoke"), tmp_path)
