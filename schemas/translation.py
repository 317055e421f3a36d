"""A usage object of another system into our quantities: disjoint, and nothing lost.

Each count of the table (``schemas/vocabularies.py``) becomes what is left of it when the counts that it includes are
taken out, so the quantities sum to what the system counted. Contradictions are refused, never mended: a clamped
difference hides the error that caused it.
"""

from __future__ import annotations

import re
from decimal import Context, Decimal, localcontext
from typing import TYPE_CHECKING, Any, Final

from schemas.event_values import QUANTITY_MAX, RESERVED_USAGE_NAMES, USAGE_NAME_PATTERN
from schemas.secrets import is_secret
from schemas.vocabularies import INPUT, OUTPUT, VOCABULARIES, Count, Vocabulary, snake_case

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    Number = Decimal | int
    Read = Callable[[object], Number | None]

#: Sums and differences of quantities have at most 26 digits: nothing is rounded.
_EXACT: Final = Context(prec=40)
_NAME: Final = re.compile(USAGE_NAME_PATTERN)
#: Kept when the system says that it is 0: an event that used nothing says so.
_KEPT_AT_ZERO: Final = frozenset({INPUT, OUTPUT})
#: Of the names of objects inside of each other, joined.
_PATH_CHARACTERS_MAX: Final = 256
#: Stand for what is not read, and for the total, in the place of a usual name.
_LEFT_OUT: Final = ""
_TOTAL: Final = "(total)"
_TOKENS: Final = "_tokens"
_AND: Final = " and "


class UntranslatableError(ValueError):
    """Why a usage object says nothing that can be counted.

    Attributes:
        name: which member, as it was sent; members of objects behind a dot, several members with "and" between them.
        detail: what is wrong with it, a clause that goes on from the name; "" when its value is no quantity.
        value: what it holds, when that is no quantity.
    """

    def __init__(self, name: str, detail: str = "", *, value: object = None) -> None:
        super().__init__(f"{name} {detail or 'is no quantity'}")
        self.name = name
        self.detail = detail
        self.value = value

    @property
    def is_known(self) -> bool:
        """Whether the name is made of names in the tables alone; else it is whatever the producer wrote."""
        return all(name in _KNOWN for name in self.name.split(_AND))


def translated(usage: Mapping[str, Any], *, vocabulary: str, read: Read) -> dict[str, Number]:
    """Our quantities of a usage object: disjoint but for ``reasoning_tokens``, a memo inside ``output_tokens``.

    Parts that are 0 are left out. Numbers that the vocabulary does not know are kept as quantities of their own, those
    inside of objects under their path in snake case: without a price they make the event unpriced, which is seen. What
    else it does not know (text, booleans, lists) is no count and is left out; null is absent everywhere.

    Args:
        usage: as the system gives it, members of any JSON type.
        vocabulary: whose names these are, a key of ``VOCABULARIES``.
        read: a member's value as a quantity, None when it is none.

    Raises:
        UntranslatableError: a count is no quantity; parts are more than what includes them, or have nothing that does;
            a total is not the sum; a name belongs to another vocabulary, or to a quantity that this one fills.
    """
    sheet = _Sheet(_INDEXES[vocabulary], read)
    with localcontext(_EXACT):
        sheet.gather(usage, "")
        return sheet.quantities()


class _Index:
    """The table of one vocabulary, by the usual name of each count."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        counts = list(vocabulary.all())
        self.name = vocabulary.name
        #: Every name to the usual one.
        self.usual = {name: count.name for count in counts for name in count.names}
        self.usual |= dict.fromkeys(vocabulary.totals, _TOTAL)
        self.usual |= dict.fromkeys(vocabulary.left_out, _LEFT_OUT)
        self.lists = vocabulary.lists
        self.entries = dict(vocabulary.entries)
        self.quantity = {count.name: count.quantity for count in counts}
        self.memo = {count.name: count.memo for count in counts if count.memo}
        #: What includes a part. A kind is not among them.
        self.whole = {part.name: count.name for count in counts for part in count.parts}
        self.kinds = {kind.name: count.name for count in counts for kind in count.kinds}
        self.cached = {kind.name: kind.cached for count in counts for kind in count.kinds}
        self.count = {count.name: count for count in counts}
        self.outermost = {count.name for count in vocabulary.counts if count.quantity.endswith(_TOKENS)}
        #: Names that can't be quantities of the producer's own here: what they say would be counted twice, or unseen.
        self.taken = RESERVED_USAGE_NAMES | _TOKEN_QUANTITIES | set(self.quantity.values())


_TOKEN_QUANTITIES: Final = frozenset(
    name
    for vocabulary in VOCABULARIES.values()
    for count in vocabulary.all()
    for name in (count.quantity, count.memo)
    if name.endswith(_TOKENS)
)
_INDEXES: Final = {name: _Index(vocabulary) for name, vocabulary in VOCABULARIES.items()}
#: Whose name each count of tokens and each total is: the first one's, when several systems have it.
_OWNERS: Final = {
    name: vocabulary.name
    for vocabulary in reversed(VOCABULARIES.values())
    for names in (vocabulary.totals, *(one.names for one in vocabulary.all() if one.quantity.endswith(_TOKENS)))
    for name in names
}


#: Every name that the tables have.
_KNOWN: Final = _TOKEN_QUANTITIES.union(
    *(
        _INDEXES[name].usual.keys() | vocabulary.lists | _INDEXES[name].entries.keys()
        for name, vocabulary in VOCABULARIES.items()
    )
)


class _Sheet:
    """What one usage object says."""

    __slots__ = ("_given", "_index", "_own", "_read", "_spelling")

    def __init__(self, index: _Index, read: Read) -> None:
        self._index = index
        self._read = read
        self._given: dict[str, Number] = {}  # by usual name
        self._spelling: dict[str, str] = {}  # usual name to the name that was sent
        self._own: dict[str, Number] = {}

    def gather(self, members: Mapping[str, Any], prefix: str) -> None:
        """Takes in the members of an object, those of objects in it too."""
        usual_of = self._index.usual
        for member, value in members.items():
            if value is None:
                continue
            name = prefix + member
            usual = usual_of.get(name)
            if usual is None:
                self._gather_unknown(name, value)
            elif usual is not _LEFT_OUT:
                quantity = self._read(value)
                if quantity is None:
                    raise UntranslatableError(name, value=value)
                self._give(usual, name, quantity)

    def _gather_unknown(self, name: str, value: object) -> None:
        if isinstance(value, dict):
            if len(name) > _PATH_CHARACTERS_MAX:  # or a long name before many members would be copied for each
                raise self._unnameable(name)
            self.gather(value, f"{name}.")
        elif isinstance(value, list):
            self._gather_list(name, value)
        else:
            self._keep(name, value)

    def _give(self, usual: str, name: str, quantity: Number) -> None:
        """Two names of one count say the same, but for the 0 of a default that nobody filled in."""
        before = self._given.get(usual)
        if not before:
            self._given[usual] = quantity
            self._spelling[usual] = name
        elif quantity and before != quantity:
            raise UntranslatableError(
                name, f"is {_plain(quantity)}, but {self._spelling[usual]} says {_plain(before)} of the same"
            )

    def _gather_list(self, name: str, items: list[Any]) -> None:
        if name in self._index.lists:
            counts: dict[str, Number] = {}
            for item in items:
                modality, value = _modality_count(item)
                quantity = 0 if value is None else self._read(value)
                if not isinstance(modality, str) or quantity is None:
                    raise UntranslatableError(name, "has an entry without a modality or without its count")
                member = f"{name}.{modality.upper()}"
                counts[member] = counts.get(member, 0) + quantity
            for member, quantity in counts.items():
                if usual := self._index.usual.get(member):
                    self._give(usual, member, quantity)
        elif name in self._index.entries:
            included = self._index.entries[name]
            if any(not isinstance(item, dict) or item.get("type") not in included for item in items):
                raise UntranslatableError(
                    name,
                    "has an entry that the counts do not include; send it as an event of its own, and leave it out",
                )

    def _keep(self, name: str, value: object) -> None:
        """Takes in what the vocabulary does not know."""
        quantity = self._read(value)
        if quantity is None:
            if isinstance(value, str | bool):
                return
            raise UntranslatableError(name, value=value)
        is_plain = "." not in name and _NAME.fullmatch(name) is not None
        own = name if is_plain else snake_case(name)
        vocabulary, owner = self._index.name, _OWNERS.get(name)
        if not quantity and (not is_plain or owner is not None or own in self._index.taken):
            return
        if owner is not None and own not in self._index.taken:
            raise UntranslatableError(name, f"is no name of the vocabulary {vocabulary}, but one of {owner}")
        if own in self._index.taken or own in self._own or _NAME.fullmatch(own) is None or is_secret(own):
            raise self._unnameable(name)
        self._own[own] = quantity

    def _unnameable(self, name: str) -> UntranslatableError:
        return UntranslatableError(
            name, f"is no name of the vocabulary {self._index.name}, and none that a quantity beside it can have"
        )

    def quantities(self) -> dict[str, Number]:
        """Everything that was taken in, as our quantities."""
        index, given = self._index, self._given
        rests = dict(given)
        tokens: Number = 0
        for name, value in given.items():
            if name in index.outermost:
                tokens += value
            elif value and name in index.whole:
                whole = index.whole[name]
                rests[whole] = rests.get(whole, 0) - value
                if rests[whole] < 0:
                    raise self._too_many(index.count[whole], index.count[whole].parts)
        total = given.get(_TOTAL, tokens)
        if total != tokens:
            raise self._wrong_total(tokens)
        claims = [
            name for name, value in given.items() if name in index.kinds and (value or index.cached[name] in given)
        ]
        for whole in dict.fromkeys(index.kinds[name] for name in claims):
            self._take_kinds(index.count[whole], rests)
        return self._sums(rests) | self._own

    def _take_kinds(self, count: Count, rests: dict[str, Number]) -> None:
        """Audio, images and video out of what the parts of a count leave."""
        given = self._given
        claimed: Number = 0
        rest: Number = rests.get(count.name, 0)
        for kind in count.kinds:
            value = given.get(kind.name)
            if value is None:
                continue
            claimed += value
            cached = given.get(kind.cached, 0)
            if cached > value:
                raise UntranslatableError(
                    self._spelling[kind.cached],
                    f"is {_plain(cached)}, more than the {_plain(value)} of {self._spelling[kind.name]}",
                )
            rests[kind.name] = min(value - cached, rest)
            rest -= rests[kind.name]
        if claimed > given.get(count.name, 0):
            raise self._too_many(count, count.kinds)
        if claimed:
            rests[count.name] = rest

    def _sums(self, rests: Mapping[str, Number]) -> dict[str, Number]:
        index = self._index
        sums: dict[str, Number] = {}
        for name, rest in rests.items():
            if name == _TOTAL:
                continue
            quantity = index.quantity[name]
            if rest or (quantity in _KEPT_AT_ZERO and name in index.outermost):
                sums[quantity] = sums.get(quantity, 0) + rest
            if name in index.memo and self._given[name]:
                memo = index.memo[name]
                sums[memo] = sums.get(memo, 0) + self._given[name]
        for quantity, value in sums.items():
            if value > QUANTITY_MAX:
                raise UntranslatableError(quantity, f"sums to {_plain(value)}, more than the 1e15 of a quantity")
        return sums

    def _too_many(self, count: Count, inside: Iterable[Count]) -> UntranslatableError:
        parts = [part.name for part in inside if self._given.get(part.name)]
        names = _AND.join(self._spelling[part] for part in parts)
        makes = f"{'are' if len(parts) > 1 else 'is'} {_plain(sum(self._given[part] for part in parts))}"
        includes = f"which includes {'them' if len(parts) > 1 else 'it'}"
        if count.name not in self._given:
            return UntranslatableError(names, f"{makes}, and {count.name}, {includes}, is missing")
        whole = f"the {_plain(self._given[count.name])} of {self._spelling[count.name]}"
        return UntranslatableError(names, f"{makes}, more than {whole}, {includes}")

    def _wrong_total(self, tokens: Number) -> UntranslatableError:
        return UntranslatableError(
            self._spelling[_TOTAL],
            f"is {_plain(self._given[_TOTAL])}, but the counts make {_plain(tokens)}; they are not what the vocabulary"
            f" {self._index.name} says, or the total is wrong: then leave it out",
        )


def _modality_count(item: object) -> tuple[object, object]:
    """The modality of an entry and its count, None when it leaves a 0 out, as protocol buffers do."""
    if not isinstance(item, dict):
        return None, None
    counts = (item.get("tokenCount"), item.get("token_count"))
    return item.get("modality"), next((count for count in counts if count is not None), None)


def _plain(value: Number) -> str:
    """Without an exponent and without zeros at the end."""
    text = f"{value:f}" if isinstance(value, Decimal) else str(value)
    return text.rstrip("0").rstrip(".") if "." in text else text
