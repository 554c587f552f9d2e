"""Verification finds what is wrong, and nothing that is right."""

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pytest

from pipeline.engine import Engine
from pipeline.stream import Stream
from pipeline.verify import Verifier, verify
from tests.pipeline.made_up import (
    Shape,
    chunk_of,
    commits_of,
    made_up_features,
    made_up_records,
    plan_of,
    same_bits,
    world_of,
)

SHAPE = Shape(seed=4, events=400, step_ms=20, lateness_ms=100)


def served(seed=8, features=10):
    world = world_of(SHAPE.lateness_ms)
    plan = plan_of(world, made_up_features(seed, world, features))
    engine = Engine(plan)
    return plan, [(chunks, engine.process(chunks)) for chunks in commits_of(plan, made_up_records(SHAPE), 50)]


@dataclass
class Changed:
    """What was served, with something wrong in it."""

    offsets: np.ndarray
    matrix: np.ndarray


def test_all_values_of_the_engine_hold():
    plan, commits = served()
    found = verify(plan, commits, sample=100)
    assert (found.holds, found.ppm, found.misjudged) == (True, 0.0, 0)
    assert found.events_checked == 100
    assert found.values_checked == 100 * len(plan.names)


def test_one_wrong_value_is_named_with_what_it_should_be():
    plan, commits = served()
    wrong = Changed(commits[3][1].offsets, commits[3][1].matrix.copy())
    right = wrong.matrix[7, 0]
    wrong.matrix[7, 0] = right + 1e-5
    commits[3] = (commits[3][0], wrong)
    found = verify(plan, commits, sample=1_000)
    assert found.mismatches == 1
    assert found.ppm == pytest.approx(1e6 / found.values_checked)
    assert found.first[0].feature == plan.names[0]
    assert (found.first[0].served, found.first[0].recomputed) == (right + 1e-5, right)
    assert "served" in str(found.first[0])


def test_a_value_beyond_a_billionth_is_wrong_and_one_within_is_right():
    plan, commits = served()
    for factor, holds in ((1 + 5e-10, True), (1 + 2e-9, False)):
        changed = Changed(commits[0][1].offsets, commits[0][1].matrix.copy())
        row = int(np.flatnonzero(changed.matrix[:, 0] > 0)[0])
        changed.matrix[row, 0] *= factor
        assert verify(plan, [(commits[0][0], changed), *commits[1:]], sample=1_000).holds is holds


def test_an_event_that_was_left_out_is_named_by_its_offset():
    plan, commits = served()
    chunks, last = commits[-1]
    left_out = int(last.offsets[2])
    commits[-1] = (chunks, Changed(np.delete(last.offsets, 2), np.delete(last.matrix, 2, axis=0)))
    found = verify(plan, commits, sample=10)
    assert found.misjudged == 1
    assert not found.holds
    assert found.first[0].event_id == f"the event at offset {left_out}"


def test_the_same_seed_draws_the_same_events_and_another_others():
    plan, commits = served()

    def drawn(seed):
        verifier = Verifier(plan, sample=20, seed=seed)
        for chunks, featured in commits:
            verifier.add(chunks, featured)
        return sorted(row for row, _, _ in verifier._drawn.values())

    assert drawn(1) == drawn(1) != drawn(2)
    assert len(set(drawn(1))) == 20


def test_progress_is_told_up_to_the_end():
    world = world_of(SHAPE.lateness_ms)
    plan = plan_of(world, {"n": world.payments.by("card").last("1m").count()})
    engine = Engine(plan)
    commits = [(chunks, engine.process(chunks)) for chunks in commits_of(plan, made_up_records(SHAPE), 50)]
    told: list[tuple[int, int]] = []
    verify(plan, commits, sample=5, progress=lambda done, total: told.append((done, total)))
    assert told == [(n, 5) for n in range(1, 6)]


def test_values_over_features_have_a_bound_and_what_is_skipped_is_counted():
    world = world_of(SHAPE.lateness_ms)
    card = world.payments.by("card")
    plan = plan_of(world, {"mean": card.last("90d").mean("amount"), "over": card.last("90d").rate("amount > mean")})
    engine = Engine(plan)
    verifier = Verifier(plan, sample=1_000, deep_rows_max=50)
    for chunks in commits_of(plan, made_up_records(SHAPE), 100):
        verifier.add(chunks, engine.process(chunks))
    found = verifier.finish()
    assert found.holds
    assert found.values_checked + found.values_skipped == 2 * found.events_checked
    assert found.values_skipped > 0


#   time    0      1000      1500     the window is (500, 1500]: an event exactly a span old has left
#   amount  4        2         7
def test_the_oracle_by_hand():
    payments = Stream("payments", id="id", time="ts", fields={"card": "string", "amount": "money"})
    window = payments.by("card").last("1s")
    world = replace(world_of(0), payments=payments)
    features = {"n": window.count(), "sum": window.sum("amount"), "before": window.lag("amount"),
                "earlier": payments.by("card").last("1s", delay="500ms").sum("amount")}  # fmt: skip
    plan = plan_of(world, features)
    records = [{"id": f"e{t}", "ts": t, "card": "a", "amount": a} for t, a in ((0, 4), (1000, 2), (1500, 7))]
    expected = np.array([[1, 4, np.nan, np.nan], [1, 2, np.nan, 4], [2, 9, 2, 2]])
    offsets = np.arange(3)
    assert verify(plan, [({"payments": chunk_of(payments, records)}, Changed(offsets, expected))]).holds


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan, 1e300])
def test_a_number_that_is_none_cannot_poison_a_key(bad):
    payments = Stream("payments", id="id", time="ts", fields={"card": "string", "amount": "number?"})
    window = payments.by("card").last("1s")
    names = ("sum", "mean", "std", "max", "min", "last", "zscore")
    features = {name: getattr(window, name)("amount") for name in names}
    features |= {f"{name}_of": getattr(window, name)("amount * 2") for name in names}
    features |= {"half": window.quantile("amount", 0.5), "aged": window.ewm("amount", "1s")}
    plan = plan_of(replace(world_of(0), payments=payments), features)

    def last_row(values):
        records = [{"id": f"e{n}", "ts": n * 100, "card": "a", "amount": 1.0} for n in range(len(values))]
        chunk = chunk_of(payments, records)
        at = chunk.decoded.rows.schema.get_field_index("amount")
        rows = chunk.decoded.rows.set_column(at, "amount", pa.array(values, pa.float64()))  # past the decoder
        chunk = replace(chunk, decoded=replace(chunk.decoded, rows=rows))
        return Engine(plan).process({"payments": chunk}).matrix[-1]

    assert same_bits(last_row([1.0, bad, 3.0]), last_row([1.0, None, 3.0]))
    assert np.isfinite(last_row([1.0, bad, 3.0, 5.0])).all()
