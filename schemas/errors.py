"""Trouble by what the caller can do about it. Bad data is never an exception, it is a value (schemas/rejects.py)."""

from __future__ import annotations


class TallyError(Exception):
    """One sentence for a person that says what to do; ``exit_code`` is what the command line ends with."""

    exit_code = 1


class AnswerIsNo(TallyError):  # noqa: N818 -- an answer, not an error
    """The command worked and its answer is "no": books that do not balance, a drain that timed out."""

    exit_code = 1


class WrongUse(TallyError):  # noqa: N818
    """Wrong arguments, a wrong setting or a refused file: repeating it unchanged cannot help."""

    exit_code = 2


class ServerUnavailable(TallyError):  # noqa: N818
    """A server can't be reached, or did not answer: what was asked for may or may not be done. Wait, repeat."""

    exit_code = 3


class StoreUnavailable(ServerUnavailable):
    """ClickHouse is away, out of resources or timed out: the outcome is unknown, repeat."""


class BrokerUnavailable(ServerUnavailable):
    """Kafka is away or timed out."""


class StoreRefused(WrongUse):
    """ClickHouse understood and said no (unknown table, wrong type, no right): repeating it cannot help."""


class LogBroken(TallyError):  # noqa: N818
    """The log does not fit what was counted: records were deleted before they were read, or a topic was recreated."""

    exit_code = 1
