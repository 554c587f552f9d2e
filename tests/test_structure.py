"""Rules of the code base that a machine can check: sizes, layers' imports, what must never be called."""

import ast
import importlib.metadata
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("ops", "pipeline", "models", "connectors", "kernels")
LINES_MAX = 400
FUNCTION_LINES_MAX = 70
# Heavy, and absent where only the base is installed: imported inside the functions that train or plot.
HEAVY = {"torch", "triton", "sklearn", "matplotlib"}
MAY_IMPORT_HEAVY = (
    "models/train/",
    "models/moe/",  # the network: torch modules from top to bottom
    "kernels/moe/",  # the same on a GPU: Triton
    "models/onnx_export.py",  # turns the trained network into ONNX: the last step of training
    "models/export",  # of events, texts and images
    "tests/",
)
# Loading these runs code that a file brings along.
FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "joblib", "shelve", "marshal"}
FORBIDDEN_CALLS = {"eval", "exec", "torch.load", "torch.save"}

CODE = sorted(file for package in (*PACKAGES, "tests") for file in (ROOT / package).rglob("*.py"))
OURS = [file for file in CODE if file.relative_to(ROOT).parts[0] != "tests"]


def name_of(file):
    return file.relative_to(ROOT).as_posix()


each_file = pytest.mark.parametrize("file", CODE, ids=name_of)
each_file_of_ours = pytest.mark.parametrize("file", OURS, ids=name_of)


@cache
def tree_of(file):
    return ast.parse(file.read_text(encoding="utf-8"))


def functions(tree):
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def imports(nodes):
    """Name the modules that these nodes import, each with its line."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module, node.lineno


def at_import(node):
    """Walk what runs when the module is imported: everything but functions and what is for type checkers only."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from at_import(child)


@each_file
def test_a_file_stays_readable_in_one_sitting(file):
    lines = file.read_text(encoding="utf-8").count("\n")
    assert lines < LINES_MAX, f"{name_of(file)} has {lines} lines; give its second idea a file of its own"


@each_file
def test_a_function_stays_readable_on_one_screen(file):
    long = {
        f"{name_of(file)}:{function.lineno} {function.name}": function.end_lineno - function.lineno + 1
        for function in functions(tree_of(file))
        if function.end_lineno - function.lineno + 1 > FUNCTION_LINES_MAX
    }
    assert not long, f"longer than {FUNCTION_LINES_MAX} lines"


@each_file
def test_no_file_is_a_drawer_for_everything(file):
    assert file.stem not in {"utils", "util", "helpers", "common", "misc"}, "name it after its one idea"


@each_file
def test_no_data_is_ever_run_as_code(file):
    found = [f"line {line}: {module}" for module, line in imports(ast.walk(tree_of(file)))
             if module.split(".")[0] in FORBIDDEN_MODULES]  # fmt: skip
    found += [f"line {node.lineno}: {ast.unparse(node.func)}" for node in ast.walk(tree_of(file))
              if isinstance(node, ast.Call) and ast.unparse(node.func) in FORBIDDEN_CALLS]  # fmt: skip
    assert not found


@each_file_of_ours
def test_types_are_told_to_msgspec_when_a_module_is_imported(file):
    # msgspec 0.22 looks at a type when it first decodes one; a thread that comes meanwhile reads half of what was found
    found = [
        f"line {node.lineno}: {ast.unparse(node)}"
        for function in functions(tree_of(file)) for node in ast.walk(function)
        if isinstance(node, ast.Call) and re.match(r"msgspec\.(.*decode|convert)$", ast.unparse(node.func))
        for word in node.keywords if word.arg == "type" and ast.unparse(word.value) not in ("str", "int", "float")
    ]  # fmt: skip
    assert not found, "make a Decoder at the top of the module"


@each_file
def test_heavy_packages_are_imported_where_they_are_used(file):
    if name_of(file).startswith(MAY_IMPORT_HEAVY):
        return
    found = [f"line {line}: {module}" for module, line in imports(at_import(tree_of(file)))
             if module.split(".")[0] in HEAVY]  # fmt: skip
    assert not found, "import it inside the function that needs it"


@each_file_of_ours
def test_numba_is_imported_to_compile_and_never_to_run(file):
    found = [f"line {line}" for module, line in imports(at_import(tree_of(file))) if module.split(".")[0] == "numba"]
    assert not found or name_of(file) in {"kernels/compiling.py", "kernels/intrinsics.py"}, "0.2 s of every start"


@each_file_of_ours
def test_what_is_public_says_what_it_is(file):
    tree = tree_of(file)
    assert ast.get_docstring(tree), f"{name_of(file)} does not say what it is for"
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]
    public = classes + [node for holder in (tree, *classes) for node in holder.body
                        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
                        and not node.name.startswith("_")]  # fmt: skip
    silent = [f"line {node.lineno}: {node.name}" for node in public
              if not ast.get_docstring(node) and not says_nothing_new(node)]  # fmt: skip
    assert not silent


def says_nothing_new(node):
    """Pass `forward` of a torch module, which its class describes, and the variants of an overloaded function."""
    return node.name == "forward" or any(
        ast.unparse(each) in {"overload", "typing.overload"} for each in node.decorator_list
    )


# A benchmark paces its producer by the clock, and tells by it that nothing comes any more.
@pytest.mark.parametrize("file", [file for file in CODE if file not in OURS and "bench" not in file.parts], ids=name_of)
def test_no_test_waits_by_the_clock(file):
    called = [node.lineno for node in ast.walk(tree_of(file))
              if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "sleep"]  # fmt: skip
    assert not called, f"sleeps in lines {called}; wait for the thing itself"


def test_no_file_names_the_place_where_it_was_written():
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip("not a git checkout: nothing says which files are ours")
    place = re.compile(r"/" + r"work/|\bissue" + r" \d+\b(?! \w+ tracker)")
    found = []
    for name in filter(None, tracked.stdout.split("\0")):
        file = ROOT / name
        if (
            file.suffix in {".py", ".md", ".toml", ".yml", ".yaml", ".json", ".html", ".js", ".css", ""}
            and file.is_file()
        ):
            text = file.read_text(encoding="utf-8", errors="replace")
            found += [f"{name}:{number}" for number, line in enumerate(text.splitlines(), 1) if place.search(line)]
    assert not found


def test_the_import_name_kernels_is_ours():
    import kernels

    assert Path(kernels.__file__) == ROOT / "kernels" / "__init__.py"
    foreign = [found.metadata["Name"] for found in importlib.metadata.distributions()
               if found.metadata["Name"] == "kernels"]  # fmt: skip
    assert not foreign, "the PyPI package `kernels` (Hugging Face) hides ours: pip uninstall kernels"


def test_serving_needs_neither_torch_nor_scikit_learn():
    modules = [name_of(file).removesuffix(".py").removesuffix("/__init__").replace("/", ".") for file in OURS
               if not name_of(file).startswith(MAY_IMPORT_HEAVY)]  # fmt: skip
    code = f"import importlib, sys\nfor name in {modules}: importlib.import_module(name)\n"
    code += f"print(sorted({HEAVY} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr[-2000:]


def test_help_waits_for_no_heavy_package():
    command = [sys.executable, "-X", "importtime", "-c", "from ops.cli import main; main()", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Usage" in done.stdout
    imported = {line.rpartition("|")[2].strip().split(".")[0] for line in done.stderr.splitlines() if "|" in line}
    heavy = {"numba", "pyarrow", "numpy", "torch", "sklearn", "matplotlib", "onnxruntime", "sqlalchemy", "polars"}
    assert not heavy & imported
