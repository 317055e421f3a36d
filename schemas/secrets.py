"""What a raw secret looks like, so that none is ever counted, stored or logged.

The shapes: OpenAI-style ``sk-…``, Stripe (``sk_live_``, ``sk_test_``, ``rk_live_``), AWS access key ids (``AKIA…``,
``ASIA…``), GitHub (``ghp_``, ``gho_``, ``ghs_``, ``github_pat_``), Slack (``xoxb-``, ``xoxp-``), Google (``AIza…``) and
JSON Web Tokens (``eyJ….….``). A hex digest or a UUID is no secret: ids often look like one.

Everything here takes time linear in the length of the text, whatever the text is. That is why candidates are matched
possessively and with the condition checked afterwards: a lookahead would scan the same run once per ``sk-`` in it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

#: What stands in the place of a secret.
MASK: Final = "[redacted]"

_RUN: Final = "A-Za-z0-9_-"

_STARTS_LIKE_A_SECRET: Final = re.compile(
    rf"(?:[Bb][Ee][Aa][Rr][Ee][Rr]\ +)?"
    rf"(?:sk-(?=[{_RUN}]{{20}})(?=[A-Za-z_-]*+[0-9])"
    rf"|[sr]k_live_|sk_test_"
    rf"|A[KS]IA[A-Z0-9]{{16}}"
    rf"|gh[pos]_|github_pat_"
    rf"|xox[bp]-"
    rf"|AIza[{_RUN}]{{30}}"
    rf"|eyJ[{_RUN}]++\.[{_RUN}]*+\.)",
)

#: Candidates anywhere in a text. A group named ``proof`` must have matched something for the candidate to be a secret;
#: patterns without one need no further proof.
_SHAPES: Final = (
    re.compile(rf"sk-(?=[{_RUN}]{{20}})[A-Za-z_-]*+(?P<proof>[0-9])?[{_RUN}]*+"),
    re.compile(rf"(?:[sr]k_live_|sk_test_|gh[pos]_|github_pat_|xox[bp]-)[{_RUN}]*+"),
    re.compile(r"A[KS]IA[A-Z0-9]{16,}+"),
    re.compile(rf"AIza[{_RUN}]{{30,}}+"),
    re.compile(rf"eyJ[{_RUN}]++(?P<proof>\.[{_RUN}]*+\.[.{_RUN}]*+)?"),
)

#: A text that was cut may end in the middle of a secret whose proof was cut off.
_MAYBE_CUT: Final = re.compile(r"sk-|A[KS]IA|AIza|eyJ")
_CUTTABLE: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-."

#: JSON escapes, and the zero bytes that UTF-16 leaves between letters: what hides a secret from a plain search.
_DISGUISE: Final = re.compile(r'\\u([0-9a-fA-F]{4})|\\(["\\/bfnrt])|(\x00)')


def is_secret(text: str) -> bool:
    """Whether the text begins like a secret; a leading ``Bearer`` (any case) is looked through.

    Args:
        text: a whole string of an event, an id or a value.
    """
    return _STARTS_LIKE_A_SECRET.match(text) is not None


def redact(text: str) -> str:
    """The text with every secret-shaped substring replaced by ``[redacted]``, also where JSON escapes disguise it."""
    return redacted_prefix(text, len(text))


def redacted_prefix(text: str, limit: int, *, was_cut: bool = False) -> str:
    """The first ``limit`` characters of the redacted text: nothing of a secret is shown where the limit cuts it.

    Args:
        text: what to show; pass a good deal more than ``limit`` characters when there are more.
        limit: how many characters may come out at most (``redact`` passes the whole length: masks may lengthen it).
        was_cut: the text itself is the beginning of a longer one, so a token that touches its end may be a secret.
    """
    shown: list[str] = []
    end = 0
    for start, stop in _merged(_spans(text, was_cut=was_cut)):
        if start >= limit:
            break
        shown += (text[end:start], MASK)
        end = stop
    shown.append(text[end:limit])
    redacted = "".join(shown)
    return redacted[:limit] if limit < len(text) else redacted


def _spans(text: str, *, was_cut: bool) -> Iterator[tuple[int, int]]:
    yield from _plain_spans(text, was_cut=was_cut)
    if "\\" in text or "\x00" in text:
        plain, origin = _without_disguise(text)
        for start, stop in _plain_spans(plain, was_cut=was_cut):
            yield origin[start], origin[stop - 1] + _width(text, origin[stop - 1])


def _plain_spans(text: str, *, was_cut: bool) -> Iterator[tuple[int, int]]:
    for shape in _SHAPES:
        for found in shape.finditer(text):
            if "proof" not in shape.groupindex or found["proof"] is not None:
                yield found.span()
    if was_cut:
        tail = len(text.rstrip(_CUTTABLE))
        if maybe := _MAYBE_CUT.search(text, tail):
            yield maybe.start(), len(text)


def _merged(spans: Iterator[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Overlapping spans as one, ascending."""
    current: tuple[int, int] | None = None
    for start, stop in sorted(spans):
        if current is None:
            current = start, stop
        elif start <= current[1]:
            current = current[0], max(current[1], stop)
        else:
            yield current
            current = start, stop
    if current is not None:
        yield current


def _without_disguise(text: str) -> tuple[str, list[int]]:
    """The text with escapes resolved, and where each of its characters stood."""
    plain: list[str] = []
    origin: list[int] = []
    end = 0
    for found in _DISGUISE.finditer(text):
        plain.append(text[end : found.start()])
        origin.extend(range(end, found.start()))
        end = found.end()
        if found[3] is None:
            plain.append(chr(int(found[1], 16)) if found[1] else found[2])
            origin.append(found.start())
    plain.append(text[end:])
    origin.extend(range(end, len(text)))
    return "".join(plain), origin


def _width(text: str, at: int) -> int:
    found = _DISGUISE.match(text, at)
    return len(found[0]) if found else 1
