import re

import pytest

from fedserdiff.deployment.address import is_loopback, proxy_to, split_address
from fedserdiff.errors import ConfigError


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [
        ("federation.example.org:8443", "federation.example.org", 8443),
        ("coordinator:1", "coordinator", 1),
        ("1st-host.example:65535", "1st-host.example", 65535),
        ("192.0.2.7:443", "192.0.2.7", 443),
        ("[2001:db8::7]:443", "2001:db8::7", 443),
    ],
)
def test_address_is_split_into_host_and_port(address: str, host: str, port: int) -> None:
    assert split_address(address, "here") == (host, port)


@pytest.mark.parametrize(
    "address",
    [
        "", ":8443", "host", "host:", "host:0", "host:65536", "host:-1", "host:8443x", "host:٣", "host :8443",
        "https://host:8443", "host/path:8443", "-host:8443", "host-:8443", "a..b:8443", "a.:8443", "ho_st:8443",
        "höst:8443", "2001:db8::7:443", "[host]:443", "[192.0.2.7]:443", "[2001:db8::7:443", "[fe80::1%eth0]:443",
        "192.0.2.300:443", "1.2.3:443", f"{'a' * 64}:443", f"{'a.' * 127}ab:443", "0.0.0.0:443", "[::]:443",
        "host:84\n",
    ],
)  # fmt: skip
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match=f"^here: {re.escape(repr(address))} is "):
        split_address(address, "here")


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", True), ("LOCALHOST", True), ("127.0.0.1", True), ("127.8.8.8", True), ("::1", True),
        ("localhost.example.org", False), ("192.0.2.7", False), ("2001:db8::7", False),
    ],
)  # fmt: skip
def test_what_needs_no_network_is_this_machine(host: str, expected: bool) -> None:
    assert is_loopback(host) == expected


@pytest.mark.parametrize(
    ("variables", "host", "expected"),
    [
        ({}, "a.example", None),
        ({"https_proxy": "http://proxy:3128"}, "a.example", "http://proxy:3128"),
        ({"HTTPS_PROXY": "proxy:3128"}, "192.0.2.7", "proxy:3128"),
        ({"all_proxy": "socks5://proxy:1080"}, "a.example", "socks5://proxy:1080"),
        ({"http_proxy": "http://proxy:3128"}, "a.example", None),  # the coordinator is called by HTTPS
        ({"https_proxy": "http://me:secret@proxy:3128"}, "a.example", "http://proxy:3128"),
        ({"https_proxy": "http://proxy:3128", "no_proxy": "b.example,.example"}, "a.example", None),
        ({"https_proxy": "http://proxy:3128", "no_proxy": "*"}, "a.example", None),
        ({"https_proxy": "http://proxy:3128"}, "localhost", None),
    ],
)
def test_the_proxy_on_the_way_is_known_without_its_password(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], host: str, expected: str | None
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert proxy_to(host) == expected
