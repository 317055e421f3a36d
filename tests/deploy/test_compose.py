"""The files of a deployment name only what exists: settings, commands, metrics, files."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING, Any

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from prometheus_client import CollectorRegistry
from ruamel.yaml import YAML

from agents.metrics import Metrics
from tally.main import ORDER
from tally.settings import Settings
from tests.processes import ROOT

if TYPE_CHECKING:
    from pathlib import Path

SETTINGS = {f"TALLY_{name.upper()}" for name in Settings.model_fields}
OWN_IMAGE = "tallyhouse:0.1.0"


def yaml_of(name: str) -> Any:
    """A YAML file of the project."""
    return YAML(typ="safe").load((ROOT / name).read_text(encoding="utf-8"))


SERVICES: dict[str, dict[str, Any]] = yaml_of("docker-compose.yml")["services"]
OWN_SERVICES = sorted(name for name, service in SERVICES.items() if service["image"] == OWN_IMAGE)


def files_of_a_deployment() -> list[Path]:
    """Everything that an operator may copy a variable from."""
    return [ROOT / "docker-compose.yml", ROOT / "Dockerfile", *sorted((ROOT / "deploy").rglob("*.yml"))]


@pytest.mark.parametrize("path", files_of_a_deployment(), ids=lambda path: path.name)
def test_every_variable_is_a_setting(path: Path) -> None:
    """A misspelt one would be ignored, and its default would rule."""
    assert set(re.findall(r"\bTALLY_[A-Z_]+\b", path.read_text(encoding="utf-8"))) <= SETTINGS


@pytest.mark.parametrize("name", OWN_SERVICES)
def test_every_service_gets_settings_that_are_accepted(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the container would read them, with the secret filled in."""
    for variable, value in SERVICES[name]["environment"].items():
        monkeypatch.setenv(variable, re.sub(r"\$\{TALLY_STORE_PASSWORD:\?[^}]*\}", "s3cret", str(value)))

    settings = Settings()

    assert settings.kafka_bootstrap == "kafka:19092"
    assert settings.store_password is not None


@pytest.mark.parametrize("name", OWN_SERVICES)
def test_every_command_exists(name: str) -> None:
    """What the container runs is a command of `tally`, or one of its options."""
    command = SERVICES[name]["command"]

    assert command[0] in {*ORDER, "--help"}


def test_the_commands_in_the_comments_exist() -> None:
    """They are what somebody will paste first."""
    text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    run = [shlex.split(line)[0] for line in re.findall(r"docker compose run .*?\btally ([^\n]*)", text)]

    assert run
    assert set(run) <= set(ORDER)


def test_the_image_starts_the_command_in_exec_form_and_not_as_root() -> None:
    """So that signals reach the worker, and it can harm nothing."""
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    final = lines[max(index for index, line in enumerate(lines) if line.startswith("FROM ")) :]

    assert 'ENTRYPOINT ["tally"]' in final
    assert 'CMD ["worker"]' in final
    assert any(re.fullmatch(r"USER [1-9]\d*:[1-9]\d*", line) for line in final)


def test_what_the_image_copies_exists_and_is_let_through() -> None:
    """Each source of a COPY, past the ignore file."""
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    ignore = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    sources = [
        part for line in re.findall(r"^COPY (?!--)(.+)$", dockerfile, re.MULTILINE) for part in line.split()[:-1]
    ]

    assert sources
    assert [source for source in sources if not (ROOT / source).exists()] == []
    assert [source for source in sources if f"!{source}" not in ignore] == []


def test_every_image_has_a_version() -> None:
    """What runs tomorrow is what was tried today."""
    images = [service["image"] for service in SERVICES.values()]
    images += re.findall(r"^FROM (\S+)", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)

    assert [image for image in images if not re.search(r":v?\d[\w.-]*$", image)] == []


def test_the_same_uv_builds_the_image_and_the_checkout() -> None:
    """One lock, one reader of it."""
    makefile = re.search(r"^UV_VERSION := (\S+)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    image = re.search(
        r"^FROM ghcr.io/astral-sh/uv:(\S+)", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE
    )

    assert makefile is not None
    assert image is not None
    assert makefile[1] == image[1]


def test_the_same_kafka_runs_in_the_container_and_from_the_jars() -> None:
    """Tests and production see one broker."""
    version = re.search(r"<kafka.version>([^<]+)<", (ROOT / "deploy/kafka/pom.xml").read_text(encoding="utf-8"))

    assert version is not None
    assert SERVICES["kafka"]["image"] == f"apache/kafka:{version[1]}"


def test_ports_are_published_on_this_machine_only() -> None:
    """Kafka has no authentication here."""
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]

    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_a_missing_password_stops_compose() -> None:
    """No default, and the sentence says what to set."""
    for service in SERVICES.values():
        for variable, value in service.get("environment", {}).items():
            assert "PASSWORD" not in variable or re.fullmatch(r"\$\{TALLY_STORE_PASSWORD:\?.+\}", value)


def test_whatever_is_waited_for_can_tell_that_it_is_ready() -> None:
    """A health check for each service that others wait for to be healthy."""
    for service in SERVICES.values():
        for other, wait in service.get("depends_on", {}).items():
            assert wait["condition"] != "service_healthy" or "healthcheck" in SERVICES[other]


@pytest.mark.servers
async def test_every_setting_of_kafka_is_one_of_kafkas(broker: str) -> None:
    """The image turns KAFKA_A_B into a.b and ignores what it does not know; the real broker knows its names."""
    admin = AIOKafkaAdminClient(bootstrap_servers=broker)
    await admin.start()
    try:
        (answer,) = await admin.describe_configs([ConfigResource(ConfigResourceType.BROKER, "1")])
    finally:
        await admin.close()
    known = {entry[0] for entry in answer.resources[0][4]}

    used = set(SERVICES["kafka"]["environment"]) - {"KAFKA_HEAP_OPTS"}
    assert {name.removeprefix("KAFKA_").lower().replace("_", ".") for name in used} <= known


def metric_names() -> set[str]:
    """The sample names that a worker serves."""
    registry = CollectorRegistry()
    Metrics(registry)
    names = set()
    for family in registry.collect():
        names |= {sample.name for sample in family.samples}
        if family.type == "counter":
            names.add(f"{family.name}_total")
        if family.type == "histogram":
            names |= {f"{family.name}_bucket", f"{family.name}_sum", f"{family.name}_count"}
        if family.type == "gauge":
            names.add(family.name)
    return names


@pytest.mark.parametrize(
    "rule", yaml_of("deploy/prometheus/rules.yml")["groups"][0]["rules"], ids=lambda rule: rule["alert"]
)
def test_every_alert_looks_at_metrics_that_a_worker_serves(rule: dict[str, Any]) -> None:
    """A rule over a metric that does not exist never fires."""
    text = f"{rule['expr']} {rule['annotations']}"

    assert set(re.findall(r"\btally_[a-z_]+\b", text)) <= metric_names()


@pytest.mark.parametrize(
    "rule", yaml_of("deploy/prometheus/rules.yml")["groups"][0]["rules"], ids=lambda rule: rule["alert"]
)
def test_every_alert_says_what_happened_and_what_to_do(rule: dict[str, Any]) -> None:
    """For the person at night: a severity, a summary, a first step; commands that it names exist."""
    assert rule["labels"]["severity"] in {"page", "ticket"}
    assert set(rule["annotations"]) == {"summary", "description"}
    assert set(re.findall(r"`tally (\w+)", str(rule["annotations"]))) <= set(ORDER)


def test_prometheus_scrapes_the_port_that_workers_serve() -> None:
    """By the name of the service, so that every replica is found."""
    (job,) = yaml_of("deploy/prometheus/prometheus.yml")["scrape_configs"]
    (names,) = job["dns_sd_configs"]
    port = SERVICES["worker"]["environment"]["TALLY_METRICS_PORT"]

    assert names["names"] == ["worker"]
    assert str(names["port"]) == port
    assert SERVICES["worker"]["expose"] == [port]
