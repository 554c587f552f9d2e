"""Documentation is tested: whatever a user can type or set is named in a README."""

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("ops", "pipeline", "models", "connectors", "kernels")
READMES = "\n".join(
    file.read_text(encoding="utf-8")
    for file in [ROOT / "README.md", *(file for package in PACKAGES for file in (ROOT / package).rglob("README.md"))]
)


def commands(group, prefix):
    """Name every command of a typer app, with the sub-apps that lead to it."""
    for name, command in sorted(group.commands.items()):
        if command.hidden:
            continue
        if hasattr(command, "commands"):
            yield from commands(command, f"{prefix} {name}")
        else:
            yield f"{prefix} {name}"


def settings():
    """Name each environment variable of ours that a source names."""
    found = set()
    for package in PACKAGES:
        for file in (ROOT / package).rglob("*.py"):
            found.update(re.findall(r"\bPELTON_[A-Z0-9_]*[A-Z0-9]\b", file.read_text(encoding="utf-8")))
    return sorted(found)


def test_every_command_is_in_a_readme():
    typer = importlib.import_module("typer")
    cli = importlib.import_module("ops.cli")
    names = list(commands(typer.main.get_command(cli.app), "pelton"))
    assert "pelton demo" in names
    assert [name for name in names if name not in READMES] == []


@pytest.mark.parametrize("name", settings())
def test_every_setting_is_in_a_readme(name):
    assert re.search(rf"\b{name}\b", READMES), f"no README says what {name} does"
