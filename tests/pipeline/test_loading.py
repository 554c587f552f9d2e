"""An app is loaded from a file; what is wrong with the file is said in one sentence."""

import re
from pathlib import Path

import pytest

from pipeline.errors import DeclarationError
from pipeline.loading import load_app

APP = """
from pipeline import App, Stream, Task
s = Stream("s", id="i", time="t", fields={"x": "number"})
app = App("a", [Task("t", on=s, features={"y": s.x})])
"""


def write(folder: Path, text: str) -> str:
    path = folder / "bank.py"
    path.write_text(text)
    return str(path)


def test_the_only_app_of_a_file_needs_no_name(tmp_path: Path) -> None:
    assert load_app(write(tmp_path, APP)).name == "a"


def test_an_app_beside_a_folder_called_models(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "__init__.py").write_text("raise RuntimeError('the wrong models')")
    (tmp_path / "helpers_of_bank.py").write_text("NAME = 'mine'")
    text = APP.replace('"a"', "NAME").replace("from pipeline", "from helpers_of_bank import NAME\nfrom pipeline", 1)
    assert load_app(write(tmp_path, text)).name == "mine"


CASES = {
    "s = 1": "it holds no App",
    "import no_such_thing_at_all": "bank.py:1: it imports no_such_thing_at_all, which is not installed here",
    "x = (": "bank.py:1: '(' was never closed: x = (",
    "x = 1\ny = x / 0": "bank.py:2: ZeroDivisionError: division by zero",
    APP + "b = App('b', app.tasks)": "it holds app, b; name one:",
}


@pytest.mark.parametrize("text", CASES)
def test_what_is_wrong_with_a_file(tmp_path: Path, text: str) -> None:
    with pytest.raises(DeclarationError, match=re.escape(CASES[text])):
        load_app(write(tmp_path, text))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    write(tmp_path, APP)
    with pytest.raises(DeclarationError, match=r"there is no app file .*bnk\.py; did you mean 'bank\.py'\?"):
        load_app(str(tmp_path / "bnk.py"))


def test_one_of_several_apps(tmp_path: Path) -> None:
    path = write(tmp_path, APP + "b = App('b', app.tasks)")
    assert load_app(f"{path}:b").name == "b"
    with pytest.raises(DeclarationError, match=r"there is no app 'c' in it; there are app, b"):
        load_app(f"{path}:c")


def test_a_relative_path_keeps_the_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "x = 1\ny = x / 0")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DeclarationError, match=re.escape("bank.py:2: ZeroDivisionError: division by zero")):
        load_app("bank.py")
