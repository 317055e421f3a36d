"""What must be alerted of a log, said in the plainest way: the contract's sentences, event by event.

Nothing here is shared with what is tested but the words of a rule and the id of an alert. Every value is summed anew
from all events of the org whenever it is needed, in exact fractions, so this is slow and has nothing to go stale.

A log is a list of entries, in the order of one partition of ``usage.priced``:

    {"events": [event, ...]}   counted events, the first of each identity: the columns of the view ``facts`` by name,
                               and ``lines``, a list of {"meter": ..., "quantity": ..., "state": ...}
    {"rules": [rule, ...]}     a control block: the rules in force from here on, as ``Rule.model_dump()`` gives them
    {"corrections": [...]}     a correction block: org, source, id, cost and pricing of events that were counted before

``transitions`` gives the values of ``usage.alerts`` for it, in order.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal, localcontext
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final

from schemas.catalog_values import plain_decimal
from schemas.rules import PROJECTED_METHOD, Scope, alert_id

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from schemas.frames import PricedBatch

Event = dict[str, Any]
Rule = dict[str, Any]
#: Start and end; both None for the window ``total``.
Span = tuple[datetime | None, datetime | None]

MINUTE: Final = timedelta(minutes=1)
HOUR: Final = timedelta(hours=1)
DAY: Final = timedelta(days=1)
#: Rolling windows: the step, and how many of them.
ROLLING: Final = {
    "5m": (MINUTE, 5), "15m": (MINUTE, 15), "1h": (MINUTE, 60), "6h": (HOUR, 6), "24h": (HOUR, 24), "7d": (HOUR, 168),
}  # fmt: skip
#: Who contributes to the value of a scope.
CONTRIBUTORS: Final = {
    "org": "project", "project": "api_key", "api_key": "model", "model": "api_key", "user": "api_key",
    "operation": "project",
}  # fmt: skip
TOP_MAX: Final = 5


def transitions(log: Iterable[dict[str, Any]], *, currency: str = "USD") -> list[dict[str, Any]]:
    """Every transition of every alert of this log, in the order in which it happens."""
    return [alert for said in transitions_by_entry(log, currency=currency) for alert in said]


def transitions_by_entry(log: Iterable[dict[str, Any]], *, currency: str = "USD") -> list[list[dict[str, Any]]]:
    """The same by entry of the log."""
    model = _Model(currency)
    by_entry = []
    for entry in log:
        before = len(model.said)
        if "rules" in entry:
            model.change_rules(entry["rules"])
        for event in entry.get("events", ()):
            model.count(event)
        if "corrections" in entry:
            model.correct(entry["corrections"])
        by_entry.append(model.said[before:])
    return by_entry


def events_of(batch: PricedBatch) -> list[Event]:
    """The events of a batch, as ``transitions`` takes them."""
    events: list[Event] = [{**event, "lines": []} for event in batch.events.iter_rows(named=True)]
    kinds = {kind["kind"]: kind for kind in batch.kinds.iter_rows(named=True)}
    for line in batch.lines.iter_rows(named=True):
        kind = kinds[line["kind"]]
        said = {"meter": kind["meter"], "quantity": line["quantity"], "state": kind["state"]}
        events[line["row"]]["lines"].append(said)
    return events


class _Model:
    """The log so far; ``alerts`` holds all that ever fired, by id, and whether they still are (``is_on``)."""

    def __init__(self, currency: str) -> None:
        self.currency = currency
        self.rules: dict[str, Rule] = {}
        self.events: dict[str, list[Event]] = {}
        self.newest: dict[str, datetime] = {}
        self.alerts: dict[str, dict[str, Any]] = {}
        self.said: list[dict[str, Any]] = []

    # What happens.

    def change_rules(self, rules: Iterable[Rule]) -> None:
        """A control block: what is gone or changed is superseded, then what is new or changed is judged at once."""
        before, self.rules = self.rules, {rule["id"]: rule for rule in rules}
        gone = {name for name in before if not _same_revision(before[name], self.rules.get(name))}
        ended = [alert for alert in self.alerts.values() if alert["is_on"] and alert["rule"]["id"] in gone]
        for alert in sorted(ended, key=_in_order):
            if alert["rule"]["window"] in ROLLING or self._is_live(alert):
                self._say_again(alert, "superseded", crossed_by=alert["crossed_by"])
        for alert in ended:
            alert["is_on"] = False
        for name in sorted(self.rules):
            if not _same_revision(self.rules[name], before.get(name)):
                self._judge_at_once(self.rules[name])

    def count(self, event: Event) -> None:
        """One event, already known to be the first of its identity."""
        org, before = event["org"], self.newest.get(event["org"])
        self.events.setdefault(org, []).append(event)
        is_late = before is not None and event["time"] < before
        if not is_late:
            self.newest[org] = event["time"]
        if before is not None and not is_late:
            self._look_at_others(event, before)
        for name in sorted(self.rules):
            rule = self.rules[name]
            scope_id = _scope_id(rule, event)
            if not _watches(rule, org, scope_id):
                continue
            if rule["window"] not in ROLLING:
                self._judge(rule, org, scope_id, _calendar_window(rule["window"], event["time"]), event)
            elif not is_late:
                self._judge_rolling(rule, org, scope_id, event)

    def correct(self, corrections: Iterable[dict[str, Any]]) -> None:
        """Other costs of events that were counted: calendar rules on cost are judged again for the windows that moved.

        Nothing else is: what a rolling window, a share or a projection said was right when it was said.
        """
        events = {_place(event): event for own in self.events.values() for event in own}
        moved = [(events[_place(one)], one) for one in corrections]
        again = [self.rules[name] for name in sorted(self.rules)]
        again = [rule for rule in again if rule["measure"] == "cost" and rule["window"] not in ROLLING]
        before = [self._moved_windows(rule, [event for event, _ in moved]) for rule in again]
        for event, said in moved:
            event.update(cost=said["cost"], pricing=said["pricing"])
        for rule, windows in zip(again, before, strict=True):
            for (org, scope_id, _), (window, value, last) in sorted(windows.items()):
                self._judge_again(rule, org, scope_id, (window, value, last))

    def _moved_windows(self, rule: Rule, events: Iterable[Event]) -> dict[Any, tuple[Span, Fraction, Event]]:
        """The windows that hold these events, with their value now and the last of the events."""
        windows: dict[Any, tuple[Span, Fraction, Event]] = {}
        for event in events:
            scope_id = _scope_id(rule, event)
            if _watches(rule, event["org"], scope_id):
                window = _calendar_window(rule["window"], event["time"])
                value = self._value(rule, event["org"], scope_id, window)
                windows[event["org"], scope_id, str(window[0])] = window, value, event
        return windows

    def _judge_again(self, rule: Rule, org: str, scope_id: str, moved: tuple[Span, Fraction, Event]) -> None:
        window, before, event = moved
        after = self._value(rule, org, scope_id, window)
        due = {limit for limit, _ in _limits(rule) if before < Fraction(limit) <= after}
        over = [
            alert
            for alert in self._firing(rule, org)
            if (alert["scope_id"], alert["window"]) == (scope_id, window) and after < Fraction(alert["limit"])
        ]
        fired = self._fired(rule, org, scope_id, window, event, but_not={limit for limit, _ in _limits(rule)} - due)
        for alert in sorted(over + fired, key=_in_order):
            if alert in fired:
                self._say(alert, "fired", crossed_by=event, window=window, highest=alert is fired[-1])
            else:
                self._say_again(alert, "retracted", crossed_by=alert["crossed_by"])
                alert["may_fire_again"] = True

    def _judge_rolling(self, rule: Rule, org: str, scope_id: str, event: Event) -> None:
        """The window that ends with the event's step: what is firing may resolve, what is not may fire."""
        window = self._present_window(rule, org)
        firing = [alert for alert in self._firing(rule, org) if alert["scope_id"] == scope_id]
        over = [alert for alert in firing if self._is_over(alert, window)]
        fired = self._fired(rule, org, scope_id, window, event, but_not={alert["limit"] for alert in firing})
        for alert in sorted(over + fired, key=_in_order):
            if alert in fired:
                self._say(alert, "fired", crossed_by=event, window=window, highest=alert is fired[-1])
            else:
                self._say_again(alert, "resolved", crossed_by=event)

    def _look_at_others(self, event: Event, before: datetime) -> None:
        """The event moves the windows of the whole org: what fires elsewhere may be over, and never begins there."""
        org = event["org"]
        for name in sorted(self.rules):
            rule = self.rules[name]
            if rule["window"] not in ROLLING:
                continue
            step, _ = ROLLING[rule["window"]]
            if _floor(before, step) == _floor(event["time"], step):
                continue
            for alert in self._firing(rule, org):
                is_own = alert["scope_id"] == _scope_id(rule, event)
                if not is_own and self._is_over(alert, self._present_window(rule, org)):
                    self._say_again(alert, "resolved", crossed_by=event)

    def _judge_at_once(self, rule: Rule) -> None:
        """A rule that is new: the windows of now, for each scope value with events in them."""
        for org in sorted(self.events):
            window = self._present_window(rule, org)
            scope_ids = {_scope_id(rule, event) for event in self.events[org] if _contains(window, event["time"])}
            for scope_id in sorted(scope_ids):
                if _watches(rule, org, scope_id):
                    last = self._inside(rule, org, scope_id, window)[-1]
                    self._judge(rule, org, scope_id, window, last)

    def _judge(self, rule: Rule, org: str, scope_id: str, window: Span, event: Event) -> None:
        """Every threshold that the value has crossed fires, ascending; none fires twice in one window."""
        fired = self._fired(rule, org, scope_id, window, event)
        for alert in fired:
            self._say(alert, "fired", crossed_by=event, window=window, highest=alert is fired[-1])

    def _fired(
        self, rule: Rule, org: str, scope_id: str, window: Span, event: Event, *, but_not: Collection[Decimal] = ()
    ) -> list[dict[str, Any]]:
        """The alerts that begin now, by threshold; an id that was there before fires again only if it was retracted."""
        fired = []
        for limit, percent in _limits(rule):
            name = alert_id(
                org=org, rule=rule["id"], rule_revision=rule["revision"], scope=Scope(rule["scope"]), scope_id=scope_id,
                window_start=window[0], threshold=limit,
            )  # fmt: skip
            known = self.alerts.get(name, {"sequence": 0, "may_fire_again": True})
            if not known["may_fire_again"] or limit in but_not:
                continue
            if not self._has_crossed(rule, org, scope_id, window, limit):
                continue
            self.alerts[name] = {
                "alert_id": name, "sequence": known["sequence"], "may_fire_again": False, "rule": rule, "org": org,
                "scope_id": scope_id, "window": window,
                "limit": limit, "percent": percent, "crossed_by": event, "is_on": True,
            }  # fmt: skip
            fired.append(self.alerts[name])
        return fired

    # What is asked.

    def _inside(self, rule: Rule, org: str, scope_id: str, window: Span) -> list[Event]:
        """The events of this scope in this window, in log order."""
        own = [event for event in self.events[org] if _scope_id(rule, event) == scope_id]
        return [event for event in own if _contains(window, event["time"])]

    def _value(self, rule: Rule, org: str, scope_id: str, window: Span) -> Fraction:
        """The measure of this scope in this window, exactly."""
        inside = self._inside(rule, org, scope_id, window)
        match rule["measure"]:
            case "success_rate":
                ok = sum(event["status"] == "ok" for event in inside)
                return Fraction(ok, len(inside)) if inside else Fraction(1)
            case "share":
                whole = _sum("cost", [event for event in self.events[org] if _contains(window, event["time"])])
                return _sum("cost", inside) / whole if whole else Fraction(0)
            case "projected":
                elapsed, length = self._elapsed(org, window)
                return _sum("cost", inside) * Fraction(length, elapsed) if elapsed else Fraction(0)
            case measure:
                return _sum(measure, inside)

    def _elapsed(self, org: str, window: Span) -> tuple[int, int]:
        """How much of the window has passed by the org's newest time, and its length, in microseconds."""
        start, end = window
        assert start is not None
        assert end is not None
        length = (end - start) // timedelta(microseconds=1)
        return min((self.newest[org] - start) // timedelta(microseconds=1), length), length

    def _has_crossed(self, rule: Rule, org: str, scope_id: str, window: Span, limit: Decimal) -> bool:
        value = self._value(rule, org, scope_id, window)
        if len(self._inside(rule, org, scope_id, window)) < (rule["min_requests"] or 1):
            return False
        if rule["measure"] == "projected":
            elapsed, length = self._elapsed(org, window)
            if elapsed * 10 < length:
                return False
        return value < Fraction(limit) if rule["below"] else value >= Fraction(limit)

    def _is_over(self, alert: dict[str, Any], window: Span) -> bool:
        """Whether a firing alert resolves: under 98 % of its threshold; `below`: at or above it, or nothing is left."""
        value = self._value(alert["rule"], alert["org"], alert["scope_id"], window)
        if alert["rule"]["below"]:
            return value >= Fraction(alert["limit"])
        return value < Fraction(alert["limit"]) * Fraction(98, 100)

    def _firing(self, rule: Rule, org: str) -> list[dict[str, Any]]:
        """The alerts of this rule and org that are on, by scope value and threshold."""
        on = [alert for alert in self.alerts.values() if alert["is_on"] and alert["org"] == org]
        return sorted((alert for alert in on if alert["rule"]["id"] == rule["id"]), key=_in_order)

    def _present_window(self, rule: Rule, org: str) -> Span:
        """The window at the org's newest time: the calendar window that holds it, or the last steps up to its own."""
        newest = self.newest[org]
        if rule["window"] not in ROLLING:
            return _calendar_window(rule["window"], newest)
        step, count = ROLLING[rule["window"]]
        end = _floor(newest, step) + step
        return end - count * step, end

    def _is_live(self, alert: dict[str, Any]) -> bool:
        return _contains(alert["window"], self.newest[alert["org"]])

    # What is said.

    def _say_again(self, alert: dict[str, Any], transition: str, *, crossed_by: Event) -> None:
        """The alert ends: said with the present value; its window stays the one at firing."""
        alert["is_on"] = False
        rule = alert["rule"]
        window = self._present_window(rule, alert["org"]) if rule["window"] in ROLLING else alert["window"]
        self._say(alert, transition, crossed_by=crossed_by, window=window, highest=False)

    def _say(self, alert: dict[str, Any], transition: str, *, crossed_by: Event, window: Span, highest: bool) -> None:
        rule, org, scope_id = alert["rule"], alert["org"], alert["scope_id"]
        alert["sequence"] += 1
        inside = self._inside(rule, org, scope_id, window)
        said = {
            "schema": "tally.alert.v1",
            "alert_id": alert["alert_id"],
            "sequence": alert["sequence"],
            "transition": transition,
            "rule": rule["id"],
            "rule_revision": rule["revision"],
            "org": org,
            "scope": {"kind": str(rule["scope"]), "id": scope_id},
            "measure": rule["measure"],
            "unit": self.currency if rule["measure"] in ("cost", "projected") else None,
            "window": {
                "kind": str(rule["window"]), "start": _whole_second(alert["window"][0]),
                "end": _whole_second(alert["window"][1]),
            },
            "threshold": plain_decimal(alert["limit"]),
            "percent": alert["percent"],
            "budget": None if rule["budget"] is None else plain_decimal(rule["budget"]),
            "value": _twelve_decimals(self._value(rule, org, scope_id, window)),
            "highest": highest,
            "crossed_by": {
                "source": crossed_by["source"], "id": crossed_by["id"], "time": _microseconds(crossed_by["time"]),
            },
            "top": _top(rule, inside),
            "completeness": {
                "unpriced": sum(event["pricing"] == "unpriced" for event in inside),
                "watermark": _microseconds(self.newest[org]),
            },
        }  # fmt: skip
        if rule["measure"] == "projected":
            said["method"] = PROJECTED_METHOD
        self.said.append(said)


def _same_revision(rule: Rule, other: Rule | None) -> bool:
    return other is not None and rule["revision"] == other["revision"]


def _place(event: Event) -> tuple[Any, ...]:
    """Which event it is; one identity counts again after the horizon, so its raw coordinates say more, if there are."""
    return tuple(event.get(name) for name in ("org", "source", "id", "partition", "offset", "index"))


def _in_order(alert: dict[str, Any]) -> tuple[Any, ...]:
    start = alert["window"][0] or datetime.min.replace(tzinfo=UTC)
    return alert["rule"]["id"], alert["org"], alert["scope_id"], alert["limit"], start


def _limits(rule: Rule) -> list[tuple[Decimal, int | None]]:
    """The thresholds, ascending, with the percentage of the budget that each is."""
    if rule["budget"] is not None:
        with localcontext(prec=60):  # enough that nothing is rounded
            return [(rule["budget"] * percent / 100, percent) for percent in sorted(rule["percent"])]
    return [(limit, None) for limit in sorted(rule["thresholds"] or rule["below"])]


def _scope_id(rule: Rule, event: Event) -> str:
    """The event's value of the rule's scope; "" when it has none."""
    return str(event[rule["scope"]])


def _watches(rule: Rule, org: str, scope_id: str) -> bool:
    return scope_id != "" and _matches(rule["org"], org) and _matches(rule["match"], scope_id)


def _matches(pattern: str, value: str) -> bool:
    return value.startswith(pattern.removesuffix("*")) if pattern.endswith("*") else value == pattern


def _calendar_window(kind: str, time: datetime) -> Span:
    """The calendar window of this kind that holds the instant, in UTC."""
    midnight = time.replace(hour=0, minute=0, second=0, microsecond=0)
    match kind:
        case "hour":
            start = time.replace(minute=0, second=0, microsecond=0)
            return start, start + HOUR
        case "day":
            return midnight, midnight + DAY
        case "week":
            monday = midnight - midnight.weekday() * DAY
            return monday, monday + 7 * DAY
        case "month":
            first = midnight.replace(day=1)
            return first, (first + 31 * DAY).replace(day=1)
        case _:
            return None, None


def _contains(window: Span, time: datetime) -> bool:
    start, end = window
    return (start is None or start <= time) and (end is None or time < end)


def _floor(time: datetime, step: timedelta) -> datetime:
    return time - (time - datetime(1970, 1, 1, tzinfo=UTC)) % step


def _sum(measure: str, events: Iterable[Event]) -> Fraction:
    return sum((_amount(measure, event) for event in events), Fraction(0))


def _amount(measure: str, event: Event) -> Fraction:
    """What one event adds to a measure that is a plain sum."""
    match measure:
        case "cost":
            return Fraction(event["cost"] or 0)
        case "requests":
            return Fraction(1)
        case "failures":
            return Fraction(event["status"] != "ok")
        case "tokens":
            lines = [line for line in event["lines"] if line["meter"].endswith("_tokens") and line["state"] != "memo"]
        case _:
            name = measure.removeprefix("quantity:")
            lines = [line for line in event["lines"] if line["meter"] == name]
    return sum((Fraction(line["quantity"]) for line in lines), Fraction(0))


def _top(rule: Rule, inside: Iterable[Event]) -> list[dict[str, str]]:
    """The largest contributors by the measure: failures make a success rate, costs a share or a projected cost."""
    kind = CONTRIBUTORS[rule["scope"]]
    summed = {"success_rate": "failures", "share": "cost", "projected": "cost"}
    measure = str(summed.get(rule["measure"], rule["measure"]))
    amounts: dict[str, Fraction] = {}
    for event in inside:
        lane = str(event[kind])
        amounts[lane] = amounts.get(lane, Fraction(0)) + _amount(measure, event)
    lanes = [(-amount, lane) for lane, amount in amounts.items() if lane and amount]
    return [{"kind": kind, "id": lane, "value": _twelve_decimals(-amount)} for amount, lane in sorted(lanes)[:TOP_MAX]]


def _twelve_decimals(value: Fraction) -> str:
    """Rounded half-even to 12 decimals, all of them written."""
    whole, rest = divmod(round(value * 10**12), 10**12)  # Python rounds a fraction half-even
    return f"{whole}.{rest:012}"


def _whole_second(time: datetime | None) -> str | None:
    return None if time is None else time.strftime("%Y-%m-%dT%H:%M:%SZ")


def _microseconds(time: datetime) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
