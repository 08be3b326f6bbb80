"""Where hospitals reach the coordinator: ``host:port``; and whether a proxy is on the way."""

import re
from ipaddress import ip_address
from types import MappingProxyType
from urllib.request import getproxies, proxy_bypass

from fedserdiff.errors import ConfigError

_LABEL = "(?!-)[A-Za-z0-9-]{1,63}(?<!-)"
_NAME = re.compile(rf"(?=.{{1,253}}$)(?:{_LABEL}\.)*(?![0-9]+$){_LABEL}")  # one that ends in a number is no name
_PORT = re.compile("[0-9]{1,5}")

NO_PROXY = MappingProxyType({"no_proxy": "*", "NO_PROXY": "*"})
"""In the environment of a process that talks to its own machine alone: no proxy is asked, and none is even read."""


def split_address(address: str, where: str) -> tuple[str, int]:
    """Return the host, an IPv6 address without its brackets, and the port of ``host:port``.

    Raises
    ------
    ConfigError
        Beginning with `where`, if the host is neither a DNS name nor an IP address that can be reached, or the port is
        not in 1..65535.
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
    if not sound or "%" in host or not 1 <= port <= 65535:  # a zone after % means something on one machine only
        raise ConfigError(
            f"{where}: {address!r} is not host:port: write a DNS name or an IP address (IPv6 in brackets) and a port "
            "from 1 to 65535, such as federation.example.org:8000"
        )
    if ip and ip.is_unspecified:
        raise ConfigError(f"{where}: {address!r} is where a server listens: write the address that hospitals reach")
    return host, port


def is_loopback(host: str) -> bool:
    """Say whether a host, as `split_address` returns it, is this machine by a name or number that needs no network."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def proxy_to(host: str) -> str | None:
    """Return the proxy by which this process's environment has HTTPS go to a host; None where it goes straight.

    Whatever name and password are in the proxy's address are left out.
    """
    named = getproxies()
    proxy = named.get("https") or named.get("all")
    if not proxy or is_loopback(host) or proxy_bypass(host):
        return None
    scheme, separator, rest = proxy.rpartition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"
