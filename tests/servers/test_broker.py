"""``tally broker``: a real Kafka that survives restarts and kills, and a sentence when it can't run here."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import stat
import time
from typing import TYPE_CHECKING

import psutil
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from tests.processes import ServerProcess, broker_process, wait_until_gone

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.servers

MIB = 1024 * 1024


async def make_topic(bootstrap: str, topic: str, *, configs: dict[str, str] | None = None) -> None:
    """A topic with two partitions."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(topic, 2, 1, topic_configs=configs or {})])
    finally:
        await admin.close()


async def send(bootstrap: str, topic: str, values: list[bytes]) -> None:
    """Acknowledged when it returns."""
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, enable_idempotence=True, max_request_size=20 * MIB)
    await producer.start()
    try:
        for value in values:
            await producer.send_and_wait(topic, value, partition=0)
    finally:
        await producer.stop()


async def read(bootstrap: str, topic: str, count: int) -> list[bytes]:
    """The first records of partition 0."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap, max_partition_fetch_bytes=20 * MIB, auto_offset_reset="earliest"
    )
    await consumer.start()
    try:
        consumer.assign([TopicPartition(topic, 0)])
        return [(await consumer.getone()).value for _ in range(count)]
    finally:
        await consumer.stop()


async def commit(bootstrap: str, topic: str, offset: int) -> None:
    """The committed offset of the group g."""
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=bootstrap, group_id="g", session_timeout_ms=6_000)
    await consumer.start()
    try:
        await consumer.commit({TopicPartition(topic, 0): offset})
    finally:
        await consumer.stop()


async def committed(bootstrap: str, topic: str) -> int | None:
    """The committed offset of the group g."""
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, group_id="g")
    await consumer.start()
    try:
        offset: int | None = await consumer.committed(TopicPartition(topic, 0))
    finally:
        await consumer.stop()
    return offset


def java_of(process: ServerProcess) -> psutil.Process:
    """The Java child of a broker."""
    (java,) = psutil.Process(process.process.pid).children()
    return java


def runs_kafka(process: psutil.Process) -> bool:
    """Whether it is the server, and not the tool that prepares its folder."""
    try:
        return "kafka.Kafka" in process.cmdline()
    except psutil.NoSuchProcess:  # ended meanwhile
        return False


async def test_a_block_of_nine_mebibytes_fits(broker: str, topic_prefix: str) -> None:
    """The largest record that the pipeline sends."""
    topic = f"{topic_prefix}blocks"
    await make_topic(broker, topic, configs={"max.message.bytes": str(10 * MIB)})
    block = os.urandom(9 * MIB)

    await send(broker, topic, [block])

    assert await read(broker, topic, 1) == [block]


async def test_a_mistyped_topic_is_not_created_by_the_way(broker: str) -> None:
    """Topics come from `tally migrate`, with the settings that the numbers depend on."""
    admin = AIOKafkaAdminClient(bootstrap_servers=broker)
    await admin.start()
    try:
        (answer,) = await admin.describe_configs([ConfigResource(ConfigResourceType.BROKER, "1")])
    finally:
        await admin.close()

    found = {entry[0]: entry[1] for entry in answer.resources[0][4]}
    assert found["auto.create.topics.enable"] == "false"
    assert int(found["group.min.session.timeout.ms"]) <= 6_000
    assert int(found["offsets.retention.minutes"]) > 35 * 24 * 60


async def test_records_and_offsets_survive_a_restart_on_another_port(tmp_path: Path) -> None:
    """Stopped in order with exit 0, silent on stderr, and all is there again."""
    with broker_process(tmp_path / "data") as first:
        bootstrap = first.wait_until_ready()["bootstrap"]
        await make_topic(bootstrap, "t")
        await send(bootstrap, "t", [b"one", b"two"])
        await commit(bootstrap, "t", 1)
        assert first.stop() == 0
    with broker_process(tmp_path / "data") as second:
        bootstrap_again = second.wait_until_ready()["bootstrap"]

        assert bootstrap_again != bootstrap
        assert await read(bootstrap_again, "t", 2) == [b"one", b"two"]
        assert await committed(bootstrap_again, "t") == 1
        assert second.stop(signal.SIGINT) == 0
    assert "Downloading" in second.stderr() or second.stderr() == ""


async def test_java_dies_with_its_parent_and_the_records_stay(tmp_path: Path) -> None:
    """Kill -9 leaves nothing running; the next start on the same folder and port has what was acknowledged."""
    first = broker_process(tmp_path / "data")
    bootstrap = first.wait_until_ready()["bootstrap"]
    await make_topic(bootstrap, "t")
    await send(bootstrap, "t", [b"one"])
    java = java_of(first)
    first.kill()

    wait_until_gone(java)
    with broker_process(tmp_path / "data", port=int(bootstrap.rpartition(":")[2])) as second:
        assert second.wait_until_ready()["bootstrap"] == bootstrap
        assert await read(bootstrap, "t", 1) == [b"one"]


async def test_a_kafka_that_ends_by_itself_ends_the_broker(tmp_path: Path) -> None:
    """Exit 3, and a sentence that names the log."""
    process = broker_process(tmp_path / "data")
    process.wait_until_ready()
    java_of(process).kill()

    assert process.process.wait(60) == 3
    process.stop()
    assert "Kafka ended by itself" in process.stderr()
    assert "server.log" in process.stderr()
    assert process.stderr().count("\n") == 1


def test_it_can_be_stopped_before_it_is_ready(tmp_path: Path) -> None:
    """Nothing is left behind."""
    with broker_process(tmp_path / "data") as process:
        parent = psutil.Process(process.process.pid)
        while not (servers := [child for child in parent.children() if runs_kafka(child)]):
            time.sleep(0.02)

        assert process.stop() == 0
    assert not servers[0].is_running()


def test_a_second_broker_on_the_same_folder_says_so(tmp_path: Path) -> None:
    """Exit 2 and one sentence, before anything is touched."""
    with broker_process(tmp_path / "data") as first:
        first.wait_until_ready()
        second = broker_process(tmp_path / "data")

        assert second.process.wait(60) == 2
        second.stop()
    assert f"Another broker runs on {tmp_path / 'data'}" in second.stderr()


def test_a_taken_port_says_so(tmp_path: Path) -> None:
    """Exit 2 and one sentence."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = broker_process(tmp_path / "data", port=port)

        assert process.process.wait(60) == 2
        process.stop()
    assert f"Port {port} on 127.0.0.1 can't be used (Address already in use): stop" in process.stderr()
    assert process.stderr().count("\n") == 1


def program(folder: Path, name: str, script: str) -> None:
    """A shell script that stands for a program on PATH."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def refused(data: Path, path: Path, *, cache: Path) -> str:
    """What a broker says that finds these programs and this cache, and can't run."""
    process = broker_process(data, environment={"PATH": str(path), "XDG_CACHE_HOME": str(cache)})
    assert process.process.wait(60) == 2
    process.stop()
    return process.stderr()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """An empty folder to be the PATH, with the shell's basics."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("sh", "mkdir", "touch"):
        (folder / name).symlink_to(shutil.which(name) or "")
    return folder


def test_a_machine_without_java_is_told_so(tmp_path: Path, path: Path) -> None:
    """And which version is wanted."""
    assert "No java on PATH: install Java 17 or newer" in refused(tmp_path / "data", path, cache=tmp_path)


@pytest.mark.parametrize("version", ["1.8.0_292", "11.0.2"])
def test_a_java_that_is_too_old_is_told_so(tmp_path: Path, path: Path, version: str) -> None:
    """Kafka 4 would end with a class version error."""
    program(path, "java", f"""echo 'openjdk version "{version}" 2018-10-16' >&2""")

    said = refused(tmp_path / "data", path, cache=tmp_path)

    assert f"is Java {version.removeprefix('1.').partition('.')[0]}: Kafka 4 needs Java 17 or newer" in said


def test_a_machine_without_maven_is_told_so(tmp_path: Path, path: Path) -> None:
    """Only when the jars are not there yet."""
    program(path, "java", """echo 'openjdk version "17.0.1"' >&2""")

    assert "No mvn on PATH" in refused(tmp_path / "data", path, cache=tmp_path / "cache")


@pytest.mark.parametrize("end", ["echo '[ERROR] no route to repository'; exit 1", "kill -9 $$"])
def test_a_download_that_fails_leaves_nothing_that_looks_complete(tmp_path: Path, path: Path, end: str) -> None:
    """Half a set of jars would be found at the next start, and be taken for Kafka."""
    program(path, "java", """echo 'openjdk version "17.0.1"' >&2""")
    program(path, "mvn", f'for last; do :; done; mkdir -p "${{last#*=}}"; touch "${{last#*=}}/half.jar"; {end}')

    said = refused(tmp_path / "data", path, cache=tmp_path / "cache")

    assert "Downloading Apache Kafka 4.1.1 from Maven Central" in said
    assert "Maven could not download Kafka" in said
    assert list((tmp_path / "cache").rglob("*.jar")) == []
