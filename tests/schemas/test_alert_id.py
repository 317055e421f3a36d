"""The id of an alert: what makes two crossings the same."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest

from schemas.rules import Scope, alert_id

ORDINARY: dict[str, Any] = {
    "org": "acme",
    "rule": "budget",
    "rule_revision": 3,
    "scope": Scope.PROJECT,
    "scope_id": "checkout",
    "window_start": datetime(2026, 3, 1, tzinfo=UTC),
    "threshold": Decimal(50),
}


def test_an_alert_id_never_changes_between_versions() -> None:
    """A consumer that has seen an alert must know it again after an upgrade."""
    assert alert_id(**ORDINARY) == "6ed610e01cb7336eb956df50e02e213e"


@pytest.mark.parametrize(
    "other",
    [
        {"org": "acme2"},
        {"rule": "budget2"},
        {"rule_revision": 4},
        {"scope": Scope.MODEL},
        {"scope_id": "checkout2"},
        {"window_start": datetime(2026, 3, 2, tzinfo=UTC)},
        {"window_start": None},
        {"threshold": Decimal("50.000000000001")},
        {"org": "acm", "rule": "ebudget"},
    ],
    ids=str,
)
def test_each_part_makes_another_alert(other: dict[str, Any]) -> None:
    """Also when the parts' letters, written after each other, are the same."""
    assert alert_id(**ORDINARY | other) != alert_id(**ORDINARY)


def test_how_a_part_is_written_makes_no_other_alert() -> None:
    """A threshold counts by its value, an instant by its moment."""
    elsewhere = datetime(2026, 3, 1, 1, tzinfo=timezone(timedelta(hours=1)))
    same = {"threshold": Decimal("5.000E+1"), "window_start": elsewhere}

    assert alert_id(**ORDINARY | same) == alert_id(**ORDINARY)
