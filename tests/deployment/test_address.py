import re

import pytest

from fedserdiff.deployment.address import split_address
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
