"""Live parity: the last commits hold against the oracle, with few keys and only as much history as windows see."""

import numpy as np
import pyarrow as pa
import pytest

from connectors.secrets import Sealer, Tokeniser
from pipeline import parity
from pipeline.oracle_inputs import computed_here
from pipeline.topics import decisions_topic
from tests.pipeline.several import KEY, GappyLog, Site
from tests.pipeline.test_stages import made_up_app, run


class Falsified(GappyLog):
    """Shows decisions in which one feature is one too much."""

    feature = ""

    def read_rows(self, topic, partition, offset, limit):
        """Add one to it."""
        stored = super().read_rows(topic, partition, offset, limit)
        if topic != decisions_topic("made_up") or not self.feature:
            return stored
        found = []
        for at, rows in stored:
            place = rows.schema.names.index(self.feature)
            values = pa.array(np.nan_to_num(rows.column(place).to_numpy(zero_copy_only=False)) + 1)
            found.append((at, rows.set_column(place, self.feature, values)))
        return found


def checks(site, **more):
    found = [
        parity.check(site.app, stage, site.log, partition, 10_000, 5, Tokeniser(KEY), **more)
        for stage in site.stages
        for partition in range(site.partitions)
    ]
    return [each for each in found if each is not None]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("partitions", [1, 3])
def test_the_last_commits_hold_with_all_keys_and_with_some(tmp_path, seed, partitions):
    # Labels in the events themselves: how a stream of labels was merged before the oldest manifest is not known any
    # more, and made-up labels come before their events as often as after them.
    lateness_ms = (0, 100)[seed % 2]
    app = made_up_app(seed, lateness_ms, ("40ms", "2s")[seed // 2 % 2])
    site = Site(app, partitions, tmp_path, GappyLog(Sealer(KEY)))
    run(site, seed, events=120, lateness_ms=lateness_ms)
    shares = set()
    for more in ({}, {"commits_max": 7}, {"commits_max": 7, "rows_max": 30}):
        shares |= hold(checks(site, **more))
    assert max(shares) > 1


@pytest.mark.parametrize("seed", range(4))
def test_all_commits_hold_with_a_stream_of_labels(tmp_path, seed):
    site = Site(made_up_app(seed, 100, None), 2, tmp_path, GappyLog(Sealer(KEY)))
    run(site, seed, events=120, lateness_ms=100)
    assert hold(checks(site)) == {1}
    hold(checks(site, rows_max=60))


def hold(found):
    wrong = [f"{each.group} {each.partition}: {line}" for each in found for line in each.found.first]
    assert not wrong, "\n".join(wrong[:5])
    shares = {each.share for each in found}  # of few rows and five keys on one partition, no event may have all in it
    assert max(shares) > 1 or sum(each.found.values_checked for each in found) > 0
    return {each.share for each in found}


def test_a_value_that_is_not_what_was_served_is_told(tmp_path):
    log = Falsified(Sealer(KEY))
    site = Site(made_up_app(3, 100, None), 2, tmp_path, log)
    run(site, 3, events=80, lateness_ms=100)
    deciding = next(stage for stage in site.stages if stage.decides)
    columns = {column for group in deciding.plan.groups for column in group.outputs}
    assert computed_here(deciding)
    log.feature = deciding.plan.names[min(columns)]
    found = [each.found for each in checks(site, commits_max=20)]
    assert sum(each.mismatches for each in found) > 0
    assert any(log.feature == line.feature for each in found for line in each.first)
    assert any(each.ppm > 0 and not each.holds for each in found)
