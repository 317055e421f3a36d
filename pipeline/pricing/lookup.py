"""Which price applies: org, operation, provider, model, variant, meter and time of whole columns, by look-ups.

The rows of the books in force fall into groups with the same *reach* (operation, meter, org, model, provider). What an
event can be priced by depends on few classes of its values: orgs without an override are one class, models that match
the same rows are one class. So the path of a value is short:

    org, operation, provider, model  ->  classes  ->  profile          (per event; profiles are few)
    profile, class of the variant    ->  profile                       (per event that says one)
    profile, meter                   ->  schedule                      (per line)
    schedule, time                   ->  number of a term, 0 for none  (per line)

A *schedule* is a step function of time, made from all rows that may apply, the most specific first; most have a single
step. A step may be a *day*: a step function of the time of day. Its values are *terms*: a price row, or a price row
under the adjustments that apply at that time. Profiles, schedules and terms are made when they are first needed and
kept; the tables are bounded and begin anew when they are full. What is kept never changes an answer.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import defaultdict
from itertools import product
from threading import Lock
from typing import TYPE_CHECKING, Final

import numpy as np

from pipeline.pricing.terms import Term, Terms
from schemas.frames import REQUESTS
from schemas.price_book import (
    DAY_SECONDS,
    DAY_US,
    FIRST_US,
    INPUT_CONTEXT,
    INPUT_CONTEXT_PARTS,
    LAST_US,
    SECOND_US,
    WHOLE_DAY,
)
from schemas.variants import variant_pairs

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import polars as pl
    from numpy.typing import NDArray

    from pipeline.pricing.terms import Rows
    from schemas.price_book import Adjustment, Price

    Ints = NDArray[np.int64]
    #: Operation, org, model (or the beginning of one and ``*``), provider; ``""`` is any.
    Reach = tuple[str, str, str, str]
    #: What a variant says that any row of the books asks for, in the order of the keys.
    Pairs = tuple[tuple[str, str | bool], ...]

#: Combinations of classes, cells of (profile, meter), models without an exact price, variants, and terms that are
#: remembered.
#: With at most so many possible combinations of classes, each has a place of its own: 16 MB.
DIRECT_CODES_MAX: Final = 2_000_000
COMBINATIONS_MAX: Final = 1_000_000
CELLS_MAX: Final = 8_000_000
MODELS_MAX: Final = 100_000
VARIANTS_MAX: Final = 100_000
TERMS_MAX: Final = 1_000_000

#: A class of variants and a profile in one number.
_VARIANT_BITS: Final = 31

_NOTHING: Final = 0  # the term, the schedule and the class of what has no price
_UNKNOWN: Final = -1  # in place of a profile: not asked for yet
_VARIES: Final = -1  # in place of a term: look at the time


class Encoded:
    """A column of strings as codes into its distinct values."""

    def __init__(self, column: pl.Series) -> None:
        if column.null_count():
            raise ValueError(f"{column.name} has nulls: an absent value is an empty string")
        encoded = column.to_arrow().dictionary_encode()
        self.values: list[str] = encoded.dictionary.to_pylist()
        # Not `to_numpy`, which imports pandas on the way.
        self.codes = np.frombuffer(encoded.indices.buffers()[1], dtype=np.int32)[: len(column)]

    def classes(self, class_of: dict[str, int]) -> Ints:
        """The class of each value of the column; 0 for those without one."""
        return self.gather([class_of.get(value, _NOTHING) for value in self.values])

    def gather(self, per_value: list[int]) -> Ints:
        """One number per value, spread over the column."""
        return np.array(per_value, dtype=np.int64).take(self.codes)


class Steps:
    """Many step functions in three flat columns, searched together."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._values: list[int] = []
        self._offsets: list[int] = [0]
        self._freeze()

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def add(self, steps: Sequence[tuple[int, int]]) -> int:
        """Adds a function given by its steps (start, value), ascending, and gives its number."""
        self._starts += [start for start, _ in steps]
        self._values += [value for _, value in steps]
        self._offsets.append(len(self._starts))
        self._is_frozen = False
        return len(self) - 1

    def at(self, functions: Ints, points: Ints) -> Ints:
        """Gives the value of each function at its point: a binary search in all of them at once."""
        if not self._is_frozen:
            self._freeze()
        low = self._offset_column.take(functions)
        count = self._offset_column.take(functions + 1) - low
        while count.size and count.max() > 1:
            half = count >> 1
            low += half * (self._start_column.take(low + half) <= points)
            count -= half  # at least what is left on either side
        return self._value_column.take(low)

    def _freeze(self) -> None:
        self._start_column = np.array(self._starts, dtype=np.int64)
        self._value_column = np.array(self._values, dtype=np.int64)
        self._offset_column = np.array(self._offsets, dtype=np.int64)
        self._is_frozen = True


class DirectTable:
    """Profiles by code where there are few possible codes: one place for each."""

    def __init__(self, codes: int) -> None:
        self._profiles = np.full(codes, _UNKNOWN, dtype=np.int64)

    def __getitem__(self, codes: Ints) -> Ints:
        """The profile of each code, or ``_UNKNOWN``."""
        return self._profiles.take(codes)

    def add(self, codes: Ints, profiles: Ints) -> None:
        """Learns the profiles of codes that were unknown."""
        self._profiles[codes] = profiles

    def __len__(self) -> int:
        return 0  # it never grows


class SortedTable:
    """Profiles by code where only some of very many possible codes ever occur: those, in order."""

    def __init__(self) -> None:
        self._codes = np.array([-1], dtype=np.int64)
        self._profiles = np.array([_UNKNOWN], dtype=np.int64)

    def __getitem__(self, codes: Ints) -> Ints:
        """The profile of each code, or ``_UNKNOWN``."""
        places = np.searchsorted(self._codes, codes, side="right") - 1
        return np.where(self._codes.take(places) == codes, self._profiles.take(places), _UNKNOWN)

    def add(self, codes: Ints, profiles: Ints) -> None:
        """Learns the profiles of codes that were unknown."""
        merged = np.concatenate([self._codes, codes])
        order = np.argsort(merged)
        self._codes = merged[order]
        self._profiles = np.concatenate([self._profiles, profiles])[order]

    def __len__(self) -> int:
        return len(self._codes)


class Lookup:
    """The prices in force by what they reach. It learns while it is asked, so threads ask one after another."""

    def __init__(self, rows: Rows, *, aliases: Mapping[str, str]) -> None:
        self._prices, self._adjustments = rows.prices, rows.adjustments
        self._aliases = aliases
        #: By (operation, org, model, provider), then by meter, the most specific variant first; counted from 1.
        self._rows: dict[Reach, dict[str, list[int]]] = {}
        by_variant = sorted(enumerate(self._prices, start=1), key=lambda row: row[1].variant.specificity, reverse=True)
        for row, price in by_variant:
            reach = (price.operation, price.org, price.model, price.provider)
            self._rows.setdefault(reach, {}).setdefault(price.meter, []).append(row)
        #: Places of adjustments, likewise, those for one meter first.
        self._adjusting: defaultdict[Reach, list[int]] = defaultdict(list)
        for place, entry in sorted(enumerate(self._adjustments), key=lambda row: not row[1].meter):
            self._adjusting[entry.operation, entry.org, entry.model, entry.provider].append(place)
        self._pairs_of_price = [frozenset(price.variant.pairs.items()) for price in self._prices]
        self._pairs_of_adjustment = [frozenset(entry.variant.pairs.items()) for entry in self._adjustments]
        self._pairs = frozenset[tuple[str, str | bool]]().union(*self._pairs_of_price, *self._pairs_of_adjustment)
        quantities = set(rows.quantities) - {INPUT_CONTEXT}
        self.meters = _numbered({price.meter for price in self._prices} | quantities | {REQUESTS, *INPUT_CONTEXT_PARTS})
        reaching: list[Price | Adjustment] = [*self._prices, *self._adjustments]
        self._operations = _numbered(row.operation for row in reaching)
        self._orgs = _numbered(row.org for row in reaching)
        self._models = _numbered(row.model for row in reaching)
        self._providers = _numbered(row.provider for row in reaching)
        #: An alias without rows of its own is in the class of its provider.
        self._class_of_provider = {
            alias: self._providers.get(provider, _NOTHING) for alias, provider in aliases.items()
        } | self._providers
        self._prefix_lengths = sorted({len(model) - 1 for model in self._models if model.endswith("*")}, reverse=True)
        self._lock = Lock()
        self._terms_of_rows = Terms.of(rows)
        self._forget()

    def terms_of(self, events: pl.DataFrame, *, row: Ints, meters: Ints) -> tuple[Ints, Ints, Terms]:
        """Gives the term of each line, that of the requests of each event (0 for none), and what terms are.

        ``row`` is the event of each line, ``meters`` the number of its meter (by ``self.meters``; 0 for any other).
        """
        time_us = events["time"].to_physical().to_numpy()
        with self._lock:
            profiles = self._profiles(events)
            of_lines = self._terms_at(self._schedules_of(profiles.take(row), meters), time_us.take(row))
            of_requests = self._terms_at(self._schedules_of(profiles, self.meters[REQUESTS]), time_us)
            return of_lines, of_requests, self._terms

    def _profiles(self, events: pl.DataFrame) -> Ints:
        """The profile of each event: what decides, besides meter and time, which prices may apply to it."""
        if (
            max(len(self._profile_by_code), len(self._profile_by_variant)) > COMBINATIONS_MAX
            or len(self._variants) > VARIANTS_MAX
            or self._cells.size > CELLS_MAX
            or len(self._terms) > max(TERMS_MAX, 2 * len(self._terms_of_rows))
        ):
            self._forget()
        model = Encoded(events["model"])
        codes = Encoded(events["operation"]).classes(self._operations)
        codes = codes * (len(self._orgs) + 1) + Encoded(events["org"]).classes(self._orgs)
        codes = codes * (len(self._models) + 1) + model.gather([self._class_of_model(value) for value in model.values])
        codes = codes * (len(self._providers) + 1) + Encoded(events["provider"]).classes(self._class_of_provider)
        profiles = self._profile_by_code[codes]
        unknown = profiles == _UNKNOWN
        if unknown.any():
            self._learn(np.unique(codes[unknown]))
            profiles = self._profile_by_code[codes]
        return self._with_variants(profiles, events["variant"]) if self._pairs else profiles

    def _with_variants(self, profiles: Ints, variant: pl.Series) -> Ints:
        """The same, where an event says a variant that matters: the profile of such requests."""
        if variant.null_count():
            raise ValueError("variant has nulls: an absent value is an empty string")
        is_said = (variant != "").to_numpy()
        if not is_said.any():
            return profiles
        said = np.flatnonzero(is_said)
        encoded = Encoded(variant.gather(said))
        classes = encoded.gather([self._class_of_variant(value) for value in encoded.values])
        codes = (profiles.take(said) << _VARIANT_BITS) + classes
        found = self._profile_by_variant[codes]
        unknown = found == _UNKNOWN
        if unknown.any():
            self._learn_variants(np.unique(codes[unknown]))
            found = self._profile_by_variant[codes]
        with_variants = profiles.copy()
        with_variants[said] = found
        return with_variants

    def _schedules_of(self, profiles: Ints, meters: Ints | int) -> Ints:
        """The schedule of each pair of a profile and the number of a meter."""
        cells: Ints = self._cells.ravel().take(profiles * self._cells.shape[1] + meters)
        return cells

    def _terms_at(self, schedules: Ints, time_us: Ints) -> Ints:
        """The term by which each schedule prices at an instant."""
        rows = self._constants.take(schedules)
        varying = np.flatnonzero(rows == _VARIES)
        if varying.size:
            times = time_us.take(varying)
            values = self._schedules.at(schedules.take(varying), times)
            by_day = np.flatnonzero(values < 0)
            if by_day.size:
                values[by_day] = self._days.at(-1 - values.take(by_day), times.take(by_day) % DAY_US)
            rows[varying] = values
        return rows

    def _forget(self) -> None:
        self._class_of: dict[str, int] = {}
        self._variant_of: dict[str, int] = {}
        self._variants: dict[Pairs, int] = {}
        self._profile_of: dict[tuple[tuple[Reach, ...], tuple[int, ...], Pairs], int] = {}
        self._schedule_of: dict[tuple[tuple[int, ...], tuple[int, ...]], int] = {}
        self._terms = self._terms_of_rows
        self._term_of: dict[Term, int] = {}
        self._new_terms: list[Term] = []
        self._schedules, self._days = Steps(), Steps()
        self._constant_list: list[int] = []
        self._cell_rows: list[Ints] = []
        self._schedule((), ())
        self._profile((), (), ())
        named = (self._operations, self._orgs, self._models, self._providers)
        codes = math.prod(len(names) + 1 for names in named)
        self._profile_by_code = DirectTable(codes) if codes <= DIRECT_CODES_MAX else SortedTable()
        self._profile_by_variant = SortedTable()
        self._freeze()

    def _freeze(self) -> None:
        self._constants = np.array(self._constant_list, dtype=np.int64)
        self._cells = np.vstack(self._cell_rows)
        if self._new_terms:
            self._terms = self._terms.extended(self._new_terms)
            self._new_terms = []

    def _class_of_model(self, model: str) -> int:
        """The class of an exact model, else of the longest prefix that it begins with, else 0."""
        known = self._class_of.get(model)
        if known is None:
            if len(self._class_of) >= MODELS_MAX:
                self._class_of.clear()
            prefixes = (f"{model[:length]}*" for length in self._prefix_lengths if length <= len(model))
            found = (self._models[name] for name in (model, *prefixes) if name in self._models)
            known = self._class_of[model] = next(found, _NOTHING)
        return known

    def _class_of_variant(self, text: str) -> int:
        """The class of what a variant says that any row asks for."""
        known = self._variant_of.get(text)
        if known is None:
            if len(self._variant_of) >= VARIANTS_MAX:
                self._variant_of.clear()
            pairs = tuple(pair for pair in variant_pairs(text).items() if pair in self._pairs)
            known = self._variant_of[text] = self._variants.setdefault(pairs, len(self._variants))
        return known

    def _learn(self, codes: Ints) -> None:
        """Makes the profiles of combinations of classes that were not seen before."""
        names = [["", *numbered] for numbered in (self._operations, self._orgs, self._models, self._providers)]
        profiles = []
        for code in codes.tolist():
            rest, classes = code, []
            for of_column in reversed(names):
                rest, number = divmod(rest, len(of_column))
                classes.append(of_column[number])
            provider, model, org, operation = classes
            reaches = tuple(self._reaches(operation, org, model, provider))
            adjusting = tuple(self._adjustments_of(operation, org, model, provider)) if self._adjustments else ()
            profiles.append(self._profile(reaches, adjusting, ()))
        self._profile_by_code.add(codes, np.array(profiles, dtype=np.int64))
        self._freeze()

    def _learn_variants(self, codes: Ints) -> None:
        """Makes the profiles of combinations of a profile and a variant that were not seen before."""
        plain = list(self._profile_of)
        variants = list(self._variants)
        profiles = []
        for code in codes.tolist():
            number, variant = divmod(code, 1 << _VARIANT_BITS)
            reaches, adjusting, _ = plain[number]
            profiles.append(self._profile(reaches, adjusting, variants[variant]))
        self._profile_by_variant.add(codes, np.array(profiles, dtype=np.int64))
        self._freeze()

    def _reaches(self, operation: str, org: str, model: str, provider: str) -> Iterable[Reach]:
        """The reaches that have prices and match, the most specific first: by org, then model, then provider."""
        of_providers = self._names_of_provider(provider)
        for reach in product((operation,), _or_any(org), self._names_of_model(model), of_providers):
            if reach in self._rows:
                yield reach

    def _adjustments_of(self, operation: str, org: str, model: str, provider: str) -> Iterable[int]:
        """The adjustments that match whatever the variant and the meter, those that are most specific first."""
        of_providers = self._names_of_provider(provider)
        for an_org, a_model, a_provider, an_operation in product(
            _or_any(org), self._names_of_model(model), of_providers, _or_any(operation)
        ):
            yield from self._adjusting.get((an_operation, an_org, a_model, a_provider), ())

    def _names_of_model(self, model: str) -> list[str]:
        """What rows may say to be for the models of a class, the most specific first."""
        prefix = model.removesuffix("*")
        names = [model] if model and not model.endswith("*") else []
        return [*names, *(f"{prefix[:length]}*" for length in self._prefix_lengths if length <= len(prefix)), ""]

    def _names_of_provider(self, provider: str) -> tuple[str, ...]:
        """Likewise: the provider, the one that it is an alias for, any."""
        alias_for = self._aliases.get(provider)
        return (provider, alias_for, "") if alias_for else _or_any(provider)

    def _profile(self, reaches: tuple[Reach, ...], adjusting: tuple[int, ...], variant: Pairs) -> int:
        number = self._profile_of.setdefault((reaches, adjusting, variant), len(self._cell_rows))
        if number == len(self._cell_rows):
            said = frozenset(variant)
            rows: defaultdict[str, list[int]] = defaultdict(list)
            for reach in reaches:
                for meter, of_meter in self._rows[reach].items():
                    rows[meter] += [row for row in of_meter if self._pairs_of_price[row - 1] <= said]
            applying = [place for place in adjusting if self._pairs_of_adjustment[place] <= said]
            cells = np.zeros(len(self.meters) + 1, dtype=np.int64)
            for meter, of_meter in rows.items():
                of_all = tuple(place for place in applying if self._adjustments[place].meter in ("", meter))
                cells[self.meters[meter]] = self._schedule(tuple(of_meter), of_all)
            self._cell_rows.append(cells)
        return number

    def _schedule(self, rows: tuple[int, ...], adjusting: tuple[int, ...]) -> int:
        number = self._schedule_of.setdefault((rows, adjusting), len(self._constant_list))
        if number == len(self._constant_list):
            steps = [(start, self._value(*applying)) for start, *applying in self._applying_from(rows, adjusting)]
            steps = _merged(steps)
            self._schedules.add(steps)
            self._constant_list.append(steps[0][1] if len(steps) == 1 and steps[0][1] >= 0 else _VARIES)
        return number

    def _applying_from(
        self, rows: tuple[int, ...], adjusting: tuple[int, ...]
    ) -> Iterable[tuple[int, list[int], list[int]]]:
        """Sweeps over time: the rows that apply (at some hour) from each instant on, and the adjustments, in order."""
        spans = [(self._prices[row - 1].start_us, self._prices[row - 1].end_us) for row in rows]
        spans += [(self._adjustments[place].start_us, self._adjustments[place].end_us) for place in adjusting]
        changes: defaultdict[int, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
        changes[FIRST_US]  # everything begins with a step, if only with one that has no price
        for place, (start, end) in enumerate(spans):
            changes[start][0].append(place)
            changes[end][1].append(place)
        applying: list[int] = []  # places in spans, ascending: that is by specificity
        for instant, (begin, end_here) in sorted(changes.items()):
            for place in end_here:
                del applying[bisect_left(applying, place)]
            for place in begin:
                insort(applying, place)
            if instant < LAST_US:
                cut = bisect_left(applying, len(rows))
                yield (
                    instant,
                    [rows[place] for place in applying[:cut]],
                    [adjusting[place - len(rows)] for place in applying[cut:]],
                )

    def _term(self, row: int, adjusting: list[int]) -> int:
        """The number of a price row under the adjustments that apply to it: the most specific one of each variant."""
        chosen = {self._adjustments[place].variant.text: place for place in reversed(adjusting)}
        places = [place for place in chosen.values() if self._adjustments[place].adjusts(self._prices[row - 1])]
        if not places:
            return row
        term = Term(row, tuple(sorted(places)))
        number = self._term_of.setdefault(term, len(self._terms) + len(self._new_terms))
        if number == len(self._terms) + len(self._new_terms):
            self._new_terms.append(term)
        return number

    def _value(self, applying: list[int], adjusting: list[int]) -> int:
        """A term when the hour does not matter, else -1 - the number of a day."""
        if not applying or self._prices[applying[0] - 1].hours is None:
            return self._term(applying[0], adjusting) if applying else _NOTHING
        edges = {0}
        spans: list[tuple[int, int, int]] = []
        for row in applying:
            hours = self._prices[row - 1].hours
            for start, end in hours.spans if hours else WHOLE_DAY:
                spans.append((start, end, row))
                edges |= {start, end} - {DAY_SECONDS}
        rows = [(edge, next((row for start, end, row in spans if start <= edge < end), None)) for edge in sorted(edges)]
        steps = [(edge * SECOND_US, self._term(row, adjusting) if row else _NOTHING) for edge, row in rows]
        return -1 - self._days.add(_merged(steps))


def _numbered(names: Iterable[str]) -> dict[str, int]:
    """Numbers from 1 for the names that are not empty; 0 is for all others."""
    return {name: number for number, name in enumerate(sorted(set(names) - {""}), start=1)}


def _or_any(name: str) -> tuple[str, ...]:
    return (name, "") if name else ("",)


def _merged(steps: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same function without steps that change nothing."""
    return [step for at, step in enumerate(steps) if at == 0 or step[1] != steps[at - 1][1]]
