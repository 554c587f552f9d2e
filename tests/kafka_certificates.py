"""Certificates for the test broker and its clients, made anew each time."""

import datetime
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

CLIENT = "carol"  # the name in the client's certificate; to Kafka she is User:CN=carol


class Certificates:
    """Files in a folder, all PEM.

    Attributes:
        ca: certificate of the authority that signed the others.
        other_ca: of an authority that nobody knows.
        broker: key and certificate of the brokers, for localhost.
        client, client_key: certificate and key of a client.
    """

    def __init__(self, folder: Path) -> None:
        authority, key = _made("Pelton's test authority", None, None)
        self.ca = _written(folder / "ca.pem", authority)
        self.other_ca = _written(folder / "other-ca.pem", _made("another", None, None)[0])
        self.broker = _written(folder / "broker.pem", *reversed(_made("localhost", authority, key)))
        certificate, client_key = _made(CLIENT, authority, key)
        self.client = _written(folder / "client.pem", certificate)
        self.client_key = _written(folder / "client-key.pem", client_key)


def _made(
    name: str, authority: x509.Certificate | None, authority_key: ec.EllipticCurvePrivateKey | None
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(authority.subject if authority else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=2))
        .add_extension(x509.BasicConstraints(ca=authority is None, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(authority_key or key, hashes.SHA256())
    )
    return made, key


def _written(file: Path, *parts: x509.Certificate | ec.EllipticCurvePrivateKey) -> Path:
    plain = serialization.NoEncryption()
    pem = serialization.Encoding.PEM
    texts = [
        each.public_bytes(pem) if isinstance(each, x509.Certificate)
        else each.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain) for each in parts
    ]  # fmt: skip
    file.write_bytes(b"".join(texts))
    file.chmod(0o600)
    return file
