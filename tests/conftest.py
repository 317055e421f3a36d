"""What every test may use: the real broker and the real store, one of each per process, and room of one's own on them.

``make test`` runs in several processes. What a file's tests share is built once, because they stay together in one of
them; only tests that take long, and share nothing, are given out one by one.
A skipped test counts as failed: a promise that was not looked at is not kept.
"""

from __future__ import annotations

import gc
import os
import secrets
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit, urlunsplit

import hypothesis
import pytest
import urllib3
from xdist.scheduler import LoadFileScheduling

from tests.processes import broker_process, store_process

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

# How long an example takes depends on what else the machine does: no test fails because of a clock.
hypothesis.settings.register_profile("tests", deadline=None)
hypothesis.settings.load_profile("tests")

#: Files whose tests take long and share nothing: they are begun first, in this order, and given out one by one.
LONG: Final = ("test_chaos.py", "test_simulator.py", "test_judge.py", "test_up.py", "test_demo.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long tests first, then the files that need servers, then the others: no long one is left for the end."""

    def turn(item: pytest.Item) -> int:
        if item.path.name in LONG:
            return LONG.index(item.path.name)
        return len(LONG) if item.get_closest_marker("servers") else len(LONG) + 1

    items.sort(key=turn)


def pytest_collection_finish() -> None:
    """No later look for garbage goes through thousands of collected tests and all that they imported."""
    gc.collect()
    gc.freeze()


class SideBySide(LoadFileScheduling):  # type: ignore[misc]
    """Gives out whole files, and the tests of long ones by themselves."""

    def _split_scope(self, nodeid: str) -> str:
        file = str(super()._split_scope(nodeid))
        return nodeid if file.rpartition("/")[2] in LONG else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> SideBySide | None:
    """``--dist loadfile`` as it is meant here."""
    return SideBySide(config, log) if config.getoption("dist") == "loadfile" else None


# The many short-lived brokers of the tests start with a third less CPU time when Java compiles only once, quickly.
os.environ.setdefault("JDK_JAVA_OPTIONS", "-XX:TieredStopAtLevel=1")  # noqa: TID251 -- for the children


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real Apache Kafka, started when the first test asks for it: its bootstrap address."""
    with broker_process(tmp_path_factory.mktemp("broker") / "data") as process:
        yield str(process.wait_until_ready()["bootstrap"])


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real ClickHouse engine behind HTTP, started when the first test asks for it: the URL of its database tally."""
    with store_process(tmp_path_factory.mktemp("store") / "data") as process:
        yield str(process.wait_until_ready()["url"])


@pytest.fixture
def topic_prefix() -> str:
    """A prefix for topic names, and for anything else on the broker, that no other test has."""
    return f"t{secrets.token_hex(4)}."


@pytest.fixture
def database(store: str) -> Iterator[str]:
    """The URL of an empty database of one's own on the store; it is dropped after the test."""
    name = f"t{secrets.token_hex(4)}"
    _run(store, f"CREATE DATABASE {name}")
    yield urlunsplit(urlsplit(store)._replace(path=f"/{name}"))
    _run(store, f"DROP DATABASE IF EXISTS {name} SYNC")


def _run(store: str, statement: str) -> None:
    with urllib3.PoolManager() as pool:
        answer = pool.request("POST", urlunsplit(urlsplit(store)._replace(path="/")), body=statement)
    assert answer.status == 200, answer.data


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turns a skip into a failure."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"a skipped test counts as failed: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Turns the skip of a whole file into a failure."""
    report = yield
    if report.skipped:
        report.outcome = "failed"
        report.longrepr = f"a skipped file counts as failed: {report.longrepr}"
    return report
