import json

import pytest

from ops.bench import BenchError, bench, known


def write(folder, name, body):
    (folder / f"bench_{name}.py").write_text(f'"""Is {name} fast?\n\nMore.\n"""\nimport json, sys\n{body}\n')


def test_last_lines_are_gathered(tmp_path):
    write(tmp_path, "one", "print('row'); print(json.dumps({'ns': 1, 'args': sys.argv[1:]}))")
    write(tmp_path, "two", "print(json.dumps({'ns': 2}))")
    said = []
    bench([], quick=True, folder=tmp_path, say=said.append)
    assert said[:2] == ["# one: Is one fast?", "row"]
    assert json.loads(said[-1]) == {"one": {"ns": 1, "args": ["--quick"]}, "two": {"ns": 2}}


def test_one_can_be_chosen(tmp_path):
    write(tmp_path, "one", "print('{}')")
    write(tmp_path, "two", "raise SystemExit(1)")
    assert bench(["one"], folder=tmp_path, say=lambda line: None) == {"one": {}}


def test_an_unknown_name_gets_the_nearest(tmp_path):
    write(tmp_path, "windows", "print('{}')")
    with pytest.raises(BenchError, match=r"there is no benchmark 'window'; did you mean 'windows'\?"):
        bench(["window"], folder=tmp_path, say=lambda line: None)


def test_without_a_checkout_there_are_none(tmp_path):
    with pytest.raises(BenchError, match="run them in a checkout of the repository"):
        bench([], folder=tmp_path, say=lambda line: None)


def test_a_failure_is_told(tmp_path):
    write(tmp_path, "one", "print('half'); raise SystemExit(3)")
    with pytest.raises(BenchError, match=r"benchmark bench_one.py failed; its last line was: half"):
        bench([], folder=tmp_path, say=lambda line: None)
    write(tmp_path, "one", "print('no json')")
    with pytest.raises(BenchError, match="did not end with a line of JSON, but with: no json"):
        bench([], folder=tmp_path, say=lambda line: None)


def test_every_benchmark_opens_with_its_question():
    for name, path in known().items():
        assert path.read_text().split('"""', 2)[1].strip().splitlines()[0].endswith("?"), name
