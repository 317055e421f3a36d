"""What the gauges of a worker say when its partitions change."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from agents.metrics import Metrics


def lags(metrics: Metrics) -> dict[tuple[str, str], float]:
    """Every series of ``tally_lag_records``, by topic and partition."""
    (family,) = (family for family in metrics.registry.collect() if family.name == "tally_lag_records")
    return {(sample.labels["topic"], sample.labels["partition"]): sample.value for sample in family.samples}


def test_a_partition_that_went_to_another_worker_has_no_lag_here() -> None:
    """A sum over all workers counts each partition once, and is 0 when everything is read."""
    metrics = Metrics(CollectorRegistry())
    metrics.show_lags({("usage.events", 0): 5, ("usage.priced", 0): 1, ("usage.priced", 1): 7})

    metrics.show_lags({("usage.events", 0): 2, ("usage.priced", 1): 0})

    assert lags(metrics) == {("usage.events", "0"): 2, ("usage.priced", "1"): 0}


def test_a_partition_that_comes_back_has_its_lag_again() -> None:
    """Taken back once and set again."""
    metrics = Metrics(CollectorRegistry())
    metrics.show_lags({("usage.events", 0): 5})
    metrics.show_lags({})

    metrics.show_lags({("usage.events", 0): 3})

    assert lags(metrics) == {("usage.events", "0"): 3}
