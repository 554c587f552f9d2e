"""Files of any records as JSON messages: nothing of a value is lost, and keys are found by name."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ops.record_files import RecordFile, RecordFileError, keys_of


def records(path, rows_max=2):
    blocks = list(RecordFile(path).blocks(rows_max))
    assert all(len(block) <= rows_max for block in blocks)
    return [value for block in blocks for value in block.to_pylist()]


def test_json_lines_keep_their_bytes(tmp_path):
    lines = [b'{"a": 1.50}', b"broken {", b'{"a":2}\r', b'{"a":3}']
    plain, packed = tmp_path / "plain.jsonl", tmp_path / "packed.jsonl.gz"
    plain.write_bytes(b"\n".join(lines))
    packed.write_bytes(gzip.compress(b"\n".join(lines) + b"\n"))
    assert [value.rstrip(b"\r") for value in records(plain)] == [line.rstrip(b"\r") for line in lines]
    assert records(packed) == records(plain)


def test_csv_columns_are_numbers_only_if_nothing_is_lost(tmp_path):
    text = (
        "id,amount,count,card,zip,ok,note\n"
        'a,12.5,1,4111111111111111,01234,true,"x, ""y"""\n'
        "b,,2,4000000000000002,99999,false,\n"
    )  # fmt: skip
    (tmp_path / "r.csv").write_text(text)
    (tmp_path / "r.csv.gz").write_bytes(gzip.compress(text.encode()))
    first, second = map(json.loads, records(tmp_path / "r.csv"))
    assert first == {"id": "a", "amount": 12.5, "count": 1, "card": "4111111111111111", "zip": "01234", "ok": True,
                     "note": 'x, "y"'}  # fmt: skip
    assert (second.get("amount"), second.get("note"), second["card"]) == (None, None, "4000000000000002")
    assert records(tmp_path / "r.csv.gz") == records(tmp_path / "r.csv")


def test_parquet_rows_become_objects(tmp_path):
    pq.write_table(pa.table({"id": ["a", "b"], "amount": [1.5, None]}), tmp_path / "r.parquet")
    assert json.loads(records(tmp_path / "r.parquet")[0]) == {"id": "a", "amount": 1.5}


def test_the_size_read_ends_at_the_total(tmp_path):
    (tmp_path / "r.jsonl").write_text("{}\n" * 10)
    file = RecordFile(tmp_path / "r.jsonl")
    list(file.blocks())
    assert file.bytes_read == file.bytes_total == 30


@pytest.mark.parametrize(
    ("value", "key"),
    [
        (b'{"k":"a"}', "a"), (b'{"x":{"k":1},"k":"\\u00e9"}', "é"), (b'{"k":17}', "17"), (b'{"k":true}', "true"),
        (b'{"k":1.50}', "1.50"), (b'{"k":null}', None), (b"{}", None), (b"[1]", None), (b"broken {", None),
        (b'{"k":"\xff"}', None),
    ],
)  # fmt: skip
def test_a_key_is_the_text_of_a_field(value, key):
    assert keys_of(pa.array([value], pa.large_binary()), "k").to_pylist() == [key]


def test_what_is_no_file_of_records_is_said(tmp_path):
    with pytest.raises(RecordFileError, match=r"r.txt: name it .jsonl, .csv, .tsv"):
        RecordFile(tmp_path / "r.txt")
    with pytest.raises(RecordFileError, match=r"there is no file .*r.csv; check the path"):
        RecordFile(tmp_path / "r.csv")
    (tmp_path / "r.parquet").write_text("no")
    with pytest.raises(RecordFileError, match=r"r.parquet cannot be read: "):
        records(tmp_path / "r.parquet")
