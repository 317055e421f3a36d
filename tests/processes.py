"""Real servers as child processes of the tests: started, killed, always stopped."""

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
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, Self

import psutil

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

ROOT: Final = Path(__file__).resolve().parent.parent
START_SECONDS_MAX: Final = 150.0  # a cold machine that downloads nothing, but shares two cores with other work
STOP_SECONDS_MAX: Final = 45.0


class ServerProcess:
    """A program of the project that prints one JSON line when it is ready. Leaving the ``with`` stops it."""

    def __init__(self, *command: str, log: Path, environment: Mapping[str, str] | None = None) -> None:
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, *command],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env={**_outer_environment(), **(environment or {})},
                start_new_session=True,  # ctrl-C reaches pytest, which stops its servers in order
                preexec_fn=_die_with_parent,  # noqa: PLW1509 -- the hook only calls prctl
            )

    def wait_until_ready(self) -> dict[str, Any]:
        """The ready line. Fails with what the program wrote on stderr when it ends or stays silent."""
        line = _line_within(self._stdout, START_SECONDS_MAX)
        if not line:
            self.kill()
            raise AssertionError(f"not ready (exit {self.process.returncode}): {self.stderr()}")
        ready: dict[str, Any] = json.loads(line)
        assert ready["ready"] is True
        return ready

    def stderr(self) -> str:
        """All that was written on stderr so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Asks the program to end and hands back its exit code; a program that does not is killed and fails."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired as error:
            self.kill()
            raise AssertionError(f"did not stop within {STOP_SECONDS_MAX} s: {self.stderr()}") from error
        finally:
            self._stdout.close()

    def kill(self) -> None:
        """SIGKILL, and waits until the process is gone."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()
        self._stdout.close()

    @property
    def _stdout(self) -> IO[bytes]:
        assert self.process.stdout is not None
        return self.process.stdout

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.stop()
        self._stdout.close()


def broker_process(data: Path, *, port: int = 0, environment: Mapping[str, str] | None = None) -> ServerProcess:
    """``tally broker`` on a folder; not waited for."""
    command = ("-m", "tally", "broker", "--data", str(data), "--port", str(port))
    return ServerProcess(*command, log=_log(data, "broker"), environment=environment)


def store_process(
    data: Path, *, port: int = 0, options: tuple[str, ...] = (), environment: Mapping[str, str] | None = None
) -> ServerProcess:
    """``tally store`` on a folder; not waited for."""
    command = ("-m", "tally", "store", "--data", str(data), "--port", str(port), *options)
    return ServerProcess(*command, log=_log(data, "store"), environment=environment)


def limited_store_process(data: Path, *, limits: str) -> ServerProcess:
    """A store with other limits than ``tally store`` has: keyword arguments of ``run_store``."""
    code = "import sys; from pathlib import Path; from tally.store import run_store; "
    code += "from clickhouse.embedded import EngineLimits; from clickhouse.http_server import ServerLimits; "
    code += f"sys.exit(run_store(Path(sys.argv[1]), 0, {limits}))"
    return ServerProcess("-c", code, str(data), log=_log(data, "store"))


def wait_until_gone(*processes: psutil.Process) -> None:
    """Returns when all have ended. Without an init process that buries orphans, a dead one stays as a zombie."""
    while any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in processes):
        time.sleep(0.02)  # the test's own timeout is the limit


def _log(data: Path, server: str) -> Path:
    return data.parent / f"{data.name}.{server}.stderr"


def _outer_environment() -> dict[str, str]:
    """What the tests run in, without anybody's settings of tally."""
    return {name: value for name, value in os.environ.items() if not name.startswith("TALLY_")}  # noqa: TID251


def _line_within(stream: IO[bytes], seconds: float) -> bytes:
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        if select.select([stream], [], [], left)[0]:
            return stream.readline()
    return b""


def _die_with_parent() -> None:
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
