"""Loads a catalog file: from YAML text to a price book and a rule set, or to all the mistakes in it.

What a value may be is said once, by the models in ``schemas``; here it is joined with the places in the file. The same
file has the same content whatever its comments, its order of keys or its way to write a number.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeVar

from pydantic import BaseModel, ValidationError

from pipeline.catalog_yaml import Mistakes, Node, read_yaml
from schemas.catalog_file import CatalogFile, spell_start
from schemas.period_prices import PeriodPrice, overlapping_months, spell_month
from schemas.price_book import Adjustment, Price, PriceBook, overlapping_pairs
from schemas.rules import DEFAULT_RULE_SET, Rule, RuleSet

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

BOOK_KEYS: Final = (
    "price_book", "currency", "prices", "period_prices", "adjustments", "provider_aliases", "ignore"
)  # fmt: skip
RULE_KEYS: Final = ("rule_set", "rules")
#: Set when a catalog is applied, never written by hand.
_GIVEN_BY_APPLY: Final = "revision"

_NO_LINES: Final[dict[str, tuple[int, ...]]] = {}

_NOUNS: Final = {
    Price: "price",
    PeriodPrice: "period price",
    Adjustment: "adjustment",
    PriceBook: "price book",
    Rule: "rule",
    RuleSet: "rule set",
}

#: How pydantic calls the key of an entry, where it is the key that is wrong.
_KEY_STEP: Final = "[key]"

Row = TypeVar("Row", Price, PeriodPrice, Adjustment, Rule)
Model = TypeVar("Model", bound=BaseModel)


def load_catalog_file(text: str, *, filename: str) -> CatalogFile:
    """Gives the price book, the rule set or both of a catalog file. ``filename`` only stands in messages.

    Raises:
        CatalogError: the file is refused, with all its mistakes, each with line, column and a sentence.
    """
    mistakes = Mistakes(filename=filename)
    root = read_yaml(text, mistakes=mistakes)
    top = _top_level(root, mistakes)
    book, lines = _read_book(root, mistakes) if top & set(BOOK_KEYS) else (None, _NO_LINES)
    rules, rule_lines = _read_rules(root, mistakes) if top & set(RULE_KEYS) else (None, ())
    mistakes.raise_if_any()
    return CatalogFile(
        filename=filename, price_book=book, rule_set=rules, rule_lines=rule_lines, key_places=root.keys, **lines
    )


def _top_level(root: Node, mistakes: Mistakes) -> set[str]:
    """Gives the known keys of the file; the others are mistakes."""
    if root.entries is None:
        mistakes.stop((root.line, root.column), "a catalog is a mapping: `price_book: NAME`, `prices:` and so on")
    known = (*BOOK_KEYS, *RULE_KEYS)
    for key in root.entries:
        if key not in known:
            mistakes.add(root.keys[key], f"`{key}` is no key here; the keys are {_listed(known)}")
    if not set(root.entries) & set(known):
        mistakes.add((root.line, root.column), "there is neither a `price_book` nor `rules` in this file")
    return set(root.entries) & set(known)


def _read_book(root: Node, mistakes: Mistakes) -> tuple[PriceBook | None, dict[str, tuple[int, ...]]]:
    """Gives the book, and the lines of its rows by what ``CatalogFile`` calls them."""
    for key in ("price_book", "currency", "prices"):
        if key not in (root.entries or {}):
            mistakes.add(
                (root.line, root.column), f"`{key}` is missing: a price book has a name, a currency and prices"
            )
    prices = _read_rows(root, "prices", Price, mistakes)
    for first, second, instant in overlapping_pairs([price for _, price in prices]):
        (first_node, _), (second_node, price) = prices[first], prices[second]
        mistakes.add(
            (second_node.line, second_node.column),
            f"this price for {price.meter} is as specific as the one in line {first_node.line}; both apply "
            f"{spell_start(instant)}: let one end (`until`) when the other begins (`from`), or make it more specific",
        )
    periods = _read_period_prices(root, mistakes)
    adjustments = _read_adjustments(root, mistakes)
    head = {key: key for key in ("currency", "provider_aliases", "ignore")} | {"name": "price_book"}
    rows = {
        "prices": tuple(row for _, row in prices),
        "period_prices": tuple(row for _, row in periods),
        "adjustments": tuple(row for _, row in adjustments),
    }
    book = _read_head(root, PriceBook, head, mistakes, rows=rows)
    return book, {
        "price_lines": tuple(node.line for node, _ in prices),
        "period_price_lines": tuple(node.line for node, _ in periods),
        "adjustment_lines": tuple(node.line for node, _ in adjustments),
    }


def _read_period_prices(root: Node, mistakes: Mistakes) -> list[tuple[Node, PeriodPrice]]:
    rows = _read_rows(root, "period_prices", PeriodPrice, mistakes)
    for first, second, month in overlapping_months([price for _, price in rows]):
        (first_node, _), (second_node, price) = rows[first], rows[second]
        mistakes.add(
            (second_node.line, second_node.column),
            f"this period price for {price.meter} is as specific as the one in line {first_node.line}; both apply "
            f"{spell_month(month)}: let one end (`until`) when the other begins (`from`), or make it more specific",
        )
    return rows


def _read_adjustments(root: Node, mistakes: Mistakes) -> list[tuple[Node, Adjustment]]:
    rows = _read_rows(root, "adjustments", Adjustment, mistakes)
    for first, second, instant in overlapping_pairs([adjustment for _, adjustment in rows]):
        (first_node, _), (second_node, _) = rows[first], rows[second]
        mistakes.add(
            (second_node.line, second_node.column),
            f"this adjustment is as specific as the one in line {first_node.line}, for the same variant; both apply "
            f"{spell_start(instant)}: let one end (`until`) when the other begins (`from`), or make it more specific",
        )
    return rows


def _read_rules(root: Node, mistakes: Mistakes) -> tuple[RuleSet | None, tuple[int, ...]]:
    if "rules" not in (root.entries or {}):
        mistakes.add(root.place(("rule_set",)), "`rules` is missing: a rule set without rules is written `rules: []`")
    rules = _read_rows(root, "rules", Rule, mistakes)
    _check_rule_ids(root, mistakes)
    unique = {rule.id: rule for _, rule in rules}
    rule_set = _read_head(root, RuleSet, {"name": "rule_set"}, mistakes, rows={"rules": tuple(unique.values())})
    return rule_set, tuple(node.line for node, _ in rules)


def _check_rule_ids(root: Node, mistakes: Mistakes) -> None:
    """Notes each id that an earlier rule of the file has, whatever else is wrong with either of them."""
    listed = (root.entries or {}).get("rules")
    lines: dict[str, int] = {}
    for node in (listed.rows if listed else None) or []:
        given = (node.entries or {}).get("id")
        if given is not None and isinstance(given.value, str):
            if given.value in lines:
                sentence = f"the rule id {given.value} is taken by the rule in line {lines[given.value]}"
                mistakes.add(node.place(("id",)), sentence)
            lines.setdefault(given.value, node.line)


def _read_rows(root: Node, key: str, model: type[Row], mistakes: Mistakes) -> list[tuple[Node, Row]]:
    """Gives the rows that are right, with their places; the others are mistakes."""
    listed = (root.entries or {}).get(key)
    if listed is None or listed.is_refused:
        return []
    if listed.rows is None:
        mistakes.add(root.place((key,)), f"`{key}` must be a list of rows; an empty one is written []")
        return []
    rows = []
    for node in listed.rows:
        row = _read_row(node, model, mistakes)
        if row is not None:
            rows.append((node, row))
    return rows


def _read_row(node: Node, model: type[Row], mistakes: Mistakes) -> Row | None:
    if node.entries is None:
        if not node.is_refused:
            mistakes.add(
                (node.line, node.column), "a row must be a mapping like {operation: ..., meter: ..., price: ...}"
            )
        return None
    values = node.plain()
    if isinstance(values.get("above"), dict):  # one threshold needs no list around it
        values["above"] = [values["above"]]
    if _GIVEN_BY_APPLY in values:
        del values[_GIVEN_BY_APPLY]
        mistakes.add(node.keys[_GIVEN_BY_APPLY], f"`{_GIVEN_BY_APPLY}` is given when the file is applied: leave it out")
    row = _validated(model, values, node, mistakes)
    return None if node.contains_refused() else row


def _read_head(
    root: Node, model: type[Model], keys: Mapping[str, str], mistakes: Mistakes, *, rows: Mapping[str, Any]
) -> Model | None:
    """Reads what stands beside the rows. ``keys`` says which field is written under which key."""
    entries = root.entries or {}
    values = {name: entries[key].plain() for name, key in keys.items() if key in entries}
    # What is missing in a book has been said already; the rest of its head is looked at all the same.
    values = {"name": DEFAULT_RULE_SET} | ({"currency": "USD"} if model is PriceBook else {}) | values
    return _validated(model, {**values, **rows}, root, mistakes, keys=keys)


def _validated(
    model: type[Model], values: object, node: Node, mistakes: Mistakes, *, keys: Mapping[str, str] | None = None
) -> Model | None:
    """Gives the model, or None after noting each of pydantic's errors at its place in the file."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        for detail in error.errors(include_url=False, include_input=False):
            path = tuple(
                (keys or {}).get(str(step), step) if at == 0 else step for at, step in enumerate(detail["loc"])
            )
            if not node.contains_refused(path) or detail["type"] in ("missing", "extra_forbidden"):
                mistakes.add(node.place(path), _sentence(model, path, detail))
    return None


def _sentence(model: type[BaseModel], path: tuple[str | int, ...], detail: Mapping[str, Any]) -> str:
    words = [str(step) for step in path if isinstance(step, str) and step != _KEY_STEP]
    subject = f"`{'.'.join(words)}`" if words else f"this {_NOUNS[model]}"
    match detail["type"]:
        case "missing":
            verdict = "is missing"
        case "extra_forbidden":
            verdict = f"is no key here; the keys are {_listed(_keys_at(model, words[:-1]))}"
        case "too_long":
            verdict = f"has more than {detail['ctx']['max_length']} entries: split it into several books or sets"
        case "literal_error":
            verdict = f"must be {detail['ctx']['expected']}"
        case "tuple_type":
            verdict = "must be a list"
        case "model_type" | "model_attributes_type" | "dict_type":
            verdict = "must be a mapping"
        case _:  # mostly a sentence of ours
            verdict = detail["msg"]
    return f"{subject} {verdict}"


def _keys_at(model: type[BaseModel], words: Sequence[str]) -> list[str]:
    for word in words:
        field = next(field for name, field in model.model_fields.items() if word in (name, field.alias))
        nested = [kind for kind in _parts(field.annotation) if isinstance(kind, type) and issubclass(kind, BaseModel)]
        model = nested[0]
    return [field.alias or name for name, field in model.model_fields.items() if name != _GIVEN_BY_APPLY]


def _parts(annotation: Any) -> Iterable[Any]:  # noqa: ANN401 -- a type or a form of typing
    return getattr(annotation, "__args__", None) or (annotation,)


def _listed(words: Iterable[str]) -> str:
    return ", ".join(words)
