"""`tally send`: every line once, as it is, and a number only when all are acknowledged."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from tests.commands.log import alter_topic, records
from tests.processes import ROOT, broker_process

if TYPE_CHECKING:
    from pathlib import Path

    from tally.settings import Settings
    from tests.commands.conftest import Tally

pytestmark = pytest.mark.servers


@pytest.fixture
def ready(installed: Tally) -> Tally:
    """The command line on an installation with two partitions."""
    assert installed("migrate", "--partitions", "2").code == 0
    return installed


def event(org: str = "acme", number: int = 0, size: int = 0) -> bytes:
    """One line. The event need not be right, the pipeline judges."""
    return json.dumps({"specversion": "1.0", "id": f"{number}", "subject": org, "x": "x" * size}).encode()


def test_each_line_arrives_once_and_as_it_is(ready: Tally, settings: Settings, tmp_path: Path) -> None:
    """Broken lines, arrays, odd bytes: nothing is judged here, empty lines alone are no records."""
    lines = [event(), b"{broken", b"[" + event("a") + b"," + event("b") + b"]", b"\xff\xfe", b'  {"spaces": 1} ', b"0"]
    path = tmp_path / "events.ndjson"
    path.write_bytes(b"\n".join([*lines[:3], b"", b"  \t", *lines[3:]]))

    answer = ready("send", str(path))

    assert (answer.code, answer.stderr, answer.json) == (0, "", {"sent": len(lines)})
    assert sorted(record.value for record in records(settings, settings.topics.events)) == sorted(lines)


def test_the_key_is_the_org_when_it_can_be_read(ready: Tally, settings: Settings, tmp_path: Path) -> None:
    """All records of an org go to one partition; a line without a readable org has no key."""
    path = tmp_path / "events.ndjson"
    batch = b"[" + event("in-batch") + b"]"
    unreadable = [b"{broken", b"[]", b"1", b'{"subject": 7}', b'{"subject": "\\ud800"}', event("x" * 129)]
    path.write_bytes(b"\n".join([*(event(f"org-{n % 5}", n) for n in range(50)), batch, *unreadable]))

    assert ready("send", str(path)).json == {"sent": 57}

    found = records(settings, settings.topics.events)
    assert {record.value: record.key for record in found if record.value in unreadable} == dict.fromkeys(unreadable)
    assert next(record.key for record in found if record.value == batch) == b"in-batch"
    keyed = [record for record in found if record.key is not None]
    assert all(json.loads(record.value)["subject"].encode() == record.key for record in keyed if record.value != batch)
    assert len({(record.key, record.partition) for record in keyed}) == len({record.key for record in keyed})


def test_the_partition_of_an_org_is_the_one_that_kafka_clients_choose(
    ready: Tally, settings: Settings, tmp_path: Path
) -> None:
    """The same key goes where Kafka's own default partitioner sends it (murmur2), so producers can be mixed."""
    path = tmp_path / "events.ndjson"
    path.write_bytes(b"\n".join(event(org) for org in ("a", "acme", "globex", "umbrella")))

    ready("send", str(path))

    # What org.apache.kafka.common.utils.Utils (4.1.1) says: toPositive(murmur2(key)) % 2.
    expected = {b"a": 0, b"acme": 0, b"globex": 1, b"umbrella": 0}
    assert {record.key: record.partition for record in records(settings, settings.topics.events)} == expected


def test_without_keys_the_records_are_spread(ready: Tally, settings: Settings, tmp_path: Path) -> None:
    """`--key none` fills one partition after the other, a batch at a time."""
    path = tmp_path / "events.ndjson"
    path.write_bytes(b"\n".join(event(number=n, size=1_000) for n in range(2_000)))

    assert ready("send", str(path), "--key", "none").json == {"sent": 2_000}

    found = records(settings, settings.topics.events)
    assert {record.key for record in found} == {None}
    assert min(sum(record.partition == number for record in found) for number in (0, 1)) > 500


def test_order_is_kept_within_a_partition(ready: Tally, settings: Settings, tmp_path: Path) -> None:
    """What an org sent first stands first."""
    path = tmp_path / "events.ndjson"
    path.write_bytes(b"\n".join(event(f"org-{n % 3}", n, size=300) for n in range(10_000)))

    ready("send", str(path))

    by_org: dict[bytes, list[int]] = {}
    for record in records(settings, settings.topics.events):
        by_org.setdefault(record.key, []).append(int(json.loads(record.value)["id"]))
    assert by_org == {f"org-{n}".encode(): list(range(n, 10_000, 3)) for n in range(3)}


def test_standard_input_is_read_to_its_end(ready: Tally, settings: Settings) -> None:
    """`-` reads a pipe; the last line may lack its end, and lines may end as on Windows."""
    answer = ready.apart("send", "-", stdin=event("a") + b"\r\n" + event("b"))

    assert answer.json == {"sent": 2}
    assert {record.value for record in records(settings, settings.topics.events)} == {event("a"), event("b")}


def test_a_slow_pipe_is_sent_as_it_comes(ready: Tally, settings: Settings) -> None:
    """A line is in the log while the pipe is still open, and an interrupt ends the waiting."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tally", "send", "-"],
        cwd=ROOT,
        env=ready.variables(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    process.stdin.write(event("early") + b"\n")
    process.stdin.flush()
    deadline = time.monotonic() + 60
    while not records(settings, settings.topics.events):
        assert time.monotonic() < deadline, "the line did not arrive"
        time.sleep(0.2)

    process.send_signal(2)
    stdout, stderr = process.communicate(timeout=30)

    assert (process.returncode, stdout, stderr) == (130, b"", b"")


def test_an_empty_file_sends_nothing(ready: Tally, tmp_path: Path) -> None:
    """No lines is an answer too."""
    path = tmp_path / "events.ndjson"
    path.write_bytes(b"\n\n")

    assert ready("send", str(path)).json == {"sent": 0}


def test_a_record_that_is_too_large_for_an_event_is_sent(ready: Tally, settings: Settings, tmp_path: Path) -> None:
    """Between 1 MiB and what the topic takes it is the pipeline that refuses it, visibly."""
    path = tmp_path / "events.ndjson"
    path.write_bytes(event(size=1_500_000))

    assert ready("send", str(path)).json == {"sent": 1}

    assert len(records(settings, settings.topics.events)[0].value) > 1_500_000


@pytest.mark.parametrize("tail", [b"", b"\n" + event()])
def test_a_line_that_the_topic_is_too_small_for_is_named(
    ready: Tally, settings: Settings, tmp_path: Path, tail: bytes
) -> None:
    """The lines before it are acknowledged, nothing after it is sent, and no number is printed."""
    path = tmp_path / "events.ndjson"
    path.write_bytes(b"\n".join([event(number=1), b"", event(number=2), event(size=2_200_000)]) + tail)

    answer = ready("send", str(path))

    assert (answer.code, answer.stdout) == (2, "")
    assert "Line 4" in answer.sentence
    assert "2 records before it went out" in answer.sentence
    assert len(records(settings, settings.topics.events)) == 2


def test_a_line_without_end_is_not_read_into_memory(ready: Tally) -> None:
    """A gigabyte without a line end is refused after the first few megabytes."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tally", "send", "-"],
        cwd=ROOT,
        env=ready.variables(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    written = 0
    with suppress(BrokenPipeError):
        while written < 1 << 30:
            written += process.stdin.write(b"x" * (1 << 20))
    _, stderr = process.communicate(timeout=30)

    assert process.returncode == 2
    assert b"Line 1 of standard input is larger" in stderr
    assert written < 64 << 20


def test_a_topic_that_takes_less_than_it_should_is_respected(ready: Tally, settings: Settings, tmp_path: Path) -> None:
    """The limit is asked from the broker, not assumed."""
    alter_topic(settings, settings.topics.events, {"max.message.bytes": "400000"})
    path = tmp_path / "events.ndjson"
    path.write_bytes(b"\n".join(event(number=n, size=10_000) for n in range(100)) + b"\n" + event(size=400_000))

    answer = ready("send", str(path))

    assert answer.code == 2
    assert "Line 101" in answer.sentence
    assert len(records(settings, settings.topics.events)) == 100


def test_the_rate_is_kept(ready: Tally, settings: Settings, tmp_path: Path) -> None:
    """The records of `--rate 200` are spread over the time that 200 a second take."""
    path = tmp_path / "events.ndjson"
    path.write_bytes(b"\n".join(event(number=n) for n in range(300)))

    assert ready("send", str(path), "--rate", "200").json == {"sent": 300}

    times = sorted(record.timestamp for record in records(settings, settings.topics.events))
    spread_ms = times[-1] - times[0]
    # 300 records at 200 a second: the last leaves 1.45 s after the first; a loaded machine may only be slower.
    assert spread_ms >= 1_350
    assert sum(times[0] <= moment < times[0] + 500 for moment in times) <= 130


def test_a_broker_that_dies_meanwhile_is_exit_code_3(tmp_path: Path, settings: Settings, installed: Tally) -> None:
    """No number is printed; the sentence says how many are known to be there, and that repeating is harmless."""
    path = tmp_path / "events.ndjson"
    path.write_bytes(b"\n".join(event(number=n) for n in range(20_000)))
    with broker_process(tmp_path / "mortal") as process:
        bootstrap = str(process.wait_until_ready()["bootstrap"])
        mortal = installed.given(kafka_bootstrap=bootstrap)
        assert mortal("migrate", "--partitions", "2").code == 0
        sending = subprocess.Popen(
            [sys.executable, "-m", "tally", "send", str(path), "--rate", "200"],
            cwd=ROOT,
            env=mortal.given(connect_seconds="2").variables(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        there = settings.model_copy(update={"kafka_bootstrap": bootstrap})
        while not records(there, there.topics.events):
            time.sleep(0.1)
        process.kill()
        stdout, stderr = sending.communicate(timeout=180)

    assert (sending.returncode, stdout) == (3, b"")
    assert b"send it again" in stderr
    assert len(stderr.splitlines()) == 1
