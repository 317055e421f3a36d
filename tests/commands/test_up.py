"""`tally up`: all together from one command, on free ports, stopped together."""

from __future__ import annotations

import json
import socket
import time
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from tests.commands.conftest import Tally
from tests.processes import ServerProcess

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.servers

FREE = {
    "TALLY_KAFKA_BOOTSTRAP": "127.0.0.1:0",
    "TALLY_STORE_URL": "http://127.0.0.1:0/tally",
    "TALLY_METRICS_PORT": "0",
    "TALLY_LOG_LEVEL": "warning",
}


def up(folder: Path, *options: str) -> ServerProcess:
    """`tally up` on a folder, on free ports; not waited for."""
    command = ("-m", "tally", "up", "--data", str(folder), *options)
    return ServerProcess(*command, log=folder.parent / f"{folder.name}.stderr", environment=FREE)


def on(ready: dict[str, Any]) -> Tally:
    """The command line on the addresses of the ready line."""
    return Tally({"TALLY_KAFKA_BOOTSTRAP": ready["bootstrap"], "TALLY_STORE_URL": ready["store"]})


def is_open(address: str) -> bool:
    """Whether something listens there."""
    host, _, port = address.removeprefix("http://").partition("/")[0].rpartition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


def addresses(ready: dict[str, Any]) -> list[str]:
    """What a client may connect to."""
    return [ready["bootstrap"], ready["store"], ready["metrics"]]


def wait_until_gone(processes: list[psutil.Process]) -> None:
    """Fails when one of them is still there after a minute."""
    deadline = time.monotonic() + 60
    while alive := [process for process in processes if not is_gone(process)]:
        assert time.monotonic() < deadline, alive
        time.sleep(0.1)


def is_gone(process: psutil.Process) -> bool:
    """Ended, whether or not somebody has asked for its exit code: a container may have no init that does."""
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def event(number: int) -> bytes:
    """A lookup that happens now."""
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    data = {"project": "p", "api_key": "k"}
    head = {"specversion": "1.0", "source": "/s", "type": "lookup", "subject": "acme", "time": now}
    return json.dumps({**head, "id": str(number), "data": data}).encode()


def test_events_go_in_and_answers_come_out_and_a_restart_keeps_them(tmp_path: Path, book: Path) -> None:
    """One command is enough for development; what was counted is there again after a stop and a start."""
    events = tmp_path / "events.ndjson"
    events.write_bytes(b"\n".join(event(n) for n in range(100)))
    with up(tmp_path / "data", "--partitions", "2") as process:
        ready = process.wait_until_ready()
        tally = on(ready)
        assert tally("catalog", "apply", str(book)).code == 0
        assert tally("send", str(events)).json == {"sent": 100}
        assert tally("drain").code == 0
        assert all(is_open(address) for address in addresses(ready))
        children = psutil.Process(process.process.pid).children(recursive=True)
        assert process.stop() == 0
        wait_until_gone(children)
        assert not any(is_open(address) for address in addresses(ready))

    with up(tmp_path / "data") as process:
        tally = on(process.wait_until_ready())
        assert tally("send", str(events)).json == {"sent": 100}
        assert tally("drain").code == 0
        invoice = tally("report", "invoice", "--org", "acme", "--period", "total", "--format", "json").json
        assert tally("audit").code == 0
        assert process.stop() == 0

    assert (invoice["exact_total"], invoice["completeness"]["duplicates"]) == ("4.150000000000", 100)


@pytest.mark.parametrize("victim", ["worker", "store"])
def test_if_one_dies_the_rest_is_stopped(tmp_path: Path, victim: str) -> None:
    """It says which one, and does not end as if all were well."""
    with up(tmp_path / "data") as process:
        process.wait_until_ready()
        children = psutil.Process(process.process.pid).children(recursive=True)
        (child,) = [child for child in children if child.cmdline()[1:4] == ["-m", "tally", victim]]

        child.kill()

        wait_until_gone(children)
        assert process.process.wait(60) == 1
        assert f"The {victim} ended by itself (exit -9)" in process.stderr()


def test_nothing_outlives_it_even_if_it_is_killed(tmp_path: Path) -> None:
    """SIGKILL of the parent ends the children."""
    with up(tmp_path / "data") as process:
        process.wait_until_ready()
        children = psutil.Process(process.process.pid).children(recursive=True)

        process.kill()

        wait_until_gone(children)


def test_a_signal_while_it_starts_stops_it(tmp_path: Path) -> None:
    """Nobody has to wait for the end of a start."""
    with up(tmp_path / "data") as process:
        parent = psutil.Process(process.process.pid)
        while not (children := parent.children(recursive=True)):
            time.sleep(0.05)

        assert process.stop() == 0
        wait_until_gone(children)


def test_a_port_that_is_taken_is_said_and_nothing_is_left(tmp_path: Path) -> None:
    """The child's own sentence and exit code, once."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        given = Tally(FREE).given(store_url=f"http://127.0.0.1:{port}/tally")

        answer = given.apart("up", "--data", str(tmp_path / "data"))

    assert (answer.code, answer.stdout) == (2, "")
    assert f"Port {port} on 127.0.0.1 can't be used" in answer.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"kafka_bootstrap": "kafka.example:9092"}, "TALLY_KAFKA_BOOTSTRAP must be 127.0.0.1:PORT"),
        ({"kafka_bootstrap": "127.0.0.1:1,127.0.0.1:2"}, "TALLY_KAFKA_BOOTSTRAP must be 127.0.0.1:PORT"),
        ({"kafka_security_protocol": "SSL"}, "without TLS or login"),
        ({"store_url": "https://127.0.0.1:8443/tally"}, "TALLY_STORE_URL must be http://127.0.0.1:PORT"),
        ({"store_url": "http://clickhouse.example/tally"}, "TALLY_STORE_URL must be http://127.0.0.1:PORT"),
    ],
)
def test_servers_elsewhere_are_not_started_here(tmp_path: Path, settings: dict[str, str], said: str) -> None:
    """`tally up` never pretends to be the broker of somebody else."""
    answer = Tally(FREE).given(**settings)("up", "--data", str(tmp_path / "data"))

    assert answer.code == 2
    assert said in answer.sentence
    assert not (tmp_path / "data").exists()
