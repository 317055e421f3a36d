"""Bytes to a JSON tree that hides nothing: numbers keep their text, repeated names are marked, depth is known."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from schemas.event import DEPTH_MAX

if TYPE_CHECKING:
    from collections.abc import Iterator

_STRING: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_SURROGATE_ESCAPE: Final = re.compile(r"\\u[dD][89a-fA-F]")
_NOT_BRACKETS: Final = bytes(byte for byte in range(256) if byte not in b"[]{}")
_ONE_KIND: Final = bytes.maketrans(b"{}", b"[]")
_BYTE_ORDER_MARK: Final = "\ufeff"


class Repeating(dict[str, object]):
    """An object in which names occur more than once; a JSON parser would keep the last value of each silently."""

    repeated: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class NotJson:
    """Why bytes are no JSON text."""

    detail: str


@dataclass(frozen=True, slots=True)
class Document:
    """A JSON text as a tree of dict, list, str, bool, None and bytes: a number is the bytes that it was written with.

    Bytes cannot be taken for a string, lose no digit, and half a million of them in a mebibyte cost little.
    """

    tree: object
    repeating: bool  # whether any object in it is Repeating
    surrogates: bool  # whether half a surrogate pair may stand in a string: only an escape can bring one


def is_too_deep(value: bytes) -> bool:
    """Whether brackets outside strings nest deeper than 16, judged on the bytes, JSON or not.

    A closing bracket that closes nothing is not counted. Vectorised, so that a mebibyte of brackets costs milliseconds.
    """
    if value.count(b"[") + value.count(b"{") <= DEPTH_MAX:
        return False
    outside = _STRING.sub(b"", value) if b"\\" in value else b"".join(value.split(b'"')[::2])
    brackets = outside.translate(_ONE_KIND, _NOT_BRACKETS)
    if len(brackets) <= DEPTH_MAX:
        return False
    steps = np.where(np.frombuffer(brackets, np.uint8) == ord("["), np.int32(1), np.int32(-1))
    heights = np.cumsum(steps, dtype=np.int32)
    floors = np.minimum(np.minimum.accumulate(heights), 0)
    return bool((heights - floors).max() > DEPTH_MAX)


def read_json(value: bytes) -> Document | NotJson:
    r"""The document that the bytes are: strict RFC 8259 in UTF-8, no byte order mark, no NaN, nothing after it.

    The caller has checked the depth, so the recursive parser can't run out of stack. Lone surrogates (``"\ud800"``)
    are kept in the strings: whether they matter is judged later.
    """
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError as error:
        return NotJson(f"the value is not UTF-8 at byte {error.start}")
    if text.startswith(_BYTE_ORDER_MARK):
        return NotJson("the value begins with a byte order mark; send plain UTF-8")
    repeating = False

    def build(pairs: list[tuple[str, object]]) -> dict[str, object]:
        nonlocal repeating
        built = dict(pairs)
        if len(built) == len(pairs):
            return built
        repeating = True
        seen: set[str] = set()
        marked = Repeating(built)
        marked.repeated = frozenset(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        return marked

    try:
        tree = json.loads(
            text, object_pairs_hook=build, parse_int=str.encode, parse_float=str.encode, parse_constant=_refuse_constant
        )
    except json.JSONDecodeError as error:
        return NotJson(f"the value is not JSON at character {error.pos}: {error.msg}")
    except _ConstantError as error:
        return NotJson(f"the value holds a bare {error}, which JSON does not know")
    return Document(tree, repeating, surrogates=_SURROGATE_ESCAPE.search(text) is not None)


class _ConstantError(Exception):
    """NaN, Infinity or -Infinity."""


def _refuse_constant(name: str) -> object:
    raise _ConstantError(name)


def repeated_names(tree: object) -> Iterator[str]:
    """The names that occur more than once in an object anywhere in the tree."""
    for node in _nodes(tree):
        if isinstance(node, Repeating):
            yield from sorted(node.repeated)


def strings(tree: object) -> Iterator[str]:
    """Every string in the tree, names of members too."""
    for node in _nodes(tree):
        if isinstance(node, dict):
            yield from node
        elif isinstance(node, str):
            yield node


def _nodes(tree: object) -> Iterator[object]:
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, dict):
            waiting.extend(reversed(node.values()))
        elif isinstance(node, list):
            waiting.extend(reversed(node))
