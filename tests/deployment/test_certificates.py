"""Certificates are tested by real TLS handshakes on loopback, keys by Flower's own readers."""

import contextlib
import socket
import ssl
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import ExtendedKeyUsageOID
from flwr.cli.supernode.register import try_load_public_key
from flwr.supercore.primitives.asymmetric import public_key_to_bytes

from fedserdiff.deployment.certificates import (
    Authority,
    make_authority,
    make_node_key,
    make_server_certificate,
    node_key_bytes,
)
from fedserdiff.errors import ConfigError

HOST = "federation.example.org"


@pytest.fixture(scope="module")
def authority() -> Authority:
    return make_authority("test federation")


def shake_hands(folder: Path, certificate: bytes, key: bytes, trusted: Authority, host: str) -> str:
    """Connect to a TLS server on loopback as if it were `host`; return the protocol's version, raise where it fails."""
    for name, pem in (("server.crt", certificate), ("server.key", key)):
        (folder / name).write_bytes(pem)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "server.crt", folder / "server.key")

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):  # a client that hangs up says why on its own side
            server.wrap_socket(connection, server_side=True).close()

    client = ssl.create_default_context(cadata=trusted.certificate_pem.decode())
    client.verify_flags |= ssl.VERIFY_X509_STRICT  # Python's default from 3.13 on
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        try:
            with (
                socket.create_connection(listener.getsockname(), 10) as plain,
                client.wrap_socket(plain, server_hostname=host) as secure,
            ):
                return str(secure.version())
        finally:
            thread.join()


@pytest.mark.parametrize("called", [HOST, "192.0.2.7", "2001:db8::7", "localhost", "127.0.0.1", "::1"])
def test_server_is_trusted_under_its_own_name_and_on_its_own_machine(
    tmp_path: Path, authority: Authority, called: str
) -> None:
    host = HOST if called in ("localhost", "127.0.0.1", "::1") else called
    certificate, key = make_server_certificate(authority, host)
    assert shake_hands(tmp_path, certificate, key, authority, called) == "TLSv1.3"


@pytest.mark.parametrize("other", ["example.org", "www.federation.example.org", "192.0.2.7"])
def test_server_is_not_trusted_under_another_name(tmp_path: Path, authority: Authority, other: str) -> None:
    certificate, key = make_server_certificate(authority, HOST)
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        shake_hands(tmp_path, certificate, key, authority, other)


def test_server_of_another_authority_of_the_same_name_is_not_trusted(tmp_path: Path, authority: Authority) -> None:
    certificate, key = make_server_certificate(make_authority("test federation"), HOST)
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(tmp_path, certificate, key, authority, HOST)


def test_server_cannot_pass_as_an_authority(tmp_path: Path, authority: Authority) -> None:
    certificate, key = make_server_certificate(authority, HOST)
    private = serialization.load_pem_private_key(key, password=None)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    forged, forged_key = make_server_certificate(Authority(private, x509.load_pem_x509_certificate(certificate)), HOST)
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(tmp_path, forged + certificate, forged_key, authority, HOST)


def test_certificates_say_how_long_and_for_what_they_hold(authority: Authority) -> None:
    server = x509.load_pem_x509_certificate(make_server_certificate(authority, HOST)[0])
    now = datetime.now(UTC)
    for certificate, years in ((authority.certificate, 10), (server, 2)):
        assert abs(certificate.not_valid_before_utc - (now - timedelta(days=1))) < timedelta(minutes=5)
        assert abs(certificate.not_valid_after_utc - (now + timedelta(days=365 * years))) < timedelta(minutes=5)
        key = certificate.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        assert isinstance(key.curve, ec.SECP384R1)
    own = authority.certificate.extensions
    basic = own.get_extension_for_class(x509.BasicConstraints)
    assert (basic.critical, basic.value) == (True, x509.BasicConstraints(ca=True, path_length=0))
    usage = own.get_extension_for_class(x509.KeyUsage).value
    assert (usage.key_cert_sign, usage.digital_signature) == (True, False)
    issuer = server.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    assert issuer.key_identifier == own.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    assert not server.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    purposes = server.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(purposes) == [ExtendedKeyUsageOID.SERVER_AUTH]


def test_authoritys_key_can_be_kept_and_used_again(tmp_path: Path, authority: Authority) -> None:
    kept = serialization.load_pem_private_key(authority.key_pem, password=None)
    assert isinstance(kept, ec.EllipticCurvePrivateKey)
    renewed = Authority(kept, x509.load_pem_x509_certificate(authority.certificate_pem))
    certificate, key = make_server_certificate(renewed, HOST)
    assert shake_hands(tmp_path, certificate, key, authority, HOST)


def test_node_key_is_a_pair_that_flower_reads(tmp_path: Path) -> None:
    private, public = make_node_key()
    key = serialization.load_ssh_private_key(private, password=None)
    own = serialization.load_ssh_public_key(public)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert isinstance(own, ec.EllipticCurvePublicKey)
    assert isinstance(key.curve, ec.SECP384R1)
    own.verify(key.sign(b"hello", ec.ECDSA(SHA256())), b"hello", ec.ECDSA(SHA256()))
    assert len(public.splitlines()) == 1

    (tmp_path / "node.pub").write_bytes(public + b"\n")
    assert node_key_bytes(public) == public_key_to_bytes(own) == try_load_public_key(tmp_path / "node.pub")


def test_every_node_key_is_another() -> None:
    assert len({key for _ in range(3) for key in make_node_key()}) == 6


def test_what_is_no_node_key_is_refused() -> None:
    def line(key: rsa.RSAPublicKey | ed25519.Ed25519PublicKey) -> bytes:
        return key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)

    private, public = make_node_key()
    for nonsense in (b"", b"ecdsa-sha2-nistp384 AAAA", public[:-20], node_key_bytes(public), private):
        with pytest.raises(ConfigError, match="not a public key in OpenSSH format"):
            node_key_bytes(nonsense)
    for other in (rsa.generate_private_key(65537, 2048), ed25519.Ed25519PrivateKey.generate()):
        with pytest.raises(ConfigError, match="not a key on a NIST curve"):
            node_key_bytes(line(other.public_key()))
