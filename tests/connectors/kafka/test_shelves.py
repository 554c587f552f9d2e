"""Messages that wait for their readers."""

import pyarrow as pa

from connectors.kafka.messages import Outgoing, read_messages
from connectors.kafka.shelves import Shelves

PLACE = ("in", 0)


def messages(base, *values):
    (sent,) = Outgoing(pa.array(values, pa.large_binary()), 0).batches()
    data = sent.sent_by(0, 0, 0, transactional=False)
    data[:8] = base.to_bytes(8, "big")
    return read_messages(bytes(data), base)


def taken(shelves, offset, limit=100):
    found = shelves.take(PLACE, offset, limit)
    return None if found is None else found.values.to_pylist()


def test_what_is_fed_is_read_from_its_position_on():
    shelves = Shelves()
    assert not shelves.feed(PLACE, messages(3, b"a"), -1)  # nobody asked for it
    shelves.start_feed(PLACE, 3)
    assert taken(shelves, 3) == []
    assert shelves.feed(PLACE, messages(3, b"a", b"b"), 9)
    assert shelves.fed_end(PLACE) == 9
    assert taken(shelves, 3, 1) == [b"a"]
    assert taken(shelves, 3) == [b"a", b"b"]  # until a later position is asked for
    assert taken(shelves, 4) == [b"b"]
    assert taken(shelves, 3) is None  # gone: it must be fetched
    assert taken(shelves, 5) == []


def test_a_feed_may_repeat_but_not_leave_out():
    shelves = Shelves()
    shelves.start_feed(PLACE, 3)
    assert shelves.feed(PLACE, messages(3, b"a", b"b"), -1)
    assert shelves.feed(PLACE, messages(4, b"b", b"c"), -1)
    assert taken(shelves, 3) == [b"a", b"b", b"c"]
    assert not shelves.feed(PLACE, messages(7, b"e"), -1)
    assert taken(shelves, 3) == [b"a", b"b", b"c"]
    shelves.stop_feed(PLACE)
    assert taken(shelves, 3) is None


def test_a_feed_is_told_to_pause_until_something_is_taken():
    shelves = Shelves(bytes_max=1000)
    shelves.start_feed(PLACE, 0)
    shelves.feed(PLACE, messages(0, b"x" * 600), -1)
    assert not shelves.is_full(PLACE)
    shelves.feed(PLACE, messages(1, b"x" * 600), -1)
    assert shelves.is_full(PLACE)
    taken(shelves, 1)
    assert not shelves.is_full(PLACE)
    assert not shelves.is_full(("other", 0))


def test_readers_at_different_positions_do_not_take_from_each_other():
    shelves = Shelves()
    shelves.put(PLACE, messages(0, b"a", b"b", b"c"), 9)
    shelves.put(PLACE, messages(1, b"b", b"c", b"d"), 9)
    assert taken(shelves, 0, 2) == [b"a", b"b"]
    assert taken(shelves, 2) == [b"c"]
    assert taken(shelves, 1) == [b"b", b"c", b"d"]
    assert shelves.holds(PLACE, 3)
    assert not shelves.holds(PLACE, 4)
    assert taken(shelves, 4) is None
