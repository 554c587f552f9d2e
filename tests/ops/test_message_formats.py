"""The environment names the schema registry; only streams that need one ask for it."""

import pytest

from connectors.decode_wire import WireDecoder
from connectors.errors import ConnectorError
from ops.message_formats import decoders_of
from pipeline.app import App, Task
from pipeline.stream import Stream


def app_of(format: str) -> App:
    stream = Stream("payments", id="event_id", time="ts", fields={"card": "card"}, format=format)
    features = {"count": stream.by("card").last("1h").count()}
    return App("bank", [Task("risk", on=stream, features=features, model=None, learner=None)])


def test_json_needs_no_registry():
    assert list(decoders_of(app_of("json"), {"PELTON_SCHEMA_REGISTRY": "nonsense"})) == ["payments"]


def test_a_stream_in_avro_gets_a_decoder_and_no_request_is_made():
    decoders = decoders_of(app_of("avro"), {"PELTON_SCHEMA_REGISTRY": "http://127.0.0.1:1"})
    assert isinstance(decoders["payments"], WireDecoder)


def test_a_stream_in_avro_without_a_registry_says_what_to_set():
    said = (
        "stream 'payments' in avro needs a schema registry; "
        "set PELTON_SCHEMA_REGISTRY to its address, such as http://localhost:8081"
    )
    with pytest.raises(ConnectorError, match=f"^{said}$"):
        decoders_of(app_of("avro"), {})
