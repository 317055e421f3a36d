"""Topic names, and what each topic must be set to. The prefix (``TALLY_TOPIC_PREFIX``) stands before every name."""

from __future__ import annotations

from dataclasses import dataclass

DAY_MS = 24 * 60 * 60 * 1000
MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Topics:
    """The topics of one installation, by what they carry."""

    prefix: str = ""

    @property
    def events(self) -> str:
        """CloudEvents from services; any key, any partitioner."""
        return f"{self.prefix}usage.events"

    @property
    def priced(self) -> str:
        """Blocks of validated, priced events; the partition is chosen by org."""
        return f"{self.prefix}usage.priced"

    @property
    def rejected(self) -> str:
        """Every event that was refused, and every conflict."""
        return f"{self.prefix}usage.rejected"

    @property
    def alerts(self) -> str:
        """Transitions of alerts for downstream billing."""
        return f"{self.prefix}usage.alerts"

    @property
    def alerts_state(self) -> str:
        """The latest transition of every alert id, for consumers that begin; compacted, never a tombstone."""
        return f"{self.prefix}usage.alerts.state"

    @property
    def catalog(self) -> str:
        """Price books and rules as applied; compacted."""
        return f"{self.prefix}usage.catalog"
