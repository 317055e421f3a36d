"""Reads YAML text into plain values that know where they stand, and refuses what a catalog has no use for.

The text is read as a stream of YAML events; nothing is ever constructed from it. There are no tags, no anchors and no
aliases (so no bomb of them), and depth and size are bounded. Of the plain scalars only words, whole numbers, true,
false and null are taken: what another reader of YAML may take for a fraction, a time or an octal number must be quoted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Never

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentEndEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)
from ruamel.yaml.reader import ReaderError

from schemas.catalog_file import CatalogError, Mistake, place_after

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ruamel.yaml.events import Event

FILE_BYTES_MAX: Final = 8 * 1024 * 1024
DEPTH_MAX: Final = 8
#: A file with more mistakes than this is not a catalog with mistakes but something else.
MISTAKES_MAX: Final = 1_000
#: Longer numbers are certainly out of bounds, and Python refuses to convert very long ones.
_INTEGER_DIGITS_MAX: Final = 40

_INTEGER: Final = re.compile(r"[-+]?(0|[1-9][0-9]*)", re.ASCII)
_NUMBER_LIKE: Final = re.compile(
    r"[-+]?(\.[0-9_]+|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)|0[xob]\w+",
    re.ASCII,
)
_TIME_LIKE: Final = re.compile(r"\d{4}-\d{1,2}-\d{1,2}([Tt\s].*)?|\d{1,3}(:\d{1,2})+(\.\d*)?", re.ASCII)
_WORDS: Final = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}

Path = tuple[str | int, ...]


@dataclass(slots=True)
class Node:
    """A value with its place, line and column counted from 1. Children of a mapping or list are nodes themselves."""

    line: int
    column: int
    value: object = None  # of a scalar
    entries: dict[str, Node] | None = None  # of a mapping
    keys: dict[str, tuple[int, int]] = field(default_factory=dict)  # where the keys of a mapping stand
    rows: list[Node] | None = None  # of a list
    is_refused: bool = False  # a mistake has been reported for it; its value means nothing

    def plain(self) -> Any:  # noqa: ANN401 -- whatever the file holds
        """The value without places."""
        if self.entries is not None:
            return {key: node.plain() for key, node in self.entries.items()}
        if self.rows is not None:
            return [node.plain() for node in self.rows]
        return self.value

    def place(self, path: Path) -> tuple[int, int]:
        """Where the value at the path stands: its key if it has one, else the nearest thing around it."""
        place, node = (self.line, self.column), self
        for step in path:
            if node.entries is not None and step in node.entries:
                place, node = node.keys[str(step)], node.entries[str(step)]
            elif node.rows is not None and isinstance(step, int) and step < len(node.rows):
                node = node.rows[step]
                place = (node.line, node.column)
        return place

    def contains_refused(self, path: Path = ()) -> bool:
        """Whether a mistake has been reported for the value at the path, for one above or for one under it."""
        node = self
        for step in path:
            if node.is_refused:
                return True
            if node.entries is not None and step in node.entries:
                node = node.entries[str(step)]
            elif node.rows is not None and isinstance(step, int) and step < len(node.rows):
                node = node.rows[step]
        children = [*(node.entries or {}).values(), *(node.rows or [])]
        return node.is_refused or any(child.contains_refused() for child in children)


class Mistakes:
    """Collects what is wrong in one file, so that its author sees all of it at once."""

    def __init__(self, *, filename: str) -> None:
        self._filename = filename
        self._found: list[Mistake] = []

    def add(self, place: tuple[int, int], sentence: str) -> None:
        """Notes one mistake. The one past the limit ends the reading with a ``CatalogError``."""
        if len(self._found) >= MISTAKES_MAX:
            self.stop(place, f"more than {MISTAKES_MAX} mistakes up to here: the rest was not read")
        self._found.append(Mistake(*place, sentence))

    def stop(self, place: tuple[int, int], sentence: str) -> Never:
        """Notes a mistake after which nothing more can be read."""
        raise CatalogError(filename=self._filename, mistakes=[*self._found, Mistake(*place, sentence)])

    def raise_if_any(self) -> None:
        """Raises a ``CatalogError`` with everything that was found."""
        if self._found:
            raise CatalogError(filename=self._filename, mistakes=self._found)


def read_yaml(text: str, *, mistakes: Mistakes) -> Node:
    """Gives the one document of the text as a tree of nodes.

    Raises:
        CatalogError: it is no YAML, too large or too deep, or has anything but exactly one document.
    """
    if len(text) > FILE_BYTES_MAX or len(text.encode(errors="surrogatepass")) > FILE_BYTES_MAX:
        mistakes.stop((1, 1), f"the file is larger than {FILE_BYTES_MAX} bytes: split it into several books")
    events: Iterator[Event] = YAML(typ="safe", pure=True).parse(text)
    try:
        return _read_document(events, mistakes)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        hint = '; write "*" in quotes' if "alias" in (error.context or "") else ""
        mistakes.stop(place, f"this is no YAML: {error.problem or error.context}{hint}")
    except ReaderError as error:  # a character that YAML forbids
        mistakes.stop(
            place_after(text[: error.position]),
            f"this is no YAML: the character U+{error.character:04X} is not allowed in it",
        )
    except YAMLError as error:
        mistakes.stop((1, 1), f"this is no YAML: {' '.join(str(error).split())}")


def _read_document(events: Iterator[Event], mistakes: Mistakes) -> Node:
    documents = (event for event in events if not isinstance(event, DocumentEndEvent))
    next(documents)  # the stream starts
    if not isinstance(next(documents), DocumentStartEvent):
        mistakes.stop((1, 1), "the file is empty: it needs a `price_book`, `rules`, or both")
    root = _read_node(next(documents), documents, mistakes, depth=1)
    after = next(documents)
    if isinstance(after, DocumentStartEvent):
        mistakes.stop(_place(after), "a second document begins here: one file is one document")
    return root


def _read_node(event: Event, events: Iterator[Event], mistakes: Mistakes, *, depth: int) -> Node:
    node = Node(*_place(event))
    if depth > DEPTH_MAX:
        mistakes.stop(_place(event), f"this is nested more than {DEPTH_MAX} deep")
    if isinstance(event, AliasEvent):
        return _refuse(node, mistakes, "aliases are not read: write the value out, so that a line says what it means")
    _check_properties(event, node, mistakes)
    if isinstance(event, MappingStartEvent):
        _read_entries(node, events, mistakes, depth=depth)
    elif isinstance(event, SequenceStartEvent):
        node.rows = []
        while not isinstance(event := next(events), SequenceEndEvent):
            node.rows.append(_read_node(event, events, mistakes, depth=depth + 1))
    elif isinstance(event, ScalarEvent):
        _read_scalar(event, node, mistakes)
    return node


def _read_entries(mapping: Node, events: Iterator[Event], mistakes: Mistakes, *, depth: int) -> None:
    mapping.entries = {}
    while not isinstance(event := next(events), MappingEndEvent):
        key = _read_node(event, events, mistakes, depth=depth + 1)
        value = _read_node(next(events), events, mistakes, depth=depth + 1)
        if not isinstance(key.value, str):
            _refuse(mapping, mistakes, "the key of an entry must be a word", place=(key.line, key.column))
        elif key.value in mapping.entries:
            first_line = mapping.keys[key.value][0]
            sentence = f"`{key.value}` is given twice, first in line {first_line}"
            _refuse(mapping, mistakes, sentence, place=(key.line, key.column))
        else:
            mapping.entries[key.value] = value
            mapping.keys[key.value] = (key.line, key.column)


def _read_scalar(event: ScalarEvent, node: Node, mistakes: Mistakes) -> None:
    text: str = event.value
    if event.style:  # quoted or a block of text
        node.value = str(text)
    elif text in _WORDS:
        node.value = _WORDS[text]
    elif _INTEGER.fullmatch(text) and len(text) <= _INTEGER_DIGITS_MAX:
        node.value = int(text)
    elif _NUMBER_LIKE.fullmatch(text):
        hint = f'put it in quotes, "{text}"' if len(text) <= _INTEGER_DIGITS_MAX else "put it in quotes"
        _refuse(node, mistakes, f"this number is not kept exactly without quotes: {hint}")
    elif _TIME_LIKE.fullmatch(text):
        _refuse(node, mistakes, f'a time without quotes means different things to different readers: write "{text}"')
    else:
        node.value = text


def _check_properties(event: Event, node: Node, mistakes: Mistakes) -> None:
    if getattr(event, "anchor", None):
        _refuse(node, mistakes, "anchors are not read: write the value out where it is needed")
    tag = getattr(event, "tag", None)
    if tag:
        _refuse(node, mistakes, f"tags like {tag} are not read: a value is what it looks like")


def _refuse(node: Node, mistakes: Mistakes, sentence: str, *, place: tuple[int, int] | None = None) -> Node:
    node.is_refused = True
    mistakes.add(place or (node.line, node.column), sentence)
    return node


def _place(event: Event) -> tuple[int, int]:
    return event.start_mark.line + 1, event.start_mark.column + 1
