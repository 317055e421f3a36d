"""``tally up``: broker, store and a worker as children of one process, for development.

Children are started in the order in which they need each other and stopped in the opposite one. None of them outlives
this process, and if one dies the others are stopped.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Final, Self
from urllib.parse import urlsplit, urlunsplit

from pydantic import SecretStr

from schemas.errors import ServerUnavailable, TallyError, WrongUse
from tally.connect import store_address
from tally.foreground import LOCALHOST
from tally.migrate import migrate

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from types import FrameType, TracebackType

    from tally.settings import Settings

START_SECONDS_MAX: Final = 600.0  # the first start downloads Kafka
STOP_SECONDS_MAX: Final = 60.0
POLL_SECONDS: Final = 0.2
LOOPBACK: Final = (LOCALHOST, "localhost", "::1")


class InterruptedStart(Exception):  # noqa: N818 -- a wish, no error
    """A signal asked to stop while something was still starting."""


class ChildEnded(TallyError):  # noqa: N818
    """A child ended that should have gone on; ``exit_code`` is its own when it is one of ours."""

    def __init__(self, sentence: str, *, code: int) -> None:
        super().__init__(sentence)
        self.exit_code = code if code in (1, 2, 3) else 1


class Child:
    """One ``tally`` command in a process of its own; stderr goes to a file."""

    def __init__(self, name: str, *arguments: str, log: Path, environment: Mapping[str, str]) -> None:
        self.name = name
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        self._shown = log.stat().st_size if log.exists() else 0
        with log.open("ab") as stderr:
            self._process = subprocess.Popen(  # noqa: S603
                [sys.executable, "-m", "tally", name, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=dict(environment),
                start_new_session=True,  # ctrl-C reaches this process alone, which stops its children in order
                preexec_fn=_end_with_parent,  # noqa: PLW1509 -- the hook only calls prctl
            )

    def wait_until_ready(self, stop: Stop) -> dict[str, Any]:
        """The ready line. What the child says on stderr until then is passed on (Kafka may have to be downloaded).

        Raises:
            ChildEnded: it ended instead.
            ServerUnavailable: it stayed silent.
            InterruptedStart: a signal came.
        """
        deadline = time.monotonic() + START_SECONDS_MAX
        while time.monotonic() < deadline:
            if stop.asked:
                raise InterruptedStart
            if select.select([self._stdout], [], [], POLL_SECONDS)[0]:
                line = self._stdout.readline()
                if not line:
                    raise self.ended()
                ready: dict[str, Any] = json.loads(line)
                return ready
            if self.name == "broker":
                self._pass_on()
        raise ServerUnavailable(f"The {self.name} was not ready within {START_SECONDS_MAX:.0f} s: see {self.log}.")

    def _pass_on(self) -> None:
        with self.log.open("rb") as log:
            log.seek(self._shown)
            said = log.read()
        self._shown += len(said)
        sys.stderr.write(said.decode("utf-8", "replace"))

    @property
    def is_running(self) -> bool:
        """Whether the process is there."""
        return self._process.poll() is None

    def ended(self) -> ChildEnded:
        """The sentence for a child that ended by itself: the last one it said."""
        code = self._process.wait()
        said = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        last = said[-1].removeprefix("tally: ") if said else "it said nothing"
        return ChildEnded(f"The {self.name} ended by itself (exit {code}), see {self.log}: {last}", code=code)

    def stop(self) -> None:
        """Asks it to end in order and waits; one that does not is killed."""
        if self.is_running:
            self._process.terminate()
            try:
                self._process.wait(STOP_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._stdout.close()

    @property
    def _stdout(self) -> IO[bytes]:
        if self._process.stdout is None:
            raise RuntimeError("a child has a stdout")
        return self._process.stdout


def _end_with_parent() -> None:
    """In the child: the kernel asks it to stop when this process is gone, even by SIGKILL (Linux, prctl(2))."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


class Stop:
    """SIGINT and SIGTERM as a wish that is looked at between two steps; a second one interrupts what is under way."""

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


@dataclass(slots=True)
class Together:
    """Broker, store and worker on one folder. Leaving the ``with`` stops them, the last started first."""

    data: Path
    environment: Mapping[str, str]
    stop: Stop
    children: list[Child]

    @classmethod
    def on(cls, data: Path, *, environment: Mapping[str, str], stop: Stop) -> Self:
        """Nothing started yet."""
        return cls(data.resolve(), environment, stop, [])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self.children:
            self.children.pop().stop()

    def start_servers(self, settings: Settings, *, broker_port: int, store_port: int) -> Settings:
        """Starts broker and store at once; hands back the settings with their real addresses."""
        broker = self._start("broker", "--port", str(broker_port), "--data", str(self.data / "broker"))
        store = self._start("store", "--port", str(store_port), "--data", str(self.data / "store"))
        url = urlsplit(str(store.wait_until_ready(self.stop)["url"]))
        database = urlsplit(settings.store_url.get_secret_value()).path
        return settings.model_copy(
            update={
                "kafka_bootstrap": str(broker.wait_until_ready(self.stop)["bootstrap"]),
                "store_url": SecretStr(urlunsplit(url._replace(path=database if database.strip("/") else url.path))),
            }
        )

    def start_worker(self, settings: Settings) -> str:
        """Starts a worker on the servers of the settings; hands back the address of its metrics."""
        self.environment = {
            **self.environment,
            "TALLY_KAFKA_BOOTSTRAP": settings.kafka_bootstrap,
            "TALLY_STORE_URL": settings.store_url.get_secret_value(),
        }
        return str(self._start("worker").wait_until_ready(self.stop)["metrics"])

    def wait(self) -> None:
        """Returns when a signal asked to stop.

        Raises:
            ChildEnded: one of the children ended by itself.
        """
        while not self.stop.asked:
            for child in self.children:
                if not child.is_running:
                    raise child.ended()
            time.sleep(POLL_SECONDS)

    def _start(self, name: str, *arguments: str) -> Child:
        log = self.data / "logs" / f"{name}.log"
        child = Child(name, *arguments, log=log, environment=self.environment)
        self.children.append(child)
        return child


def run_up(settings: Settings, data: Path, *, config: Path | None = None, priced_partitions: int | None = None) -> int:
    """Runs everything until SIGINT or SIGTERM; 0 when it was stopped so.

    Prints one JSON line with the addresses when all is ready.

    Raises:
        WrongUse: the settings name servers elsewhere, or a port or folder is taken.
        ChildEnded: one of them died; the others were stopped.
    """
    broker_port, store_port = _ports(settings)
    environment = {**os.environ, "TALLY_METRICS_PORT": str(settings.metrics_port)}  # noqa: TID251 -- handed on, not read
    if config is not None:
        _hand_on(environment, settings)
    with (
        Stop() as stop,
        Together.on(data, environment=environment, stop=stop) as together,
        contextlib.suppress(InterruptedStart),
    ):
        there = together.start_servers(settings, broker_port=broker_port, store_port=store_port)
        migrate(there, priced_partitions=priced_partitions)
        metrics = together.start_worker(there)
        _print_ready(there, metrics, logs=together.data / "logs")
        together.wait()
    return 0


def _hand_on(environment: dict[str, str], settings: Settings) -> None:
    """Children take the settings from variables, whatever file they came from."""
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if value is not None:
            text = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
            environment[f"TALLY_{name.upper()}"] = text


def _ports(settings: Settings) -> tuple[int, int]:
    host, _, broker_port = settings.kafka_bootstrap.rpartition(":")
    if host not in LOOPBACK or not broker_port.isdecimal() or settings.kafka_security_protocol != "PLAINTEXT":
        raise WrongUse(
            f"`tally up` starts a broker of its own, so TALLY_KAFKA_BOOTSTRAP must be {LOCALHOST}:PORT without TLS or "
            f"login (it is {settings.kafka_bootstrap}): run `tally worker` for servers that are there already."
        )
    store = store_address(settings)
    if store.host not in LOOPBACK or store.secure:
        raise WrongUse(
            f"`tally up` starts a store of its own, so TALLY_STORE_URL must be http://{LOCALHOST}:PORT/DATABASE: run "
            "`tally worker` for servers that are there already."
        )
    free = urlsplit(settings.store_url.get_secret_value()).port == 0
    return int(broker_port), 0 if free else store.port


def _print_ready(settings: Settings, metrics: str, *, logs: Path) -> None:
    shown = settings.masked()
    ready = {
        "ready": True,
        "bootstrap": settings.kafka_bootstrap,
        "store": shown["TALLY_STORE_URL"],
        "metrics": metrics,
        "logs": str(logs),
    }
    sys.stdout.write(json.dumps(ready) + "\n")
    sys.stdout.flush()
