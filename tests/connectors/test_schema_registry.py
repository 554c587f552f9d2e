"""The client of the schema registry over real HTTP: what it asks, remembers, and says when things go wrong."""

import socket

import numpy as np
import pyarrow as pa
import pytest

from connectors.errors import ConnectorError
from connectors.formats import decoder_of
from connectors.records import Records
from connectors.schema_registry import (
    ANSWER_BYTES_MAX,
    FAILED_S,
    NoSuchSchemaError,
    RegisteredSchema,
    RegistryAwayError,
    RegistryError,
    RegistrySettings,
    SchemaRegistry,
)
from tests.connectors import avro_messages, test_decode_protobuf
from tests.connectors.fake_registry import FakeRegistry

AVRO = '{"type": "record", "name": "A", "fields": []}'


@pytest.fixture
def registry():
    registry = FakeRegistry()
    yield registry
    registry.close()


def test_an_id_is_asked_for_once(registry):
    schema_id = registry.add({"schema": AVRO})
    client = registry.client()
    assert client.schema(schema_id) == client.schema(schema_id) == RegisteredSchema("AVRO", AVRO)
    assert registry.asked == ["/schemas/ids/1"]


def test_a_failure_is_remembered_for_a_while(registry):
    now_s = [100.0]
    client = SchemaRegistry(RegistrySettings((registry.url,)), clock=lambda: now_s[0])
    for _ in range(3):
        with pytest.raises(NoSuchSchemaError, match=r"answers 404 \(Schema not found\) for /schemas/ids/1"):
            client.schema(1)
    assert len(registry.asked) == 1
    registry.add({"schema": AVRO})
    now_s[0] += FAILED_S
    assert client.schema(1).text == AVRO


def test_references_come_with_the_schema_those_first_that_others_need(registry):
    registry.add({"schema": "innermost"}, "c")
    registry.add({"schema": "inner", "references": [{"name": "C", "subject": "c", "version": 1}]}, "b/x")
    outer = {"schema": "outer", "schemaType": "PROTOBUF"}
    outer["references"] = [{"name": name, "subject": each, "version": 1} for name, each in (("B", "b/x"), ("C", "c"))]
    schema_id = registry.add(outer, "a")
    found = registry.client().schema(schema_id)
    assert found == RegisteredSchema("PROTOBUF", "outer", (("C", "innermost"), ("B", "inner")))
    assert registry.asked == ["/schemas/ids/3", "/subjects/b%2Fx/versions/1", "/subjects/c/versions/1"]


def test_references_that_go_round_are_refused(registry):
    for i in range(102):
        reference = {"name": f"n{i + 1}", "subject": f"s{i + 1}", "version": 1}
        registry.add({"schema": str(i), "references": [reference]}, f"s{i}")
    with pytest.raises(RegistryError, match="more than 100 references"):
        registry.client().schema(1)


def test_latest_and_register(registry):
    client = registry.client()
    assert client.register("payments-value", AVRO) == client.register("payments-value", AVRO) == 1
    assert client.register("payments-value", "new", "PROTOBUF") == 2
    assert client.latest("payments-value") == (2, RegisteredSchema("PROTOBUF", "new"))


def test_basic_authentication(registry):
    registry.add({"schema": AVRO})
    registry.login = "alice:päss:word"
    assert registry.client(user="alice", password="päss:word").schema(1).text == AVRO
    with pytest.raises(RegistryError, match=r"answers 401 \(Unauthorized\); check PELTON_SCHEMA_REGISTRY_USER and"):
        registry.client(user="alice", password="wrong").schema(1)


def test_the_password_is_never_shown():
    settings = RegistrySettings(("http://localhost:8081",), "alice", "secret")
    assert "secret" not in repr(settings) + repr(SchemaRegistry(settings))


@pytest.mark.parametrize(
    ("status", "body", "error", "said"),
    [
        (500, b"oops", RegistryAwayError, "answers 500 for /schemas/ids/1"),
        (429, b"{}", RegistryAwayError, "answers 429"),
        (200, b"<html>", RegistryError, "answers 200 for /schemas/ids/1, which is not JSON"),
        (200, b"[]", RegistryError, "answers without a schema; is it a schema registry"),
        (200, b"x" * (ANSWER_BYTES_MAX + 1), RegistryError, "with more than"),
        (301, b"", RegistryError, "answers 301"),
        (404, b"Not here", RegistryError, "lacks the path of its API, perhaps"),
        (200, b'{"schema": "x", "references": [{}]}', RegistryError, "a reference without name"),
    ],
)
def test_strange_answers_are_said(registry, status, body, error, said):
    registry.broken = (status, body)
    with pytest.raises(error, match=said) as raised:
        registry.client().schema(1)
    assert raised.type is error


def test_a_registry_that_is_away_is_said_and_the_next_address_is_asked(registry):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        away = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(RegistryAwayError, match="cannot be reached: Connection refused"):
            SchemaRegistry(RegistrySettings((away,))).schema(1)
        registry.add({"schema": AVRO})
        assert SchemaRegistry(RegistrySettings((away, registry.url))).schema(1).text == AVRO


def test_a_registry_that_never_answers_is_waited_for_in_vain():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(RegistryAwayError, match="timed out"):
            SchemaRegistry(RegistrySettings((url,), timeout_s=0.05)).schema(1)


def test_a_certificate_that_nobody_trusts_is_said(registry):
    with pytest.raises(RegistryError, match="PELTON_SCHEMA_REGISTRY_CA is '/nowhere': No such file"):
        SchemaRegistry(RegistrySettings(("https://localhost:1",), ca_file="/nowhere")).schema(1)


def test_settings_are_read_from_the_environment():
    assert RegistrySettings.read({}) is None
    names = {"": "http://a:1/api/, https://b", "_USER": "u", "_PASSWORD": "p", "_CA": "ca.pem"}
    environment = {f"PELTON_SCHEMA_REGISTRY{name}": value for name, value in names.items()}
    assert RegistrySettings.read(environment) == RegistrySettings(("http://a:1/api", "https://b"), "u", "p", "ca.pem")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("localhost:8081", "PELTON_SCHEMA_REGISTRY is 'localhost:8081'; write it like http://localhost:8081"),
        ("http://a:port", "write it like"),
        ("ftp://a", "write it like"),
        ("http://a?x=1", "write it like"),
        ("http://me:secret@a", "PELTON_SCHEMA_REGISTRY holds a user; set PELTON_SCHEMA_REGISTRY_USER"),
        ("ftp://me:secret@a", "PELTON_SCHEMA_REGISTRY is 'ftp://a'"),
    ],
)
def test_an_address_that_is_none_is_said_without_its_password(url, said):
    with pytest.raises(RegistryError, match=said) as raised:
        RegistrySettings.read({"PELTON_SCHEMA_REGISTRY": url})
    assert "secret" not in str(raised.value)


def test_every_format_has_its_decoder(registry):
    avro, written = avro_messages, avro_messages.avro(avro_messages.TYPES)
    registry.add({"schema": avro_messages.json.dumps(written)})
    registry.add({"schema": test_decode_protobuf.TEXT, "schemaType": "PROTOBUF"})
    messages = {
        "json": avro_messages.json.dumps(avro.GOOD).encode(),
        "avro": avro.message(written, avro.GOOD),
        "protobuf": test_decode_protobuf.message(test_decode_protobuf.PAYMENT, 2),
    }
    for name, message in messages.items():
        records = Records("payments", 0, pa.array([message], pa.large_binary()), np.zeros(1, np.int64))
        assert decoder_of(avro.schema_of(), name, registry.client())(records).rows.to_pylist() == [avro.GOOD]


def test_a_format_without_a_registry_or_a_name_is_said():
    said = "a stream in avro needs a schema registry; set PELTON_SCHEMA_REGISTRY to its address, such as http://local"
    with pytest.raises(ConnectorError, match=said):
        decoder_of(avro_messages.schema_of(), "avro")
    with pytest.raises(ConnectorError, match="format is 'xml'; use one of json, avro, protobuf"):
        decoder_of(avro_messages.schema_of(), "xml")


def test_a_new_schema_needs_no_restart_and_a_registry_that_is_away_loses_nothing(registry):
    now_s = [100.0]
    client = SchemaRegistry(RegistrySettings((registry.url,)), clock=lambda: now_s[0])
    decode = decoder_of(avro_messages.schema_of(), "avro", client)
    old = {name: kind for name, kind in avro_messages.TYPES.items() if name != "clicks"}
    registry.add({"schema": avro_messages.json.dumps(avro_messages.avro(old))})
    first = avro_messages.message(avro_messages.avro(old), avro_messages.GOOD, 1)
    assert decode(avro_messages.records_of(first)).rows["clicks"].to_pylist() == [None]
    new = avro_messages.avro(avro_messages.TYPES)
    registry.add({"schema": avro_messages.json.dumps(new)})
    both = avro_messages.records_of(first, avro_messages.message(new, avro_messages.GOOD, 2))
    registry.broken = (503, b"")
    with pytest.raises(RegistryAwayError, match="answers 503"):
        decode(both)
    registry.broken = None
    now_s[0] += FAILED_S
    assert decode(both).rows["clicks"].to_pylist() == [None, 3]
