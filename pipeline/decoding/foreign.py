"""Usage objects of other systems on the fast path: translated when that is certain, left to the scalar path when not.

Certain are whole numbers in a usage object that nothing is wrong with; everything else takes a second look.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from schemas.event import USAGE_NAMES_MAX
from schemas.event_values import QUANTITY_MAX, read_decimal_string
from schemas.secrets import is_secret
from schemas.translation import UntranslatableError, translated
from schemas.vocabularies import VOCABULARIES

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Far from the depth that a record may have; the deepest usage objects have four, numbers included.
_LEVELS_MAX: Final = 8


def certain_translation(usage: Mapping[str, Any], *, vocabulary: str) -> dict[str, Any] | None:
    """Our quantities of a usage object as msgspec decodes it, None when the scalar path has to judge it."""
    if vocabulary not in VOCABULARIES or len(usage) > USAGE_NAMES_MAX:
        return None
    try:
        quantities = translated(usage, vocabulary=vocabulary, read=_read_whole_number)
    except UntranslatableError:
        return None
    return quantities if len(quantities) <= USAGE_NAMES_MAX else None


def count_texts(usage: object) -> int | None:
    """How many names of members and strings a usage object holds.

    Returns:
        None when one of them begins like a secret, or when it nests deeper than any system's does.
    """
    texts: list[str] = []
    level = [usage]
    for _ in range(_LEVELS_MAX):
        below: list[Any] = []
        for node in level:
            if type(node) is dict:
                texts += node
                below += node.values()
            elif type(node) is list:
                below += node
            elif type(node) is str:
                texts.append(node)
        if not below:
            break
        level = below
    else:
        return None
    if any(is_secret(text) for text in texts if text not in _KNOWN_MEMBERS):
        return None
    return len(texts)


def _read_whole_number(value: object) -> int | None:
    """A whole number; None for what is certainly no quantity. Raises for what may be one."""
    if type(value) is int:
        return value if 0 <= value <= QUANTITY_MAX else None
    if type(value) is str and read_decimal_string(value) is not None:
        raise UntranslatableError(value)
    return None


#: Names that the table knows. They are looked at here once, and not in every event.
_KNOWN_MEMBERS: Final = frozenset(
    member
    for vocabulary in VOCABULARIES.values()
    for names in (vocabulary.totals, vocabulary.left_out, *(count.names for count in vocabulary.all()))
    for name in names
    for member in (name, *name.split("."))
    if not is_secret(member)
)
