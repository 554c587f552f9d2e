import json
import subprocess
import sys

import pytest

from ops.bench import FOLDER, BenchError, bench, known


@pytest.fixture
def checkout(tmp_path):
    folder = tmp_path / "tests" / "bench"
    folder.mkdir(parents=True)
    return folder


def write(folder, name, body):
    (folder / f"bench_{name}.py").write_text(f'"""Is {name} fast?\n\nMore.\n"""\nimport json, sys\n{body}\n')


def test_last_lines_are_gathered(checkout):
    write(checkout, "one", "print('row'); print(json.dumps({'ns': 1, 'args': sys.argv[1:]}))")
    write(checkout, "two", "print(json.dumps({'ns': 2}))")
    said = []
    bench([], quick=True, folder=checkout, say=said.append)
    assert said[:2] == ["# one: Is one fast?", "row"]
    assert json.loads(said[-1]) == {"one": {"ns": 1, "args": ["--quick"]}, "two": {"ns": 2}}


def test_one_can_be_chosen(checkout):
    write(checkout, "one", "print('{}')")
    write(checkout, "two", "raise SystemExit(1)")
    assert bench(["one"], folder=checkout, say=lambda line: None) == {"one": {}}


def test_an_unknown_name_gets_the_nearest(checkout):
    write(checkout, "windows", "print('{}')")
    with pytest.raises(BenchError, match=r"there is no benchmark 'window'; did you mean 'windows'\?"):
        bench(["window"], folder=checkout, say=lambda line: None)


def test_without_a_checkout_there_are_none(checkout):
    with pytest.raises(BenchError, match="run them in a checkout of the repository"):
        bench([], folder=checkout, say=lambda line: None)


def test_a_failure_is_told(checkout):
    write(checkout, "one", "print('half'); raise SystemExit(3)")
    with pytest.raises(BenchError, match=r"benchmark bench_one.py failed; its last line was: half"):
        bench([], folder=checkout, say=lambda line: None)
    write(checkout, "one", "print('no json')")
    with pytest.raises(BenchError, match="did not end with a line of JSON, but with: no json"):
        bench([], folder=checkout, say=lambda line: None)


def test_every_benchmark_opens_with_its_question():
    for name, path in known().items():
        assert path.read_text().split('"""', 2)[1].strip().splitlines()[0].endswith("?"), name


@pytest.mark.parametrize("name", known())
def test_every_benchmark_takes_what_pelton_bench_passes_on(name):
    command, root = [sys.executable, "-m", f"tests.bench.bench_{name}", "--help"], FOLDER.parents[1]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert "--quick" in done.stdout
