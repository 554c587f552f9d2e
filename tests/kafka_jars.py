"""Where the jars of the test broker are: fetched once by Maven, kept outside the repository."""

import os
import shutil
from pathlib import Path

from tests.fetched import CACHE, fetched, maven

VERSION = "4.3.1"  # as in pom.xml
MISSING = "Kafka needs Java 17 and Maven here; bring them with: apt-get install -y openjdk-17-jre-headless maven"
# Read when this is imported: a fixture of conftest.py hides the settings of the developer from every test.
GIVEN = os.environ.get("PELTON_TEST_KAFKA")
NEEDED = os.environ.get("PELTON_TEST_NEEDS_KAFKA", "") not in ("", "0")


def missing() -> str | None:
    """Say in a line what is missing to run a broker; None if nothing is."""
    if shutil.which("java") is None or (not _folder().is_dir() and shutil.which("mvn") is None):
        return MISSING
    return None


def class_path() -> str:
    """Return the class path of Kafka; fetch the 46 jars, 44 MB, if this is the first time."""
    return f"{fetched(_folder(), _fetch)}/*"


def _fetch(folder: Path) -> None:
    pom = str(Path(__file__).parent / "pom.xml")
    arguments = ["-DincludeScope=runtime", f"-DoutputDirectory={folder}"]
    maven(f"Kafka {VERSION}", "-f", pom, "dependency:copy-dependencies", *arguments)


def _folder() -> Path:
    return CACHE / f"kafka-{VERSION}"
