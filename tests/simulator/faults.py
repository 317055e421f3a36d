"""What may become of a request: the five fates, and how often each befalls one."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from random import Random


class Fate(Enum):
    """Whether a request is carried out, and whether its sender hears of it."""

    DONE = "done"
    LOST = "timed out, not applied"
    UNHEARD = "timed out, applied"
    LATE = "timed out, applied later"
    HALF = "timed out, applied in part"

    @property
    def is_heard(self) -> bool:
        """Whether the sender knows that it was carried out."""
        return self is Fate.DONE


@dataclass(frozen=True)
class Weather:
    """How likely each kind of trouble is: per request the first four, per step of a worker the others."""

    lost: float = 0.0
    unheard: float = 0.0
    late: float = 0.0
    half: float = 0.0
    crash: float = 0.0
    pause: float = 0.0
    rebalance: float = 0.0
    seek: float = 0.0
    abort: float = 0.0
    revision: float = 0.0
    restate: float = 0.0

    @classmethod
    def drawn(cls, rng: Random) -> Weather:
        """Calm in some respects, stormy in others."""
        return cls(
            **{name: rng.choice((0.0, 0.0, 0.06, 0.2)) for name in FATES},
            **{name: rng.choice((0.0, 0.0, 0.03, 0.1)) for name in TROUBLES},
        )

    def fate(self, rng: Random) -> Fate:
        """What becomes of one request."""
        drawn = rng.random()
        for name, fate in FATES.items():
            drawn -= getattr(self, name)
            if drawn < 0:
                return fate
        return Fate.DONE

    @cached_property
    def trouble(self) -> float:
        """How likely any trouble is, per step of a worker."""
        return float(sum(getattr(self, name) for name in TROUBLES))

    def which(self, rng: Random) -> str:
        """The kind of trouble, when there is any."""
        return rng.choices(TROUBLES, [getattr(self, name) for name in TROUBLES])[0]


FATES: Final = {"lost": Fate.LOST, "unheard": Fate.UNHEARD, "late": Fate.LATE, "half": Fate.HALF}
TROUBLES: Final = ("crash", "pause", "rebalance", "seek", "abort", "revision", "restate")
CALM: Final = Weather()


class Wrong(AssertionError):  # noqa: N818 -- it is what the simulator looks for
    """A number, a row or a message is not what the log says."""
