"""Mistakes that were made in systems like this one, each to be planted on purpose and found by the simulator."""

from __future__ import annotations

from enum import Enum


class Bug(Enum):
    """What a worker, the group or the store does wrong when the bug is planted."""

    # The count agent.
    ACK_BEFORE_INSERT = "blocks are acked before their rows are acknowledged"
    COMMIT_WHAT_WAS_READ = "the position that was read is committed, not the one that was worked off"
    MEMORY_BEFORE_WRITES = "a batch changes memory before its writes have succeeded, not a copy that is swapped in"
    MEMORY_KEPT_AFTER_SEEK = "memory is kept although the position is another"
    TIMEOUT_TAKEN_AS_DONE = "a write whose outcome is unknown is not repeated"
    # Questions to the store.
    QUESTION_OF_ANY_BLOCK = "identities and facts are asked without `block < n`"
    TOTALS_AS_THEY_ARE = "a restore takes totals of version n and later as they are"
    NOT_IN_MEMORY_IS_ZERO = "a total that is not in memory is taken as zero"
    FORGOTTEN_IS_ZERO = "an hour that was forgotten still counts as loaded"
    NOTHING_RESTORED = "a restart begins with no identities and believes them complete"
    MEMORY_HAS_NO_BEGINNING = "restored memory is believed to reach back for every raw partition"
    ANSWER_CUT_SHORT = "a young fact with the hash is believed to be the only one"
    STATES_OF_ANY_BLOCK = "what a fact costs is asked without `block < n`"
    TOTALS_WITHOUT_CORRECTIONS = "a restore sums up facts and forgets their corrections"
    # What is written.
    INCREMENTS = "totals are written as increments"
    VERSION_OF_FIRST_BLOCK = "a flush carries the version of its first block"
    LAST_WRITE_STAYS = "the store keeps the last written total instead of the highest version"
    # Decisions.
    HASH_ALONE = "a hash that is known makes a repeat"
    REPLAY_IS_DUPLICATE = "the same raw record again is recorded as a duplicate"
    CORRECTED_AGAIN = "a correction block that was produced twice counts twice"
    CORRECTED_BEFORE_COUNTED = "a correction applies to a fact that stands behind it in the log"
    # Alerts.
    ACK_BEFORE_ALERTS = "blocks are acked before their alerts are stored and published"
    STORED_IS_PUBLISHED = "alerts that are stored already are not published again"
    SUMS_OF_ANY_BLOCK = "sums of windows are asked without `block < n`"
    ALERTS_OF_ANY_BLOCK = "an alert that is stored is believed to have fired before, whatever its block"
    RULES_OF_ANY_BLOCK = "the rules of the newest control block are taken, not of the last one before n"
    RULES_IN_MEMORY_ONLY = "what a control block says is remembered and not stored"
    JUDGED_KEPT_AFTER_SEEK = "what judging remembers is kept although the position is another"
    SEQUENCE_IN_MEMORY_ONLY = "a restart counts the transitions of an alert from one again"
    JUDGED_AT_THE_END = "a run is judged at its last event, not event by event"
    # The price agent.
    SENDS_PAST_UNRESOLVED = "the next block is sent while an earlier one is unresolved"
    TIMEOUT_TAKEN_AS_SENT = "a block whose outcome is unknown is not sent again"
    ACK_BEFORE_SENT = "raw records are acked before their blocks are acknowledged"
    ROUTED_BY_RAW_PARTITION = "a block goes to the partition that its raw records came from"

    @property
    def is_in_corrections(self) -> bool:
        """Whether it needs corrections that count: with it planted, much is restated."""
        return self in _IN_CORRECTIONS

    @property
    def is_in_unpublished_alerts(self) -> bool:
        """Whether it needs alerts that are stored and not published.

        With it planted, every world has many rules, and many workers die just there.
        """
        return self in _IN_UNPUBLISHED_ALERTS

    @property
    def is_in_pricing(self) -> bool:
        """Whether it shows in the log already."""
        return self in _IN_PRICING


_IN_PRICING = {Bug.SENDS_PAST_UNRESOLVED, Bug.TIMEOUT_TAKEN_AS_SENT, Bug.ACK_BEFORE_SENT, Bug.ROUTED_BY_RAW_PARTITION}
_IN_CORRECTIONS = {Bug.TOTALS_WITHOUT_CORRECTIONS, Bug.CORRECTED_AGAIN, Bug.CORRECTED_BEFORE_COUNTED}
_IN_UNPUBLISHED_ALERTS = {Bug.ALERTS_OF_ANY_BLOCK}
