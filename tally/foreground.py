"""What a server in the foreground (`tally broker`, `tally store`) needs first: a folder and a port of its own."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import time
from typing import TYPE_CHECKING, Final

from schemas.errors import WrongUse

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LOCALHOST: Final = "127.0.0.1"
PORT_SECONDS_MAX: Final = 3.0  # a server that was just killed may hold its port for a moment longer


@contextlib.contextmanager
def owned_folder(data: Path, *, server: str) -> Iterator[Path]:
    """The folder, made when missing, for this process alone; the lock goes with the process, however it ends.

    Raises:
        WrongUse: another server runs on it, or it can't be written.
    """
    with contextlib.ExitStack() as held:
        try:
            data.mkdir(parents=True, exist_ok=True)
            lock = held.enter_context((data / f"{server}.lock").open("w"))
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise WrongUse(f"Another {server} runs on {data}: stop it, or name another folder with --data.") from error
        except OSError as error:
            raise WrongUse(f"{data} can't be used ({error.strerror}): name another folder with --data.") from error
        yield data.resolve()


def bound_socket(host: str, port: int) -> socket.socket:
    """A TCP socket bound to the port, 0 for a free one; not listening yet.

    Raises:
        WrongUse: the port is taken (and stays so for three seconds), or this process may not use it.
    """
    deadline = time.monotonic() + PORT_SECONDS_MAX
    while True:
        try:
            return socket.create_server((host, port), backlog=0)
        except (OSError, OverflowError) as error:
            if time.monotonic() > deadline or not isinstance(error, OSError) or isinstance(error, PermissionError):
                # Python writes the address into strerror; a name that can't be resolved has a negative number.
                number = getattr(error, "errno", None) or 0
                said = os.strerror(number) if number > 0 else getattr(error, "strerror", None) or str(error)
                raise WrongUse(
                    f"Port {port} on {host} can't be used ({said}): stop what holds it, or choose another with --port "
                    "(0 takes a free one)."
                ) from error
        time.sleep(0.1)


def free_port(port: int) -> int:
    """``port`` if it can be bound on loopback now, any free one for 0. Raises WrongUse like ``bound_socket``."""
    with bound_socket(LOCALHOST, port) as probe:
        return int(probe.getsockname()[1])
