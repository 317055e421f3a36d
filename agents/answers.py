"""Questions of ``pipeline/count.py``, answered by the store: one function of ``clickhouse/`` each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clickhouse.corrections import states_before
from clickhouse.counting import identities_before, known_facts, totals_before
from clickhouse.judging import in_force_before, last_facts, latest_alerts, newest_times, window_sums
from pipeline.correct import AskStates
from pipeline.count import AskIdentities, AskKnown, AskTotals, IdentitiesAnswer
from pipeline.judging.steps import AlertQuestion, AskAlerts, AskInForce, AskLastFacts, AskNewest, AskSums

if TYPE_CHECKING:
    from clickhouse.client import Store
    from pipeline.count import Question


def answer(question: Question, store: Store) -> Any:
    """What the store says, in the form that the question describes."""
    place: dict[str, Any] = {"partition": question.partition, "before": question.before}
    match question:
        case AskIdentities():
            found = identities_before(store, **place, horizon=question.horizon, limit=question.limit)
            return IdentitiesAnswer(*found)
        case AskKnown():
            return known_facts(
                store,
                **place,
                hashes=question.hashes,
                orgs=question.orgs,
                times=question.times,
                settled_since=question.settled_since,
            )
        case AskStates():
            return states_before(store, **place, hashes=question.hashes, orgs=question.orgs, times=question.times)
        case AskTotals():
            return totals_before(store, **place, pairs=question.pairs)
        case _:
            return _alert_answer(question, store, place)


def _alert_answer(question: AlertQuestion, store: Store, place: dict[str, Any]) -> Any:
    match question:
        case AskInForce():
            return in_force_before(store, **place)
        case AskNewest():
            return newest_times(store, **place, orgs=question.orgs)
        case AskSums():
            return window_sums(
                store,
                **place,
                scope=question.scope,
                grain=question.grain,
                windows=question.windows,
                names=question.names,
                with_tokens=question.with_tokens,
                ids=question.ids,
                by=question.by,
            )
        case AskAlerts():
            return latest_alerts(
                store,
                **place,
                rules=question.rules,
                orgs=question.orgs,
                starts=question.starts,
                since=question.since,
            )
        case AskLastFacts():
            return last_facts(store, **place, scope=question.scope, spans=question.spans)
