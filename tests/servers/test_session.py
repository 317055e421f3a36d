"""What a test session promises: no skip passes, and no server outlives it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.processes import ROOT, wait_until_gone

if TYPE_CHECKING:
    from pathlib import Path


def pytest_on(path: Path, text: str) -> subprocess.Popen[str]:
    """A session of its own, with the fixtures and rules of this one, on a file with this text."""
    path.write_text(text)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "tests.conftest",
        "-q",
        "-c",
        str(ROOT / "pyproject.toml"),
        str(path),
    ]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True)


@pytest.mark.parametrize(
    "text",
    [
        "import pytest\n@pytest.mark.skip(reason='later')\ndef test_a(): ...\n",
        "import pytest\ndef test_a(): pytest.skip('no server')\n",
        "import pytest\npytest.skip('not here', allow_module_level=True)\n",
        "import pytest\npytest.importorskip('no_such_module')\n",
    ],
)
def test_a_skipped_test_counts_as_failed(tmp_path: Path, text: str) -> None:
    """A promise that was not looked at is not kept."""
    session = pytest_on(tmp_path / "test_skips.py", text)
    output, _ = session.communicate(timeout=120)

    assert session.returncode not in {0, 5}
    assert "skipped" in output


@pytest.mark.servers
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_server_outlives_the_session(tmp_path: Path, number: signal.Signals) -> None:
    """Neither when somebody presses ctrl-C nor when the session is killed."""
    begun = tmp_path / "begun"
    text = f"import pathlib, time\ndef test_a(store): pathlib.Path({str(begun)!r}).touch(); time.sleep(600)\n"
    session = pytest_on(tmp_path / "test_waits.py", text)
    while not begun.exists():
        assert session.poll() is None
        time.sleep(0.02)
    servers = psutil.Process(session.pid).children(recursive=True)

    session.send_signal(number)
    session.communicate(timeout=120)

    assert servers
    wait_until_gone(*servers)
