"""docs/alerts.md: its rules can be applied, its alert is what the schema says."""

from __future__ import annotations

import json
import re
from pathlib import Path

from pipeline.catalog import load_catalog_file
from schemas.generate import ALERT_EXAMPLE
from schemas.rules import MEASURES, QUANTITY_PREFIX, Rule, Scope, Window

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "alerts.md").read_text(encoding="utf-8")


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def test_the_rules_of_the_page_can_be_applied() -> None:
    """Whoever copies them gets what the page says."""
    (text,) = _blocks("yaml")

    rule_set = load_catalog_file(text, filename="alerts.md").rule_set

    assert rule_set is not None
    assert len(rule_set.rules) == 6


def test_the_alert_of_the_page_is_the_example_of_its_schema() -> None:
    """The example is valid, as another test says."""
    (text,) = _blocks("json")

    assert json.loads(text) == ALERT_EXAMPLE


def test_the_page_names_every_key_measure_scope_and_window() -> None:
    """Nothing that a rule can say is left out."""
    keys = [name for name in Rule.model_fields if name != "revision"]
    words = [*keys, *MEASURES, f"{QUANTITY_PREFIX}NAME", *Scope, *Window]

    assert [word for word in words if f"`{word}`" not in PAGE] == []
