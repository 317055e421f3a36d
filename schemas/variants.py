"""What a request was besides its model: its service tier, a batch, its speed, its region.

An event carries a variant as one text, so that equal variants are equal texts: compact JSON with sorted keys that holds
only what was said, "" when that is nothing. ``batch`` is true or not there; the others are ids.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

#: The keys of a variant, the one that decides first among prices first.
VARIANT_KEYS: Final = ("service_tier", "batch", "speed", "region")
#: The key that is a flag.
BATCH: Final = "batch"
#: The keys that are ids.
VARIANT_ID_KEYS: Final = tuple(key for key in VARIANT_KEYS if key != BATCH)


def variant_text(variant: Mapping[str, object] | None) -> str:
    """Gives the one text of a variant; null, "", false and a key that is not there say the same."""
    said = {key: value for key, value in (variant or {}).items() if value}
    return json.dumps(said, sort_keys=True, separators=(",", ":")) if said else ""


def variant_pairs(text: str) -> dict[str, str | bool]:
    """Gives what a text of ``variant_text`` says, by key."""
    pairs: dict[str, str | bool] = json.loads(text) if text else {}
    return pairs
