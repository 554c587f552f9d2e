"""The label join against a dictionary."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import joins

HORIZON_MS = 100
operation = st.tuples(
    st.booleans(),  # a label
    st.integers(1, 6),  # id
    st.integers(0, 200),  # time of the event, or when the label was known
    st.integers(0, 1),  # value of the label
    st.integers(0, 40),  # by how much the floor moves on
)


class Known:
    def __init__(self, time, label, keys, known):
        self.time, self.label, self.keys, self.known = time, label, keys, known


def looked_up(operations):
    """Return the facts made: (place, event time, known time, adds to sum, adds to count, key), and the counts."""
    ids: dict[int, Known] = {}
    facts, counts, floor = [], dict.fromkeys(("labels", "joined", "superseded", "duplicate"), 0), 0
    for place, (is_label, id, time, value, step) in enumerate(operations):
        floor += step
        if id in ids and ids[id].time <= floor - HORIZON_MS:
            del ids[id]
        known = ids.get(id)
        counts["labels"] += is_label
        if not is_label:
            if known is None:
                ids[id] = Known(time, None, place + 1000, None)
            elif known.keys is None:
                known.time, known.keys = time, place + 1000
                counts["joined"] += 1
                facts.append((place, time, known.known, known.label, 1, known.keys))
        elif known is None:
            ids[id] = Known(time, value, None, time)
        elif known.label is None:
            known.label, known.known = value, time
            counts["joined"] += 1
            facts.append((place, known.time, time, value, 1, known.keys))
        elif known.label == value:
            counts["duplicate"] += 1
        else:
            difference, known.label, known.known = value - known.label, value, max(time, known.known)
            counts["superseded"] += 1
            if known.keys is not None:
                facts.append((place, known.time, known.known, difference, 0, known.keys))
    return facts, counts


def joined(operations):
    count = len(operations)
    is_label = np.array([each[0] for each in operations], np.int8)
    ids = np.array([each[1] for each in operations], np.uint64)
    facts = np.array([(each[2], each[3] if each[0] else 0) for each in operations], np.int64).reshape(count, 2)
    keys = (np.arange(count, dtype=np.uint64) + np.uint64(1000)).reshape(count, 1)
    floors = np.cumsum([each[4] for each in operations]).astype(np.int64)
    table, rows, ctl = np.zeros(4, np.uint64), np.zeros((4, joins.KEYS + 1), np.int64), np.zeros(6, np.int64)
    made, fact, fact_keys = np.zeros(count, np.int8), np.zeros((count, 4), np.int64), np.zeros((count, 1), np.uint64)
    done = 0
    while done < count:
        done = joins.join(is_label, ids, facts, keys, floors, table, rows, ctl, HORIZON_MS, made, fact, fact_keys, done)
        if done < count:
            size = 4 << int((rows[:, joins.STAGE] != 0).sum()).bit_length()
            larger, larger_rows = np.zeros(size, np.uint64), np.zeros((size, rows.shape[1]), np.int64)
            ctl[joins.USED] = joins.keep_open(table, rows, floors[done] - HORIZON_MS, ctl, larger, larger_rows)
            table, rows = larger, larger_rows
    found = [(int(n), *fact[n].tolist(), int(fact_keys[n, 0])) for n in np.flatnonzero(made)]
    return found, ctl


@settings(max_examples=400)
@given(st.lists(operation, min_size=1, max_size=60))
def test_each_fact_is_told_once_as_of_when_it_was_known(operations):
    facts, _ = joined(operations)
    assert facts == looked_up(operations)[0]


@settings(max_examples=400)
@given(st.lists(operation, min_size=1, max_size=60))
def test_every_label_is_counted_once(operations):
    _, ctl = joined(operations)
    _, counts = looked_up(operations)
    assert ctl[joins.JOINS :].sum() == counts["labels"]
    assert [ctl[joins.JOINS], ctl[joins.SUPERSEDED], ctl[joins.DUPLICATE]] == [
        counts["joined"], counts["superseded"], counts["duplicate"],
    ]  # fmt: skip


#  event 1 at 10    label "1" known at 90    label "0" known at 40, later in the log
def test_a_correction_is_known_no_sooner_than_what_it_corrects():
    facts, _ = joined([(False, 1, 10, 0, 0), (True, 1, 90, 1, 0), (True, 1, 40, 0, 0)])
    assert facts == [(1, 10, 90, 1, 1, 1000), (2, 10, 90, -1, 0, 1000)]
