"""``tally broker``: a real single-node Apache Kafka in the foreground, for development and tests.

The jars come from Maven Central (``deploy/kafka/pom.xml``) into the user's cache, once. Java runs as a child that
cannot outlive this process. It listens on loopback only, because it has no authentication.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ctypes
import hashlib
import json
import logging
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError

from schemas.errors import ServerUnavailable, TallyError, WrongUse
from tally.foreground import LOCALHOST, free_port, owned_folder

DEPLOY: Final = Path(__file__).resolve().parent.parent / "deploy" / "kafka"
JAVA_MAJOR_MIN: Final = 17  # Kafka 4 servers need it: https://kafka.apache.org/41/documentation/compatibility/
START_SECONDS_MAX: Final = 120.0
STOP_SECONDS_MAX: Final = 30.0

#: What the server is told. The heap of the log cleaner is cut to fit a small machine; a record may be 9 MiB (a block
#: of ``usage.priced``); committed offsets outlive every retention of the topics; groups form without a delay. After a
#: kill the node has to wait until its former self counts as dead, which the default makes 9 s.
SERVER_PROPERTIES: Final = """\
process.roles=broker,controller
node.id=1
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
controller.quorum.bootstrap.servers=127.0.0.1:{controller_port}
log.dirs={log_dir}
auto.create.topics.enable=false
num.partitions=4
message.max.bytes=10485760
replica.fetch.max.bytes=10485760
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
offsets.retention.minutes=144000
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=1
group.initial.rebalance.delay.ms=0
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
group.min.session.timeout.ms=6000
num.network.threads=2
num.io.threads=2
background.threads=2
num.recovery.threads.per.data.dir=1
log.cleaner.dedupe.buffer.size=16777216
"""

JVM_OPTIONS: Final = (
    "-Xms128m",
    "-Xmx512m",
    "-XX:+UseSerialGC",
    "-XX:MaxDirectMemorySize=256m",
    "-Djava.awt.headless=true",
)


def run_broker(data: Path, port: int) -> int:
    """Runs Kafka on 127.0.0.1 until SIGTERM or SIGINT, and hands back the exit code for the process.

    Prints one JSON line on stdout once a metadata request has been answered. ``port`` 0 takes a free one. What was
    stored in ``data`` is there again at the next start, also under another port and after a kill.

    Exit codes: 0 stopped as asked; 2 with one sentence on stderr when it cannot run here (port or folder taken, no
    usable Java, no Maven); 3 when Kafka did not start or ended by itself.
    """
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # its complaints while Kafka starts are no news
    try:
        java = find_java()
        jars = ensure_jars()
        with owned_folder(data, server="broker") as folder:
            return _run(java, jars, folder, port)
    except TallyError as error:
        sys.stderr.write(f"tally: {error}\n")
        return error.exit_code


def prepare() -> int:
    """Looks for Java and fetches the jars without starting anything; hands back an exit code like ``run_broker``."""
    try:
        find_java()
        ensure_jars()
    except TallyError as error:
        sys.stderr.write(f"tally: {error}\n")
        return error.exit_code
    return 0


def find_java() -> str:
    """The ``java`` on PATH. Raises WrongUse when there is none, or one that is too old for Kafka 4."""
    java = shutil.which("java")
    if java is None:
        raise WrongUse(f"No java on PATH: install Java {JAVA_MAJOR_MIN} or newer, Kafka runs on it.")
    shown = subprocess.run([java, "-version"], capture_output=True, text=True, check=False).stderr  # noqa: S603
    found = re.search(r'version "(?:1\.)?(\d+)', shown)
    if found is None or int(found[1]) < JAVA_MAJOR_MIN:
        version = found[1] if found else "of an unknown version"
        raise WrongUse(f"{java} is Java {version}: Kafka 4 needs Java {JAVA_MAJOR_MIN} or newer, put one on PATH.")
    return java


def ensure_jars(*, cache: Path | None = None) -> Path:
    """The folder with Kafka's jars; downloads them with Maven when they are missing, and says so on stderr.

    A download that is killed leaves nothing that could be taken for complete. ``cache`` defaults to the user's cache
    folder (XDG base directories).

    Raises:
        WrongUse: Maven is missing, or could not download.
    """
    pom = DEPLOY / "pom.xml"
    if not pom.is_file():
        raise WrongUse(f"{pom} is missing: `tally broker` runs from a checkout; elsewhere use the image apache/kafka.")
    recipe = pom.read_bytes()
    version = recipe.partition(b"<kafka.version>")[2].partition(b"<")[0].decode()
    libs = (cache or _user_cache()) / "tallyhouse" / f"kafka-{version}-{_short_hash(recipe)}" / "libs"
    if not libs.is_dir():
        _download(pom, libs, version=version)
    return libs


def _user_cache() -> Path:
    # Where caches go is the machine's business, not a setting of tally (XDG Base Directory Specification).
    stated = os.environ.get("XDG_CACHE_HOME", "")  # noqa: TID251
    return Path(stated) if stated.startswith("/") else Path.home() / ".cache"


def _short_hash(recipe: bytes) -> str:
    return hashlib.sha256(recipe).hexdigest()[:8]


def _download(pom: Path, libs: Path, *, version: str) -> None:
    maven = shutil.which("mvn")
    if maven is None:
        raise WrongUse(f"No mvn on PATH: install Maven, it downloads Apache Kafka {version} into {libs.parent}.")
    sys.stderr.write(f"Downloading Apache Kafka {version} from Maven Central into {libs} (54 MB, once).\n")
    libs.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=libs.parent, prefix="download-") as scratch:
        target = Path(scratch) / "libs"
        done = subprocess.run(  # noqa: S603
            [maven, "-q", "-B", "-f", str(pom), "dependency:copy-dependencies", f"-DoutputDirectory={target}"],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            said = next((line for line in done.stdout.splitlines() if "ERROR" in line), done.stderr.strip())
            raise WrongUse(f"Maven could not download Kafka ({said}): check the network or Maven's mirror settings.")
        with contextlib.suppress(OSError):  # another process was faster: its copy is as good as ours
            target.rename(libs)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where one run of the broker lives."""

    java: str
    jars: Path
    data: Path
    port: int
    properties: Path

    @property
    def bootstrap(self) -> str:
        return f"{LOCALHOST}:{self.port}"

    @property
    def logs(self) -> Path:
        return self.data / "logs"

    def command(self, main: str, *arguments: str, options: tuple[str, ...] = JVM_OPTIONS) -> list[str]:
        log_config = (f"-Dlog4j2.configurationFile={DEPLOY / 'log4j2.properties'}", f"-Dtally.logs={self.logs}")
        return [self.java, *options, *log_config, "-cp", f"{self.jars}/*", main, *arguments]


def _run(java: str, jars: Path, data: Path, port: int) -> int:
    (data / "logs").mkdir(exist_ok=True)
    place = _Place(java, jars, data, free_port(port), data / "server.properties")
    _write_properties(place)
    _format_once(place)
    with (place.logs / "java.out").open("ab") as output:
        return _Broker(place, output).run()


def _write_properties(place: _Place) -> None:
    text = SERVER_PROPERTIES.format(
        port=place.port, controller_port=free_port(0), log_dir=str(place.data / "data").replace("\\", "\\\\")
    )
    place.properties.write_text(text, encoding="utf-8")


def _format_once(place: _Place) -> None:
    if (place.data / "data" / "meta.properties").exists():
        return
    done = subprocess.run(  # noqa: S603
        place.command(
            "kafka.tools.StorageTool",
            *("format", "--standalone", "--ignore-formatted", "-t", _cluster_id(), "-c", str(place.properties)),
            options=("-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"),
        ),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        said = " ".join((done.stderr or done.stdout).split())[:300]
        raise WrongUse(f"{place.data} could not be prepared for Kafka ({said}): name an empty folder with --data.")


def _cluster_id() -> str:
    """16 random bytes as Kafka writes them: URL-safe base64, 22 characters; a leading "-" would read as an option."""
    while (text := base64.urlsafe_b64encode(secrets.token_bytes(16)).decode().rstrip("=")).startswith("-"):
        pass
    return text


class _Broker:
    """The Java child from start to stop."""

    def __init__(self, place: _Place, output: IO[bytes]) -> None:
        self._place = place
        self._stopping = False
        self._java = subprocess.Popen(  # noqa: S603
            place.command("kafka.Kafka", str(place.properties)),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # ctrl-C reaches this process alone, which then stops Kafka in order
            preexec_fn=_die_with_parent,  # noqa: PLW1509 -- this process has a single thread
        )
        self._before = {number: signal.signal(number, self._stop) for number in (signal.SIGTERM, signal.SIGINT)}

    def run(self) -> int:
        try:
            if self._wait_until_it_answers():
                sys.stdout.write(json.dumps({"ready": True, "bootstrap": self._place.bootstrap}) + "\n")
                sys.stdout.flush()
            return self._wait_until_it_ends()
        finally:
            if self._java.poll() is None:
                self._java.kill()
                self._java.wait()
            for number, handler in self._before.items():
                signal.signal(number, handler)

    def _stop(self, _number: int, _frame: object) -> None:
        """The first signal asks Kafka to stop in order, a second one does not wait for it."""
        if self._java.poll() is None:
            self._java.send_signal(signal.SIGKILL if self._stopping else signal.SIGTERM)
        self._stopping = True

    def _wait_until_it_answers(self) -> bool:
        """True when a metadata request was answered; False when it was told to stop before."""
        deadline = time.monotonic() + START_SECONDS_MAX
        while not self._stopping and self._java.poll() is None:
            if _port_is_open(self._place.port) and asyncio.run(_metadata_answers(self._place.bootstrap)):
                return True
            if time.monotonic() > deadline:
                raise ServerUnavailable(f"Kafka did not answer within {START_SECONDS_MAX:.0f} s: {self._look_here()}")
            time.sleep(0.05)
        return False

    def _wait_until_it_ends(self) -> int:
        while not self._stopping:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._java.wait(timeout=1.0)
                break
        try:
            code = self._java.wait(timeout=STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired as error:
            raise ServerUnavailable(f"Kafka did not stop in {STOP_SECONDS_MAX:.0f} s and was killed.") from error
        if not self._stopping:
            raise ServerUnavailable(f"Kafka ended by itself (exit {code}): {self._look_here()}")
        return 0

    def _look_here(self) -> str:
        return f"look into {self._place.logs / 'server.log'} and {self._place.logs / 'java.out'}."


def _die_with_parent() -> None:
    """In the child, before Java: the kernel kills it when this process is gone, even by SIGKILL (Linux, prctl(2))."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def _port_is_open(port: int) -> bool:
    try:
        with socket.create_connection((LOCALHOST, port), timeout=1.0):
            return True
    except OSError:
        return False


async def _metadata_answers(bootstrap: str) -> bool:
    client = AIOKafkaClient(bootstrap_servers=bootstrap, request_timeout_ms=5_000)
    try:
        await client.bootstrap()
    except (KafkaError, OSError):
        return False
    else:
        return bool(client.cluster.brokers())
    finally:
        await client.close()
