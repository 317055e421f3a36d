"""Run schedules of the simulator: ``python -m tests.simulator 20000``, or one of them with ``--trace SEED``."""

from __future__ import annotations

import argparse
import sys
import time
from typing import TYPE_CHECKING

from tests.simulator.bugs import Bug
from tests.simulator.processes import PROCESSES, printed, reproduced_by, run_in_processes
from tests.simulator.schedules import run_schedules, trace_of
from tests.simulator.setting import COUNTS_PER_LOG, PRICINGS_PER_LOG, Setting

if TYPE_CHECKING:
    from tests.simulator.schedules import Tally


def main() -> int:
    """Exit 0 when no schedule went wrong, 1 when one did; with ``--json`` always 0."""
    arguments = _arguments()
    bug = None if arguments.bug is None else Bug[arguments.bug]
    setting = Setting(per_log=arguments.per_log, pricings_per_log=arguments.pricings_per_log, bug=bug)
    if arguments.trace is not None:
        print("\n".join(trace_of(arguments.trace, setting)))  # noqa: T201 -- the answer
        return 0
    started = time.monotonic()
    if arguments.json or setting.bug is not None:
        tally = run_schedules(arguments.first, arguments.schedules, setting)
    else:
        tally = run_in_processes(arguments.first, arguments.schedules, setting, processes=arguments.processes)
    print(printed(tally) if arguments.json else _told(tally, setting, time.monotonic() - started))  # noqa: T201
    return int(bool(tally.failures) and not arguments.json)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.simulator", description=__doc__)
    parser.add_argument("schedules", type=int, nargs="?", default=2_000, help="how many schedules to run")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--per-log", type=int, default=COUNTS_PER_LOG, help="schedules that share a world and its log")
    parser.add_argument("--pricings-per-log", type=int, default=PRICINGS_PER_LOG, help="the last of them makes the log")
    parser.add_argument("--bug", choices=[bug.name for bug in Bug], help="plant this bug, and stop when it is found")
    parser.add_argument("--processes", type=int, default=PROCESSES)
    parser.add_argument("--trace", type=int, metavar="SEED", help="run one schedule and print what happened")
    parser.add_argument("--json", action="store_true", help="run in this process and print one line for a program")
    return parser.parse_args()


def _told(tally: Tally, setting: Setting, seconds: float) -> str:
    run = f"{tally.schedules:,} schedules of counting and {tally.price_schedules:,} of pricing in {seconds:.0f} s"
    lines = [
        f"{run}, {tally.runs_counted:,} distinct runs counted",
        ", ".join(f"{number:,} {name.replace('_', ' ')}" for name, number in sorted(tally.met.items())),
        f"{len(tally.failures)} wrong",
    ]
    for seed, what in tally.failures[:5]:
        lines += [what[:300], f"  {reproduced_by(seed, setting)}"]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
