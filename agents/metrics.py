"""All metrics of a worker, built on a given registry. No org, project, key or model is ever a label.

Every labelled child is there from the start with the value 0, so that ``rate()`` and ``absent()`` behave.
"""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import TYPE_CHECKING, Final

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector

from schemas.published import TRANSITIONS
from schemas.rejects import Reason

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

OUTCOMES: Final = ("counted", "duplicate", "conflict", "rejected")
CORRECTION_OUTCOMES: Final = ("applied", "unchanged", "unknown")
STEPS: Final = ("decode", "price", "route", "produce", "read", "dedupe", "fold", "store")
SECONDS_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 3, 5, 10, 30, 60, 300)


class BulkHistogram(Collector):
    """A histogram that takes a whole column of values at once; prometheus-client's takes one at a time."""

    def __init__(self, name: str, documentation: str, *, registry: CollectorRegistry) -> None:
        self._name = name
        self._documentation = documentation
        self._edges = np.array([*SECONDS_BUCKETS, np.inf])
        self._counts = np.zeros(len(self._edges), dtype=np.int64)
        self._sum = 0.0
        registry.register(self)

    def observe(self, values: NDArray[np.float64]) -> None:
        """Counts every value into the first bucket whose upper edge is not below it."""
        at = np.searchsorted(self._edges, values, side="left")
        self._counts += np.bincount(np.minimum(at, len(self._edges) - 1), minlength=len(self._edges))
        self._sum += float(values.sum())

    def collect(self) -> Iterable[HistogramMetricFamily]:
        """The buckets as Prometheus wants them: cumulative."""
        cumulative = np.cumsum(self._counts)
        edges = ["+Inf" if np.isinf(edge) else str(float(edge)) for edge in self._edges]
        buckets = [(edge, float(count)) for edge, count in zip(edges, cumulative.tolist(), strict=True)]
        yield HistogramMetricFamily(self._name, self._documentation, buckets=buckets, sum_value=self._sum)


class Metrics:
    """The worker's metrics by name; attributes are the names without ``tally_`` and unit suffixes."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.events = Counter("tally_events_total", "Events by what became of them.", ["outcome"], registry=registry)
        self.late_events = Counter(
            "tally_late_events_total", "Counted events that arrived more than an hour after they happened.",
            registry=registry,
        )  # fmt: skip
        self.replays = Counter(
            "tally_replayed_events_total", "Events read again after a crash; they leave no trace.", registry=registry
        )
        self.corrections = Counter(
            "tally_corrections_total", "Corrections by what became of them.", ["outcome"], registry=registry
        )
        self.rejected = Counter("tally_rejected_total", "Refused events by reason.", ["reason"], registry=registry)
        self.unpriced = Counter(
            "tally_unpriced_total", "Counted events with a quantity that has no price.", registry=registry
        )
        self.alerts = Counter("tally_alerts_total", "Alert transitions published.", ["transition"], registry=registry)
        self.lag_records = Gauge(
            "tally_lag_records", "Records not yet committed by this worker's group.", ["topic", "partition"],
            registry=registry,
        )  # fmt: skip
        self.empty_offsets = Counter(
            "tally_empty_offsets_total", "Offsets passed over that hold no record, looked up in the log.", ["topic"],
            registry=registry,
        )  # fmt: skip
        self.oldest_unprocessed = Gauge(
            "tally_oldest_unprocessed_seconds", "Age of the oldest record read and not yet worked off.", ["topic"],
            registry=registry,
        )  # fmt: skip
        self.last_commit = Gauge(
            "tally_last_commit_timestamp_seconds", "When this worker last committed offsets.", registry=registry
        )
        self.watermark = Gauge(
            "tally_watermark_timestamp_seconds", "Time of the newest event that was counted.", registry=registry
        )
        self.store_insert_seconds = Histogram(
            "tally_store_insert_seconds", "How long an insert took until it was acknowledged.",
            buckets=SECONDS_BUCKETS, registry=registry,
        )  # fmt: skip
        self.store_retries = Counter(
            "tally_store_retries_total", "Attempts repeated because a server was away.", registry=registry
        )
        self.event_to_queryable = BulkHistogram(
            "tally_event_to_queryable_seconds", "From the broker's append of an event to its total in the store.",
            registry=registry,
        )  # fmt: skip
        self.event_to_alert = BulkHistogram(
            "tally_event_to_alert_seconds", "From the broker's append of an event to the alert it caused.",
            registry=registry,
        )  # fmt: skip
        self.unaccounted_events = Gauge(
            "tally_unaccounted_events",
            "Committed events that are neither counted, nor repeats, nor refused; 0 when the books balance.",
            registry=registry,
        )
        self.drift_cost = Gauge(
            "tally_drift_cost",
            "What hourly totals and their facts differ by in cost, without signs; 0 when the books balance.",
            registry=registry,
        )
        self.last_audit = Gauge(
            "tally_last_audit_timestamp_seconds",
            "When this worker last audited the newest books; 0 unless it is the auditor.",
            registry=registry,
        )
        self.rebalances = Counter(
            "tally_rebalances_total", "Rebalances of the consumer group that this worker saw.", registry=registry
        )
        self.step_cpu = Counter(
            "tally_step_cpu_seconds_total", "CPU time by step of the way of an event.", ["step"], registry=registry
        )
        self.identities = Gauge(
            "tally_identities_in_memory", "Identities held in memory in front of the store.", registry=registry
        )
        self.build = Info("tally_build", "What is running.", registry=registry)
        self.build.info({"version": version("tallyhouse"), "python": platform.python_version()})
        for outcome in OUTCOMES:
            self.events.labels(outcome)
        for outcome in CORRECTION_OUTCOMES:
            self.corrections.labels(outcome)
        for reason in Reason:
            self.rejected.labels(reason.value)
        for transition in TRANSITIONS:
            self.alerts.labels(transition)
        for step in STEPS:
            self.step_cpu.labels(step)
        self._lagging: set[tuple[str, int]] = set()

    def show_lags(self, lags: Mapping[tuple[str, int], int]) -> None:
        """Sets the lag in records of the (topic, partition)s that this worker has, and takes back all others.

        A partition that went to another worker would keep its last lag here for ever, and sums over workers be wrong.
        """
        for topic, partition in self._lagging - lags.keys():
            self.lag_records.remove(topic, str(partition))
        for (topic, partition), records in lags.items():
            self.lag_records.labels(topic, partition).set(records)
        self._lagging = set(lags)
