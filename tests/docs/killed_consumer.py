"""The example consumer, killed without warning in the middle of its work: ``killed_consumer.py MOMENT NTH ARGUMENT…``.

MOMENT is before or after one of its functions, NTH the call at which it happens (from 1).
"""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
from pathlib import Path
from typing import Any

EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "examples" / "alert_consumer.py"


def main(moment: str, nth: int, arguments: list[str]) -> None:
    """Runs the example with one of its functions wrapped."""
    spec = importlib.util.spec_from_file_location("alert_consumer", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    when, _, name = moment.partition(" ")
    original, calls = getattr(example, name), 0

    def deadly(*given: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == nth and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        answer = original(*given)
        if calls == nth and when == "after":
            os.kill(os.getpid(), signal.SIGKILL)
        return answer

    setattr(example, name, deadly)
    example.main(arguments)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
