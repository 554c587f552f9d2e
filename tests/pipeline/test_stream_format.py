"""The format of a stream's messages is declared with it."""

import pytest

from pipeline.errors import DeclarationError
from pipeline.stream import Stream


@pytest.mark.parametrize("format", ["json", "avro", "protobuf"])
def test_a_stream_says_how_its_messages_are_written(format):
    stream = Stream("payments", id="event_id", time="ts", fields={"format": "string"}, format=format)
    assert stream.message_format == format
    assert stream.format.name == "format"  # a field of that name is still a field
    assert Stream("payments", id="event_id", time="ts", fields={}).message_format == "json"


def test_another_format_is_said():
    with pytest.raises(DeclarationError, match="format is 'xml'; use one of json, avro, protobuf"):
        Stream("payments", id="event_id", time="ts", fields={}, format="xml")
