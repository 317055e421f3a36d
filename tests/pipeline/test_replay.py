"""The executable specification against an oracle that shares nothing with it, and against itself under any history."""

from __future__ import annotations

import json
from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import correct as correct_module
from pipeline import count as count_module
from pipeline.count import CountLimits, fresh
from pipeline.decode import Limits
from pipeline.identities import identity_hashes
from pipeline.memory_store import MemoryStore
from pipeline.replay import replay
from schemas.alerting import InForce
from schemas.price_book import PriceBook
from schemas.rejects import Reason
from schemas.rules import Rule, RuleSet
from tests.pipeline.batches import HORIZON, Event, LogBlock, logs, make_book, make_record, raw_events
from tests.pipeline.driving import books_of, crash_at, steps_of
from tests.pipeline.oracle import expected, found, without_blocks

if TYPE_CHECKING:
    from random import Random

    from numpy.typing import NDArray

    from pipeline.block import Block
    from pipeline.count import PartitionState
    from pipeline.replay import Outcome
    from tests.pipeline.oracle import Books

EVENT_LIMITS = Limits(max_ahead_seconds=7_200)
SHORT = timedelta(seconds=25)

#: What memory may hold: all, nearly nothing, identities only, totals only.
count_limits = st.builds(
    CountLimits,
    horizon=st.sampled_from((HORIZON, SHORT)),
    identities_max=st.sampled_from((1, 3, 40_000_000)),
    totals_rows_max=st.sampled_from((0, 1, 200_000)),
)
histories = st.randoms(use_true_random=False)


@given(raw=raw_events(), horizon=st.sampled_from((HORIZON, SHORT)), partitions=st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_replay_says_what_the_oracle_says(raw: list[Event], horizon: timedelta, partitions: int) -> None:
    """From JSON to books: facts, prices, totals, duplicates and conflicts are those of plain dictionaries."""
    log = [LogBlock(0, 0, tuple(raw))]

    outcome = _replayed(raw, horizon=horizon, partitions=partitions)

    assert without_blocks(expected(log, horizon=horizon)) == without_blocks(_books(outcome))


@given(raw=raw_events(), revisions=st.permutations((1, 2, 3)), partitions=st.integers(1, 2))
@settings(max_examples=40, deadline=None)
def test_restating_by_other_books_is_as_if_they_had_been_in_force(
    raw: list[Event], revisions: list[int], partitions: int
) -> None:
    """Facts, totals and quantities come to the same; only price ids may stay, where the price is the same."""
    restated, at_first = (
        replay(
            [make_record([event]) for event in raw],
            books=[make_book(first)],
            restated_by=[make_book(then)] if then else [],
            partitions=partitions,
            limits=EVENT_LIMITS,
            count_limits=CountLimits(horizon=HORIZON),
        )
        for first, then in ((revisions[0], revisions[1]), (revisions[1], None))
    )

    assert restated.facts.drop("price_ids").equals(at_first.facts.drop("price_ids"))
    assert restated.totals.drop("version").equals(at_first.totals.drop("version"))


@given(raw=raw_events(), horizon=st.sampled_from((HORIZON, SHORT)))
@settings(max_examples=20, deadline=None)
def test_every_conflict_is_refused_and_nothing_else_of_valid_events(raw: list[Event], horizon: timedelta) -> None:
    """The rejects of valid events are the conflicts, at their own coordinates."""
    outcome = _replayed(raw, horizon=horizon, partitions=2)

    conflicts = [place for place, repeat in _books(outcome).repeats.items() if repeat[0] == "conflict"]
    refused = [(one.topic, one.partition, one.offset, one.index) for one in outcome.rejects]
    assert sorted(conflicts) == refused
    assert all(one.reason is Reason.CONFLICT and one.payload_sha256 for one in outcome.rejects)


def test_a_bad_record_is_refused_and_its_neighbours_count() -> None:
    """Neighbours of a bad record are never harmed."""
    bad = make_record([Event(offset=1)])._replace(value=b"{")
    records = [make_record([Event(offset=0, id="a")]), bad, make_record([Event(offset=2, id="b")])]

    outcome = replay(
        records, books=[make_book()], partitions=1, limits=EVENT_LIMITS, count_limits=CountLimits(horizon=HORIZON)
    )

    assert outcome.facts.get_column("offset").to_list() == [0, 2]
    assert [(one.reason, one.offset) for one in outcome.rejects] == [(Reason.NOT_JSON, 1)]


#: What OpenAI answered to one request: 800 of its 2,000 input tokens came from the cache, 64 of 310 were reasoning.
OPENAI_USAGE = {
    "prompt_tokens": 2000,
    "completion_tokens": 310,
    "total_tokens": 2310,
    "prompt_tokens_details": {"cached_tokens": 800, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 64, "audio_tokens": 0},
}
TRANSLATED_USAGE = {"reasoning_tokens": 64, "output_tokens": "310.0", "cache_read_tokens": 800, "input_tokens": 1200}


def test_cached_tokens_of_a_pasted_usage_object_are_billed_once() -> None:
    """At the cache's price and not at the input's too; reasoning is billed as the output that it is."""
    outcome = _replayed_usage({"vocabulary": "openai", "usage": OPENAI_USAGE})

    (fact,) = outcome.facts.iter_rows(named=True)
    expected_cost = (1200 * Decimal("2.5") + 800 * Decimal("1.25") + 310 * Decimal(10)) / 1_000_000
    assert (fact["cost"], fact["pricing"]) == (expected_cost, "priced")
    assert outcome.totals.get_column("cost").sum() == expected_cost


@pytest.mark.parametrize("first", [0, 1], ids=["pasted first", "translated first"])
def test_a_pasted_usage_object_and_its_translation_are_the_same_content(first: int) -> None:
    """Content is the validated event: a producer may begin to translate, or stop to, between two attempts to send."""
    both: list[dict[str, Any]] = [{"vocabulary": "openai", "usage": OPENAI_USAGE}, {"usage": TRANSLATED_USAGE}]

    outcome = _replayed_usage(both[first], both[1 - first])

    assert outcome.facts.height == 1
    assert outcome.repeats.get_column("kind").to_list() == ["duplicate"]


def test_other_counts_under_a_vocabulary_are_a_conflict() -> None:
    """The same usage object under another word is other content, if it is accepted at all."""
    usage = {"input_tokens": 100, "output_tokens": 5}

    outcome = _replayed_usage(
        {"vocabulary": "anthropic", "usage": usage},
        {"vocabulary": "langfuse", "usage": usage},
        {"vocabulary": "anthropic", "usage": usage | {"cache_read_input_tokens": 7}},
    )

    assert outcome.repeats.get_column("kind").to_list() == ["duplicate", "conflict"]


@given(log=logs(), limits=count_limits, history=histories)
@settings(max_examples=120, deadline=None)
def test_no_history_changes_the_books(log: list[LogBlock], limits: CountLimits, history: Random) -> None:
    """Any cut into runs, crashes at any step, restarts from any committed block, memory kept or lost: one result."""
    store = MemoryStore()

    _count_with_crashes(log, store=store, limits=limits, history=history)

    assert expected(log, horizon=limits.horizon) == books_of(store)


@given(log=logs(seconds_max=40), history=histories)
@settings(max_examples=60, deadline=None)
def test_reused_ids_and_late_raw_partitions_count_the_same_after_any_restart(
    log: list[LogBlock],
    history: Random,
) -> None:
    """With a horizon of seconds and raw partitions that lag by more, restored memory decides alike."""
    limits, store = CountLimits(horizon=timedelta(seconds=15)), MemoryStore()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(count_module, "RESTORE_SLACK", timedelta(0))
        _count_with_crashes(log, store=store, limits=limits, history=history)

    assert expected(log, horizon=limits.horizon) == books_of(store)


@given(log=logs(), limits=count_limits, history=histories)
@settings(max_examples=60, deadline=None)
def test_colliding_hashes_cost_questions_and_never_an_event(
    log: list[LogBlock],
    limits: CountLimits,
    history: Random,
) -> None:
    """With hashes of two bits nearly all identities collide, and the books are the same."""
    store = MemoryStore()
    with pytest.MonkeyPatch.context() as patch:
        for module in (count_module, correct_module):
            patch.setattr(module, "identity_hashes", _two_bits)
        _count_with_crashes(log, store=store, limits=limits, history=history)

    assert expected(log, horizon=limits.horizon) == books_of(store)


@given(log=logs())
@settings(max_examples=30, deadline=None)
def test_counting_a_log_twice_changes_no_row(log: list[LogBlock]) -> None:
    """Everything that a second worker writes is there already, byte for byte."""
    store, runs = MemoryStore(), _blocks(log)
    for blocks in runs.values():
        steps_of(fresh(blocks[0].partition, next_block=0, limits=_ALL), blocks, store=store, limits=_ALL)
    once = store.facts(), store.totals(), store.repeats()

    for blocks in runs.values():
        steps_of(fresh(blocks[0].partition, next_block=0, limits=_ALL), blocks, store=store, limits=_ALL)

    twice = store.facts(), store.totals(), store.repeats()
    assert all(one.equals(other) for one, other in zip(once, twice, strict=True))


_ALL = CountLimits(horizon=HORIZON)


def _count_with_crashes(
    log: list[LogBlock],
    *,
    store: MemoryStore,
    limits: CountLimits,
    history: Random,
) -> None:
    """Counts each partition in runs of any length, with crashes after any step and commits that lag behind."""
    for blocks in _blocks(log).values():
        committed = at = crashes = 0
        state: PartitionState | None = None
        while at < len(blocks):
            run = blocks[at : at + history.randint(1, 4)]
            begin = state or fresh(run[0].partition, next_block=run[0].offset, limits=limits)
            if crashes < 6 and history.random() < 0.4:
                crashes += 1
                crash_at(history.randint(0, 8), begin, run, store=store, limits=limits)
                at, state = committed, None
                continue
            _, after, _ = steps_of(begin, run, store=store, limits=limits)
            at += len(run)
            follows = at < len(blocks) and blocks[at].offset == after.next_block
            state = after if follows and history.random() < 0.8 else None  # else as after a seek: asked anew
            committed = at if history.random() < 0.7 else committed


def _blocks(log: list[LogBlock]) -> dict[int, list[Block]]:
    blocks: dict[int, list[Block]] = {}
    for block in log:
        blocks.setdefault(block.partition, []).append(block.encoded())
    return blocks


def _two_bits(events: pl.DataFrame) -> NDArray[np.uint64]:
    return identity_hashes(events) % np.uint64(4)


def _replayed_usage(*sent: dict[str, Any]) -> Outcome:
    """One event, sent as often as there are ways to say its usage."""
    prices = [
        {"operation": "llm.request", "meter": meter, "price": price, "per": 1_000_000}
        for meter, price in (("input_tokens", "2.5"), ("cache_read_tokens", "1.25"), ("output_tokens", "10"))
    ]
    book = PriceBook.model_validate(
        {"name": "standard", "revision": 1, "currency": "USD", "prices": prices, "ignore": ()}
    )
    records = []
    for offset, changes in enumerate(sent):
        record = make_record([Event(offset=offset)])
        event = json.loads(record.value or b"")
        event["data"] |= changes
        records.append(record._replace(value=json.dumps(event).encode()))
    return replay(records, books=[book], partitions=2, limits=EVENT_LIMITS, count_limits=CountLimits(horizon=HORIZON))


def _replayed(raw: list[Event], *, horizon: timedelta, partitions: int) -> Outcome:
    return replay(
        [make_record([event]) for event in raw],
        books=[make_book()],
        partitions=partitions,
        limits=EVENT_LIMITS,
        count_limits=CountLimits(horizon=horizon),
    )


def _books(outcome: Outcome) -> Books:
    return found(
        outcome.facts.iter_rows(named=True), outcome.totals.iter_rows(named=True), outcome.repeats.iter_rows(named=True)
    )


def test_a_budget_is_alerted_at_the_event_that_reaches_it() -> None:
    """From raw records on: what is sent again or refused spends nothing."""
    rule = {"id": "budget", "revision": 1, "scope": "project", "measure": "cost", "window": "day", "thresholds": ["3"]}
    rules = InForce("USD", {"default": RuleSet(revision=1, rules=(Rule.model_validate(rule),))})
    spent = [Event(offset=at, id=name) for at, name in enumerate("aabc")]  # 10 tokens at 0.15 each

    outcome = replay(
        [make_record([event]) for event in spent],
        books=[make_book()],
        partitions=2,
        limits=EVENT_LIMITS,
        count_limits=CountLimits(horizon=HORIZON),
        rules=rules,
    )

    alerts = outcome.alerts.select("transition", "scope_id", "crossed_id", pl.col("value").cast(pl.String)).rows()
    assert alerts == [("fired", "checkout", "b", "3.000000000000")]
