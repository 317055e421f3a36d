"""What the header ``correction`` of a block of ``usage.priced`` says: who restates what the events in it cost, and why.

Such a block holds events that were counted before, at the same raw coordinates, with other lines and costs.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from schemas.published import InstantText

#: Characters of a reason; it is stored with every correction.
REASON_CHARACTERS_MAX = 200


class Correction(BaseModel):
    """One run of `tally reprice`; every block of the run carries the same text."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_: Literal["tally.correction.v1"] = Field(default="tally.correction.v1", alias="schema")
    run: Annotated[str, Field(min_length=1, max_length=64)]
    books: Annotated[str, Field(min_length=1)] = Field(description='What it was priced by: "standard@3, lookups@1".')
    reason: Annotated[str, Field(max_length=REASON_CHARACTERS_MAX)] = ""
    requested_at: InstantText = Field(description="When the run began, by the clock of whoever started it.")

    def to_header(self) -> bytes:
        """The header's value; ``read_correction`` reads it back."""
        return self.model_dump_json(by_alias=True).encode()


def read_correction(header: bytes) -> Correction:
    """The run that a block's header names.

    Raises:
        ValueError: it is no correction of this format; that is a bug or a foreign producer on ``usage.priced``.
    """
    return Correction.model_validate_json(header)
