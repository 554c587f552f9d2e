"""`pelton quantize`: a smaller bundle that decides the same, or the reason why there is none."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import ops
from models.bundle import read_bundle
from models.scorer import FTRL, MOE, Scorer, read_specs

DEMO = Path(ops.__file__).parent / "demo"


@pytest.fixture
def shipped(bank, pelton):
    """Stand in a folder with the demo's app, its bundle, and a stream of cards that it has never seen."""
    shutil.copy(DEMO / "payments.py", bank / "payments.py")
    pelton("simulate --days 3 --events-per-day 1000 --cards 80 --terminals 30 --fraud-rate 0.05 --seed 3 --out seen")
    return "quantize payments.py --data seen/payments.jsonl seen/frauds.jsonl"


def test_the_served_bundle_becomes_a_smaller_one_that_can_serve(shipped, bank, pelton):
    pelton(f"models promote risk {DEMO / 'bundle'}")
    result = pelton(f"{shipped} --variant experts-int8 --out made")
    original = read_bundle(DEMO / "bundle")
    assert f"bundle {original.id}: 1,000 events judged" in result.stdout
    assert re.search(r"^experts-int8 .* passes$", result.stdout, re.MULTILINE)
    folder = Path(re.search(r"bundle \w+ in (\S+)", result.stdout).group(1))
    made = read_bundle(folder)
    assert set(made.parts) == set(original.parts)
    assert len(made.part(MOE)) < 0.5 * len(original.part(MOE))
    assert made.part(FTRL) == original.part(FTRL)
    assert made.meta.provenance["quantized_from"] == original.id
    assert made.meta.provenance["seed"] == original.meta.provenance["seed"]
    assert made.meta.metrics["quantized.expert_flips"] < 0.01
    specs = read_specs(original)
    rows = np.exp(np.random.default_rng(0).normal(size=(50, len(specs))))
    before, after = (Scorer(each, None, specs, buckets=(64,)).score(rows).probability for each in (original, made))
    np.testing.assert_allclose(after, before, atol=0.02)
    undo = re.search(r"Serve it: pelton (.*)", result.stdout).group(1)
    assert f"{original.id} -> {made.id}" in pelton(f"{undo}").stdout


def test_what_fails_the_gate_is_shown_and_not_written_even_if_asked_for(shipped, bank, pelton):
    result = pelton(f"{shipped} --bundle {DEMO / 'bundle'} --variant int4 --out made", code=1)
    assert re.search(r"^int4 .* refused$", result.stdout, re.MULTILINE)
    assert "int4  refused: more than the routed experts is quantised; other experts in" in result.stdout
    assert "pelton: int4 does not pass the gate, so nothing was written: more than the routed" in result.stderr
    assert not (bank / "made").exists()


def test_mistakes_are_told_before_the_work(shipped, bank, pelton):
    assert (
        "there is no variant 'expert-int8'; did you mean" in pelton(f"{shipped} --variant expert-int8", code=1).stderr
    )
    assert "no bundle serves risk yet; name one: --bundle DIR" in pelton(shipped, code=1).stderr
    wrong = pelton(f"quantize bank.py --data data/payments.jsonl --bundle {DEMO / 'bundle'}", code=1).stderr
    assert "was trained with other features" in wrong


def test_too_little_history_judges_nothing(bank, pelton):
    shutil.copy(DEMO / "payments.py", bank / "payments.py")
    line = "quantize payments.py --data data/payments.jsonl data/frauds.jsonl --variant experts-int8"
    told = pelton(f"{line} --bundle {DEMO / 'bundle'}", code=1).stderr
    assert re.search(r"there are \d+ labelled rows to judge on; the gate needs 1,000, give more history", told)
