"""`tally demo`: the whole house on real requests, from nothing to nothing."""

from __future__ import annotations

import hashlib
import json
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
