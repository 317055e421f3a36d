"""What processes cost: CPU seconds and the most memory, by name, children included."""

from __future__ import annotations

import platform
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Self

import psutil

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType


class Meter:
    """Watches processes between ``with`` and its end: ``cpu_seconds`` and ``peak_mib`` by name, memory over time."""

    def __init__(self, processes: Mapping[str, int]) -> None:
        self._processes = {name: psutil.Process(pid) for name, pid in processes.items()}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._before: dict[str, float] = {}
        self.cpu_seconds: dict[str, float] = {}
        self.peak_mib: dict[str, float] = {}
        self.memory_mib: dict[str, list[float]] = {name: [] for name in processes}

    def __enter__(self) -> Self:
        self._before = {name: _cpu(process) for name, process in self._processes.items()}
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self.cpu_seconds = {name: _cpu(process) - self._before[name] for name, process in self._processes.items()}

    def _watch(self) -> None:
        while not self._stop.wait(0.25):
            for name, process in self._processes.items():
                used = _memory(process) / 2**20
                self.peak_mib[name] = max(self.peak_mib.get(name, 0.0), used)
                self.memory_mib[name].append(used)


def processor() -> str:
    """The processor's name, as far as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _tree(process: psutil.Process) -> list[psutil.Process]:
    try:
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _cpu(process: psutil.Process) -> float:
    total = 0.0
    for one in _tree(process):
        try:
            times = one.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


def _memory(process: psutil.Process) -> int:
    total = 0
    for one in _tree(process):
        try:
            total += one.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total
