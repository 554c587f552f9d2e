"""Kernels compiled once: what is promised to processes that start together, to editors of kernels, and to callers."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from kernels import code_cache, compiled
from kernels.code_cache import CodeCache, Entry
from kernels.compiled import njit

APP = """
import sys
import numpy as np
from kernels.compiled import njit

@njit("int64(int64[::1])")
def total(values):
    found = 0
    for value in values:
        found += value
    return found

@njit("Tuple((float64, int64))(int64[::1])")
def roots(values):
    if values.size == 0:
        raise ValueError("nothing to take roots of")
    found = np.empty(values.size)
    for at, value in enumerate(values):
        found[at] = value**0.5
    return found.sum(), total(values)

if "--wait" in sys.argv:
    print("ready", flush=True)
    sys.stdin.readline()
print(roots(np.array([4, 9])), total(np.array([1, 2])), "numba" in sys.modules)
"""
ANSWER = "(5.0, 13) 3"


@pytest.fixture
def app(tmp_path):
    file = tmp_path / "app.py"
    file.write_text(APP)
    return file


def environment(home, **more):
    root = str(Path(compiled.__file__).parents[1])
    return os.environ | {"XDG_CACHE_HOME": str(home), "TMPDIR": str(home.parent), "PYTHONPATH": root} | more


def run(app, home, *arguments, **more):
    command = [sys.executable, *arguments, str(app)]
    done = subprocess.run(command, env=environment(home, **more), capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    return done


def codes(home):
    return {file: file.stat().st_mtime_ns for file in home.rglob("*.code")}


def test_the_second_start_reads_what_the_first_compiled(app, tmp_path):
    assert run(app, tmp_path / "cache").stdout.startswith(ANSWER)
    written = codes(tmp_path / "cache")
    assert len(written) == 2
    assert run(app, tmp_path / "cache").stdout.startswith(ANSWER)
    assert codes(tmp_path / "cache") == written


def test_processes_that_start_together_on_an_empty_cache_share_one_compilation(app, tmp_path):
    command = [sys.executable, str(app), "--wait"]
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    together = [subprocess.Popen(command, env=environment(tmp_path / "cache"), **pipes) for _ in range(3)]
    for process in together:
        assert process.stdout.readline() == "ready\n"
    for process in together:
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in together:
        answer, errors = process.communicate(timeout=100)
        assert answer.startswith(ANSWER), errors
    assert len(codes(tmp_path / "cache")) == 2


def test_an_edited_source_is_compiled_anew_and_its_old_code_left_alone(app, tmp_path):
    run(app, tmp_path / "cache")
    before = codes(tmp_path / "cache")
    app.write_text(APP.replace("found += value", "found -= value"))
    assert run(app, tmp_path / "cache").stdout.startswith("(5.0, -13) -3")
    after = codes(tmp_path / "cache")
    assert len(after) == 4
    assert before.items() <= after.items()


def test_damaged_code_is_compiled_again_and_never_run(app, tmp_path):
    run(app, tmp_path / "cache")
    for file in codes(tmp_path / "cache"):
        file.write_bytes(file.read_bytes()[:-100])
    assert run(app, tmp_path / "cache").stdout.startswith(ANSWER)
    assert run(app, tmp_path / "cache").stdout.startswith(ANSWER)


def test_a_home_that_cannot_be_written_is_named_once_and_the_temporary_folder_serves(app, tmp_path):
    home = tmp_path / "cache"
    home.write_text("a file: nobody, root included, can make a folder in it")
    done = run(app, home)
    assert done.stdout.startswith(ANSWER)
    assert done.stderr.count("kernels cannot be kept in") == 1
    assert f"they are in {tmp_path}/pelton-{os.getuid()} instead" in done.stderr
    assert run(app, home, "-W", "error").stdout.startswith(ANSWER)  # only read: nothing to say


def test_a_temporary_folder_that_others_can_write_is_not_trusted(app, tmp_path):
    home = tmp_path / "cache"
    home.write_text("")
    spare = tmp_path / f"pelton-{os.getuid()}"
    spare.mkdir()
    spare.chmod(0o777)
    assert "each start compiles them again" in run(app, home).stderr
    assert not codes(spare)


def test_without_numba_the_python_function_answers(app, tmp_path):
    app.write_text(APP[: APP.index("print(roots")] + "print(total.load() is total.py_func, total(np.array([1, 2])))")
    assert run(app, tmp_path / "cache", NUMBA_DISABLE_JIT="1").stdout.startswith("True ")
    assert not codes(tmp_path / "cache")


def test_running_compiled_kernels_imports_no_numba(app, tmp_path):
    assert run(app, tmp_path / "cache").stdout == f"{ANSWER} True\n"
    assert run(app, tmp_path / "cache").stdout == f"{ANSWER} False\n"


def test_an_error_is_raised_and_another_kernel_compiled_where_numba_was_not_imported_before(app, tmp_path):
    run(app, tmp_path / "cache")
    later = """
try:
    roots(np.zeros(0, np.int64))
except ValueError as error:
    print(error)
@njit("int64(int64)")
def more(value):
    return total(np.array([value, 1]))
print(more(2), total(np.array([5])))
"""
    with app.open("a") as file:
        file.write(later)
    assert run(app, tmp_path / "cache").stdout.splitlines()[1:] == ["nothing to take roots of", "3 5"]


def test_importing_a_kernel_imports_no_numba(app, tmp_path):
    app.write_text(APP[: APP.index('if "--wait"')] + "\nprint('numba' in sys.modules)")
    assert run(app, tmp_path / "cache").stdout == "False\n"


@njit(["int64(int64[::1])", "float64(float64[::1])"])
def first(values):
    """Return the first value."""
    if values.size == 0:
        raise ValueError("there is no first value")
    return values[0]


def test_a_kernel_keeps_name_text_and_its_slow_twin():
    assert (first.__name__, first.__doc__) == ("first", "Return the first value.")
    assert first(np.array([7, 8])) == first.py_func(np.array([7, 8])) == 7
    assert first(np.array([0.5])) == 0.5


def test_an_error_raised_in_a_kernel_reaches_the_caller():
    with pytest.raises(ValueError, match="there is no first value"):
        first(np.empty(0, np.int64))


def test_an_array_of_another_type_is_refused_and_compiles_nothing():
    with pytest.raises(
        TypeError, match=r"first takes int64\(int64\[::1\]\) or float64\(float64\[::1\]\), not \(int32\[:\]"
    ):
        first(np.array([1], np.int32))


@njit("int64(Tuple((int64[::1], int64[:,::1])), Array(uint8, 1, 'C', readonly=True), float64)")
def count(arrays, data, _weight):
    return arrays[0].size + arrays[1].shape[1] + data.size


PLACES, TABLE, DATA = np.zeros(3, np.int64), np.zeros((2, 4), np.int64), np.frombuffer(b"abc", np.uint8)


def test_the_arguments_of_a_signature_are_taken():
    assert count((PLACES, TABLE), DATA, 1) == count((PLACES, TABLE), np.zeros(3, np.uint8), np.float64(1)) == 10


READ_ONLY = np.frombuffer(bytes(24), np.int64)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (((PLACES, TABLE), DATA), r"\(\(int64\[:\], int64\[:,:\]\), uint8\[:\] read-only\)"),
        (((PLACES,), DATA, 1.0), r"\(\(int64\[:\]\), uint8"),
        (((PLACES, TABLE.T), DATA, 1.0), r"int64\[:,:\] not contiguous"),
        (((np.zeros(6, np.int64)[::2], TABLE), DATA, 1.0), r"int64\[:\] not contiguous"),
        (((READ_ONLY, TABLE), DATA, 1.0), r"int64\[:\] read-only"),
        (((PLACES, TABLE[0]), DATA, 1.0), r"int64\[:\]\)"),
        (((PLACES.astype(float), TABLE), DATA, 1.0), r"float64\[:\]"),
        (((PLACES, TABLE), b"abc", 1.0), "bytes, float"),
        (((PLACES, TABLE), DATA, "1"), "str"),
    ],
)
def test_arrays_that_machine_code_would_misread_are_refused(arguments, said):
    with pytest.raises(TypeError, match=f"count takes .*, not .*{said}"):
        count(*arguments)


@pytest.mark.parametrize("signature", [None, [], test_an_error_raised_in_a_kernel_reaches_the_caller, [1]])
def test_a_kernel_without_a_signature_is_refused(signature):
    with pytest.raises(TypeError, match="write it as text, like"):
        njit(signature)


def test_a_kernel_that_names_addresses_of_its_process_is_refused():
    large = np.zeros(10_000_000 // 8)

    @njit("float64(int64)")
    def pick(index):
        return large[index]

    with pytest.raises(RuntimeError, match="uses a large global array or an object; pass it as an argument instead"):
        pick(3)


def test_a_kernel_that_returns_an_array_is_refused():
    @njit("int64[::1](int64)")
    def some(size):
        return np.zeros(size, np.int64)

    with pytest.raises(RuntimeError, match="some returns an array or another object; take the array as an argument"):
        some(3)


@pytest.mark.timeout(900)  # on a fresh machine this is where all of them are compiled
def test_every_kernel_of_the_package_compiles_and_loads():
    compiled.compile_all()
    code = "from kernels.compiled import missing; print(missing(), 'kernels.windows' in __import__('sys').modules)"
    for _ in range(2):  # once by looking, once by the note that was made
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
        assert done.stdout == "[] False\n", done.stderr
    assert compiled.load_imported() > 0
    assert compiled.compile_all() == 0


def test_old_code_is_removed_by_age(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    source = tmp_path / "some.py"
    for version in range(9):
        source.write_text(f"# {version}")
        code_cache._text.cache_clear()
        code_cache._sources.cache_clear()
        entry = Entry("some", source, "f", "int64()")
        CodeCache().write(entry, b"code")
        os.utime(next(iter(codes(tmp_path))).parent, (version, version))
    CodeCache().tidy()
    assert len(codes(tmp_path)) == code_cache.VERSIONS_KEPT
    assert CodeCache().read(entry) == b"code"
