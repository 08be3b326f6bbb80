"""Make everything that a federation of real hospitals needs, and say by which commands it starts."""

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
from fedserdiff.text import readable

COMMANDS_FILE = "COMMANDS.txt"
"""Beside the folders: the commands, for people."""

_NO_DATA_YET = "/path/to/your/scans"
_CONNECTION = "federation"  # what Flower's command line calls the way to the SuperLink


def provision(out: Path, config: Settings, address: str, data: Mapping[str, str]) -> Coordinator:
    """Write the coordinator's folder, one for every hospital, and the authority that vouches for the coordinator.

    What a site's `Site` tells of its data goes into that hospital's ``site.toml`` and nowhere else. Where anything
    fails, nothing stays behind.

    Parameters
    ----------
    out : Path
        New or empty.
    config : Settings
        Its sites are the hospitals.
    address : str
        ``host:port`` at which hospitals reach the coordinator.
    data : mapping of str to str
        Where a hospital's scans are, on the hospital's own machine, by the site's name. Other sites' are at their
        `Site.path` or, where that is empty, for the hospital to fill in.

    Returns
    -------
    Coordinator
        What was written for the coordinator.

    Raises
    ------
    ConfigError
        If `out` holds something, the address is none, the experiment cannot run between real hospitals, or its
        coarse network cannot be used.
    OSError
        If the disk refuses.
    """
    host, _ = split_address(address, "coordinator")
    shared = deployable(config)
    if config.network.coarse != UNET or config.network.coarse_arguments:
        from fedserdiff.networks.coarse import check_coarse  # with torch, for which nothing else here waits

        check_coarse(config)
    for name in data:
        if name not in (site.name for site in config.sites):
            raise ConfigError(f"data: {name!r} is no site of the experiment")
    for site in config.sites:
        where = data.get(site.name) or site.path
        if readable(where) != where:
            raise ConfigError(
                f"site {site.name}: path: {where}: {SITE_FILE} is UTF-8 and cannot hold this name: rename the folder"
            )
    out = out.resolve()
    if '"' in str(out) or not str(out).isprintable():  # Flower's --run-config could not name it
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
    """Return the commands that start the federation, at the coordinator and at each hospital, with what to know."""
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
    run_config = shlex.quote(f"federation={_toml_string(str(folder))}")
    lines = [
        "# At the coordinator, in the project's checkout; the exports in every shell:",
        *(f"export {name}={shlex.quote(value)}" for name, value in flower.items()),
        f'export no_proxy="{host},localhost,127.0.0.1,::1${{no_proxy:+,$no_proxy}}"  # none on the way to this machine',
        'export NO_PROXY="$no_proxy"',
        "",
        "# 1. Flower's SuperLink; leave it running. Flower asks hospitals for their key, but not whoever starts runs:",
        f"#    let a firewall, or a proxy that passes /v1/fleet/ alone, guard port {port}.",
        " \\\n    ".join(superlink),
        "",
        "# 2. In another shell, once: make the hospitals' keys known.",
        *(f"flwr supernode register {_quoted(folder / 'keys' / f'{name}.pub')} {_CONNECTION}" for name in names),
        "",
        "# 3. When the hospitals are there: start the run.",
        f"flwr run . {_CONNECTION} --stream --run-config {run_config}",
    ]
    for name in names:
        lines += [
            "",
            f"# At {name}: bring {folder.parent / 'sites' / name}",
            f"# there as sites/{name}, by a safe way; write where the scans are as `data` in its {SITE_FILE}; then:",
            f"fedserdiff hospital sites/{name}",
        ]
    return "\n".join(lines) + "\n"


def _write_all(out: Path, config: Settings, shared: Settings, address: str, host: str, data: Mapping[str, str]) -> None:
    authority = make_authority("fedserdiff federation")
    folder = out / "coordinator"
    for private in (out / "authority", folder, out / "sites"):  # Flower's database and files lie in the coordinator's
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
        "# What this hospital alone decides and knows. Keep node.key in this folder secret.",
        f"name = {_toml_string(site.name)}",
        f"release = {_toml_string(site.release)}",
        f"coordinator = {_toml_string(address)}",
        f"data = {_toml_string(data or _NO_DATA_YET)}  # folder of the scans, relative to this file or absolute",
        'cache = "cache"  # prepared cases; safe to delete',
        f"# cpus = {shared.machine.cpus_per_site:g}  # threads of training; another number gives slightly other sums",
        f"# gpus = {shared.machine.gpus_per_site:g}  # 1 trains on this machine's GPU",
    ]
    if others := sorted({name for _, name in foreign(shared.to_dict())}):
        lines += [
            "# The experiment names code that does not come with fedserdiff and would run here, beside the scans.",
            "# Where you have read and trust it, take the # from the next line:",
            f"# allow = [{', '.join(map(_toml_string, others))}]",
        ]
    for field in CASE_FIELDS:
        if names := getattr(site, field):
            lines.append(f"{field} = [{', '.join(map(_toml_string, names))}]")
    lines += ["", "# This hospital may let out less than the experiment allows, which is:", "# [egress]"]
    lines += [f"# {name} = {getattr(shared.privacy, name):g}" for name in EGRESS_LIMITS]
    return "\n".join(lines) + "\n"


def _flower_config(address: str, ca: Path) -> str:
    return (
        f"[superlink]\ndefault = {_toml_string(_CONNECTION)}\n\n"
        f"[superlink.{_CONNECTION}]\n"
        f"address = {_toml_string(address)}\nroot-certificates = {_toml_string(str(ca))}\n"
    )


def _toml_string(text: str) -> str:
    """Return a TOML string: JSON's, but for the one control character that JSON leaves as it is."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))


def _json(values: Mapping[str, Any]) -> bytes:
    return (json.dumps(values, indent=2) + "\n").encode()


def _make_empty(out: Path) -> bool:
    """See that `out` is an empty folder; return whether it had to be made."""
    try:
        made = not out.exists()
        out.mkdir(parents=True, exist_ok=True)
        taken = any(out.iterdir())
    except OSError as error:
        raise ConfigError(f"{out}: cannot be the directory of a federation ({error.strerror})") from None
    if taken:
        raise ConfigError(f"{out}: is not empty: a federation is made in a new directory")
    return made


def _write(file: Path, content: bytes, mode: int = 0o644) -> None:
    """Write a new file that has its mode from its first moment on: nobody else can read a private key meanwhile."""
    with open(file, "xb", opener=lambda path, flags: os.open(path, flags, mode)) as stream:
        stream.write(content)
