"""The README's commands are run, and print what the README says."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.processes import ROOT, ServerProcess

if TYPE_CHECKING:
    from pathlib import Path

    from tally.settings import Settings
    from tests.commands.conftest import Tally

BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
STYLE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
#: How many blocks four events make depends on how they came.
BLOCKS = re.compile(r"(priced_blocks_counted +true) +\d+ +\d+")
INSTANT = re.compile(r"\d{4}-\d{2}-\d{2}(T[\d:.]+Z)?")


def steps(page: str) -> list[tuple[str, str]]:
    """The commands of a page, each with what it prints."""
    found: list[tuple[str, str]] = []
    for block in BLOCK.findall(page):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((line[2:], ""))
            elif line.startswith("> "):
                found[-1] = (f"{found[-1][0]}\n{line[2:]}", found[-1][1])
            else:
                found[-1] = (found[-1][0], f"{found[-1][1]}{line}\n")
    return found


def on_a_terminal(script: str, *, folder: Path, environment: dict[str, str]) -> str:
    """What a script prints on a terminal of 120 columns, without its styles."""
    reader, writer = pty.openpty()
    own = {
        "TERM": "xterm",
        "COLUMNS": "120",
        "PATH": f"{sys.prefix}/bin:{environment['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    with subprocess.Popen(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env={**environment, **own},
        stdout=writer,
        stderr=writer,
    ) as process:
        os.close(writer)
        printed = b""
        while chunk := _read(reader):
            printed += chunk
    os.close(reader)
    assert process.returncode == 0, printed.decode()
    return STYLE.sub("", printed.decode().replace("\r\n", "\n"))


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65_536)
    except OSError:  # how a terminal says that nobody writes any more
        return b""


def plain(text: str) -> list[str]:
    """Lines without what differs from day to day and from installation to installation: instants, and widths."""
    return [
        re.sub(r"(─)+|( )+", r"\1\2", INSTANT.sub("WHEN", BLOCKS.sub(r"\1", line))).strip()
        for line in text.splitlines()
    ]


@pytest.mark.servers
def test_the_readme_prints_what_it_says(installed: Tally, settings: Settings, tmp_path: Path) -> None:
    """Whoever types it in sees the same."""
    found = steps((ROOT / "README.md").read_text(encoding="utf-8"))
    assert sum("tally " in command for command, _ in found) >= 5
    installed("migrate")
    script = "\n".join(f"{command}\necho {place}-----" for place, (command, _) in enumerate(found))
    with ServerProcess("-m", "tally", "worker", log=tmp_path / "log", environment=installed.environment) as worker:
        worker.wait_until_ready()
        printed = on_a_terminal(script, folder=tmp_path, environment=installed.variables())

    for place, (command, said) in enumerate(found):
        answer, _, printed = printed.partition(f"{place}-----\n")
        assert plain(answer.replace(settings.topic_prefix, "")) == plain(said), command
