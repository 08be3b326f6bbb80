"""Provisioned files, who can read them, and whether Flower accepts the commands."""

import os
import shlex
import subprocess
import tomllib
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_ssh_private_key
from flwr.cli.flower_config import read_superlink_connection
from flwr.common.config import parse_config_args
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.superlink.cli.flower_superlink import _parse_args_run_superlink

from fedserdiff.deployment.kit import Coordinator, HospitalKit
from fedserdiff.deployment.provisioning import commands, provision
from fedserdiff.errors import ConfigError
from fedserdiff.federation import read_federation
from fedserdiff.settings.experiment import Settings, Site
from fedserdiff.settings.sources import make_settings

ADDRESS = "federation.example.org:8443"


def files(folder: Path) -> dict[str, Path]:
    return {str(file.relative_to(folder)): file for file in folder.rglob("*") if file.is_file()}


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def words(text: str, first: str) -> list[list[str]]:
    """Return the commands of `text` that begin with `first`, as a shell would split them."""
    lines = text.replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines if line.startswith(first + " ")]


def test_everyone_gets_what_is_theirs_and_no_more(kits: Path) -> None:
    of_a_site = {"site.toml", "experiment.json", "ca.crt", "node.key", "node.pub"}
    assert set(files(kits)) == {
        "COMMANDS.txt",
        "authority/ca.key",
        "coordinator/federation.json",
        "coordinator/ca.crt",
        "coordinator/server.crt",
        "coordinator/server.key",
        "coordinator/keys/north.pub",
        "coordinator/keys/east.pub",
        "coordinator/flower/config.toml",
        *(f"sites/{name}/{file}" for name in ("north", "east") for file in of_a_site),
    }


def test_keys_and_certificates_in_the_folders_belong_together(kits: Path, coordinator: Coordinator) -> None:
    for name, known in coordinator.keys.items():
        private = load_ssh_private_key((kits / "sites" / name / "node.key").read_bytes(), None)
        assert isinstance(private, ec.EllipticCurvePrivateKey)
        assert public_key_to_bytes(private.public_key()) == known
        public = (kits / "coordinator" / "keys" / f"{name}.pub").read_bytes()
        assert public == (kits / "sites" / name / "node.pub").read_bytes()
    for key, certificate in (("authority/ca.key", "ca.crt"), ("coordinator/server.key", "server.crt")):
        pair = load_pem_private_key((kits / key).read_bytes(), None)
        held = x509.load_pem_x509_certificate((kits / "coordinator" / certificate).read_bytes())
        assert held.public_key() == pair.public_key()
    names = held.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "federation.example.org" in names.get_values_for_type(x509.DNSName)


def test_only_their_owner_reads_private_files_whatever_the_umask(tmp_path: Path, experiment: Settings) -> None:
    before = os.umask(0)
    try:
        provision(tmp_path / "kits", experiment, ADDRESS, {})
    finally:
        os.umask(before)
    found = files(tmp_path / "kits")
    private = [name for name in found if name.endswith(".key")]
    assert len(private) == 4
    assert {mode(found[name]) for name in private} == {0o600}
    assert not any(mode(file) & 0o022 for file in found.values())
    folders = ("authority", "coordinator", "sites/north", "sites/east")
    assert {mode(tmp_path / "kits" / folder) for folder in folders} == {0o700}


def test_nobody_but_a_hospital_learns_where_its_scans_are_and_what_they_are_called(kits: Path) -> None:
    secrets = {"north": (b"scans-of-north", b"BraTS2021_0000"), "east": (b"scans-of-east",)}
    for owner, words_of_it in secrets.items():
        for name, file in files(kits).items():
            for secret in words_of_it:
                assert (secret in file.read_bytes()) == (name == f"sites/{owner}/site.toml"), (name, secret)


def test_hospital_without_a_known_path_is_asked_for_it(tmp_path: Path) -> None:
    provision(tmp_path / "kits", make_settings("smoke", sites=(Site("west", "brats2020", ""),)), ADDRESS, {})
    file = tmp_path / "kits" / "sites" / "west" / "site.toml"
    assert tomllib.loads(file.read_text())["data"] == "/path/to/your/scans"
    with pytest.raises(ConfigError, match="data: /path/to/your/scans is not a directory: set data to"):
        HospitalKit.load(file)


def test_what_site_files_say_is_read_as_it_was_meant(tmp_path: Path) -> None:
    odd = tmp_path / 'a "quoted" \\ path # with\ttabs, \x7f and ünïcödé 🧠'
    odd.mkdir()
    site = Site("west", "brats2020", "not this", ('case "1"', "case\n2"))
    provision(tmp_path / "kits", make_settings("smoke", sites=(site,)), ADDRESS, {"west": str(odd)})
    read = HospitalKit.load(tmp_path / "kits" / "sites" / "west").config.sites[0]
    assert read == Site("west", "brats2020", str(odd), ('case "1"', "case\n2"))


def test_limits_shown_to_a_hospital_are_the_experiments_and_can_be_uncommented(kits: Path) -> None:
    file = kits / "sites" / "north" / "site.toml"
    head, _, table = file.read_text().partition("# [egress]")
    file.write_text(head + "[egress]" + table.replace("# ", ""))
    kit, federation = HospitalKit.load(file), Coordinator.load(kits / "coordinator")
    assert tomllib.loads(file.read_text())["egress"] == {
        "max_update_rms": federation.config.privacy.max_update_rms,
        "egress_quota_mb": federation.config.privacy.egress_quota_mb,
    }
    assert kit.config.privacy.max_update_rms == federation.config.privacy.max_update_rms


def test_commands_are_kept_and_name_every_hospital(kits: Path, coordinator: Coordinator) -> None:
    text = commands(coordinator)
    assert (kits / "COMMANDS.txt").read_text() == text
    registered = words(text, "flwr supernode")
    assert [line[2] for line in registered] == ["register", "register"]
    keys = kits / "coordinator" / "keys"
    assert [line[3] for line in registered] == [str(keys / "north.pub"), str(keys / "east.pub")]
    assert words(text, "fedserdiff") == [["fedserdiff", "hospital", f"sites/{name}"] for name in ("north", "east")]
    for told in (f"copy {kits}/sites/north\n", "set `data`", "protect port 8443"):
        assert told in text


@pytest.mark.parametrize("name", ["kits", "kits of Bob's = $HOME \\ ünïcödé; #1"])
def test_flower_takes_the_commands_whatever_the_folder_is_called(
    tmp_path: Path, experiment: Settings, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    made = provision(tmp_path / name, experiment, ADDRESS, {})
    folder, text = tmp_path / name / "coordinator", commands(made)

    (superlink,) = words(text, "flower-superlink")
    arguments = _parse_args_run_superlink().parse_args(superlink[1:])
    assert (arguments.host, arguments.port) == ("0.0.0.0", 8443)
    assert arguments.enable_supernode_auth
    assert not arguments.insecure
    assert not arguments.runtime_dependency_install
    assert arguments.database == str(folder / "superlink.db")
    given = [arguments.ssl_certfile, arguments.ssl_keyfile, arguments.ssl_ca_certfile]
    assert given == [str(folder / file) for file in ("server.crt", "server.key", "ca.crt")]

    exported = dict(line[1].split("=", 1) for line in words(text, "export"))
    assert exported["FLWR_TELEMETRY_ENABLED"] == "0"
    assert exported["FLWR_DISABLE_UPDATE_CHECK"] == "1"
    monkeypatch.setenv("FLWR_HOME", exported["FLWR_HOME"])
    for line in (words(text, "flwr supernode")[0][4], words(text, "flwr run")[0][3], None):
        connection = read_superlink_connection(line)
        assert connection.address == ADDRESS
        assert connection.root_certificates == str(folder / "ca.crt")
        assert not connection.insecure

    run = words(text, "flwr run")[0]
    assert run[:6] == ["flwr", "run", ".", "federation", "--stream", "--run-config"]
    assert parse_config_args([run[6]]) == {"federation": str(folder)}


@pytest.mark.parametrize(("before", "after"), [(None, ""), ("intranet.example", ",intranet.example")])
def test_no_proxy_is_asked_on_the_way_to_the_coordinators_own_machine(
    coordinator: Coordinator, before: str | None, after: str
) -> None:
    """A shell that runs the exports keeps the earlier values."""
    exports = [line for line in commands(coordinator).splitlines() if line.startswith("export ")]
    done = subprocess.run(
        ["bash", "-c", "\n".join([*exports, 'echo "$no_proxy|$NO_PROXY"'])],
        env={} if before is None else {"no_proxy": before},
        capture_output=True,
        text=True,
        timeout=900,
    )
    expected = f"federation.example.org,localhost,127.0.0.1,::1{after}"
    assert (done.stdout, done.stderr) == (f"{expected}|{expected}\n", "")


def test_server_listens_by_ipv6_where_hospitals_come_by_it(tmp_path: Path, experiment: Settings) -> None:
    made = provision(tmp_path / "kits", experiment, "[2001:db8::7]:8443", {})
    (superlink,) = words(commands(made), "flower-superlink")
    assert superlink[1:5] == ["--host", "::", "--port", "8443"]


def test_directory_that_holds_something_is_left_alone(tmp_path: Path, experiment: Settings) -> None:
    (tmp_path / "kept").write_text("mine")
    with pytest.raises(ConfigError, match="is not empty: choose a new or empty directory"):
        provision(tmp_path, experiment, ADDRESS, {})
    assert list(files(tmp_path)) == ["kept"]
    with pytest.raises(ConfigError, match=r"kept: cannot be created or read \(File exists"):
        provision(tmp_path / "kept", experiment, ADDRESS, {})


@pytest.mark.parametrize("name", ['a "quoted" name', "two\nlines"])
def test_directory_that_flower_could_not_be_told_is_refused(tmp_path: Path, experiment: Settings, name: str) -> None:
    with pytest.raises(ConfigError, match="choose a directory without quotation marks"):
        provision(tmp_path / name, experiment, ADDRESS, {})
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("there", [False, True])
def test_what_fails_midway_leaves_nothing(tmp_path: Path, experiment: Settings, there: bool) -> None:
    out = tmp_path / "kits"
    if there:
        out.mkdir()
    too_long = Site("n" * 300, "brats2020", "")  # no file system takes it as the name of a folder
    with pytest.raises(OSError, match="File name too long"):
        provision(out, experiment.replace(sites=(*experiment.sites, too_long)), ADDRESS, {})
    assert out.exists() == there
    assert not files(tmp_path)


@pytest.mark.parametrize(
    ("changes", "address", "data", "complaint"),
    [
        ({"method": "pooled"}, ADDRESS, {}, "method: pooled breaks privacy: it runs in a simulation only"),
        ({"method": "rehearsal"}, ADDRESS, {}, "method: rehearsal breaks privacy"),
        ({"method": "magic"}, ADDRESS, {}, "method: unknown method 'magic'"),
        ({"sites": ()}, ADDRESS, {}, "sites: name at least one hospital"),
        ({"sites": (Site("a", "brats2020", ""),) * 2}, ADDRESS, {}, "site 2: name: 'a' is taken by an earlier site"),
        ({"sites": (Site("../a", "brats2020", ""),)}, ADDRESS, {}, "site 1: name: '../a' may hold letters, digits"),
        ({"sites": (Site("a", "brats1999", ""),)}, ADDRESS, {}, "site 1: release: unknown release 'brats1999'"),
        ({}, "federation.example.org", {}, "coordinator: 'federation.example.org' is not host:port"),
        ({}, ADDRESS, {"south": "/scans"}, "data: 'south' is not a site of the experiment"),
    ],
)
def test_what_cannot_be_deployed_is_refused_before_anything_is_written(
    tmp_path: Path,
    experiment: Settings,
    changes: dict[str, object],
    address: str,
    data: dict[str, str],
    complaint: str,
) -> None:
    with pytest.raises(ConfigError, match=f"^{complaint}"):
        provision(tmp_path / "kits", experiment.replace(changes), address, data)
    assert not any(tmp_path.iterdir())


def test_federation_file_may_leave_scans_where_they_are(tmp_path: Path) -> None:
    file = tmp_path / "federation.toml"
    file.write_text(
        '[[site]]\nname = "a"\nrelease = "brats2020"\n\n'
        '[[site]]\nname = "b"\nrelease = "brats2021"\npath = "../elsewhere"\ncases = ["x", "y"]\ntest_cases = ["y"]\n\n'
        '[[site]]\nname = "c"\nrelease = "brats2020"\npath = "/data/of/c"\n'
    )
    assert read_federation(file, paths=False) == (
        Site("a", "brats2020", ""),
        Site("b", "brats2021", str(tmp_path.parent / "elsewhere"), ("x", "y"), ("y",)),
        Site("c", "brats2020", "/data/of/c"),
    )
    with pytest.raises(ConfigError, match="site 1: path: is missing"):
        read_federation(file)
    file.write_text('[[site]]\nrelease = "brats2020"\n')
    with pytest.raises(ConfigError, match="site 1: name: is missing"):
        read_federation(file, paths=False)
