"""What a rule measures, exactly: the value of a window from its sums, and whether it crosses a limit.

Values are fractions of integers in units of 1e-12; nothing here is rounded, except the value that an alert shows.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Context, Decimal
from functools import cached_property
from typing import TYPE_CHECKING, Final, NamedTuple

from pipeline.decimal_columns import UNITS
from schemas.rules import PROJECTED_AFTER, PROJECTED_METHOD

if TYPE_CHECKING:
    from collections.abc import Iterable

    from schemas.rules import Rule, Scope, Window

REQUESTS: Final = "requests"
FAILED: Final = "failed"
COST: Final = "cost"
TOKENS: Final = "tokens"
QUANTITY: Final = "quantity:"

#: A firing rolling alert ends under this many hundredths of its threshold (contract, rules).
RESOLVED_UNDER_PERCENT: Final = 98

#: More digits than Decimal(38, 12) has; Python keeps 28 by default.
_EXACT: Final = Context(prec=76)

_AMOUNTS: Final = {
    "cost": COST,
    "share": COST,
    "projected": COST,
    "requests": REQUESTS,
    "failures": FAILED,
    "success_rate": FAILED,
    "tokens": TOKENS,
}


class Sums(NamedTuple):
    """Sums of one scope in one window. ``amount`` is what the rule measures, and depends on it."""

    requests: int
    failed: int
    amount: int

    def plus(self, other: Sums) -> Sums:
        """Both together."""
        return Sums(self.requests + other.requests, self.failed + other.failed, self.amount + other.amount)

    def minus(self, other: Sums) -> Sums:
        """Without the other."""
        return Sums(self.requests - other.requests, self.failed - other.failed, self.amount - other.amount)


NOTHING: Final = Sums(0, 0, 0)


def quantity_names(sums: Iterable[str]) -> tuple[str, ...]:
    """The quantities among sums, by their own names."""
    return tuple(name.removeprefix(QUANTITY) for name in sums if name.startswith(QUANTITY))


class Value(NamedTuple):
    """``numerator / denominator`` in units of 1e-12."""

    numerator: int
    denominator: int

    @property
    def units(self) -> int:
        """Rounded half-even, as an alert shows it."""
        whole, rest = divmod(self.numerator, self.denominator)
        twice = 2 * rest
        return whole + (twice > self.denominator or (twice == self.denominator and whole % 2 == 1))


@dataclass(frozen=True)
class Judged:
    """A rule, ready to judge with."""

    rule: Rule

    @property
    def key(self) -> tuple[str, int]:
        """What names the rule: another revision is another rule."""
        return self.rule.id, self.rule.revision

    @property
    def scope(self) -> Scope:
        """Whose windows it watches."""
        return self.rule.scope

    @property
    def window(self) -> Window:
        """Which windows it watches."""
        return self.rule.window

    @cached_property
    def is_below(self) -> bool:
        """Whether it fires under its limits instead of at or above them."""
        return bool(self.rule.below)

    @cached_property
    def is_share(self) -> bool:
        """Whether the org's own cost is the denominator."""
        return self.rule.measure == "share"

    @cached_property
    def is_projected(self) -> bool:
        """Whether the run rate so far is taken to the end of the window."""
        return self.rule.measure == "projected"

    @cached_property
    def method(self) -> str:
        """How the value comes about, when it is no plain sum."""
        return PROJECTED_METHOD if self.is_projected else ""

    @cached_property
    def amount(self) -> str:
        """The name of the sum that is measured."""
        return _AMOUNTS.get(self.rule.measure) or QUANTITY + self.rule.quantity

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The sums that it needs of its scope."""
        needs_requests = self.rule.measure == "success_rate" or self.rule.min_requests is not None
        wanted = [self.amount, *((REQUESTS,) if needs_requests else ())]
        return tuple(dict.fromkeys(wanted))

    @cached_property
    def limits(self) -> tuple[int, ...]:
        """The limits in units of 1e-12, ascending."""
        return tuple(units_of(limit) for limit, _ in self.rule.limits)

    @cached_property
    def min_requests(self) -> int:
        """In units of 1e-12; 0 when any number will do."""
        return (self.rule.min_requests or 0) * UNITS

    def limit_of(self, index: int) -> tuple[Decimal, int | None]:
        """A limit as the rule has it, and which percentage of the budget it is."""
        return self.rule.limits[index]

    def value(self, sums: Sums, *, org_amount: int = 0, elapsed_us: int = 1, length_us: int = 1) -> Value | None:
        """The window's value; None when there is none: nothing to divide by, or too early to project."""
        if self.is_below:
            done = sums.requests - sums.failed
            return Value(done * UNITS, sums.requests) if sums.requests else None
        if self.is_share:
            return Value(sums.amount * UNITS, org_amount) if org_amount else None
        if self.is_projected:
            is_early = elapsed_us < PROJECTED_AFTER * length_us
            return None if is_early else Value(sums.amount * length_us, elapsed_us)
        return Value(sums.amount, 1)

    def crosses(self, value: Value | None, sums: Sums, limit: int) -> bool:
        """Whether the value is at or above the limit (strictly under it for ``below``), with requests enough."""
        if value is None or sums.requests < self.min_requests:
            return False
        reached = limit * value.denominator
        return value.numerator < reached if self.is_below else value.numerator >= reached

    def resolves(self, value: Value | None, limit: int) -> bool:
        """Whether a firing rolling alert ends: under 98 % of its limit, for ``below`` at or above it, or empty."""
        if value is None:
            return True
        if self.is_below:
            return value.numerator >= limit * value.denominator
        return value.numerator * 100 < RESOLVED_UNDER_PERCENT * limit * value.denominator

    def shown(self, value: Value | None) -> int:
        """The value as an alert shows it, in units of 1e-12; of nothing at all everything succeeded."""
        if value is None:
            return UNITS if self.is_below else 0
        return value.units


def units_of(amount: Decimal) -> int:
    """A decimal of up to 12 decimals in units of 1e-12; ``decimal`` gives it back."""
    return int(amount.scaleb(12, context=_EXACT))


def decimal(units: int) -> Decimal:
    """Units of 1e-12 as a decimal."""
    return Decimal(units).scaleb(-12, context=_EXACT)
