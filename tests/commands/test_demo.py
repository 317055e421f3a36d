"""`tally demo`: the whole house on real requests, from nothing to nothing."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING

import psutil
import pytest

from pipeline.catalog import load_catalog_file
from tally.demo_events import PRICES, TRACE, Expected, broken_lines, event, lines, trace, write
from tests.commands.conftest import Tally

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.servers
def test_the_demo_balances_and_leaves_nothing(tmp_path: Path) -> None:
    """Exit 0, every figure what was sent, readable without a terminal; servers stopped, scratch folder gone."""
    before = {process.pid for process in psutil.Process().children(recursive=True)}

    answer = Tally({"TMPDIR": str(tmp_path), "TALLY_STORE_URL": "nonsense", "TALLY_APP_ID": "!"}).apart(
        "demo", seconds_max=600
    )

    assert (answer.code, answer.stderr) == (0, "")
    assert "The books balance." in answer.stdout
    assert "DIFFERENT" not in answer.stdout
    assert "\x1b" not in answer.stdout
    for said in ("CC-BY 4.0", "Splitwise", "row's number modulo 20", "tally report invoice", "refused as raw_secret"):
        assert said in answer.stdout
    assert list(tmp_path.iterdir()) == []
    assert {process.pid for process in psutil.Process().children(recursive=True)} <= before


@pytest.mark.servers
def test_the_demo_can_be_kept_and_looked_at_until_it_is_interrupted(tmp_path: Path) -> None:
    """`--keep` prints what another terminal needs; an interrupt stops all of it, and that is a good end."""
    variables = Tally({"TMPDIR": str(tmp_path)}).variables()
    with subprocess.Popen(
        [sys.executable, "-m", "tally", "demo", "--keep"], env=variables, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        exports: dict[str, str] = {}
        for line in process.stdout:
            words = line.split()
            if words[:1] == ["export"]:
                exports.update({name: value for name, _, value in (word.partition("=") for word in words[1:])})
            if words[:3] == ["tally", "report", "invoice"]:
                break
        answer = Tally(exports)("report", "invoice", "--org", "northwind", "--period", "2023-11", "--format", "json")
        process.send_signal(2)
        last = process.stdout.read()

    assert answer.json["completeness"]["events"] == 5_292
    assert process.returncode == 0
    assert "Every server is stopped" in last
    assert list(tmp_path.iterdir()) == []


@pytest.mark.servers
def test_a_demo_that_is_interrupted_leaves_nothing(tmp_path: Path) -> None:
    """Ctrl-C while the servers start: exit 130, no process and no folder left."""
    variables = Tally({"TMPDIR": str(tmp_path)}).variables()
    with subprocess.Popen([sys.executable, "-m", "tally", "demo"], env=variables, stdout=subprocess.PIPE) as process:
        while not list(tmp_path.glob("*/logs/broker.log")):
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(2)
        process.communicate(timeout=120)

    assert process.returncode == 130
    assert list(tmp_path.iterdir()) == []


def test_the_trace_is_the_published_one() -> None:
    """8,819 requests, byte for byte, and the attribution beside it."""
    assert (
        hashlib.sha256(TRACE.read_bytes()).hexdigest()
        == "54e9a6d2a4bd06ba1e060304b900abbc74cbea53de96506e60fe5bb4f2277fb6"
    )
    assert sum(1 for _ in trace()) == 8_819
    readme = (TRACE.parent / "README.md").read_text(encoding="utf-8")
    assert "CC-BY 4.0" in readme
    assert "Splitwise" in readme


def test_the_events_are_the_same_every_time(tmp_path: Path) -> None:
    """No clock, no randomness: two files of two runs are equal."""
    write(tmp_path / "one")
    write(tmp_path / "two")

    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_what_is_expected_is_what_is_in_the_file() -> None:
    """The demo compares with these figures, so they are counted here in another way."""
    expected = Expected()

    written = list(lines(trace(), expected))

    broken = {line for _, line in broken_lines()}
    whole = [json.loads(line) for line in written if line not in broken]
    first = {one["id"]: one for one in reversed(whole)}
    assert expected.lines == len(written) == len(whole) + len(broken)
    assert expected.facts == Counter(one["subject"] for one in first.values())
    assert expected.duplicates == sum(one == first[one["id"]] for one in whole) - len(first)
    assert expected.conflicts == sum(one != first[one["id"]] for one in whole)
    assert expected.unpriced == sum(one["data"]["model"] == "code-completion-preview" for one in first.values())
    assert expected.rejected == Counter(reason for reason, _ in broken_lines()) + Counter(conflict=expected.conflicts)
    assert min(expected.duplicates, expected.conflicts, expected.unpriced) > 10
    assert len(broken) == 10


def test_the_prices_of_the_demo_are_a_catalog() -> None:
    """The book prices every model of the demo but the one that is meant to have no price."""
    book = load_catalog_file(PRICES.read_text(encoding="utf-8"), filename=PRICES.name).price_book

    assert book is not None
    models = {event(row)["data"]["model"] for row in trace()}
    assert models - {price.model for price in book.prices} == {"code-completion-preview"}
