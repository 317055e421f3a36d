"""Period prices: what one org's use of a meter costs over a whole billing month, decided from the month's total.

A period price names a line of the invoice (an operation and an invoice name, for all models or some), and stands in a
price book beside the prices of single events. Months are calendar months in UTC, written ``2026-03``; spans of them
include their start and exclude their end.
"""

from __future__ import annotations

import re
from collections import defaultdict
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Final, Literal, NamedTuple, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from schemas.catalog_values import Amount, Id, InvoiceName, ModelName, OptionalId, Per, Threshold, mistake

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

#: Rows of one book, tiers of one row.
PERIOD_PRICES_MAX: Final = 1_000
PERIOD_TIERS_MAX: Final = 100

GRADUATED: Final = "graduated"
VOLUME: Final = "volume"
PACKAGE: Final = "package"

_MONTH: Final = re.compile(r"([0-9]{4})-(0[1-9]|1[0-2])")
_FIRST_MONTH: Final = "0001-01"
_FROZEN: Final = ConfigDict(frozen=True, extra="forbid", strict=True, populate_by_name=True)


def _read_month(value: object) -> str:
    if not isinstance(value, str) or not _MONTH.fullmatch(value) or value < _FIRST_MONTH:
        raise mistake('must be a quoted month like "2026-03": a period price holds for whole months')
    return value


#: Text on purpose: ``YYYY-MM`` sorts like the months do.
Month = Annotated[str, BeforeValidator(_read_month)]


class PeriodTier(BaseModel):
    """A range of the month's quantity: above the tier before it, up to and including ``up_to``."""

    model_config = _FROZEN

    up_to: Threshold | None = None  # the last tier has no end
    price: Amount
    flat: Amount = Field(default=0, validate_default=True)  # owed once when the tier is reached


class PeriodPrice(BaseModel):
    """One row of ``period_prices``. An absent org or model is ``""`` and means "any"."""

    model_config = _FROZEN

    operation: Id
    meter: InvoiceName  # the name on the invoice, of whatever meters it sums up
    model: ModelName = ""  # an exact model, or the beginning of one and "*"
    org: OptionalId = ""
    from_: Month | None = Field(default=None, alias="from")
    until: Month | None = None
    kind: Literal["graduated", "volume", "package"] | None = None  # None: what the events cost, at least the minimum
    tiers: tuple[PeriodTier, ...] = Field(default=(), strict=False)
    per: Per = 1  # the unit of the prices of tiers
    package: Threshold | None = None
    price: Amount | None = None  # of one package
    included: Threshold = Field(default=0, validate_default=True)
    minimum: Amount = Field(default=0, validate_default=True)

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if not self.meter:
            raise mistake("has an empty `meter`: name the line of the invoice")
        if self.from_ is not None and self.until is not None and self.until <= self.from_:
            raise mistake("ends before it begins: `until` must be a later month than `from`")
        match self.kind:
            case "graduated" | "volume":
                self._refuse_keys("package", "price", "included")
                _check_tiers(self.tiers)
            case "package":
                self._refuse_keys("tiers", "per")
                if not self.package or self.price is None:
                    raise mistake("sells packages without saying them: it needs `package` above 0, and `price`")
            case None:
                self._refuse_keys("tiers", "per", "package", "price", "included")
                if not self.minimum:
                    raise mistake("changes nothing: it needs a `kind` (graduated, volume or package) or a `minimum`")
        return self

    def _refuse_keys(self, *names: str) -> None:
        given = [f"`{name}`" for name in names if name in self.model_fields_set]
        if given:
            kind = f"the kind {self.kind}" if self.kind else "a row without a `kind`"
            raise mistake(f"gives {' and '.join(given)}, which {kind} has no use for")

    @property
    def reach(self) -> tuple[str, str, str, str]:
        """What two rows must share to be equally specific: operation, meter, org and model."""
        return (self.operation, self.meter, self.org, self.model)

    @property
    def specificity(self) -> tuple[bool, bool, int]:
        """Larger is more specific, as with prices of events: org first, then the model (exact, longer, shorter)."""
        return (bool(self.org), bool(self.model) and not self.model.endswith("*"), len(self.model))

    def holds_in(self, month: str) -> bool:
        """Whether it applies to the month ``YYYY-MM``."""
        return (self.from_ is None or self.from_ <= month) and (self.until is None or month < self.until)

    def matches(self, *, operation: str, model: str, name: str) -> bool:
        """Whether it can price this line of the invoice, months and org aside."""
        if (self.operation, self.meter) != (operation, name):
            return False
        return model.startswith(self.model[:-1]) if self.model.endswith("*") else self.model in ("", model)

    def content(self) -> dict[str, object]:
        """The row as JSON values, without what is left at its default."""
        return self.model_dump(mode="json", by_alias=True, exclude_defaults=True)


class PeriodPriceRow(NamedTuple):
    """A row of one revision of a book, with its id."""

    id: str
    price: PeriodPrice


def with_ids(book: str, revision: int, prices: Sequence[PeriodPrice]) -> list[PeriodPriceRow]:
    """Gives the rows of one revision with their ids, ``BOOK@REVISION:period:ROW``, the row counted from 1."""
    return [PeriodPriceRow(f"{book}@{revision}:period:{row}", price) for row, price in enumerate(prices, start=1)]


def _check_tiers(tiers: tuple[PeriodTier, ...]) -> None:
    if not tiers:
        raise mistake("has no `tiers`")
    if len(tiers) > PERIOD_TIERS_MAX:
        raise mistake(f"has {len(tiers)} tiers: at most {PERIOD_TIERS_MAX}")
    ends = [tier.up_to for tier in tiers]
    if ends.pop() is not None:
        raise mistake("ends its last tier: leave its `up_to` out, so that every quantity has a price")
    reached = Decimal(0)
    for end in ends:
        if end is None:
            raise mistake("leaves `up_to` out before the last tier")
        if end <= reached:
            raise mistake("has tiers out of order: each `up_to` must be above the one before it, the first above 0")
        reached = end


def overlapping_months(prices: Sequence[PeriodPrice]) -> Iterator[tuple[int, int, str]]:
    """Gives all pairs of places whose rows are equally specific for one line and month, and the first such month.

    The rows may come from several books. Within a pair the smaller place comes first.
    """
    by_reach: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
    for place, price in enumerate(prices):
        for other in by_reach[price.reach]:
            month = max(price.from_ or _FIRST_MONTH, prices[other].from_ or _FIRST_MONTH)
            if price.holds_in(month) and prices[other].holds_in(month):
                yield other, place, month
        by_reach[price.reach].append(place)


def spell_month(month: str) -> str:
    """Gives the first month of a contradiction as words; that of the year 1 is none that anybody chose."""
    return "from the beginning" if month == _FIRST_MONTH else f"in {month}"
