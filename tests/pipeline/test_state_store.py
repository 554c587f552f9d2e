"""Snapshots: whole or not there, written once, found whatever is damaged, whoever else writes."""

import random

import numpy as np
import pytest

from pipeline.state_store import StateStore, StateStoreError
from tests.pipeline.away import AwayFileSystem, ClientError


@pytest.fixture(params=["folder", "file", "away"])
def place(request, tmp_path):
    AwayFileSystem.reset()
    yield {"folder": tmp_path / "st [a]*", "file": f"file://{tmp_path}/state", "away": "away://bucket/state"}[
        request.param
    ]
    AwayFileSystem.reset()


@pytest.fixture
def away():
    AwayFileSystem.reset()
    yield AwayFileSystem
    AwayFileSystem.reset()


def state(number, size=5_000):
    draw = np.random.default_rng(number)
    return {"g/rows": draw.integers(0, 9, (size, 3)), "g/ctl": np.array([number]), "g/keys": np.zeros(0, np.uint64)}


def files_of(store):
    fs, root = store._fs, store._root
    return {path.removeprefix(root).lstrip("/"): path for path in fs.find(root)}


def same(layer, expected):
    assert layer.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(layer[name], array)
        assert layer[name].dtype == array.dtype
        assert layer[name].flags.writeable


def test_what_was_saved_is_read_by_another(place):
    store = StateStore(place)
    assert store.newest(100) is None
    assert store.oldest_commit() == 0
    for commit in (3, 7):
        store.save(commit, state(commit), {"payments": 10 * commit})
    other = StateStore(place)
    for commit_max, commit in ((100, 7), (7, 7), (6, 3)):
        found = other.newest(commit_max)
        assert (found.commit, found.positions) == (commit, {"payments": 10 * commit})
        same(found.layers[0], state(commit))
    assert other.newest(2) is None
    assert other.oldest_commit() == 3


def test_an_array_in_pieces_is_one_array(place):
    whole = np.arange(3_000_000, dtype=np.int64).reshape(-1, 2)
    StateStore(place).save(1, {"rows": iter([whole[:7], whole[7:7], whole[7:]])})
    np.testing.assert_array_equal(StateStore(place).newest(1).layers[0]["rows"], whole)


def test_what_is_there_already_is_not_written_again(place):
    store = StateStore(place)
    store.save(1, state(1, 100_000))
    before = store.bytes_written
    store.save(2, state(1, 100_000) | {"g/ctl": np.array([2])})
    assert store.bytes_written - before < before / 20
    assert StateStore(place).newest(2).layers[0]["g/ctl"].tolist() == [2]


def test_layers_lie_on_those_of_the_snapshot_before(place):
    store = StateStore(place, keep=1)
    store.save(1, state(1))
    store.save(2, state(2), onto=["g/rows"])
    store.save(3, state(3), onto=["g/rows"])
    layers = StateStore(place).newest(3).layers
    assert [list(layer) for layer in layers] == [["g/rows", "g/ctl", "g/keys"], ["g/rows"], ["g/rows"]]
    for layer, number in zip(layers, (3, 2, 1), strict=True):
        np.testing.assert_array_equal(layer["g/rows"], state(number)["g/rows"])
    with pytest.raises(StateStoreError, match="no snapshot of this process to build on; save the whole state"):
        StateStore(place).save(4, state(4), onto=["g/rows"])


def test_only_what_kept_snapshots_name_stays(place):
    store = StateStore(place)
    oldest = [store.save(commit, state(commit)) for commit in range(1, 6)]
    assert oldest == [1, 1, 2, 3, 4]
    names = files_of(store)
    assert len([name for name in names if name.endswith(".json")]) == 2
    assert len(names) == 2 + 2 * 2  # rows and ctl of each; the empty array has no chunk
    next_owner = StateStore(place)
    for commit in (9, 10):
        next_owner.save(commit, state(commit))
    assert len(files_of(store)) == 2 + 2 * 2
    assert next_owner.oldest_commit() == 9


@pytest.mark.parametrize("damage", ["removed", "cut", "changed", "emptied"])
def test_any_damage_is_seen_and_an_older_snapshot_taken(place, damage):
    store = StateStore(place)
    store.save(1, state(1))
    first = set(files_of(store))
    store.save(2, state(2))
    for name in set(files_of(store)) - first:
        path = files_of(store)[name]
        was = store._fs.cat_file(path)
        if damage == "removed":
            store._fs.rm_file(path)
        else:
            bad = {"cut": was[:-1], "changed": was[:-1] + bytes([was[-1] ^ 1]), "emptied": b""}[damage]
            store._fs.pipe_file(path, bad)
        found = StateStore(place).newest(2)
        assert found.commit == 1, name
        same(found.layers[0], state(1))
        store._fs.pipe_file(path, was)
    assert StateStore(place).newest(2).commit == 2


def test_foreign_files_are_left_alone(place):
    store = StateStore(place)
    store.save(1, state(1))
    foreign = [f"{store._root}/{name}" for name in
               ("readme.txt", "000000000009-" + "a" * 64 + ".npz", "folder/x", "000000000001-x.json")]  # fmt: skip
    for path in foreign:
        store._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
        store._fs.pipe_file(path, b"{}")
    for commit in (2, 3, 4):
        store.save(commit, state(commit))
    assert StateStore(place).newest(9).commit == 4
    assert all(store._fs.exists(path) for path in foreign)


@pytest.mark.parametrize("seed", range(20))
def test_an_owner_that_lost_its_partition_takes_nothing_from_the_next(away, seed):
    # old owner   1 2 ... 5 -.....late saves at or below 5.....
    # new owner             5 6 7 ...                            always finds its own newest
    draw = random.Random(seed)
    old, new = StateStore("away://race", keep=2), StateStore("away://race", keep=2)
    for commit in range(1, 1 + draw.randint(1, 5)):
        old.save(commit, state(commit), onto=["g/rows"] if commit > 1 else [])
    lost = taken = commit
    for _ in range(12):
        if draw.random() < 0.4:
            old.save(lost, state(lost), onto=draw.choice([[], ["g/rows"]]))
        else:
            taken += 1
            new.save(taken, state(taken), onto=draw.choice([[], ["g/rows"]]) if taken > lost + 1 else [])
        found = StateStore("away://race").newest(1_000)
        assert found.commit == taken
        np.testing.assert_array_equal(found.layers[0]["g/ctl"], [taken])


@pytest.mark.parametrize("error", [OSError("no route"), TimeoutError(), ClientError("SlowDown (503)"), KeyError("x")])
def test_whatever_a_client_raises_is_one_sentence_and_older_snapshots_stay(away, error):
    store = StateStore("away://bucket/state")
    store.save(1, state(1))
    for writes in range(3):  # it breaks off before the first chunk, between two, before the manifest
        away.error, away.writes_left = error, writes
        with pytest.raises(StateStoreError, match=f"^away://bucket/state: {type(error).__name__}"):
            store.save(2, state(10 + writes))
        away.error = away.writes_left = None
        assert StateStore("away://bucket/state").newest(2).commit == 1
    away.error = error
    for ask in (lambda: store.newest(1), store.oldest_commit):
        with pytest.raises(StateStoreError, match=f"^away://bucket/state: {type(error).__name__}"):
            ask()
    away.error = None
    store.save(2, state(2), onto=["g/rows"])
    assert StateStore("away://bucket/state").newest(2).commit == 2


def test_a_missing_package_is_named():
    with pytest.raises(StateStoreError, match="snapshots at absent://x need a package: install absent_package"):
        StateStore("absent://x")


def test_an_unknown_scheme_is_refused():
    with pytest.raises(StateStoreError, match=r"snapshots cannot be kept at nowhere://x: .*nowhere"):
        StateStore("nowhere://x")


def test_groups_and_partitions_have_places_of_their_own(tmp_path, away):
    for place in (tmp_path, "away://all/"):
        StateStore.of(place, "bank.payments", 0).save(1, state(1))
        StateStore.of(place, "bank.payments", 1).save(2, state(2))
        assert StateStore.of(place, "bank.payments", 0).newest(9).commit == 1
    assert StateStore.of("away://all", "bank.payments", 1).place == "away://all/bank.payments/1"
