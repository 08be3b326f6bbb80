"""Creation of all files that a federation of real hospitals needs, and of the commands that start it."""

import json
import os
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedserdiff.deployment.address import split_address
from fedserdiff.deployment.certificates import make_authority, make_node_key, make_server_certificate
from fedserdiff.deployment.kit import (
    CA_FILE,
    EGRESS_LIMITS,
    EXPERIMENT_FILE,
    FEDERATION_FILE,
    NODE_KEY_FILE,
    SITE_FILE,
    Coordinator,
    deployable,
)
from fedserdiff.errors import ConfigError
from fedserdiff.networks import UNET
from fedserdiff.settings.experiment import CASE_FIELDS, Settings, Site
from fedserdiff.settings.foreign import foreign
from fedserdiff.settings.sources import as_toml
from fedserdiff.text import readable

COMMANDS_FILE = "COMMANDS.txt"
"""File beside the folders with the commands, for people."""

_NO_DATA_YET = "/path/to/your/scans"
_CONNECTION = "federation"  # name of the SuperLink connection for Flower's command line


def provision(out: Path, config: Settings, address: str, data: Mapping[str, str]) -> Coordinator:
    """Write the coordinator's folder, one folder for every hospital, and the certificate authority.

    Information about a site's data, from its `Site`, goes only into that hospital's ``site.toml``. If anything fails,
    no files are left behind.

    Parameters
    ----------
    out : Path
        New or empty folder.
    config : Settings
        Experiment whose sites are the hospitals.
    address : str
        Address at which hospitals reach the coordinator, ``host:port``.
    data : mapping of str to str
        Folder of the scans on the hospital's own machine, by site name. For other sites, `Site.path` is used; if that
        is empty, the hospital fills it in.

    Returns
    -------
    Coordinator
        The coordinator's folder, as read back.

    Raises
    ------
    ConfigError
        If `out` is not empty, the address is invalid, the experiment cannot run between real hospitals, or its coarse
        network cannot be used.
    OSError
        If the files cannot be written.
    """
    host, _ = split_address(address, "coordinator")
    shared = deployable(config)
    if config.network.coarse != UNET or config.network.coarse_arguments:
        from fedserdiff.networks.coarse import check_coarse  # imports torch, which nothing else here needs

        check_coarse(config)
    for name in data:
        if name not in (site.name for site in config.sites):
            raise ConfigError(f"data: {name!r} is not a site of the experiment")
    for site in config.sites:
        where = data.get(site.name) or site.path
        if readable(where) != where:
            raise ConfigError(
                f"site {site.name}: path: {where}: not UTF-8, so {SITE_FILE} cannot hold it: rename the folder"
            )
    out = out.resolve()
    if '"' in str(out) or not str(out).isprintable():  # Flower's --run-config cannot express it
        raise ConfigError(f"{out}: choose a directory without quotation marks and control characters in its path")
    made = _make_empty(out)
    try:
        _write_all(out, config, shared, address, host, data)
        coordinator = Coordinator.load(out / "coordinator")
        _write(out / COMMANDS_FILE, commands(coordinator).encode())
    except BaseException:
        for written in out.iterdir():
            if written.is_dir():
                shutil.rmtree(written)
            else:
                written.unlink()
        if made:
            out.rmdir()
        raise
    return coordinator


def commands(coordinator: Coordinator) -> str:
    """Return the commands that start the federation, at the coordinator and each hospital, with explanations."""
    folder = coordinator.folder
    host, port = split_address(coordinator.address, "address")
    flower = {"FLWR_HOME": str(folder / "flower"), "FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
    superlink = [
        f"flower-superlink --host {'::' if ':' in host else '0.0.0.0'} --port {port}",
        f"--ssl-certfile {_quoted(folder / 'server.crt')}",
        f"--ssl-keyfile {_quoted(folder / 'server.key')}",
        f"--ssl-ca-certfile {_quoted(folder / CA_FILE)}",
        "--enable-supernode-auth",
        f"--database {_quoted(folder / 'superlink.db')}",
        "--disable-runtime-dependency-installation",
    ]
    names = [site.name for site in coordinator.config.sites]
    run_config = shlex.quote(f"federation={as_toml(str(folder))}")
    lines = [
        "# At the coordinator, in the project's checkout. Run the exports in every shell:",
        *(f"export {name}={shlex.quote(value)}" for name, value in flower.items()),
        f'export no_proxy="{host},localhost,127.0.0.1,::1${{no_proxy:+,$no_proxy}}"  # no proxy to this machine',
        'export NO_PROXY="$no_proxy"',
        "",
        "# 1. Start Flower's SuperLink and leave it running. Flower authenticates hospitals, but not those who start",
        f"#    runs: protect port {port} with a firewall, or with a proxy that passes only /v1/fleet/.",
        " \\\n    ".join(superlink),
        "",
        "# 2. In another shell, once: register the hospitals' keys.",
        *(f"flwr supernode register {_quoted(folder / 'keys' / f'{name}.pub')} {_CONNECTION}" for name in names),
        "",
        "# 3. When the hospitals are connected: start the run.",
        f"flwr run . {_CONNECTION} --stream --run-config {run_config}",
    ]
    for name in names:
        lines += [
            "",
            f"# At {name}: copy {folder.parent / 'sites' / name}",
            f"# there as sites/{name}, over a secure channel; set `data` in its {SITE_FILE} to the scans' folder; run:",
            f"fedserdiff hospital sites/{name}",
        ]
    return "\n".join(lines) + "\n"


def _write_all(out: Path, config: Settings, shared: Settings, address: str, host: str, data: Mapping[str, str]) -> None:
    authority = make_authority("fedserdiff federation")
    folder = out / "coordinator"
    for private in (out / "authority", folder, out / "sites"):  # the coordinator's holds Flower's database and files
        private.mkdir(0o700)
    for inner in (folder / "keys", folder / "flower"):
        inner.mkdir()
    _write(out / "authority" / "ca.key", authority.key_pem, 0o600)
    certificate, key = make_server_certificate(authority, host)
    _write(folder / CA_FILE, authority.certificate_pem)
    _write(folder / "server.crt", certificate)
    _write(folder / "server.key", key, 0o600)
    _write(folder / "flower" / "config.toml", _flower_config(address, folder / CA_FILE).encode())

    entries = []
    for site in config.sites:
        node_key, public = make_node_key()
        _write(folder / "keys" / f"{site.name}.pub", public + b"\n")
        entries.append({"name": site.name, "release": site.release, "public_key": public.decode()})
        own = out / "sites" / site.name
        own.mkdir(0o700)
        _write(own / SITE_FILE, _site_toml(site, shared, address, data.get(site.name) or site.path).encode())
        _write(own / EXPERIMENT_FILE, _json(shared.to_dict()))
        _write(own / CA_FILE, authority.certificate_pem)
        _write(own / NODE_KEY_FILE, node_key, 0o600)
        _write(own / "node.pub", public + b"\n")
    _write(folder / FEDERATION_FILE, _json({"experiment": shared.to_dict(), "address": address, "sites": entries}))


def _site_toml(site: Site, shared: Settings, address: str, data: str) -> str:
    lines = [
        "# Only this hospital sets and knows these values. Keep node.key in this folder secret.",
        f"name = {as_toml(site.name)}",
        f"release = {as_toml(site.release)}",
        f"coordinator = {as_toml(address)}",
        f"data = {as_toml(data or _NO_DATA_YET)}  # folder of the scans, relative to this file or absolute",
        'cache = "cache"  # prepared cases; safe to delete',
        f"# cpus = {shared.machine.cpus_per_site:g}  # training threads; another number changes results slightly",
        f"# gpus = {shared.machine.gpus_per_site:g}  # 1 trains on this machine's GPU",
    ]
    if others := sorted({name for _, name in foreign(shared.to_dict())}):
        lines += [
            "# The experiment names code that does not come with fedserdiff. It would run here, with access to scans.",
            "# If you have read and trust it, remove the # from the next line:",
            f"# allow = {as_toml(others)}",
        ]
    for field in CASE_FIELDS:
        if names := getattr(site, field):
            lines.append(f"{field} = {as_toml(names)}")
    lines += ["# statistics = false  # do not answer if the coordinator asks for statistics before training"]
    lines += ["", "# This hospital may set lower egress limits than the experiment's, which are:", "# [egress]"]
    lines += [f"# {name} = {getattr(shared.privacy, name):g}" for name in EGRESS_LIMITS]
    return "\n".join(lines) + "\n"


def _flower_config(address: str, ca: Path) -> str:
    return (
        f"[superlink]\ndefault = {as_toml(_CONNECTION)}\n\n"
        f"[superlink.{_CONNECTION}]\n"
        f"address = {as_toml(address)}\nroot-certificates = {as_toml(str(ca))}\n"
    )


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))


def _json(values: Mapping[str, Any]) -> bytes:
    return (json.dumps(values, indent=2) + "\n").encode()


def _make_empty(out: Path) -> bool:
    """Make sure that `out` is an empty folder; return whether it had to be created."""
    try:
        made = not out.exists()
        out.mkdir(parents=True, exist_ok=True)
        taken = any(out.iterdir())
    except OSError as error:
        raise ConfigError(f"{out}: cannot be created or read ({error.strerror})") from None
    if taken:
        raise ConfigError(f"{out}: is not empty: choose a new or empty directory")
    return made


def _write(file: Path, content: bytes, mode: int = 0o644) -> None:
    """Write a new file with its mode set at creation, so that nobody else can read a private key in between."""
    with open(file, "xb", opener=lambda path, flags: os.open(path, flags, mode)) as stream:
        stream.write(content)
