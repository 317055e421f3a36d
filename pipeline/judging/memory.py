"""What judging remembers of one partition, as of its next block: a cache of the store, like all memory of counting.

Windows are remembered by pages (``page.py``): one per scope, grain and start. What is not there is asked from the store
when an event touches it, and what exceeds the limit is forgotten, oldest first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, NamedTuple

from pipeline.judging.page import Keys, Page
from pipeline.judging.window_times import Grain
from schemas.rules import Scope, Window

if TYPE_CHECKING:
    from schemas.alerting import InForce

PageKey = tuple[Scope, Grain, int]
RuleKey = tuple[str, int]
#: Rule, org, scope id, start of the window, index of the limit.
RetractedKey = tuple[RuleKey, str, str, int, int]


class RollingState(NamedTuple):
    """The latest alert of a rolling rule for one scope and limit: its window's start, and whether it still fires."""

    start: int
    sequence: int
    is_firing: bool


#: By org, then by (scope id, index of the limit).
RollingStates = Mapping[str, Mapping[tuple[str, int], RollingState]]


@dataclass(frozen=True, slots=True)
class Rolling:
    """The steps of one scope and grain, for orgs in ``orgs`` complete as far back as their longest window reaches.

    ``bounds`` are per window at least what is in it, as floats: no value is above them, so who is under its limit by
    them needs no closer look.
    """

    orgs: frozenset[str] = frozenset()
    steps: Mapping[int, Page] = field(default_factory=dict)
    bounds: Mapping[Window, Page] = field(default_factory=dict)
    states: Mapping[RuleKey, RollingStates] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class JudgeMemory:
    """``in_force`` None: nothing is known yet, not even the rules."""

    in_force: InForce | None = None
    keys: Keys = field(default_factory=Keys)
    newest: Mapping[str, int] = field(default_factory=dict)  # by org; an org that is not in it was not asked for
    pages: Mapping[PageKey, Page] = field(default_factory=dict)
    rolling: Mapping[tuple[Scope, Grain], Rolling] = field(default_factory=dict)
    retracted: Mapping[RetractedKey, int] = field(default_factory=dict)  # how often such an alert has turned

    @property
    def windows(self) -> int:
        """How many windows and steps are remembered."""
        steps = (page for rolling in self.rolling.values() for page in rolling.steps.values())
        return sum(map(len, self.pages.values())) + sum(map(len, steps))

    def within(self, limit: int) -> JudgeMemory:
        """Forgets calendar windows, those that began first before others, until the limit holds; else everything."""
        if self.windows <= limit:
            return self
        pages = dict(self.pages)
        surplus = self.windows - limit
        for key in sorted(pages, key=_began):
            if surplus <= 0:
                return replace(self, pages=pages)
            surplus -= len(pages.pop(key))
        return JudgeMemory(in_force=self.in_force) if surplus > 0 else replace(self, pages=pages)


def _began(key: PageKey) -> tuple[bool, int]:
    scope, grain, start = key
    _ = scope
    return grain is Grain.TOTAL, start


NOTHING_KNOWN: Final = JudgeMemory()
