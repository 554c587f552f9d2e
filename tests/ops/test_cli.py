"""The command line as a whole: its help, its speed, and how mistakes are told."""

import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from ops.cli import SECTIONS, app

PELTON = [str(Path(sys.executable).with_name("pelton"))]


def each_command(group, prefix=()):
    for name, command in group.commands.items():
        inner = getattr(command, "commands", None)
        if inner is None:
            yield (*prefix, name), command
        else:
            yield from each_command(command, (*prefix, name))


COMMANDS = dict(each_command(get_command(app)))


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help_says_what_in_one_line_and_shows_an_example(words):
    text = COMMANDS[words].help
    first = text.splitlines()[0]
    assert first.endswith((".", ";")), first
    assert len(first) <= 100
    assert f"For example: pelton {' '.join(words)}" in text


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_an_example_is_a_line_that_the_command_understands(words):
    for line in re.findall(r"pelton (.*)", COMMANDS[words].help):
        arguments = [each for each in line.split(" > ")[0].split()[len(words) :]]
        known = {option for parameter in COMMANDS[words].params for option in parameter.opts}
        assert {each for each in arguments if each.startswith("--")} <= known


def test_every_command_stands_in_a_section_of_the_help(pelton):
    assert set(get_command(app).commands) <= {name for names in SECTIONS.values() for name in names}
    text = pelton("--help").stdout
    for name in get_command(app).commands:
        assert re.search(rf"^  {name} +\w", text, re.MULTILINE), f"{name} is not in the help"


def test_help_comes_at_once():
    def processor_seconds():  # its own, whatever else the machine does
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([*PELTON, "--help"], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(processor_seconds() for _ in range(5)) < 0.3


def test_nothing_is_coloured_in_a_pipe(bank):
    done = subprocess.run([*PELTON, "doctor"], capture_output=True, text=True, cwd=bank)
    assert "\x1b" not in done.stdout + done.stderr


def test_a_command_that_does_not_exist_names_the_nearest(pelton):
    assert "Did you mean 'replay'" in pelton("replya", code=2).stderr


def test_a_missing_argument_is_a_mistake_of_usage(pelton):
    assert "Missing argument 'APP'" in pelton("plan", code=2).stderr


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("plan bonk.py", "there is no app file bonk.py; did you mean 'bank.py'?"),
        ("replay bank.py --input gone.jsonl", "gone.jsonl does not exist"),
        ("replay bank.py --input a.jsonl b.jsonl", "a.jsonl does not exist"),
        ("replay bank.py --input payment=data/payments.jsonl", "reads no stream 'payment'; did you mean 'payments'?"),
        ("replay bank.py --input frauds=data/frauds.jsonl", "no file is of 'payments'"),
        ("replay bank.py --input data/payments.jsonl --speed fast", "speed is 'fast'"),
        ("train bank.py --data data/payments.jsonl --until soon", "'soon' is no time; write 2026-01-31"),
        ("topics", "there is no log at .pelton/log.db yet"),
        ("models list", "there is no registry in .pelton yet"),
        ("dlq redrive bank", "which letters?"),
    ],
)
def test_a_mistake_is_told_in_one_sentence(bank, pelton, line, message):
    result = pelton(line, code=1)
    assert message in result.stderr
    assert result.stderr.startswith("pelton: ")
    assert result.stderr.count("\n") == 1


def test_a_mistake_in_an_app_names_file_line_and_fix(bank, pelton):
    text = (bank / "bank.py").read_text().replace("payments.amount", "payments.amont")
    (bank / "bank.py").write_text(text)
    message = r"bank\.py:9: stream 'payments' has no field 'amont'; did you mean 'amount'\?"
    assert re.search(message, pelton("plan bank.py", code=1).stderr)


def test_an_app_that_cannot_be_run_says_why(bank, pelton):
    (bank / "bank.py").write_text("x = 1\ny = x / 0\n")
    assert "ZeroDivisionError: division by zero" in pelton("plan bank.py", code=1).stderr


@pytest.mark.parametrize("python_path", ["", "."])
def test_an_app_runs_beside_a_users_own_models_folder(bank, python_path):
    environment = {**os.environ, "PYTHONPATH": python_path}
    done = subprocess.run([*PELTON, "plan", "bank.py"], capture_output=True, text=True, cwd=bank, env=environment)
    assert done.returncode == 0, done.stderr
    assert "count_1h = count" in done.stdout


def test_a_damaged_registry_is_told_in_words(bank, pelton):
    (bank / ".pelton" / "registry").mkdir(parents=True)
    (bank / ".pelton" / "registry" / "registry.db").write_text("not a database, whatever its name says")
    assert "file is not a database" in pelton("models list", code=1).stderr


def test_a_data_folder_that_is_a_file_is_told_in_words(bank, pelton):
    (bank / "taken").write_text("")
    result = pelton("append bank.py data/payments.jsonl --data-folder taken", code=1)
    assert "taken" in result.stderr
    assert "Traceback" not in result.stderr


def test_plan_shows_streams_keys_windows_and_features(bank, pelton):
    text = pelton("plan bank.py").stdout
    assert "stage 1: keyed by card" in text
    assert "stage 2: keyed by terminal" in text
    assert re.search(r"last 1h\n +count_1h = count\n +std_1h = std of amount", text)
    assert "rule 'many': count_1h > 4 -> review" in text


def test_simulate_says_what_it_wrote(bank, pelton):
    text = pelton("simulate --days 1 --events-per-day 200 --cards 10 --terminals 10 --out made").stdout
    assert (bank / "made" / "payments.jsonl").exists()
    assert re.search(r"made/payments.jsonl: \d+ records, \d+ payments, \d+ of them fraud", text)
