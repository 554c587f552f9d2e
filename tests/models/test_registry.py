"""The registry: what serves changes as one thing, is checked, can go back, and is never taken down by damage."""

import subprocess
import sys
import threading

import pytest

from models.bundle import BundleError, BundleMeta, write_bundle
from models.follow import Follower
from models.registry import Registry
from models.registry_types import RegistryError


@pytest.fixture
def registry(tmp_path):
    opened = Registry.open(None, tmp_path / "registry")
    yield opened
    opened.close()


def add(registry, tmp_path, content, task="risk", created_ms=1000):
    meta = BundleMeta(f"{task} {content}", task, created_ms, {"seed": 7}, {"auc": 0.8})
    folder = tmp_path / f"made-{task}-{content}"
    write_bundle(folder, {"model.onnx": content.encode()}, meta)
    return registry.add_bundle(task, folder, "ann", created_ms + 1)


def damage(tmp_path, bundle):
    (tmp_path / "registry" / "bundles" / "risk" / bundle / "model.onnx").write_bytes(b"broken")


def test_the_whole_way_of_a_release(registry, tmp_path):
    one = add(registry, tmp_path, "one")
    assert registry.generation("risk") == 0
    was, now = registry.promote("risk", one, "ann", 2000)
    assert (was, str(now), now.generation) == (None, one, 1)
    live = registry.live("risk")
    assert (live.bundle.part("model.onnx"), live.snapshot) == (b"one", None)

    snapshot = registry.add_snapshot("risk", one, b"learned", {"auc": 0.9}, "learner", 3000)
    assert registry.live("risk").snapshot is None  # it serves once promoted
    registry.promote("risk", snapshot, "learner", 3001)
    assert registry.live("risk").snapshot == b"learned"

    two = add(registry, tmp_path, "two", created_ms=4000)
    was, now = registry.promote("risk", two[:6], "ann", 5000)
    assert (str(was), str(now)) == (f"{one}+{snapshot}", two)

    was, now = registry.rollback("risk", "bob", 6000)
    assert (str(was), str(now), now.generation) == (two, f"{one}+{snapshot}", 4)  # bundle and learner as one
    assert registry.live("risk").snapshot == b"learned"
    assert [(entry.who, entry.what) for entry in registry.audit("risk")] == [
        ("ann", "add"),
        ("ann", "promote"),
        ("learner", "snapshot"),
        ("learner", "promote"),
        ("ann", "add"),
        ("ann", "promote"),
        ("bob", "rollback"),
    ]
    assert registry.audit("risk")[-1].detail == f"{two} -> {one}+{snapshot}"
    assert [str(serving) for serving in registry.history("risk")][-1] == f"{one}+{snapshot}"


def test_versions_say_what_is_live(registry, tmp_path):
    one = add(registry, tmp_path, "one", created_ms=1000)
    add(registry, tmp_path, "two", created_ms=2000)
    add(registry, tmp_path, "three", task="support", created_ms=500)
    snapshot = registry.add_snapshot("risk", one, b"learned", {"auc": None}, "learner", 3000)
    registry.promote("risk", one, "ann", 4000)  # with its newest snapshot
    found = registry.versions("risk")
    assert [(v.kind, v.live) for v in found] == [("bundle", True), ("bundle", False), ("snapshot", True)]
    assert (found[0].name, found[0].provenance, found[0].metrics) == ("risk one", {"seed": 7}, {"auc": 0.8})
    assert (found[2].id, found[2].bundle, found[2].metrics) == (snapshot, one, {"auc": None})
    assert len(registry.versions()) == 4


def test_rollback_names_a_target_and_undoes_itself(registry, tmp_path):
    one, two = add(registry, tmp_path, "one"), add(registry, tmp_path, "two")
    registry.promote("risk", one, "ann", 1)
    registry.promote("risk", two, "ann", 2)
    was, now = registry.rollback("risk", "bob", 3, to=one[:8])
    assert (str(was), str(now)) == (two, one)
    was, now = registry.rollback("risk", "bob", 4, to=str(was))
    assert (str(was), str(now)) == (one, two)


def test_rollback_to_an_earlier_snapshot(registry, tmp_path):
    one = add(registry, tmp_path, "one")
    good = registry.add_snapshot("risk", one, b"good", {}, "learner", 1)
    bad = registry.add_snapshot("risk", one, b"bad", {}, "learner", 2)
    for at, snapshot in enumerate((good, bad)):
        registry.promote("risk", snapshot, "learner", at)
    with pytest.raises(RegistryError, match=r"no bundle served before .* name an earlier snapshot of it with --to"):
        registry.rollback("risk", "bob", 3)
    was, now = registry.rollback("risk", "bob", 3, to=good)
    assert (str(was), str(now)) == (f"{one}+{bad}", f"{one}+{good}")
    assert str(registry.rollback("risk", "bob", 4, to=str(was))[1]) == str(was)  # as a change is printed


def test_ids_may_be_shortened_and_mistakes_are_named(registry, tmp_path):
    ids = [add(registry, tmp_path, f"content {i}", created_ms=i) for i in range(20)]
    assert registry.show("risk", ids[0].upper()).id == ids[0]
    first = {}
    shared = next(first[id[0]][0] for id in ids if id[0] in first or first.setdefault(id[0], id) is None)
    with pytest.raises(RegistryError, match=f"'{shared}' could be bundle {shared}.*; give more digits"):
        registry.show("risk", shared)
    with pytest.raises(RegistryError, match=f"no bundle or snapshot starts with 'xyz'; the newest are: .*{ids[-1]}"):
        registry.show("risk", "xyz")
    with pytest.raises(RegistryError, match="no bundle or snapshot starts with ''"):
        registry.show("risk", "")
    with pytest.raises(RegistryError, match="nothing serves 'risk' yet; promote a bundle first"):
        registry.live("risk")
    with pytest.raises(RegistryError, match="nothing serves 'risk' yet"):
        registry.rollback("risk", "bob", 1)
    with pytest.raises(RegistryError, match="was made for task 'risk', not 'support'"):
        registry.add_bundle("support", tmp_path / "made-risk-content 0", "ann", 1)


def test_a_damaged_version_is_never_promoted(registry, tmp_path):
    one, two = add(registry, tmp_path, "one"), add(registry, tmp_path, "two")
    registry.promote("risk", one, "ann", 1)
    damage(tmp_path, two)
    with pytest.raises(BundleError, match=r"model\.onnx is damaged: expected SHA-256 \w{12}, found \w{12}"):
        registry.promote("risk", two, "ann", 2)
    assert (registry.generation("risk"), registry.live("risk").bundle.id) == (1, one)
    add(registry, tmp_path, "two")  # mends it
    registry.promote("risk", two, "ann", 3)
    assert registry.live("risk").bundle.part("model.onnx") == b"two"


def test_a_damaged_snapshot_is_named(registry, tmp_path):
    one = add(registry, tmp_path, "one")
    snapshot = registry.add_snapshot("risk", one, b"learned", {}, "learner", 1)
    registry.promote("risk", snapshot, "ann", 1)
    (tmp_path / "registry" / "snapshots" / "risk" / snapshot).write_bytes(b"")
    with pytest.raises(BundleError, match=f"{snapshot} is damaged"):
        registry.live("risk")


def test_a_follower_swaps_between_batches_and_keeps_what_serves_when_the_new_one_is_damaged(registry, tmp_path):
    one, two = add(registry, tmp_path, "one"), add(registry, tmp_path, "two")
    registry.promote("risk", one, "ann", 1)
    follower = Follower(registry, "risk", poll_ms=500)
    assert follower.start().bundle.id == one
    assert follower.poll(now_ms=0) is None
    registry.promote("risk", two, "ann", 2)
    assert follower.poll(now_ms=499) is None  # too early to look
    damage(tmp_path, two)
    assert follower.poll(now_ms=500) is None
    assert follower.deployment.bundle.id == one
    assert "model.onnx is damaged" in follower.problem
    registry.rollback("risk", "bob", 3)
    assert follower.poll(now_ms=1000).bundle.id == one
    assert follower.problem is None


def test_a_start_with_a_damaged_live_bundle_takes_the_one_before_and_says_so(registry, tmp_path):
    one, two = add(registry, tmp_path, "one"), add(registry, tmp_path, "two")
    registry.promote("risk", one, "ann", 1)
    registry.promote("risk", two, "ann", 2)
    damage(tmp_path, two)
    follower = Follower(registry, "risk")
    assert follower.start().bundle.id == one
    assert "model.onnx is damaged" in follower.problem
    damage(tmp_path, one)
    with pytest.raises(RegistryError, match=r"nothing whole can serve 'risk': .*is damaged"):
        registry.last_good("risk")


def test_two_registries_on_the_same_folder_see_each_other_and_lose_no_change(registry, tmp_path):
    one, two = add(registry, tmp_path, "one"), add(registry, tmp_path, "two")

    def change(opened):
        for _ in range(10):
            for bundle in (one, two):
                opened.promote("risk", bundle, "thread", 1)
        opened.close()

    others = [threading.Thread(target=change, args=(Registry.open(None, tmp_path / "registry"),)) for _ in range(3)]
    for thread in others:
        thread.start()
    for thread in others:
        thread.join()
    assert registry.generation("risk") == 60
    assert [serving.generation for serving in registry.history("risk")] == list(range(1, 61))


def test_processes_that_make_the_registry_together_all_open_it(tmp_path):
    code = "import sys; from models.registry import Registry; sys.stdin.readline(); Registry.open(None, PLACE).close()"
    code = code.replace("PLACE", f"__import__('pathlib').Path({str(tmp_path / 'shared')!r})")
    pipes = {"stdin": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    together = [subprocess.Popen([sys.executable, "-c", code], **pipes) for _ in range(4)]
    for process in together:
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in together:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors


def test_old_snapshots_are_pruned_but_never_those_that_could_come_back(registry, tmp_path):
    one, two = add(registry, tmp_path, "one"), add(registry, tmp_path, "two")
    ids = [registry.add_snapshot("risk", one, bytes([i]), {}, "learner", i) for i in range(40)]
    for at, id in enumerate(ids[:25]):
        registry.promote("risk", id, "learner", at)
    for at in range(11):
        registry.promote("risk", two, "ann", 100 + at)
    assert registry.prune_snapshots("risk", keep=3, who="learner", now_ms=200) == 36
    left = [version.id for version in registry.versions("risk") if version.kind == "snapshot"]
    assert left == [ids[24], *ids[-3:]]
    assert sorted(path.name for path in (tmp_path / "registry" / "snapshots" / "risk").iterdir()) == sorted(left)
    assert str(registry.rollback("risk", "bob", 300)[1]) == f"{one}+{ids[24]}"


def test_a_registry_that_cannot_be_opened_says_where_and_hides_the_password(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(RegistryError, match=r"the registry at .*file cannot be opened: .*; check the path"):
        Registry.open(None, tmp_path / "file")
    (tmp_path / "no-database").write_bytes(b"x" * 5000)
    with pytest.raises(RegistryError, match="cannot be opened: file is not a database"):
        Registry.open(f"sqlite:///{tmp_path / 'no-database'}", tmp_path / "r")
