"""The coordinator's address, ``host:port``, and the proxy on the way to it, if any."""

import re
from ipaddress import ip_address
from types import MappingProxyType
from urllib.request import getproxies, proxy_bypass

from fedserdiff.errors import ConfigError

_LABEL = "(?!-)[A-Za-z0-9-]{1,63}(?<!-)"
_NAME = re.compile(rf"(?=.{{1,253}}$)(?:{_LABEL}\.)*(?![0-9]+$){_LABEL}")  # the last label is not a number
_PORT = re.compile("[0-9]{1,5}")

NO_PROXY = MappingProxyType({"no_proxy": "*", "NO_PROXY": "*"})
"""Environment of a process that talks only to its own machine: it neither uses nor reads proxy settings."""


def split_address(address: str, where: str) -> tuple[str, int]:
    """Return the host and port of ``host:port``; an IPv6 address is returned without its brackets.

    Raises
    ------
    ConfigError
        If the host is neither a DNS name nor a reachable IP address, or the port is not in 1..65535. The message begins
        with `where`.
    """
    written, _, digits = address.rpartition(":")
    bracketed = written.startswith("[") and written.endswith("]")
    host = written[1:-1] if bracketed else written
    port = int(digits) if _PORT.fullmatch(digits) else 0
    try:
        ip = ip_address(host)
    except ValueError:
        ip = None
    sound = (ip.version == 6) == bracketed if ip else not bracketed and _NAME.fullmatch(host)
    if not sound or "%" in host or not 1 <= port <= 65535:  # a zone after % is valid only on one machine
        raise ConfigError(
            f"{where}: {address!r} is not host:port: write a DNS name or an IP address (IPv6 in brackets) and a port "
            "from 1 to 65535, such as federation.example.org:8000"
        )
    if ip and ip.is_unspecified:
        raise ConfigError(f"{where}: {address!r} is a listening address: write the one at which hospitals reach it")
    return host, port


def is_loopback(host: str) -> bool:
    """Return whether a host, as `split_address` returns it, is a loopback name or address."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def proxy_to(host: str) -> str | None:
    """Return the proxy that this process's environment sets for HTTPS to a host; None for a direct connection.

    The user name and password in the proxy's address are removed.
    """
    named = getproxies()
    proxy = named.get("https") or named.get("all")
    if not proxy or is_loopback(host) or proxy_bypass(host):
        return None
    scheme, separator, rest = proxy.rpartition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"
