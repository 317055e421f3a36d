"""``tally catalog import genai-prices``: the public prices of a pinned package as a price book to review and apply.

The text depends on the package and the patterns alone: the same import gives the same bytes. The package can fetch
newer prices in the background; that is never started here, so a book is what its name says.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from dataclasses import dataclass, field
from difflib import get_close_matches
from fnmatch import fnmatchcase
from importlib.metadata import version
from typing import TYPE_CHECKING, Final

from genai_prices.data import providers as PROVIDERS  # noqa: N812 -- it is a constant there

from schemas.errors import WrongUse
from schemas.price_book import PRICES_MAX
from schemas.providers import OTHER_NAMES
from tally.genai_models import models_of, names_of, offers_of, unsaid_rules, winner_of
from tally.genai_rows import REASONING_KEY, tariff_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from genai_prices.types import ModelInfo

    from schemas.price_book import Price
    from tally.genai_models import Offer
    from tally.genai_rows import Tariff

PACKAGE: Final = "genai-prices"
#: A pattern that begins so is a regular expression, else it is a glob.
REGEX: Final = "re:"
NEAR_MAX: Final = 3
#: Keys of a row whose values are words of ours.
PLAIN: Final = frozenset({"operation", "meter", "quantity"})
UNSAID: Final = {
    REASONING_KEY: "reasoning costs less than the output that holds it, which no row can say: output has no row at all",
}


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Something of the package that the book does not say, or not as the package does."""

    reason: str
    model: str  # provider/model
    detail: str = ""


@dataclass(slots=True)
class ImportedBook:
    """A price book in the making, and what became of everything that was asked for."""

    name: str
    patterns: tuple[str, ...]
    groups: list[tuple[str, list[Price]]] = field(default_factory=list)  # a title, and its rows
    left_out: list[LeftOut] = field(default_factory=list)

    @property
    def prices(self) -> list[Price]:
        """All rows in their order."""
        return [price for _, prices in self.groups for price in prices]

    @property
    def provider_aliases(self) -> dict[str, str]:
        """The other names of the providers that have rows, sorted."""
        providers = {price.provider for price in self.prices}
        aliases = ((alias, name) for name, other in OTHER_NAMES.items() if name in providers for alias in other)
        return dict(sorted(aliases))

    def text(self) -> str:
        """The book as YAML; what is left out or changed stands at its end as comments."""
        lines = [*self._head(), f"price_book: {self.name}", "currency: USD"]
        if self.provider_aliases:
            lines += ["provider_aliases:", *(f"  {alias}: {name}" for alias, name in self.provider_aliases.items())]
        lines += ["prices:"]
        for title, prices in self.groups:
            lines += [f"  # {title}", *(f"  - {_flow(price.content())}" for price in prices)]
        return "\n".join([*lines, *self._end()]) + "\n"

    def answer(self) -> dict[str, object]:
        """What was written, as JSON values."""
        return {"price_book": self.name, "rows": len(self.prices), "left_out": len(self.left_out)}

    def _head(self) -> Iterator[str]:
        asked = "".join(f" --models {json.dumps(pattern)}" for pattern in self.patterns)
        yield f"# Written by `tally catalog import {PACKAGE}{asked}` from {self.name}"
        yield "# (https://github.com/pydantic/genai-prices, MIT licence). Compare it with your contracts and the"
        yield "# vendors' price pages before you apply it: nobody promises that it is right, complete or of today."
        yield f"# {len(self.prices)} rows; what is left out or changed stands at the end, {len(self.left_out)} lines."
        yield ""

    def _end(self) -> Iterator[str]:
        by_reason: defaultdict[str, list[LeftOut]] = defaultdict(list)
        for entry in self.left_out:
            by_reason[entry.reason].append(entry)
        for reason, entries in sorted(by_reason.items()):
            yield f"\n# {len(entries)} × {reason}:"
            yield from sorted(f"#   {entry.model}  {entry.detail}".rstrip() for entry in entries)


def import_book(patterns: Sequence[str] = ()) -> ImportedBook:
    """Gives the book of the models that a pattern matches, or of all models.

    A pattern is matched against ``PROVIDER/MODEL``, where the provider is a name of the package or another name that
    it is known by. The rows have the package's name, and the book has the other ones as aliases. Upper and lower case
    are the same to a pattern.

    Raises:
        WrongUse: a pattern matches nothing or is no regular expression, or there are more rows than a book can hold.
    """
    book = ImportedBook(f"{PACKAGE}-{version(PACKAGE)}", tuple(patterns))
    for listing in _asked_for(patterns):
        _add(book, listing)
    book.left_out = list(dict.fromkeys(book.left_out))
    if len(book.prices) > PRICES_MAX:
        raise WrongUse(
            f"The book would have {len(book.prices):,} rows, and {PRICES_MAX:,} is the most: name fewer models with "
            "--models."
        )
    return book


def write_book(book: ImportedBook, path: Path) -> None:
    """Writes the text of a book to a file; one that is there is replaced.

    Raises:
        WrongUse: the file can't be written.
    """
    try:
        path.write_text(book.text(), encoding="utf-8")
    except OSError as error:
        raise WrongUse(f"{path} can't be written ({error.strerror}): name a file in a folder that exists.") from error


@dataclass(frozen=True, slots=True)
class _Listing:
    """The models of a provider; ``wanted`` are places in ``models``, of which the first ``own`` are its own."""

    name: str
    models: list[ModelInfo]
    wanted: frozenset[int]
    own: int

    def tariff_of(self, model: ModelInfo) -> Tariff:
        """The prices of a model; for one of another provider the package knows no variants here."""
        return tariff_of(model, with_variants=any(model is one for one in self.models[: self.own]))


def _asked_for(patterns: Sequence[str]) -> list[_Listing]:
    tests = {pattern: _test_of(pattern) for pattern in patterns}
    idle, known, listings = dict.fromkeys(patterns), set[str](), []
    for provider in sorted(PROVIDERS, key=lambda provider: provider.id):
        models = models_of(provider, providers=PROVIDERS)
        names = (provider.id, *OTHER_NAMES.get(provider.id, ()))
        wanted = set()
        for place, model in enumerate(models):
            keys = [f"{name}/{key}".lower() for name in names for key in names_of(model)]
            found = [pattern for pattern, test in tests.items() if any(map(test, keys))]
            if found or not patterns:
                wanted.add(place)
            for pattern in found:
                idle.pop(pattern, None)
            known.update(keys)
        listings.append(_Listing(provider.id, models, frozenset(wanted), own=len(provider.models)))
    for pattern in idle:
        raise WrongUse(f"--models {pattern} matches no model of {PACKAGE} {version(PACKAGE)}{_near(pattern, known)}.")
    return [listing for listing in listings if listing.wanted]


def _test_of(pattern: str) -> Callable[[str], object]:
    if not pattern.startswith(REGEX):
        return lambda key: fnmatchcase(key, pattern.lower())
    try:
        return re.compile(pattern.removeprefix(REGEX), re.IGNORECASE).search
    except re.error as error:
        raise WrongUse(f"--models {pattern} is no regular expression ({error}).") from error


def _near(pattern: str, known: set[str]) -> str:
    near = get_close_matches(pattern.removeprefix(REGEX).strip("^$*").lower(), sorted(known), n=NEAR_MAX, cutoff=0.5)
    return f"; near it: {', '.join(near)}" if near else '; patterns look like "openai/*" or "anthropic/claude-*"'


def _add(book: ImportedBook, listing: _Listing) -> None:
    """Adds the rows of a listing, a group for each model, and what they do not say."""
    rows: defaultdict[str, list[Price]] = defaultdict(list)
    for offer in _kept(listing):
        lines = listing.tariff_of(offer.model).lines
        rows[offer.model.id] += [line.row(provider=listing.name, model=offer.name) for line in lines]
    book.groups += [(f"{listing.name}/{title}", prices) for title, prices in sorted(rows.items()) if prices]
    for place in sorted(listing.wanted):
        model = listing.models[place]
        for reason, detail in (*_left_out(model, listing.tariff_of(model)), *_taken(listing, model)):
            book.left_out.append(LeftOut(reason, f"{listing.name}/{model.id}", detail))


def _kept(listing: _Listing) -> list[Offer]:
    """The names of the wanted models, and those that would else get a price of theirs: exceptions from a beginning."""
    offers = offers_of(listing.models)
    wanted = {id(listing.models[place]) for place in listing.wanted}
    beginnings = tuple(
        offer.name.removesuffix("*") for offer in offers if id(offer.model) in wanted and offer.name.endswith("*")
    )
    return [offer for offer in offers if id(offer.model) in wanted or offer.name.startswith(beginnings)]


def _left_out(model: ModelInfo, tariff: Tariff) -> Iterator[tuple[str, str]]:
    if not tariff.lines:
        yield "it has no price that a row can say; the package would say 0", ", ".join(tariff.unsaid)
    for key in tariff.unsaid:
        yield UNSAID.get(key, "a part of the tokens has a price of its own, and no meter here"), key
    for key, before, after in sorted(set(tariff.rounded)):
        yield "the noise of a float is rounded to 12 decimals for one unit", f"{key}: {before:f} -> {after:f}"
    for when in tariff.unsaid_variants:
        yield "a variant of the request has prices of its own, and an event can't say that it is one", when
    yield from unsaid_rules(model)


def _taken(listing: _Listing, model: ModelInfo) -> Iterator[tuple[str, str]]:
    """The names of a model that an earlier rule takes away, for another price."""
    for name in names_of(model):
        winner = winner_of(name, models=listing.models)
        if winner is not None and winner.prices != model.prices:
            yield "a name that two models claim goes to the first one, as in the package", f"{name} is {winner.id}"


def _flow(row: dict[str, object]) -> str:
    """A row of a book on one line of YAML; what could be read as something else than text stands in quotes."""
    return f"{{{', '.join(f'{key}: {_scalar(key, value)}' for key, value in row.items())}}}"


def _scalar(key: str, value: object) -> str:
    match value:
        case dict():
            return _flow(value)
        case list():
            return f"[{', '.join(_scalar(key, entry) for entry in value)}]"
        case str() if key in PLAIN:
            return value
        case _:
            return json.dumps(value)
