"""What the agents are given: addresses, limits and names. They read no setting and no environment themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from clickhouse.audit import LogView
    from clickhouse.client import StoreAddress
    from pipeline.count import CountLimits
    from pipeline.decode import Limits
    from schemas.topics import Topics

#: No block of ``usage.priced`` is longer, of whatever kind.
BLOCK_BYTES_MAX: Final = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Wiring:
    """One worker's surroundings."""

    app_id: str
    topics: Topics
    kafka: Mapping[str, Any]  # keyword arguments for any aiokafka client
    broker_credentials: Any  # the same login as Faust wants it
    store: StoreAddress
    event_limits: Limits
    count_limits: CountLimits
    batch_events_max: int
    batch_wait_seconds: float
    session_timeout_seconds: float
    audit_seconds: float  # 0 is never
    log_view: LogView  # for the auditor
    state_dir: Path  # Faust makes a folder there; nothing in it matters
    block_bytes_max: int = BLOCK_BYTES_MAX

    @property
    def faust_broker(self) -> str:
        """The broker addresses as Faust wants them."""
        return ";".join(f"kafka://{address}" for address in self.kafka["bootstrap_servers"])
