"""Files that a hospital and the coordinator read at every start."""

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedserdiff.deployment.certificates import make_node_key, node_key_bytes
from fedserdiff.deployment.kit import Coordinator, HospitalKit
from fedserdiff.deployment.provisioning import provision
from fedserdiff.errors import ConfigError
from fedserdiff.settings.experiment import Settings, Site

Edit = Callable[[Any], None]


def rewrite(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


def edit_json(file: Path, edit: Edit) -> None:
    values = json.loads(file.read_text())
    edit(values)
    file.write_text(json.dumps(values))


def test_coordinator_reads_what_was_provisioned_and_nothing_about_data(
    kits: Path, coordinator: Coordinator, experiment: Settings
) -> None:
    read = Coordinator.load(kits / "coordinator")
    assert read == coordinator
    assert read.folder == kits / "coordinator"
    assert read.address == "federation.example.org:8443"
    assert read.config == experiment.replace(sites=(Site("north", "brats2021", ""), Site("east", "brats2023-gli", "")))
    assert list(read.keys) == ["north", "east"]
    for name, key in read.keys.items():
        assert key == node_key_bytes((kits / "sites" / name / "node.pub").read_bytes())
    assert read.keys["north"] != read.keys["east"]


def test_hospital_reads_the_experiment_with_its_own_data_alone(
    kits: Path, coordinator: Coordinator, experiment: Settings
) -> None:
    kit = HospitalKit.load(kits / "sites" / "north")
    folder = kits / "sites" / "north"
    named = ("BraTS2021_00007", "BraTS2021_00008", "BraTS2021_00009")
    own = Site("north", "brats2021", str(kits.parent / "scans-of-north"), named, named[1:2], named[2:])
    assert kit.config == experiment.replace(sites=(own, Site("east", "brats2023-gli", "")))
    assert kit.config.fingerprint == coordinator.config.fingerprint
    assert (kit.site, kit.folder, kit.coordinator) == (0, folder, "federation.example.org:8443")
    assert (kit.cache, kit.records) == (folder / "cache", folder / "records")
    assert kit.ca.read_bytes() == (kits / "coordinator" / "ca.crt").read_bytes()
    assert kit.key == folder / "node.key"


def test_folder_works_where_it_was_brought_by_its_file_too(
    kits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.move(kits / "sites" / "east", tmp_path / "brought")
    rewrite(tmp_path / "brought" / "site.toml", 'cache = "cache"', 'cache = "../prepared"')
    monkeypatch.chdir(tmp_path)
    for given in (Path("brought"), Path("brought/site.toml")):
        kit = HospitalKit.load(given)
        assert kit.site == 1
        assert kit.config.sites[1].path == str(tmp_path / "brought" / "scans-of-east")
        assert kit.cache.resolve() == tmp_path / "prepared"
        assert kit.folder == tmp_path / "brought"


def test_cache_lies_in_the_folder_unless_told(kits: Path) -> None:
    file = kits / "sites" / "north" / "site.toml"
    rewrite(file, 'cache = "cache"', "")
    assert HospitalKit.load(file).cache == kits / "sites" / "north" / "cache"


@pytest.mark.parametrize(
    ("table", "rms", "megabytes"),
    [
        ("", 0.1, 1000),
        ("[egress]\n", 0.1, 1000),
        ("[egress]\nmax_update_rms = 0.05\n", 0.05, 1000),
        ("[egress]\negress_quota_mb = 20\n", 0.1, 20),
        ("[egress]\nmax_update_rms = 0.2\negress_quota_mb = 999.5\n", 0.1, 999.5),
        ("[egress]\nmax_update_rms = 1\negress_quota_mb = 1_000_000\n", 0.1, 1000),
    ],
)
def test_hospital_tightens_what_may_leave_it_and_never_widens_it(
    kits: Path, table: str, rms: float, megabytes: float
) -> None:
    file = kits / "sites" / "north" / "site.toml"
    file.write_text(file.read_text() + table)
    config = HospitalKit.load(file).config
    assert (config.privacy.max_update_rms, config.privacy.egress_quota_mb) == (rms, megabytes)
    assert config.fingerprint == Coordinator.load(kits / "coordinator").config.fingerprint


# What is changed in a good site.toml, and what the error says after the file's name.
@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ('name = "north"', 'name = "north', "not valid TOML: .*line 2"),
        ('name = "north"', "", "name: is missing"),
        ('name = "north"', "name = 3", "name: 3 is not a filled str"),
        ('name = "north"', 'name = "south"', "name: 'south' is not a site of the experiment: choose from north, east"),
        ('release = "brats2021"', "", "release: is missing"),
        (
            '"brats2021"',
            '"brats2020"',
            "release: 'brats2020' differs from the experiment's release for this site, 'brats2021'",
        ),
        ("coordinator =", "# coordinator =", "coordinator: is missing"),
        ("federation.example.org:8443", "federation.example.org", "coordinator: 'federation.example.org' is not host:"),
        ("data =", "# data =", "data: is missing"),
        ("scans-of-north", "scans-of-nobody", "data: .*scans-of-nobody is not a directory: set data to"),
        ("data =", "path =", "data: is missing"),
        (
            'cache = "cache"',
            'cash = "cache"',
            "cash: unknown field: choose from name, release, coordinator, data, cache",
        ),
        ('cache = "cache"', "cache = 1", "cache: 1 is not a filled str"),
        ('cache = "cache"', 'egress = "no"', "egress: 'no' is not a filled dict"),
        (
            'cases = ["BraTS2021_00007", "BraTS2021_00008", "BraTS2021_00009"]',
            "cases = [7]",
            "cases: every case name must be a string",
        ),
        ('["BraTS2021_00008"]', '["BraTS2021_00006"]', "test_cases: 'BraTS2021_00006' is not one of the site's cases"),
        (
            '["BraTS2021_00009"]',
            '["BraTS2021_00006"]',
            "validation_cases: 'BraTS2021_00006' is not one of the site's cases",
        ),
        (
            '["BraTS2021_00009"]',
            '["BraTS2021_00008"]',
            "validation_cases: 'BraTS2021_00008' is also one of the test_cases",
        ),
        (
            "# [egress]",
            "[egress]\nquota = 1",
            "egress: quota: unknown field: choose from max_update_rms, egress_quota_mb",
        ),
        ("# [egress]", "[egress]\nmax_update_rms = 0", "egress: max_update_rms: 0 is not a positive number"),
        ("# [egress]", "[egress]\nmax_update_rms = true", "egress: max_update_rms: True is not a positive number"),
        ("# [egress]", '[egress]\nmax_update_rms = "1"', "egress: max_update_rms: '1' is not a positive number"),
        ("# [egress]", "[egress]\negress_quota_mb = -5", "egress: egress_quota_mb: -5 is not a positive number"),
        ("# [egress]", "[egress]\negress_quota_mb = nan", "egress: egress_quota_mb: nan is not a positive number"),
    ],
)
def test_mistake_of_a_hospital_is_refused_naming_file_and_field(kits: Path, old: str, new: str, complaint: str) -> None:
    file = kits / "sites" / "north" / "site.toml"
    rewrite(file, old, new)
    with pytest.raises(ConfigError, match=f"^{re.escape(str(file))}: {complaint}"):
        HospitalKit.load(file)


@pytest.mark.parametrize("name", ["ca.crt", "node.key", "experiment.json", "site.toml"])
def test_folder_that_was_not_brought_whole_is_refused(kits: Path, name: str) -> None:
    folder = kits / "sites" / "north"
    (folder / name).unlink()
    with pytest.raises(
        ConfigError, match=f"{re.escape(str(folder / name))}: (is missing: copy|cannot be read .No such)"
    ):
        HospitalKit.load(folder)


def test_another_sites_path_in_the_experiment_stays_unread(kits: Path) -> None:
    def name_path(values: Any) -> None:
        values["sites"][1].update(path=str(kits), cases=["x"])

    edit_json(kits / "sites" / "north" / "experiment.json", name_path)
    assert HospitalKit.load(kits / "sites" / "north").config.sites[1] == Site("east", "brats2023-gli", "")


# How a good experiment is damaged, and what the error says after file and place.
DAMAGE: list[tuple[Edit, str]] = [
    (lambda e: e["training"].update(rounds=0), "training.rounds: 0 is not a whole number of at least 1"),
    (lambda e: e.update(patience=3), "patience: unknown setting"),
    (lambda e: e.update(method="pooled"), "method: pooled breaks privacy: it runs in a simulation only"),
    (lambda e: e.update(method="magic"), "method: unknown method 'magic'"),
    (lambda e: e.update(method={"ser-diff": 1}), "method.name: is missing; name a method"),
    (lambda e: e["data"].update(grid="large"), "data.grid: 'large' is not a list of 3"),
    (lambda e: e.update(sites=[]), "sites: name at least one hospital"),
    (lambda e: e.update(sites=3), "not as it was provisioned"),
    (lambda e: e["sites"].append("west"), "not as it was provisioned"),
    (lambda e: e["sites"][0].pop("release"), "not as it was provisioned .KeyError: 'release'"),
    (lambda e: e["sites"][0].update(name=7), "not as it was provisioned"),
    (lambda e: e["sites"][0].update(name="../north"), "site 1: name: '../north' may hold letters"),
    (lambda e: e["sites"][1].update(release="brats1999"), "site 2: release: unknown release 'brats1999'"),
    (lambda e: e["sites"][1].update(name="north"), "site 2: name: 'north' is taken by an earlier site"),
]


@pytest.mark.parametrize(("damage", "complaint"), DAMAGE)
def test_damaged_experiment_is_refused_by_hospital_and_coordinator(kits: Path, damage: Edit, complaint: str) -> None:
    file = kits / "sites" / "north" / "experiment.json"
    edit_json(file, damage)
    with pytest.raises(ConfigError, match=f"^{re.escape(str(file))}: {complaint}"):
        HospitalKit.load(file.parent)

    file = kits / "coordinator" / "federation.json"
    edit_json(file, lambda values: damage(values["experiment"]))
    with pytest.raises(ConfigError, match=f"^{re.escape(str(file))}: experiment: {complaint}"):
        Coordinator.load(file.parent)


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda v: v.pop("address"), "address: is missing"),
        (lambda v: v.update(address="nowhere"), "address: 'nowhere' is not host:port"),
        (lambda v: v.update(secret=1), "secret: unknown field: choose from experiment, address, sites"),
        (lambda v: v.update(experiment=3), "experiment: 3 is not a filled dict"),
        (lambda v: v["sites"].append(1), "site 3: 1 is not an object"),
        (lambda v: v["sites"][1].pop("public_key"), "site 2: public_key: is missing"),
        (lambda v: v["sites"][1].update(public_key="ssh"), "site 2: public_key: not a public key in OpenSSH format"),
        (
            lambda v: v["sites"][1].update(public_key=v["sites"][0]["public_key"]),
            "site 2: public_key: an earlier site has the same",
        ),
        (lambda v: v["sites"].pop(), "sites: names, releases or their order differ from the experiment's"),
        (lambda v: v["sites"].reverse(), "sites: names, releases or their order differ from the experiment's"),
        (lambda v: v["sites"][0].update(release="brats2020"), "sites: names, releases or their order differ"),
        (
            lambda v: v["sites"].append({**v["sites"][0], "public_key": make_node_key()[1].decode()}),
            "sites: names, releases or their order differ",
        ),
    ],
)
def test_damaged_federation_is_refused_naming_file_and_field(kits: Path, damage: Edit, complaint: str) -> None:
    file = kits / "coordinator" / "federation.json"
    edit_json(file, damage)
    with pytest.raises(ConfigError, match=f"^{re.escape(str(file))}: {complaint}"):
        Coordinator.load(file.parent)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [(b"{", "not valid JSON"), (b"\xff\xfe", "is text in UTF-16"), (b"[]", "list instead of an object")],
)
def test_file_that_is_no_json_object_is_refused(kits: Path, content: bytes, complaint: str) -> None:
    federation = kits / "coordinator" / "federation.json"
    experiment = kits / "sites" / "north" / "experiment.json"
    for file in (federation, experiment):
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=f"^{re.escape(str(federation))}: {complaint}"):
        Coordinator.load(federation.parent)
    with pytest.raises(ConfigError, match=f"^{re.escape(str(experiment))}: {complaint}"):
        HospitalKit.load(experiment.parent)


MARKED = "marked_where_imported:METHOD"
AS_AN_OBJECT = "fedserdiff.networks.packaged:segresnet"  # whatever is named so counts as others'


@pytest.fixture
def marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module of others that leaves a file where it is imported."""
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "marked_where_imported.py").write_text(
        "from pathlib import Path\nfrom fedserdiff.methods.fine_tune import METHOD\n"
        "Path(__file__).parent.joinpath('ran').touch()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path / "others"))
    monkeypatch.delitem(sys.modules, "marked_where_imported", raising=False)
    return tmp_path / "others" / "ran"


# How an experiment names code of others, and what it is.
FOREIGN: list[tuple[Edit, str, str]] = [
    (lambda e: e.update(method={"name": MARKED}), "method", MARKED),
    (lambda e: e.update(method=MARKED), "method", MARKED),
    (lambda e: e["network"].update(coarse=MARKED), "network", MARKED),
    (lambda e: e["network"].update(coarse=AS_AN_OBJECT), "network", AS_AN_OBJECT),
]


@pytest.mark.parametrize(("name_it", "what", "name"), FOREIGN)
@pytest.mark.parametrize("allow", ["", 'allow = ["another", "another:METHOD"]\n'])
def test_code_of_others_is_refused_unimported_unless_the_hospital_allows_it(
    kits: Path, marked: Path, name_it: Edit, what: str, name: str, allow: str
) -> None:
    folder = kits / "sites" / "north"
    edit_json(folder / "experiment.json", name_it)
    (folder / "site.toml").write_text(allow + (folder / "site.toml").read_text())
    told = f"{folder / 'site.toml'}: allow: the {what} {name}"
    with pytest.raises(ConfigError, match=f"^{re.escape(told)}.* does not come with fedserdiff.*allow = ") as caught:
        HospitalKit.load(folder)
    assert "\n" not in str(caught.value)
    assert not marked.exists()


def test_code_of_others_that_the_hospital_allows_is_taken(kits: Path, marked: Path) -> None:
    folder = kits / "sites" / "north"
    edit_json(folder / "experiment.json", lambda e: e.update(method={"name": MARKED}))
    (folder / "site.toml").write_text(f'allow = ["{MARKED}"]\n' + (folder / "site.toml").read_text())
    assert HospitalKit.load(folder).config.method.name == MARKED
    assert marked.exists()


@pytest.mark.parametrize(
    ("method", "complaint"),
    [
        ([["name", MARKED]], "not as it was provisioned .TypeError: method: "),
        ({"name": [MARKED]}, "method.name: is missing; name a method"),
    ],
)
def test_no_other_way_of_writing_a_name_is_taken(kits: Path, marked: Path, method: Any, complaint: str) -> None:
    folder = kits / "sites" / "north"
    edit_json(folder / "experiment.json", lambda e: e.update(method=method))
    with pytest.raises(ConfigError, match=complaint):
        HospitalKit.load(folder)
    assert not marked.exists()


def test_a_hospital_cannot_allow_what_is_no_name(kits: Path) -> None:
    file = kits / "sites" / "north" / "site.toml"
    file.write_text("allow = [1]\n" + file.read_text())
    with pytest.raises(ConfigError, match="allow: every name of a method, network or release must be a string"):
        HospitalKit.load(file)


def test_a_kit_shows_a_hospital_what_it_would_have_to_allow(tmp_path: Path, experiment: Settings) -> None:
    others = experiment.replace({"network.coarse": AS_AN_OBJECT})
    (tmp_path / "others").mkdir()
    provision(tmp_path / "others", others, "localhost:8443", {"north": str(tmp_path)})
    folder = tmp_path / "others" / "sites" / "north"
    with pytest.raises(ConfigError, match=f"allow: the network {AS_AN_OBJECT} does not come"):
        HospitalKit.load(folder)
    rewrite(folder / "site.toml", "# allow", "allow")
    assert HospitalKit.load(folder).config.network == others.network


def test_a_hospital_may_refuse_statistics_by_its_own_file(kits: Path) -> None:
    folder = kits / "sites" / "north"
    assert HospitalKit.load(folder).config.privacy.statistics
    rewrite(folder / "site.toml", "# statistics = false", "statistics = false")
    refusing = HospitalKit.load(folder).config
    assert not refusing.privacy.statistics
    assert refusing.fingerprint == Coordinator.load(kits / "coordinator").config.fingerprint
    rewrite(folder / "site.toml", "statistics = false", 'statistics = "no"')
    with pytest.raises(ConfigError, match=r"statistics: 'no' is not a filled bool"):
        HospitalKit.load(folder)
