"""TLS certificates, and the keys that identify hospitals' nodes, in the formats of Flower 1.42."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv6Address, ip_address

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_public_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedserdiff.errors import ConfigError

_AUTHORITY_DAYS = 3650
_SERVER_DAYS = 730
_SKEW = timedelta(days=1)  # a hospital's clock may be behind


@dataclass(frozen=True)
class Authority:
    """The certificate authority of a federation: its private `key` and its self-signed `certificate`."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def key_pem(self) -> bytes:
        """The private key as PEM (PKCS #8), without a passphrase."""
        return _private_pem(self.key)

    @property
    def certificate_pem(self) -> bytes:
        """The certificate as PEM."""
        return self.certificate.public_bytes(Encoding.PEM)


def make_authority(name: str) -> Authority:
    """Create an authority called `name` (1 to 64 characters), on the curve P-384, that is valid for 10 years.

    It may sign the certificates of servers, but not of other authorities.
    """
    key = ec.generate_private_key(ec.SECP384R1())
    subject = _called(name)
    builder = (
        _builder(subject, subject, key.public_key(), _AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(authority=True), critical=True)
    )
    return Authority(key, builder.sign(key, SHA384()))


def make_server_certificate(authority: Authority, host: str) -> tuple[bytes, bytes]:
    """Create the coordinator's TLS certificate, on the curve P-384, valid for 2 years.

    It is valid for `host` and, for Flower's processes on the coordinator's own machine, for ``localhost``,
    ``127.0.0.1`` and ``::1``.

    Parameters
    ----------
    authority : Authority
        Authority that signs the certificate.
    host : str
        DNS name or IP address (IPv6 without brackets) at which hospitals reach the coordinator.

    Returns
    -------
    tuple of bytes
        Certificate and private key, both as PEM; the key has no passphrase.
    """
    key = ec.generate_private_key(ec.SECP384R1())
    hosts = dict.fromkeys(map(_general_name, (host, "localhost", "127.0.0.1", "::1")))
    signer = authority.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    certificate = (
        _builder(_called("fedserdiff coordinator"), authority.certificate.subject, key.public_key(), _SERVER_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(hosts), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(signer), critical=False)
        .sign(authority.key, SHA384())
    )
    return certificate.public_bytes(Encoding.PEM), _private_pem(key)


def make_node_key() -> tuple[bytes, bytes]:
    """Create the key pair that identifies one hospital's node, on the curve P-384.

    Returns
    -------
    tuple of bytes
        Private key in OpenSSH format, without a passphrase, and public key as a single OpenSSH line.
    """
    key = ec.generate_private_key(ec.SECP384R1())
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    return private, key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)


def node_key_bytes(public: bytes) -> bytes:
    """Return a node's public key as Flower's SuperLink stores it: PEM, SubjectPublicKeyInfo.

    Parameters
    ----------
    public : bytes
        Public key as a single OpenSSH line.

    Raises
    ------
    ConfigError
        If it is not a public key on a NIST curve, the only kind that Flower accepts.
    """
    try:
        key = load_ssh_public_key(public)
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigError("not a public key in OpenSSH format, which begins with ecdsa-sha2-nistp384") from None
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise ConfigError("not a key on a NIST curve: create one with ssh-keygen -t ecdsa -b 384")
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _called(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _general_name(host: str) -> x509.GeneralName:
    try:
        address: IPv4Address | IPv6Address = ip_address(host)
    except ValueError:
        return x509.DNSName(host)
    return x509.IPAddress(address)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _key_usage(authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )
