"""What judging works on and leaves behind: the rules in force, sums of windows, transitions of alerts."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Final, Self

import polars as pl

from schemas.frames import DECIMAL, INSTANT
from schemas.rules import Rule, RuleSet

CONTROL_SCHEMA: Final = "tally.control.v1"

#: The sums of scopes in windows. ``start`` is the window's first microsecond since 1970, 0 for ``total``; ``lane`` is
#: ``""`` unless the sums were asked for by a dimension. ``quantities`` stand in the order of the names asked for.
WINDOW_SUMS: Final[dict[str, pl.DataType | type[pl.DataType]]] = {
    "org": pl.String,
    "id": pl.String,
    "start": pl.Int64,
    "lane": pl.String,
    "requests": DECIMAL,
    "failed": DECIMAL,
    "unpriced": DECIMAL,
    "cost": DECIMAL,
    "tokens": DECIMAL,
    "quantities": pl.List(DECIMAL),
}

#: The time of each org's newest event, in microseconds since 1970.
NEWEST: Final[dict[str, pl.DataType | type[pl.DataType]]] = {"org": pl.String, "newest": pl.Int64}

#: The event that comes last in the log, by scope. ``time`` in microseconds since 1970.
LAST_FACTS: Final[dict[str, pl.DataType | type[pl.DataType]]] = {
    "org": pl.String,
    "id": pl.String,
    "fact_source": pl.String,
    "fact_id": pl.String,
    "fact_time": pl.Int64,
}

#: A transition of an alert: a row of ``alerts_rows``.
ALERTS: Final[dict[str, pl.DataType | type[pl.DataType]]] = {
    "alert_id": pl.String,
    "sequence": pl.UInt32,
    "transition": pl.String,
    "rule": pl.String,
    "rule_revision": pl.UInt32,
    "org": pl.String,
    "scope": pl.String,
    "scope_id": pl.String,
    "measure": pl.String,
    "unit": pl.String,  # "" for what is only counted
    "window": pl.String,
    "window_start": INSTANT,  # null for total
    "window_end": INSTANT,
    "threshold": DECIMAL,
    "percent": DECIMAL,
    "budget": DECIMAL,
    "value": DECIMAL,
    "highest": pl.Boolean,
    "crossed_source": pl.String,
    "crossed_id": pl.String,
    "crossed_time": INSTANT,
    "top_kinds": pl.List(pl.String),
    "top_ids": pl.List(pl.String),
    "top_values": pl.List(DECIMAL),
    "unpriced": pl.UInt64,
    "watermark": INSTANT,
    "method": pl.String,
    "block_partition": pl.Int32,
    "block": pl.UInt64,
    "recorded_at": INSTANT,
}

#: A control block that was counted: ``body`` is what is in force after it, as ``InForce.to_json`` writes it.
CONTROLS: Final[dict[str, pl.DataType | type[pl.DataType]]] = {
    "block_partition": pl.Int32,
    "block": pl.UInt64,
    "body": pl.String,
    "recorded_at": INSTANT,
}


@dataclass(frozen=True, slots=True)
class InForce:
    """The rule sets in force at a place of the log, by name, and the currency of every cost ("" without a book)."""

    currency: str = ""
    rule_sets: dict[str, RuleSet] = field(default_factory=dict)
    price_books: dict[str, int] = field(default_factory=dict)

    @property
    def rules(self) -> tuple[Rule, ...]:
        """All rules, by id."""
        rules = [rule for name in sorted(self.rule_sets) for rule in self.rule_sets[name].rules]
        return tuple(sorted(rules, key=lambda rule: (rule.id, rule.revision)))

    def after(self, control: InForce) -> InForce:
        """What is in force after a control block: of each name the highest revision, whichever came first."""
        rule_sets = dict(self.rule_sets)
        for name, announced in control.rule_sets.items():
            known = rule_sets.get(name)
            if known is None or announced.revision >= known.revision:
                rule_sets[name] = announced
        price_books = dict(self.price_books)
        is_newer = not price_books
        for name, revision in control.price_books.items():
            is_newer |= revision >= price_books.get(name, 0)
            price_books[name] = max(revision, price_books.get(name, 0))
        currency = control.currency if is_newer and control.currency else self.currency
        return InForce(currency, rule_sets, price_books)

    def to_json(self) -> str:
        """One line of JSON, the same for the same content; ``from_json`` reads it back."""
        value: dict[str, Any] = {
            "schema": CONTROL_SCHEMA,
            "currency": self.currency,
            "price_books": self.price_books,
            "rule_sets": {name: json.loads(rules.to_json()) for name, rules in self.rule_sets.items()},
        }
        return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Reads what ``to_json`` wrote: the value of a control block.

        Raises:
            ValueError: it is none.
        """
        value = json.loads(text)
        if not isinstance(value, dict) or value.get("schema") != CONTROL_SCHEMA:
            raise ValueError("it is no control block of this format")
        return cls(
            currency=value["currency"],
            rule_sets={name: RuleSet.model_validate(rules) for name, rules in value["rule_sets"].items()},
            price_books=dict(value["price_books"]),
        )
