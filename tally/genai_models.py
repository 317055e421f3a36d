"""Which names of models the ``genai-prices`` package knows, said as rows of a book can say it: exact, or a beginning.

In the package the rules of a provider are tried in their order and the first one that fits wins; in a book the exact
name wins, then the longest beginning. So the winner of each name is looked up, and what a rule can say but a row cannot
(a regular expression, two conditions at once) is left out and told.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from genai_prices.types import (
    ClauseAnd,
    ClauseContains,
    ClauseEndsWith,
    ClauseEquals,
    ClauseOr,
    ClauseRegex,
    ClauseStartsWith,
)
from pydantic import TypeAdapter, ValidationError

from schemas.catalog_values import ModelName

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from genai_prices.types import MatchLogic, ModelInfo, Provider

    Clause = ClauseEquals | ClauseStartsWith | ClauseEndsWith | ClauseContains | ClauseRegex | ClauseOr | ClauseAnd

_MODEL_NAME: Final[TypeAdapter[str]] = TypeAdapter(ModelName)


@dataclass(frozen=True, slots=True)
class Offer:
    """A model under one of the names that a provider has for it; a beginning of names ends with ``*``."""

    name: str
    model: ModelInfo


def offers_of(models: Sequence[ModelInfo]) -> list[Offer]:
    """Gives every name that needs rows, sorted, of models in the order in which their rules are tried.

    Names are written as in the package. What a shorter beginning says already is not repeated.
    """
    beginnings: dict[str, ModelInfo] = {}
    for text in sorted(
        {text for model in models for text in _beginnings(model.match)}, key=lambda text: (len(text), text)
    ):
        taker = winner_of(f"{text}*", models=models)
        if taker is not None and taker is not _longest(beginnings, text) and _can_be_written(f"{text}*"):
            beginnings[text] = taker
    offers = [Offer(f"{text}*", model) for text, model in beginnings.items()]
    for name in sorted({name for model in models for name in (model.id, *_exact_names(model.match))}):
        winner = winner_of(name, models=models)
        if winner is not None and winner is not _longest(beginnings, name) and _can_be_written(name):
            offers.append(Offer(name, winner))
    return sorted(offers, key=lambda offer: offer.name)


def models_of(provider: Provider, *, providers: Sequence[Provider]) -> list[ModelInfo]:
    """Gives the models of a provider in the order in which they are tried: its own, then those it falls back to."""
    others = {other.id: other.models for other in providers}
    return [*provider.models, *(model for key in provider.fallback_model_providers or () for model in others[key])]


def winner_of(name: str, *, models: Sequence[ModelInfo]) -> ModelInfo | None:
    """Gives the first model whose rules take a name, or all names with a beginning (``*`` at its end)."""
    if name.endswith("*"):
        return next((model for model in models if _takes_all(model.match, name[:-1].lower())), None)
    return next((model for model in models if model.is_match(name)), None)


def names_of(model: ModelInfo) -> list[str]:
    """Gives all names of a model that its own rules say, sorted; a beginning of names ends with ``*``."""
    return sorted({model.id, *_exact_names(model.match), *(f"{text}*" for text in _beginnings(model.match))})


def unsaid_rules(model: ModelInfo) -> Iterator[tuple[str, str]]:
    """Gives what rows can't say, or only in part, of a model's names: why, and the text of the rule."""
    for clause in _alternatives(model.match):
        match clause:
            case ClauseRegex(regex=text):
                yield "a regular expression can't be a row", text
            case ClauseAnd():
                yield "two conditions at once can't be a row", _spelled(clause)
            case ClauseContains(contains=text):
                yield "of the names that contain this only those that begin with it are rows", text
            case ClauseEndsWith(ends_with=text):
                yield "of the names that end with this only this one is a row", text
            case _:
                pass
    for name in names_of(model):
        if not _can_be_written(name):
            yield "this is no id, so no event can carry it", name


def _alternatives(rule: MatchLogic) -> Iterator[Clause]:
    if isinstance(rule, ClauseOr):
        for part in rule.or_:
            yield from _alternatives(part)
    else:
        yield rule


def _beginnings(rule: MatchLogic) -> Iterator[str]:
    """Texts of which a rule takes every name that begins with them; what contains a text may begin with it."""
    for clause in _alternatives(rule):
        match clause:
            case ClauseStartsWith(starts_with=text) | ClauseContains(contains=text):
                yield text
            case _:
                pass


def _exact_names(rule: MatchLogic) -> Iterator[str]:
    for clause in _alternatives(rule):
        match clause:
            case ClauseEquals(equals=text) | ClauseEndsWith(ends_with=text):
                yield text
            case _:
                pass


def _takes_all(rule: MatchLogic, beginning: str) -> bool:
    """Whether a rule certainly takes each name with this beginning; a regular expression is never certain."""
    match rule:
        case ClauseOr(or_=parts):
            return any(_takes_all(part, beginning) for part in parts)
        case ClauseAnd(and_=parts):
            return all(_takes_all(part, beginning) for part in parts)
        case ClauseStartsWith(starts_with=text):
            return beginning.startswith(text.lower())
        case ClauseContains(contains=text):
            return text.lower() in beginning
        case _:
            return False


def _longest(beginnings: Mapping[str, ModelInfo], name: str) -> ModelInfo | None:
    """The model that the longest of the beginnings gives to a name."""
    found = max((text for text in beginnings if name.startswith(text)), key=len, default=None)
    return None if found is None else beginnings[found]


def _can_be_written(name: str) -> bool:
    try:
        return _MODEL_NAME.validate_python(name) == name
    except ValidationError:
        return False


def _spelled(rule: MatchLogic) -> str:
    match rule:
        case ClauseAnd(and_=parts):
            return " and ".join(_spelled(part) for part in parts)
        case ClauseOr(or_=parts):
            return f"({' or '.join(_spelled(part) for part in parts)})"
        case _:
            ((kind, text),) = vars(rule).items()
            return f"{kind.replace('_', ' ')} {text}"
