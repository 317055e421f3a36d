"""Documentation that fails when it lies."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from pipeline.decode import Decoded, Limits, decode_one
from schemas.rejects import Reason
from schemas.topics import Topics
from tally.main import ORDER
from tally.reference import PAGE, REASONS, reference
from tally.settings import Settings
from tests.pipeline.event_examples import make_data, make_event, make_record

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
LINK = re.compile(r"\[[^\]]*\]\((?!https?:)([^)#]+)")


def test_the_reference_is_what_the_code_says() -> None:
    """Whoever changes a setting, metric, view, reason or command regenerates the page."""
    assert PAGE.read_text(encoding="utf-8") == reference()


def test_every_reason_is_explained() -> None:
    """A refused producer finds its reason in the reference."""
    assert set(REASONS) == set(Reason)


def test_the_reference_names_every_setting_command_and_topic() -> None:
    """Nothing that a user can turn or call is left out."""
    page = PAGE.read_text(encoding="utf-8")
    settings = [f"TALLY_{name.upper()}" for name in Settings.model_fields]
    names = ("events", "priced", "rejected", "alerts", "alerts_state", "catalog")
    topics = [getattr(Topics(), name) for name in names]
    commands = [f"tally {name}" for name in ORDER]

    assert [name for name in (*settings, *topics, *commands) if f"`{name}`" not in page] == []


def test_the_example_of_a_usage_object_becomes_what_the_page_says() -> None:
    """The two blocks of JSON: what is sent, and what is stored and priced."""
    _, _, section = (ROOT / "docs" / "events.md").read_text(encoding="utf-8").partition("## Usage objects of other")
    sent, stored = (json.loads(block) for block in re.findall(r"```json\n(.*?)```", section, re.DOTALL)[:2])

    (event,) = decode_one(make_record(make_event(data=make_data(**sent))), limits=Limits())

    assert isinstance(event, Decoded)
    assert dict(event.usage) == stored["usage"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_in_the_docs_leads_somewhere(page: Path) -> None:
    """A stranger who clicks arrives."""
    dead = [target for target in LINK.findall(page.read_text(encoding="utf-8")) if not (page.parent / target).exists()]

    assert dead == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_in_the_docs_exists(page: Path) -> None:
    """`tally NAME` in a page is a command of the command line."""
    named = set(re.findall(r"(?:^|`|\$ |run )tally ([a-z]+)\b", page.read_text(encoding="utf-8"), re.MULTILINE))

    assert named - set(ORDER) == set()
