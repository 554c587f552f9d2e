"""A client of schema registries that speak Confluent's REST API: Confluent, Apicurio, Karapace, Redpanda.

An id always means the same schema, so it is asked for once; what failed is asked for again after some seconds.
"""

import base64
import http.client
import json
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlsplit

from connectors.errors import ConnectorError

ANSWER_BYTES_MAX = 4 << 20
FAILED_S = 5.0  # a failure is repeated to callers for so long before the registry is asked again
_REFERENCES_MAX = 100
_FAILURES_KEPT = 4096
_TYPE = "application/vnd.schemaregistry.v1+json"


class RegistryError(ConnectorError):
    """The schema registry refuses, or answers what is none of its protocol."""


class RegistryAwayError(RegistryError):
    """The schema registry cannot be reached, or says that it cannot answer now: trying again later may help."""


class NoSuchSchemaError(RegistryError):
    """The schema registry answers that it does not have what was asked for."""


@dataclass(frozen=True)
class RegistrySettings:
    """Where the schema registry is.

    Attributes:
        urls: one or several addresses of the same registry, with the path of its API (PELTON_SCHEMA_REGISTRY).
        user, password: for basic authentication (PELTON_SCHEMA_REGISTRY_USER, _PASSWORD); "" for none.
        ca_file: certificates to trust beside the system's (PELTON_SCHEMA_REGISTRY_CA); "" for none.
        timeout_s: for one request.
    """

    urls: tuple[str, ...]
    user: str = ""
    password: str = field(default="", repr=False)
    ca_file: str = ""
    timeout_s: float = 5.0

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> "RegistrySettings | None":
        """Read the environment; None if it names no registry.

        Raises:
            RegistryError: an address is malformed.
        """
        text = environment.get("PELTON_SCHEMA_REGISTRY", "").strip()
        if not text:
            return None
        urls = tuple(each.strip().rstrip("/") for each in text.split(",") if each.strip())
        for url in urls:
            _check_url(url)
        user, password = (environment.get(f"PELTON_SCHEMA_REGISTRY_{name}", "") for name in ("USER", "PASSWORD"))
        return cls(urls, user, password, environment.get("PELTON_SCHEMA_REGISTRY_CA", ""))


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        fits = parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:
        fits = False
    if not fits or parts.query or parts.fragment:
        raise RegistryError(f"PELTON_SCHEMA_REGISTRY is {_bare(url)!r}; write it like http://localhost:8081")
    if parts.username is not None:
        raise RegistryError(
            "PELTON_SCHEMA_REGISTRY holds a user; set PELTON_SCHEMA_REGISTRY_USER and PELTON_SCHEMA_REGISTRY_PASSWORD"
        )


def _bare(url: str) -> str:
    """Return an address without user and password."""
    head, sign, rest = url.partition("//")
    return f"{head}{sign}{rest.rpartition('@')[2]}"


@dataclass(frozen=True)
class RegisteredSchema:
    """A schema as the registry has it.

    Attributes:
        kind: "AVRO", "PROTOBUF" or "JSON".
        text: the schema itself.
        references: (name, text) of each schema that it builds on, those first that others build on.
    """

    kind: str
    text: str = field(repr=False)
    references: tuple[tuple[str, str], ...] = field(default=(), repr=False)


class SchemaRegistry:
    """Asks one schema registry. Threads may share it."""

    def __init__(self, settings: RegistrySettings, clock: Callable[[], float] = time.monotonic) -> None:
        """Take the settings, and a clock in seconds that decides when a failure is forgotten."""
        self._settings, self._clock = settings, clock
        self._lock = threading.Lock()
        self._known: dict[int, RegisteredSchema] = {}
        self._failed: dict[int, tuple[float, RegistryError]] = {}
        self._context: ssl.SSLContext | None = None

    def __repr__(self) -> str:
        """Show the addresses."""
        return f"SchemaRegistry({', '.join(self._settings.urls)})"

    def schema(self, schema_id: int) -> RegisteredSchema:
        """Return the schema with an id, asked for at most once.

        Raises:
            NoSuchSchemaError: the registry has none with this id.
            RegistryAwayError: it cannot be reached now; said again without a request for some seconds.
            RegistryError: it refuses to answer.
        """
        with self._lock:  # held while asking: threads that wait for the same id get one answer
            if schema_id in self._known:
                return self._known[schema_id]
            until, failure = self._failed.get(schema_id, (-1.0, None))
            if failure is not None and self._clock() < until:
                raise failure.with_traceback(None)
            try:
                found = self._resolved(self._ask("GET", f"/schemas/ids/{schema_id}"))
            except RegistryError as error:
                if len(self._failed) >= _FAILURES_KEPT:
                    self._failed.clear()
                self._failed[schema_id] = (self._clock() + FAILED_S, error)
                raise
            self._failed.pop(schema_id, None)
            self._known[schema_id] = found
            return found

    def latest(self, subject: str) -> tuple[int, RegisteredSchema]:
        """Return id and schema of a subject's newest version; NoSuchSchemaError if there is none."""
        answer = self._ask("GET", f"/subjects/{quote(subject, safe='')}/versions/latest")
        return _id_of(answer, str(self)), self._resolved(answer)

    def register(self, subject: str, text: str, kind: str = "AVRO") -> int:
        """Register a schema under a subject, or find it there, and return its id.

        Raises:
            RegistryError: the registry refuses it, for example as incompatible with the version before.
        """
        body = {"schema": text} if kind == "AVRO" else {"schema": text, "schemaType": kind}
        return _id_of(self._ask("POST", f"/subjects/{quote(subject, safe='')}/versions", body), str(self))

    def _resolved(self, answer: Any) -> RegisteredSchema:
        """Make a schema of an answer, with all that it refers to."""
        texts: dict[str, str] = {}
        self._collect(answer, texts, 0)
        text = _text_of(answer, str(self))
        kind = str(answer.get("schemaType") or "AVRO").upper()  # left out, it is Avro
        return RegisteredSchema(kind, text, tuple(texts.items()))

    def _collect(self, answer: Any, texts: dict[str, str], depth: int) -> None:
        references = answer.get("references") if isinstance(answer, dict) else None
        for each in references or ():
            try:
                name, subject, version = str(each["name"]), str(each["subject"]), int(each["version"])
            except (KeyError, TypeError, ValueError):
                raise RegistryError(f"{self} gives a reference without name, subject and version") from None
            if name in texts:
                continue
            if len(texts) >= _REFERENCES_MAX or depth >= _REFERENCES_MAX:
                raise RegistryError(f"{self} has a schema with more than {_REFERENCES_MAX} references")
            found = self._ask("GET", f"/subjects/{quote(subject, safe='')}/versions/{version}")
            self._collect(found, texts, depth + 1)
            texts[name] = _text_of(found, str(self))

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """Ask one address after the other until one answers."""
        failure: RegistryAwayError | None = None
        for url in self._settings.urls:
            try:
                return self._ask_one(url, method, path, body)
            except RegistryAwayError as error:
                failure = error
        raise failure or RegistryError("no schema registry is set; set PELTON_SCHEMA_REGISTRY")

    def _ask_one(self, url: str, method: str, path: str, body: dict[str, Any] | None) -> Any:
        parts = urlsplit(url)
        assert parts.hostname is not None
        headers = {"Accept": f"{_TYPE}, application/json", "Content-Type": _TYPE}
        if self._settings.user:
            secret = f"{self._settings.user}:{self._settings.password}".encode()
            headers["Authorization"] = "Basic " + base64.b64encode(secret).decode()
        connection = None
        try:
            connection = self._connect(parts.scheme, parts.hostname, parts.port)
            connection.request(method, parts.path + path, None if body is None else json.dumps(body).encode(), headers)
            response = connection.getresponse()
            answer = response.read(ANSWER_BYTES_MAX + 1)
        except ssl.SSLCertVerificationError as error:
            said = f"the certificate of the schema registry {url} is not trusted: {error.verify_message}"
            raise RegistryError(f"{said}; name a file with its authority in PELTON_SCHEMA_REGISTRY_CA") from error
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            said = f"the schema registry {url} cannot be reached: {reason}"
            raise RegistryAwayError(f"{said}; check that it runs, and PELTON_SCHEMA_REGISTRY") from error
        finally:
            if connection is not None:
                connection.close()
        return _read_answer(url, path, response.status, answer)

    def _connect(self, scheme: str, host: str, port: int | None) -> http.client.HTTPConnection:
        timeout_s = self._settings.timeout_s
        if scheme == "https":
            return http.client.HTTPSConnection(host, port, timeout=timeout_s, context=self._tls())
        return http.client.HTTPConnection(host, port, timeout=timeout_s)

    def _tls(self) -> ssl.SSLContext:
        if self._context is None:
            context = ssl.create_default_context()
            ca_file = self._settings.ca_file
            try:
                if ca_file:
                    context.load_verify_locations(ca_file)
            except OSError as error:
                reason = error.strerror or "it holds no certificate"
                raise RegistryError(f"PELTON_SCHEMA_REGISTRY_CA is {ca_file!r}: {reason}") from None
            self._context = context
        return self._context


def _read_answer(url: str, path: str, status: int, answer: bytes) -> Any:
    """Return what a registry says; raise what it complains about."""
    if len(answer) > ANSWER_BYTES_MAX:
        raise RegistryError(f"the schema registry {url} answers {path} with more than {ANSWER_BYTES_MAX} bytes")
    try:
        said = json.loads(answer)
    except (ValueError, RecursionError):
        said = None
    if status == 200 and said is not None:
        return said
    message = str(said.get("message", ""))[:200] if isinstance(said, dict) else ""
    told = f"the schema registry {url} answers {status}" + (f" ({message})" if message else "")
    if status in (401, 403):
        raise RegistryError(f"{told}; check PELTON_SCHEMA_REGISTRY_USER and PELTON_SCHEMA_REGISTRY_PASSWORD")
    if status == 404 and isinstance(said, dict) and "error_code" in said:
        raise NoSuchSchemaError(f"{told} for {path}")
    if status == 404:
        raise RegistryError(f"{told} for {path}; PELTON_SCHEMA_REGISTRY lacks the path of its API, perhaps")
    if status in (408, 429) or status >= 500:
        raise RegistryAwayError(f"{told} for {path}")
    raise RegistryError(f"{told} for {path}" + ("" if status != 200 else ", which is not JSON"))


def _text_of(answer: Any, registry: str) -> str:
    text = answer.get("schema") if isinstance(answer, dict) else None
    if not isinstance(text, str):
        raise RegistryError(f"{registry} answers without a schema; is it a schema registry with Confluent's API?")
    return text


def _id_of(answer: Any, registry: str) -> int:
    schema_id = answer.get("id") if isinstance(answer, dict) else None
    if not isinstance(schema_id, int):
        raise RegistryError(f"{registry} answers without an id; is it a schema registry with Confluent's API?")
    return schema_id
