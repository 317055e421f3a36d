"""How a refusal speaks about a value: short, and never with a secret in it."""

from __future__ import annotations

from typing import Final

from schemas.secrets import redacted_prefix

_SHOWN_CHARACTERS_MAX: Final = 48
#: How much is looked at, so that a secret that only begins within the shown part is recognised.
_LOOKED_AT_CHARACTERS_MAX: Final = 4096

_KINDS: Final[dict[type, str]] = {
    dict: "an object",
    list: "an array",
    str: "a string",
    bool: "a boolean",
    bytes: "a number",
    type(None): "null",
}


def shown(text: str) -> str:
    """The text in quotes, redacted, at most 48 characters of it, control characters and surrogates escaped."""
    was_cut = len(text) > _LOOKED_AT_CHARACTERS_MAX
    brief = redacted_prefix(text[:_LOOKED_AT_CHARACTERS_MAX], _SHOWN_CHARACTERS_MAX, was_cut=was_cut)
    return ascii(brief) + ("…" if len(text) > _SHOWN_CHARACTERS_MAX else "")


def kind_of(value: object) -> str:
    """What a JSON reader calls the value: "an array", "a number" …."""
    return next((kind for python, kind in _KINDS.items() if isinstance(value, python)), "bytes that are no UTF-8")
