"""The command line as a person meets it: a process of its own, its output, its exit code."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from tally.main import main
from tally.settings import Settings
from tests.processes import ROOT

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


@dataclass(frozen=True)
class Answer:
    """What a command printed and how it ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        """The one JSON document on stdout."""
        return json.loads(self.stdout)

    @property
    def sentence(self) -> str:
        """The one line on stderr, without the name of the program."""
        lines = self.stderr.splitlines()
        assert len(lines) == 1, self.stderr
        assert lines[0].startswith("tally: ")
        return lines[0].removeprefix("tally: ")


@dataclass(frozen=True)
class Tally:
    """Runs ``tally`` with settings of its own, apart from those that the tests run in."""

    environment: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, *arguments: str) -> Answer:
        """Runs one command to its end, in this process: the same as ``apart``, without a second for its start."""
        stdout, stderr = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(stdout), redirect_stderr(stderr):
            for name in [name for name in os.environ if name.startswith("TALLY_")]:  # noqa: TID251
                patch.delenv(name)
            for name, value in self.environment.items():
                patch.setenv(name, value)
            with pytest.raises(SystemExit) as end:
                main(list(arguments))
        assert isinstance(end.value.code, int)
        return Answer(end.value.code, stdout.getvalue(), stderr.getvalue())

    def apart(self, *arguments: str, stdin: bytes = b"", seconds_max: float = 120) -> Answer:
        """Runs one command to its end in a process of its own."""
        done = subprocess.run(
            [sys.executable, "-m", "tally", *arguments],
            cwd=ROOT,
            input=stdin,
            capture_output=True,
            timeout=seconds_max,
            check=False,
            env=self.variables(),
        )
        return Answer(done.returncode, done.stdout.decode(), done.stderr.decode())

    def given(self, **settings: str) -> Tally:
        """The same with other settings, named without their prefix."""
        return Tally({**self.environment, **{f"TALLY_{name.upper()}": value for name, value in settings.items()}})

    def variables(self) -> dict[str, str]:
        """The environment of one command."""
        own = {name: value for name, value in os.environ.items() if not name.startswith("TALLY_")}  # noqa: TID251
        return {**own, **self.environment}


@pytest.fixture
def tally() -> Tally:
    """The command line with its defaults and nothing running behind it."""
    return Tally({"TALLY_KAFKA_BOOTSTRAP": "127.0.0.1:9", "TALLY_STORE_URL": "http://127.0.0.1:9/tally"})


@pytest.fixture
def settings(broker: str, database: str, topic_prefix: str) -> Settings:
    """The settings of an installation of one's own on the real broker and the real store; nothing is there yet."""
    return Settings(
        kafka_bootstrap=broker,
        store_url=database,
        topic_prefix=topic_prefix,
        app_id=topic_prefix.rstrip("."),
        metrics_port=0,
    )


@pytest.fixture
def installed(settings: Settings) -> Tally:
    """The command line on the installation of ``settings``."""
    return Tally(
        {
            "TALLY_KAFKA_BOOTSTRAP": settings.kafka_bootstrap,
            "TALLY_STORE_URL": settings.store_url.get_secret_value(),
            "TALLY_TOPIC_PREFIX": settings.topic_prefix,
            "TALLY_APP_ID": settings.app_id,
            "TALLY_METRICS_PORT": "0",
        }
    )


@pytest.fixture
def book(tmp_path: Path) -> Path:
    """A small price book and a rule in a file."""
    path = tmp_path / "standard.yaml"
    path.write_text(BOOK, encoding="utf-8")
    return path


BOOK = """\
price_book: standard
currency: USD
prices:
  - {operation: llm.request, model: gpt-4o-mini, meter: input_tokens, price: "0.15", per: 1000000}
  - {operation: lookup, meter: requests, name: lookups, price: "0.0415", bill: success}
rules:
  - {id: day-budget, scope: project, measure: cost, window: day, thresholds: ["50"]}
"""
