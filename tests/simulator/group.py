"""A consumer group: who owns which partition, and how far each was committed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random


@dataclass
class Group:
    """One group on one topic. A commit counts only from a member of the current generation."""

    partitions: int
    takes_commits_of_zombies: bool = False
    generation: int = 0
    owners: dict[int, str] = field(default_factory=dict)
    committed: dict[int, int] = field(default_factory=dict)

    def rebalance(self, members: Sequence[str], rng: Random) -> None:
        """Every partition is given up and given to some member; nobody is told yet."""
        self.generation += 1
        self.owners = {partition: rng.choice(members) for partition in range(self.partitions)}

    def owned_by(self, member: str) -> list[int]:
        """The partitions of a member in the current generation."""
        return [partition for partition, owner in self.owners.items() if owner == member]

    def commit(self, member: str, generation: int, partition: int, position: int) -> bool:
        """Notes the position, unless it comes from a generation that is over; False says so to the member."""
        is_current = generation == self.generation and self.owners.get(partition) == member
        if is_current or self.takes_commits_of_zombies:
            self.committed[partition] = position
        return is_current
