"""What a test session promises: no skip passes, and no server outlives it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.conftest import LONG
from tests.processes import ROOT, wait_until_gone

if TYPE_CHECKING:
    from pathlib import Path


SKIPS = {
    "test_by_mark.py": "import pytest\n@pytest.mark.skip(reason='later')\ndef test_a(): ...\n",
    "test_by_call.py": "import pytest\ndef test_a(): pytest.skip('no server')\n",
    "test_by_file.py": "import pytest\npytest.skip('not here', allow_module_level=True)\n",
    "test_by_import.py": "import pytest\npytest.importorskip('no_such_module')\n",
    "test_no_skip.py": "def test_a(): ...\n",
}


def pytest_on(folder: Path, *options: str) -> subprocess.Popen[str]:
    """A session of its own, with the fixtures and rules of this one, on the files of a folder."""
    command = [
        *(sys.executable, "-m", "pytest", "-p", "tests.conftest", "-q", "-c", str(ROOT / "pyproject.toml")),
        *options,
        str(folder),
    ]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True)


@pytest.mark.parametrize("options", [(), ("-n", "2")])
def test_a_skipped_test_counts_as_failed(tmp_path: Path, options: tuple[str, ...]) -> None:
    """A promise that was not looked at is not kept."""
    for name, text in SKIPS.items():
        (tmp_path / name).write_text(text)
    session = pytest_on(tmp_path, "--continue-on-collection-errors", *options)
    output, _ = session.communicate(timeout=120)

    summary = [line for line in output.splitlines() if line.startswith(("FAILED", "ERROR"))]
    assert session.returncode not in {0, 5}
    assert sorted(name for line in summary for name in SKIPS if name in line) == sorted(
        set(SKIPS) - {"test_no_skip.py"}
    )
    assert "skipped" in output


def test_the_tests_of_a_file_stay_together_and_long_ones_come_first(tmp_path: Path) -> None:
    """What a file's tests share is built once, in one of the processes."""
    ran = tmp_path / "ran"
    note = f"import pytest\ndef note(name, who):\n    open({str(ran)!r}, 'a').write(f'{{name}} {{who}}\\n')\n"
    for file in ("a", "b", "c"):
        tests = "".join(f"def test_{at}(worker_id): note('{file}', worker_id)\n" for at in range(5))
        (tmp_path / f"test_{file}.py").write_text(note + tests)
    long = "".join(f"def test_{at}(worker_id): note('long', worker_id)\n" for at in range(4))
    (tmp_path / LONG[0]).write_text(note + long)

    pytest_on(tmp_path, "-n", "2", "--dist", "loadfile", "--no-loadscope-reorder").communicate(timeout=120)

    lines = [tuple(line.split()) for line in ran.read_text().splitlines()]
    assert len(lines) == 19
    assert len({line for line in lines if line[0] == "long"}) == 2
    assert len({line for line in lines if line[0] != "long"}) == 3
    assert all(next(name for name, own in lines if own == who) == "long" for _, who in lines)


@pytest.mark.servers
@pytest.mark.parametrize("options", [(), ("-n", "2")])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_server_outlives_the_session(tmp_path: Path, number: signal.Signals, options: tuple[str, ...]) -> None:
    """Neither when somebody presses ctrl-C nor when the session is killed, also one in several processes."""
    begun = tmp_path / "begun"
    text = f"import pathlib, time\ndef test_a(store): pathlib.Path({str(begun)!r}).touch(); time.sleep(600)\n"
    (tmp_path / "test_waits.py").write_text(text)
    session = pytest_on(tmp_path, *options)
    while not begun.exists():
        assert session.poll() is None
        time.sleep(0.02)
    servers = psutil.Process(session.pid).children(recursive=True)

    session.send_signal(number)
    session.communicate(timeout=120)

    assert servers
    wait_until_gone(*servers)
