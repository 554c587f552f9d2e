"""The compose file is valid, hides nothing from its reader, and starts things in an order that works."""

import json
import re
from pathlib import Path

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parents[2]
SCHEMA = json.loads((ROOT / "tests" / "compose_spec" / "schema.json").read_text())  # compose-spec's, Apache 2.0
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if service["image"] == "pelton:local"}


def test_it_is_valid():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    found = jsonschema.Draft202012Validator(SCHEMA).iter_errors(COMPOSE)
    assert [f"{'.'.join(map(str, error.absolute_path))}: {error.message}" for error in found] == []


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_bounded_and_its_version_named(name):
    service = SERVICES[name]
    limits = service["deploy"]["resources"]["limits"]
    assert set(limits) == {"cpus", "memory"}
    assert "max-size" in service["logging"]["options"]
    assert service["image"].partition(":")[2] not in ("", "latest")
    assert "restart" in service
    for port in service.get("ports", []):
        assert port.startswith("127.0.0.1:"), "others in the network would reach it"


def test_what_a_service_waits_for_exists_and_can_be_waited_for():
    for name, service in SERVICES.items():
        for other, how in service.get("depends_on", {}).items():
            assert other in SERVICES, f"{name} waits for {other}"
            if how["condition"] == "service_healthy":
                assert "healthcheck" in SERVICES[other], f"{name} waits for the health of {other}"
            else:
                assert SERVICES[other]["restart"] == "no", f"{name} waits for the end of {other}"
        if service["restart"] != "no":
            assert "healthcheck" in service, name


def test_files_and_volumes_are_there():
    for name, service in SERVICES.items():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert (ROOT / source).exists() if source.startswith(".") else source in COMPOSE["volumes"], name
    assert (ROOT / OURS["worker-1"]["build"]["dockerfile"]).is_file()


def test_every_secret_comes_from_the_environment_and_its_default_is_documented():
    text = (ROOT / "docker-compose.yml").read_text()
    readme = (ROOT / "ops" / "deploy" / "README.md").read_text()
    for setting, value in re.findall(r"^\s+(\w*(?:PASSWORD|KEY|TOKEN)\w*): *(.*?)(?: #.*)?$", text, re.MULTILINE):
        assert re.fullmatch(r"\$\{\w+:-[\w=]+\}", value), f"{setting} is {value!r}"
    for name, default in re.findall(r"\$\{(\w+):-([\w=]+)\}", text):
        assert f"| `{name}` | {default}" in readme


def test_prometheus_scrapes_every_worker():
    targets = yaml.safe_load((ROOT / "ops/deploy/prometheus/targets/workers.yml").read_text())
    scraped = {target for each in targets for target in each["targets"]}
    workers = {name: service["command"] for name, service in OURS.items() if service["command"][0] == "run"}
    assert len(workers) >= 2
    assert scraped == {f"{name}:{words[words.index('--metrics-port') + 1]}" for name, words in workers.items()}


def test_the_image_copies_all_of_ours_and_nothing_is_ignored_that_it_needs():
    dockerfile = (ROOT / "ops/deploy/Dockerfile").read_text()
    copied = {word for line in re.findall(r"^COPY (.*) \S+$", dockerfile, re.MULTILINE) for word in line.split()}
    assert {"ops", "pipeline", "models", "connectors", "kernels", "pyproject.toml"} <= copied
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert copied == kept
    assert all((ROOT / each).exists() for each in copied)
