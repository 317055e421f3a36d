"""ClickHouse's HTTP protocol: what a request asks for, and how an answer or an error is dressed. No sockets here.

The protocol is described at https://clickhouse.com/docs/interfaces/http; details that it leaves open follow the
server's source (src/Server/HTTPHandler.cpp, src/Parsers/ParserInsertQuery.cpp).
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl

import lz4.frame

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from email.message import Message

#: Bodies are handled in pieces of this size.
PIECE_BYTES: Final = 1024 * 1024

#: In the query string, but no settings of the engine: what the transport itself consumes.
NOT_SETTINGS: Final = frozenset(
    {
        *("query", "database", "default_format", "query_id", "session_id", "session_timeout", "session_check"),
        *("close_session", "user", "password", "quota_key", "role", "stacktrace", "buffer_size", "wait_end_of_query"),
        *("client_protocol_version", "compress", "decompress", "enable_http_compression", "network_compression_method"),
        *("send_progress_in_http_headers", "http_headers_progress_interval_ms", "add_http_cors_header"),
        *("cancel_http_readonly_queries_on_client_close", "http_response_buffer_size", "http_wait_end_of_query"),
    }
)

#: Formats whose blocks can be strung together; all others have a head or a foot and come as one piece.
STREAMED_FORMATS: Final = frozenset(
    {"native", "rowbinary", "tabseparated", "tsv", "csv", "jsoneachrow", "tabseparatedraw", "tsvraw"}
)

#: Statements that have a result even when it has no rows.
ASKING_WORDS: Final = frozenset({"SELECT", "WITH", "SHOW", "DESCRIBE", "DESC", "EXISTS", "EXPLAIN", "FROM", "("})

#: ClickHouse's error numbers by the HTTP status that the server gives them, all others are 500
#: (src/Server/HTTP/exceptionCodeToHTTPStatus.cpp).
STATUS_OF_CODES: Final[Mapping[int, int]] = {
    **dict.fromkeys((194,), 401),
    **dict.fromkeys((192, 193, 497, 512, 516), 403),
    **dict.fromkeys((6, 8, 15, 25, 26, 27, 36, 37, 38, 41, 44, 53, 62, 72, 117, 123, 167, 168, 223), 400),
    **dict.fromkeys((321, 376, 427, 441, 675, 676), 400),
    **dict.fromkeys((46, 47, 50, 56, 60, 63, 73, 78, 81, 115, 152, 336, 511), 404),
    **dict.fromkeys((159,), 408),
    **dict.fromkeys((381,), 411),
    **dict.fromkeys((229,), 413),
    **dict.fromkeys((779,), 415),
    **dict.fromkeys((48,), 501),
    **dict.fromkeys((76, 209, 439), 503),
}

CONTENT_TYPES: Final[Mapping[str, str]] = {
    "json": "application/json; charset=UTF-8",
    "jsoncompact": "application/json; charset=UTF-8",
    "jsoneachrow": "application/x-ndjson; charset=UTF-8",
    "csv": "text/csv; charset=UTF-8; header=absent",
    "csvwithnames": "text/csv; charset=UTF-8; header=present",
    "tabseparated": "text/tab-separated-values; charset=UTF-8",
    "tsv": "text/tab-separated-values; charset=UTF-8",
    "native": "application/octet-stream",
    "rowbinary": "application/octet-stream",
    "arrow": "application/vnd.apache.arrow.file",
    "arrowstream": "application/vnd.apache.arrow.stream",
    "parquet": "application/vnd.apache.parquet",
}

_TOKEN: Final = re.compile(
    rb"""(?P<gap>\s+|--[^\n]*|\#[!\ ][^\n]*|/\*.*?\*/)
    |(?P<text>'(?:[^'\\]|\\.|'')*'|`(?:[^`\\]|\\.|``)*`|"(?:[^"\\]|\\.|"")*"|\$(?P<tag>\w*)\$.*?\$(?P=tag)\$)
    |(?P<word>\w+)
    |(?P<sign>.)""",
    re.VERBOSE | re.DOTALL,
)
_TRAILING_FORMAT: Final = re.compile(rb"\bFORMAT\s+(\w+)[\s;]*\Z", re.IGNORECASE)
_ANY_FORMAT: Final = re.compile(rb"\bFORMAT\b", re.IGNORECASE)
_ANY_FILE: Final = re.compile(rb"\b(?:INFILE|OUTFILE)\b", re.IGNORECASE)
_DATA_GAP: Final = re.compile(rb"[ \t\f]*;?[ \t\f]*\r?\n?")


class RequestError(Exception):
    """A request that is refused before the engine sees it, in ClickHouse's words and numbers."""

    def __init__(self, code: int, name: str, said: str, *, status: int | None = None) -> None:
        self.code = code
        self.text = f"Code: {code}. DB::Exception: {said} ({name})"
        self.status = status or status_of(code)
        super().__init__(self.text)


@dataclass(frozen=True, slots=True)
class Request:
    """What the query string of one request says, apart from the statement itself."""

    query: str = ""
    database: str = ""
    default_format: str = "TabSeparated"
    query_id: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[str, str] = field(default_factory=dict)
    login: tuple[str, str] | None = None

    def statement(self, body: bytes) -> bytes:
        """The statement: the body, or the ``query`` argument and the body after it."""
        query = self.query.encode()
        return query + b"\n" + body if query and body else query or body


@dataclass(frozen=True, slots=True)
class InsertHead:
    """An insert whose data follow in the request: the statement up to its FORMAT, and where the data begin."""

    statement: bytes
    form: str
    data_start: int


def read_request(query_string: str, headers: Message[str, str], *, form: Mapping[str, str] | None = None) -> Request:
    """What the query string, the headers and the fields of a form ask for.

    Raises:
        RequestError: it asks for something that this server lacks.
    """
    arguments = {**dict(parse_qsl(query_string, keep_blank_values=True)), **(form or {})}
    for name in ("compress", "decompress"):
        if arguments.get(name, "0") not in {"", "0"}:
            raise RequestError(48, "NOT_IMPLEMENTED", f"Block compression by '{name}=1' is not supported.")
    if any(name.endswith(("_structure", "_types")) and not name.startswith("param_") for name in arguments):
        raise RequestError(48, "NOT_IMPLEMENTED", "External data is not supported by the embedded engine.")
    return Request(
        query=arguments.get("query", ""),
        database=arguments.get("database") or headers.get("X-ClickHouse-Database") or "",
        default_format=arguments.get("default_format") or headers.get("X-ClickHouse-Format") or "TabSeparated",
        query_id=arguments.get("query_id", ""),
        settings={
            name: value
            for name, value in arguments.items()
            if name not in NOT_SETTINGS and not name.startswith("param_")
        },
        parameters={
            name.removeprefix("param_"): value for name, value in arguments.items() if name.startswith("param_")
        },
        login=_login(arguments, headers),
    )


def _login(arguments: Mapping[str, str], headers: Message[str, str]) -> tuple[str, str] | None:
    scheme, _, token = headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "basic":
        try:
            user, _, password = base64.b64decode(token.strip(), validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError) as error:
            raise RequestError(516, "AUTHENTICATION_FAILED", "The Authorization header can't be read.") from error
        return user, password
    if "X-ClickHouse-User" in headers or "X-ClickHouse-Key" in headers:
        return headers.get("X-ClickHouse-User") or "default", headers.get("X-ClickHouse-Key") or ""
    if "user" in arguments or "password" in arguments:
        return arguments.get("user") or "default", arguments.get("password", "")
    return None


def insert_head(head: bytes) -> InsertHead | None:
    """The head of an ``INSERT … FORMAT x`` or ``INSERT … VALUES``; None for every other statement.

    ``head`` is the beginning of the statement, long enough to hold everything before the data.
    """
    depth, first, position = 0, True, 0
    while token := _TOKEN.match(head, position):
        position = token.end()
        word = (token["word"] or b"").upper()
        if token["gap"]:
            continue
        if first and word != b"INSERT":
            return None
        first = False
        depth += {b"(": 1, b")": -1}.get(token["sign"] or b"", 0)
        if depth == 0 and word in {b"SELECT", b"WITH", b"WATCH", b"INFILE"}:
            return None
        if depth == 0 and word == b"VALUES":
            return InsertHead(head[: token.start()], "Values", position)
        if depth == 0 and word == b"FORMAT":
            return _format_head(head, token.start(), position)
    return None


def _format_head(head: bytes, start: int, position: int) -> InsertHead | None:
    while (token := _TOKEN.match(head, position)) and token["gap"]:
        position = token.end()
    if token is None or not token["word"]:
        return None
    gap = _DATA_GAP.match(head, token.end())
    return InsertHead(head[:start], token["word"].decode(), gap.end() if gap else token.end())


def refuse_what_a_server_refuses(statement: bytes) -> None:
    """The embedded engine would run several statements at once, and read and write files of this machine for anyone.

    Raises:
        RequestError: several statements, or FROM INFILE / INTO OUTFILE, which a server leaves to its client.
    """
    body = statement.rstrip(b"; \t\r\n\f")
    if b";" not in body and not _ANY_FILE.search(body):
        return
    for token in _TOKEN.finditer(body):
        if token["sign"] == b";":
            raise RequestError(62, "SYNTAX_ERROR", "Syntax error (Multi-statements are not allowed).")
        if (token["word"] or b"").upper() in {b"INFILE", b"OUTFILE"}:
            raise RequestError(48, "NOT_IMPLEMENTED", "INFILE and OUTFILE are the client's, not the server's.")


def is_asking(statement: bytes) -> bool:
    """Whether the statement has a result, which may be empty."""
    return first_word(statement) in ASKING_WORDS


def first_word(statement: bytes) -> str:
    """The first word of the statement, in capitals."""
    for token in _TOKEN.finditer(statement):
        if not token["gap"]:
            return token[0].decode(errors="replace").upper()
    return ""


def result_format(statement: bytes, default: str) -> str | None:
    """The format of the answer: the one that the statement ends with, or the default; None if it can't be told."""
    found = _TRAILING_FORMAT.search(statement)
    if found:
        return found[1].decode()
    return None if _ANY_FORMAT.search(statement) else default


def can_be_streamed(statement: bytes, form: str | None) -> bool:
    """Whether the answer may be sent block by block as the engine makes it."""
    return form is not None and form.lower() in STREAMED_FORMATS and first_word(statement) in {"SELECT", "WITH"}


def content_type(form: str | None) -> str:
    """What the Content-Type header says for a format."""
    return CONTENT_TYPES.get((form or "").lower(), "text/plain; charset=UTF-8")


def status_of(code: int) -> int:
    """The HTTP status of an error number of ClickHouse."""
    return STATUS_OF_CODES.get(code, 500)


def summary(*, rows_read: int = 0, rows_written: int = 0, bytes_written: int = 0) -> str:
    """The X-ClickHouse-Summary header: JSON with numbers as strings, as the server writes it."""
    return json.dumps(
        {
            "read_rows": str(rows_read),
            "read_bytes": "0",
            "written_rows": str(rows_written),
            "written_bytes": str(bytes_written),
            "total_rows_to_read": "0",
            "result_rows": str(rows_written or rows_read),
            "result_bytes": "0",
        }
    )


def form_fields(body: bytes, content_type_header: str) -> dict[str, str]:
    """The fields of a multipart/form-data body, which clients choose when parameters are too long for a URL.

    Raises:
        RequestError: it is not well-formed, or it carries files (external data).
    """
    boundary = re.search(r'boundary="?([^";]+)"?', content_type_header)
    if boundary is None:
        raise RequestError(36, "BAD_ARGUMENTS", "A multipart body needs a boundary.")
    fields = {}
    for part in (b"\r\n" + body).split(b"\r\n--" + boundary[1].encode())[1:-1]:
        head, _, value = part.partition(b"\r\n\r\n")
        name = re.search(rb'name="([^"]*)"', head)
        if name is None or b"filename=" in head:
            raise RequestError(48, "NOT_IMPLEMENTED", "External data is not supported by the embedded engine.")
        fields[name[1].decode(errors="replace")] = value.decode(errors="replace")
    return fields


def decoded(pieces: Iterable[bytes], content_encoding: str) -> Iterator[bytes]:
    """The body without its Content-Encoding, at most 1 MiB at a time, so that the caller can count and stop.

    Raises:
        RequestError: an encoding that this server lacks, or bytes that are not in it.
    """
    name = content_encoding.strip().lower()
    if name in {"", "identity"}:
        yield from pieces
        return
    if name not in {"lz4", "gzip", "deflate"}:
        raise RequestError(48, "NOT_IMPLEMENTED", f"Content-Encoding {name} is not supported: lz4, gzip, deflate are.")
    try:
        yield from _decoded_lz4(pieces) if name == "lz4" else _decoded_zlib(pieces)
    except (RuntimeError, EOFError, zlib.error) as error:
        raise RequestError(354, "ZLIB_INFLATE_FAILED", f"The body is not {name}: {error}.", status=400) from error


def _decoded_lz4(pieces: Iterable[bytes]) -> Iterator[bytes]:
    frame = lz4.frame.LZ4FrameDecompressor()
    for piece in pieces:
        data: bytes | None = piece or None
        while data is not None:
            if frame.eof:
                frame = lz4.frame.LZ4FrameDecompressor()
            yield frame.decompress(data, PIECE_BYTES)
            data = (frame.unused_data or None) if frame.eof else (None if frame.needs_input else b"")
    if not frame.eof:
        raise EOFError("it ends too early")


def _decoded_zlib(pieces: Iterable[bytes]) -> Iterator[bytes]:
    stream = zlib.decompressobj(zlib.MAX_WBITS | 32)  # takes the heads of gzip and of deflate
    for piece in pieces:
        data = piece
        while data:
            yield stream.decompress(data, PIECE_BYTES)
            data = stream.unconsumed_tail
    if not stream.eof:
        raise EOFError("it ends too early")
