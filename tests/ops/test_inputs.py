"""Which file belongs to which stream."""

from pathlib import Path

import pytest

from ops.inputs import InputError, input_streams, match_files
from pipeline.loading import load_app


@pytest.fixture
def app(bank):
    return load_app("bank.py")


def test_an_app_reads_what_it_decides_first(app):
    assert list(input_streams(app)) == ["payments", "frauds"]


@pytest.mark.parametrize(
    ("values", "matched"),
    [
        (["data/payments.jsonl"], {"payments": ["data/payments.jsonl"]}),
        (["data/frauds.jsonl", "data/payments.jsonl"],
         {"payments": ["data/payments.jsonl"], "frauds": ["data/frauds.jsonl"]}),
        (["payments-2026-01.csv.gz", "payments-2026-02.csv.gz"],
         {"payments": ["payments-2026-01.csv.gz", "payments-2026-02.csv.gz"]}),
        (["payments=b", "payments=a"], {"payments": ["b", "a"]}),
        (["history.jsonl"], {"payments": ["history.jsonl"]}),
        (["data/*.jsonl"], {"payments": ["data/frauds.jsonl", "data/payments.jsonl"]}),
        (["payments=data/pay*", "frauds=data/fr*"],
         {"payments": ["data/payments.jsonl"], "frauds": ["data/frauds.jsonl"]}),
    ],
)  # fmt: skip
def test_files_find_their_streams_in_the_order_given(app, values, matched):
    assert match_files(app, values) == {name: [Path(each) for each in paths] for name, paths in matched.items()}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "no file was given; for example: --input payments.jsonl"),
        (["fraud=a.jsonl"], "app 'bank' reads no stream 'fraud'; did you mean 'frauds'\\?"),
        (
            ["bank.py", "data/payments.jsonl"],
            "bank.py could be of any stream; say which: payments=bank.py or frauds=bank",
        ),
        (["frauds=data/frauds.jsonl"], "no file is of 'payments', the stream that is decided"),
    ],
)
def test_a_file_without_a_stream_is_refused_with_the_way_to_name_it(app, values, message):
    with pytest.raises(InputError, match=message):
        match_files(app, values)
