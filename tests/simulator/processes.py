"""Schedules on several cores: each process runs its share of the seeds and prints what came of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.simulator.schedules import Tally

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.simulator.setting import Setting

ROOT: Final = Path(__file__).resolve().parents[2]
PROCESSES: Final = 2


def run_in_processes(first: int, count: int, setting: Setting, *, processes: int = PROCESSES) -> Tally:
    """``run_schedules`` without a planted bug, the seeds shared out by whole worlds."""
    worlds = -(-count // setting.per_log)
    share = -(-worlds // processes) * setting.per_log
    spans = [(start, min(share, first + count - start)) for start in range(first, first + count, share)]
    per_log = ["--per-log", str(setting.per_log), "--pricings-per-log", str(setting.pricings_per_log)]
    running = [_started(["--first", str(start), *per_log, "--json", str(own)]) for start, own in spans]
    whole = Tally()
    try:
        for process in running:
            answer, _ = process.communicate()
            assert process.returncode == 0, "the simulator itself broke"
            whole.add(_read(answer))
    finally:
        for process in running:
            process.kill()
    return whole


def printed(tally: Tally) -> str:
    """A tally as one line that ``run_in_processes`` reads."""
    return json.dumps([tally.schedules, tally.price_schedules, tally.runs_counted, tally.met, tally.failures])


def reproduced_by(seed: int, setting: Setting) -> str:
    """The command that runs one schedule again and prints its trace."""
    options = [f"--trace {seed}", f"--per-log {setting.per_log}", f"--pricings-per-log {setting.pricings_per_log}"]
    options += [f"--bug {setting.bug.name}"] if setting.bug is not None else []
    return f"python -m tests.simulator {' '.join(options)}"


def simulator_output(options: Sequence[str], *, hash_seed: str) -> str:
    """What the command prints in a process with another order of Python's sets."""
    with _started([*options], hash_seed=hash_seed) as process:
        answer, _ = process.communicate()
    return answer


def _started(options: list[str], *, hash_seed: str = "0") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.simulator", *options],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        # Frames of three rows gain nothing from a pool of threads, and two processes share two cores.
        env={**os.environ, "POLARS_MAX_THREADS": "1", "PYTHONHASHSEED": hash_seed},  # noqa: TID251 -- handed on
    )


def _read(answer: str) -> Tally:
    schedules, price_schedules, runs_counted, met, failures = json.loads(answer)
    return Tally(schedules, price_schedules, runs_counted, Counter(met), [(seed, what) for seed, what in failures])
