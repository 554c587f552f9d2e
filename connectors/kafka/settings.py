"""Where Kafka is and how to be let in, for every client library that talks to it."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from connectors.errors import ConnectorError

PORT = 9092
CLIENT_ID = "pelton"
SECURITY = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
_MECHANISM = "SCRAM-SHA-512"  # never shows the password to the broker; PLAIN must be asked for


class KafkaSettingsError(ConnectorError):
    """Kafka cannot be reached with these settings; the message names the one to change and shows no secret."""


class _Hidden(str):
    """A text that client libraries can send, and cannot log."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'...'"


@dataclass(frozen=True)
class KafkaSettings:
    """Brokers and security.

    Attributes:
        brokers: "host:port" of at least one broker of the cluster.
        security: PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL.
        mechanism: of SASL: PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512.
        user, password: of SASL.
        ca: file with the certificates of the authorities to trust; None for those of this machine.
        certificate, key: files of a client certificate and its private key, PEM; both may be one file.
        key_password: of an encrypted private key.
        client_id: what the brokers call us in their logs and quotas.
    """

    brokers: tuple[str, ...]
    security: str = "PLAINTEXT"
    mechanism: str = _MECHANISM
    user: str = ""
    password: str = field(default="", repr=False)
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    key_password: str = field(default="", repr=False)
    client_id: str = CLIENT_ID

    def __post_init__(self) -> None:
        _one_of("PELTON_KAFKA_SECURITY", self.security, SECURITY)
        _one_of("PELTON_KAFKA_SASL", self.mechanism, MECHANISMS)
        for name, file in (("CA", self.ca), ("CERTIFICATE", self.certificate), ("KEY", self.key)):
            if file is not None and not file.is_file():
                raise KafkaSettingsError(f"PELTON_KAFKA_{name}: there is no file {file}; check the path")
        if self.sasl and not self.user:
            raise KafkaSettingsError(
                f"PELTON_KAFKA_SECURITY is {self.security} and needs a user; set PELTON_KAFKA_USER"
            )
        if self.sasl and not self.password:
            raise KafkaSettingsError(f"user {self.user!r} has no password; set PELTON_KAFKA_PASSWORD")
        if self.user and not self.sasl:
            raise KafkaSettingsError(
                f"PELTON_KAFKA_USER is set, but PELTON_KAFKA_SECURITY is {self.security}; "
                f"choose SASL_SSL, or SASL_PLAINTEXT where the network is trusted"
            )
        if (self.ca or self.certificate or self.key) and not self.tls:
            raise KafkaSettingsError(
                f"certificates are set, but PELTON_KAFKA_SECURITY is {self.security}; choose SSL or SASL_SSL"
            )
        if self.key and not self.certificate:
            raise KafkaSettingsError("PELTON_KAFKA_KEY is set without its certificate; set PELTON_KAFKA_CERTIFICATE")

    @classmethod
    def read(cls, brokers: str, environment: Mapping[str, str]) -> KafkaSettings:
        """Read the security settings PELTON_KAFKA_* of an environment.

        Without PELTON_KAFKA_SECURITY: SASL if there is a user, and TLS if there is a user, a CA or a certificate, for
        a password never goes over an open line unless somebody asks for SASL_PLAINTEXT.

        Args:
            brokers: "host:port,host:port"; the port is 9092 where none is given.
            environment: as os.environ.

        Raises:
            KafkaSettingsError: something is missing, or does not fit together.
        """

        def text(name: str) -> str:
            return environment.get(f"PELTON_KAFKA_{name}", "").strip()

        def file(name: str) -> Path | None:
            return Path(text(name)).expanduser() if text(name) else None

        user, ca, certificate = text("USER"), file("CA"), file("CERTIFICATE")
        likely = "SASL_SSL" if user else "SSL" if ca or certificate else "PLAINTEXT"
        return cls(
            brokers=parse_brokers(brokers),
            security=text("SECURITY").upper() or likely,
            mechanism=text("SASL").upper() or _MECHANISM,
            user=user,
            password=environment.get("PELTON_KAFKA_PASSWORD", ""),
            ca=ca,
            certificate=certificate,
            key=file("KEY"),
            key_password=environment.get("PELTON_KAFKA_KEY_PASSWORD", ""),
            client_id=text("CLIENT_ID") or CLIENT_ID,
        )

    @property
    def sasl(self) -> bool:
        """Whether user and password are asked for."""
        return self.security.startswith("SASL")

    @property
    def tls(self) -> bool:
        """Whether the connection is encrypted."""
        return self.security.endswith("SSL")

    @property
    def where(self) -> str:
        """The brokers in a message."""
        return ",".join(self.brokers)

    def ssl_context(self) -> ssl.SSLContext | None:
        """Return what TLS needs, None without TLS; the broker's name is checked against its certificate.

        Raises:
            KafkaSettingsError: a file is no certificate, or no key that belongs to it.
        """
        if not self.tls:
            return None
        try:
            context = ssl.create_default_context(cafile=self.ca)
        except (ssl.SSLError, OSError) as error:
            raise KafkaSettingsError(f"PELTON_KAFKA_CA: {self.ca} {_unusable(error)}; give a PEM file") from None
        if self.certificate:
            # An empty password for a key that needs one is an error; none at all would ask at the terminal.
            try:
                context.load_cert_chain(self.certificate, self.key, password=self.key_password)
            except (ssl.SSLError, OSError) as error:
                raise KafkaSettingsError(
                    f"the client certificate {self.certificate} with the key {self.key or 'in the same file'} "
                    f"{_unusable(error)}; check PELTON_KAFKA_CERTIFICATE, _KEY and _KEY_PASSWORD"
                ) from None
        return context

    def aiokafka(self) -> dict[str, Any]:
        """Return the arguments of this connection for AIOKafkaConsumer, AIOKafkaProducer and aiokafka's admin."""
        return self._arguments()

    def kafka_python(self) -> dict[str, Any]:
        """Return the arguments of this connection for KafkaAdminClient, KafkaConsumer and KafkaProducer."""
        return self._arguments()

    def faust(self, scheme: str = "kafka") -> dict[str, Any]:
        """Return the arguments of this connection for faust.App; the scheme of its URLs chooses the transport."""
        from faust import SASLCredentials, SSLCredentials

        arguments: dict[str, Any] = {
            "broker": [f"{scheme}://{broker}" for broker in self.brokers],
            "broker_client_id": self.client_id,
        }
        if self.sasl:
            arguments["broker_credentials"] = SASLCredentials(
                username=self.user, password=_Hidden(self.password), mechanism=self.mechanism,
                ssl_context=self.ssl_context(),
            )  # fmt: skip
        elif self.tls:
            arguments["broker_credentials"] = SSLCredentials(context=self.ssl_context())
        return arguments

    def _arguments(self) -> dict[str, Any]:
        arguments: dict[str, Any] = {
            "bootstrap_servers": list(self.brokers),
            "client_id": self.client_id,
            "security_protocol": self.security,
        }
        if self.tls:
            arguments["ssl_context"] = self.ssl_context()
        if self.sasl:
            arguments["sasl_mechanism"] = self.mechanism
            arguments["sasl_plain_username"] = self.user
            arguments["sasl_plain_password"] = _Hidden(self.password)
        return arguments


def parse_brokers(text: str) -> tuple[str, ...]:
    """Read a list of brokers.

    >>> parse_brokers("kafka1:9093, kafka2,[::1]:9092")
    ('kafka1:9093', 'kafka2:9092', '[::1]:9092')

    Raises:
        KafkaSettingsError: there is none, or a port is no number.
    """
    found = [each.strip().removeprefix("kafka://") for each in text.split(",") if each.strip()]
    if not found:
        raise KafkaSettingsError("no broker is named; give host:port of one or several, with commas between them")
    return tuple(map(_broker, found))


def _broker(text: str) -> str:
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        host, port = text, str(PORT)
    if not host or "@" in host or "/" in host or not port.isdigit() or not 0 < int(port) < 1 << 16:
        shown = text.rpartition("@")[2]  # what stands before an @ may be a password
        raise KafkaSettingsError(f"broker {shown!r} is not host:port; write, for example, localhost:{PORT}")
    return f"{host}:{port}"


def _one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise KafkaSettingsError(f"{name} is {value!r}; choose {', '.join(choices[:-1])} or {choices[-1]}")


def _unusable(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return "cannot be used as such"
    return f"cannot be read: {(error.strerror or str(error)).lower()}"
