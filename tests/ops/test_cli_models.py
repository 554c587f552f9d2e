"""Commands around the registry: list, show, promote, rollback; training and evaluation."""

import re

import pytest

from models.bundle import BundleMeta, write_bundle


def bundle(folder, content):
    made = write_bundle(folder / content, {"a.txt": content.encode()}, BundleMeta(content, "risk", 1767571200000))
    return made.id


@pytest.fixture
def two(bank, pelton):
    """Return the ids of two bundles, promoted one after the other."""
    ids = [bundle(bank, name) for name in ("first", "second")]
    for name in ("first", "second"):
        pelton(f"models promote risk {name}")
    return ids


def test_promote_takes_a_folder_and_says_what_changed_and_the_undo(bank, pelton):
    first, second = bundle(bank, "first"), bundle(bank, "second")
    assert f"risk: nothing -> {first}." in pelton("models promote risk first").stdout
    told = pelton("models promote risk second").stdout
    assert told == f"risk: {first} -> {second}. Undo: pelton models rollback risk --to {first}\n"


def test_the_undo_that_is_printed_undoes(bank, pelton, two):
    told = pelton(f"models promote risk {two[0][:6]}").stdout
    undo = re.search(r"Undo: pelton (.*)", told).group(1)
    assert f"{two[0]} -> {two[1]}" in pelton(undo).stdout


def test_rollback_serves_the_bundle_before(pelton, two):
    assert f"risk: {two[1]} -> {two[0]}." in pelton("models rollback risk").stdout


def test_list_marks_what_serves(pelton, two):
    rows = [line.split() for line in pelton("models list risk").stdout.splitlines()[1:]]
    assert {(row[0], row[2]) for row in rows} == {("-", two[0]), ("yes", two[1])}


def test_show_tells_what_serves_and_its_history(pelton, two):
    text = pelton("models show risk").stdout
    assert f"{two[1]} (live)" in text
    assert re.search(rf"promote +{two[0]} -> {two[1]}", text)


def test_a_version_that_is_not_there_names_the_newest(pelton, two):
    assert "no bundle or snapshot starts with 'feed'" in pelton("models promote risk feed", code=1).stderr


def test_a_damaged_bundle_never_serves(bank, pelton, two):
    file = next((bank / ".pelton" / "registry" / "bundles" / "risk" / two[0]).glob("a.txt"))
    file.write_text("changed")
    assert "is damaged" in pelton("models rollback risk", code=1).stderr
    assert f"{two[1]} (live)" in pelton("models show risk").stdout


def test_train_registers_the_first_bundle_and_evaluate_judges_it(bank, pelton):
    pytest.importorskip("torch")
    text = (bank / "bank.py").read_text().replace("threshold=Fixed()", "threshold=Fixed(), model=None")
    (bank / "bank.py").write_text(text)
    pelton("simulate --days 4 --events-per-day 2000 --cards 60 --terminals 20 --fraud-rate 0.05 --out more")
    made = pelton("train bank.py --data more/payments.jsonl more/frauds.jsonl --out out").stdout
    folder = re.search(r"bundle \w+ in (\S+)", made).group(1)
    assert "the first bundle, serves now" in made
    again = pelton("train bank.py --data more/payments.jsonl more/frauds.jsonl --out out --until 2026-01-08").stdout
    assert "goes on serving. To change: pelton models promote risk" in again
    line = f"evaluate bank.py --data more/payments.jsonl more/frauds.jsonl --bundle {folder} --no-baseline --out judged"
    judged = pelton(line)
    assert re.search(r"events judged, \d+ positive", judged.stdout)
    assert "its figures are too good" in judged.stderr
    assert (bank / "judged" / "evaluation.json").exists()


def test_training_without_its_packages_says_how_to_get_them(bank, pelton, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch", None)  # as Python itself marks what cannot be imported
    result = pelton("train bank.py --data data/payments.jsonl data/frauds.jsonl --quick", code=1)
    assert "torch not installed, and the network is trained with it; run: pip install 'pelton[train]'" in result.stderr
