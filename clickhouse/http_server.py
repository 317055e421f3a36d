"""The embedded engine behind ClickHouse's HTTP protocol: one thread per connection, one engine session per request.

Bodies go from the socket into the engine, and answers from the engine to the socket, in pieces and never through
Python rows. An error of the engine fails the request and leaves the server alive.
"""

from __future__ import annotations

import contextlib
import hmac
import secrets
import sys
import threading
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import SplitResult, urlsplit

from clickhouse.embedded import Engine, EngineError, Session
from clickhouse.http_protocol import (
    PIECE_BYTES,
    InsertHead,
    Request,
    RequestError,
    can_be_streamed,
    content_type,
    decoded,
    form_fields,
    insert_head,
    is_asking,
    read_request,
    refuse_what_a_server_refuses,
    result_format,
    status_of,
    summary,
)

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable, Iterator, Mapping

STATEMENT_HEAD_BYTES: Final = 256 * 1024  # the server's max_query_size: an insert says where its data begin by then
LOOPBACK_NAMES: Final = frozenset({"127.0.0.1", "localhost", "::1"})


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """What one request or connection may take; reaching a limit is an error for that client alone."""

    body_bytes: int = 1024 * 1024 * 1024  # after decompression
    statement_bytes: int = 64 * 1024 * 1024
    connections: int = 256
    idle_seconds: float = 600.0


@dataclass(frozen=True, slots=True)
class Login:
    """The one user of the store."""

    user: str
    password: str

    def is_given_by(self, offered: tuple[str, str]) -> bool:
        """Compares in constant time, so that an answer's delay says nothing about the password."""
        same_user = hmac.compare_digest(offered[0].encode(), self.user.encode())
        return hmac.compare_digest(offered[1].encode(), self.password.encode()) and same_user


class HttpServer(ThreadingHTTPServer):
    """Serves an engine on a socket that is bound already; ``serve_forever`` and ``shutdown`` as in socketserver."""

    daemon_threads = True
    block_on_close = False  # idle connections do not hold up the end; requests under way hold engine sessions

    def __init__(
        self, bound: socket.socket, engine: Engine, *, login: Login | None = None, limits: ServerLimits | None = None
    ) -> None:
        super().__init__(bound.getsockname()[:2], Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = bound
        self.socket.listen(128)
        self.engine = engine
        self.login = login
        self.limits = limits or ServerLimits()
        self.only_local = bound.getsockname()[0] in LOOPBACK_NAMES
        self.stopping = threading.Event()
        self.on_engine_death: Callable[[], None] = self.stopping.set
        self._connections = threading.BoundedSemaphore(self.limits.connections)

    def process_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 -- socketserver's types
        """Further connections wait in the backlog while as many as allowed are open."""
        while not self._connections.acquire(timeout=0.2):
            if self.stopping.is_set():
                self.shutdown_request(request)
                return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:  # noqa: ANN401
        """One connection from its first request to its end."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._connections.release()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401
        """A client that went away is no news; anything else is a bug of ours and is shown."""
        if not isinstance(sys.exception(), (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: HttpServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def setup(self) -> None:  # noqa: D102
        super().setup()
        self.connection.settimeout(self.server.limits.idle_seconds)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002, D102
        _ = format, args  # nothing per request on the terminal

    def do_GET(self) -> None:
        """Health, or a query that only reads."""
        if self.path in {"/ping", "/"}:
            self._send(200, [b"Ok.\n"], {"Content-Type": "text/html; charset=UTF-8"})
        else:
            self._answer(reads_only=True)

    do_HEAD = do_GET  # noqa: N815 -- http.server looks for this name

    def do_POST(self) -> None:
        """Any statement."""
        self._answer(reads_only=False)

    def _answer(self, *, reads_only: bool) -> None:
        self._body: _Body | None = None
        try:
            self._body = body = _Body(self)
            self._check_sender()
            request = self._request(body)
            self._check_login(request)
            self._run(request, body, reads_only=reads_only)
        except (EngineError, RequestError) as error:
            status = error.status if isinstance(error, RequestError) else status_of(error.code)
            if isinstance(error, EngineError) and error.is_fatal:
                self.server.on_engine_death()
            self._send_error(status, error.code, error.text)

    def _check_sender(self) -> None:
        """A page in somebody's browser must not reach the store: it would speak for a user who is on this machine."""
        if self.server.stopping.is_set():
            raise RequestError(210, "NETWORK_ERROR", "The store is stopping.", status=503)
        host = _url(f"//{self.headers.get('Host', '')}").hostname or "localhost"
        if self.headers.get("Origin") or (self.server.only_local and host not in LOOPBACK_NAMES):
            raise RequestError(497, "ACCESS_DENIED", "Requests from web pages and for other host names are refused.")

    def _request(self, body: _Body) -> Request:
        form = None
        kind = self.headers.get("Content-Type", "")
        if kind.startswith("multipart/form-data"):
            form = form_fields(body.whole(self.server.limits.statement_bytes), kind)
        return read_request(_url(self.path).query, self.headers, form=form)

    def _check_login(self, request: Request) -> None:
        login = self.server.login
        if login is None:
            return
        if request.login is None:
            raise RequestError(194, "REQUIRED_PASSWORD", "Authentication failed: a user and a password are required.")
        if not login.is_given_by(request.login):
            raise RequestError(516, "AUTHENTICATION_FAILED", "Authentication failed: wrong user or password.")

    def _run(self, request: Request, body: _Body, *, reads_only: bool) -> None:
        pieces = body.pieces()
        start = request.statement(b"") + b"\n" if request.query else b""
        start += b"" if insert_head(start) else _head(pieces)
        settings = {"readonly": "2"} | dict(request.settings) if reads_only else dict(request.settings)
        head = insert_head(start)
        if head:
            settings |= {f"param_{name}": value for name, value in request.parameters.items()}
            with self.server.engine.session(database=request.database, settings=settings) as session:
                self._insert(session, request, head, chain([start[head.data_start :]], pieces))
            return
        statement = start + body.rest(pieces, self.server.limits.statement_bytes)
        refuse_what_a_server_refuses(statement)
        with self.server.engine.session(database=request.database, settings=settings) as session:
            self._ask(session, request, statement)

    def _insert(self, session: Session, request: Request, head: InsertHead, data: Iterable[bytes]) -> None:
        refuse_what_a_server_refuses(head.statement)
        with session.insert(head.statement, head.form) as insert:
            for piece in data:
                if piece:
                    insert.append(piece)
            rows, size = insert.finish()
        self._send(
            200, [], self._headers(request) | {"X-ClickHouse-Summary": summary(rows_written=rows, bytes_written=size)}
        )

    def _ask(self, session: Session, request: Request, statement: bytes) -> None:
        form = result_format(statement, request.default_format)
        headers = self._headers(request)
        if can_be_streamed(statement, form):
            headers |= {"X-ClickHouse-Format": form or "", "Content-Type": content_type(form)}
            self._stream(session.stream(statement, request.default_format, request.parameters), headers)
            return
        answer = session.ask(statement, request.default_format, request.parameters)
        if answer.body or is_asking(statement):
            headers |= {"X-ClickHouse-Format": form or request.default_format, "Content-Type": content_type(form)}
        headers["X-ClickHouse-Summary"] = summary(
            rows_read=answer.rows, rows_written=answer.rows_written, bytes_written=answer.bytes_written
        )
        self._send(200, [answer.body], headers)

    def _stream(self, blocks: Iterator[bytes], headers: dict[str, str]) -> None:
        """Small answers with their length; large ones in chunks while the engine goes on."""
        first = list(_until(blocks, PIECE_BYTES))
        following = next(blocks, None)
        if following is None:
            self._send(200, first, headers)
            return
        tag = secrets.token_hex(8)
        self._send_head(200, headers | {"Transfer-Encoding": "chunked", "X-ClickHouse-Exception-Tag": tag})
        try:
            for block in chain(first, [following], blocks):
                self.wfile.write(b"%x\r\n%b\r\n" % (len(block), block))
            self.wfile.write(b"0\r\n\r\n")
        except EngineError as error:
            # The status has been sent; the frame says what happened, and the missing last chunk that it is no end.
            text = error.text.encode()
            frame = b"\r\n__exception__\r\n%b\r\n%b\n%d %b\r\n__exception__\r\n"
            frame %= (tag.encode(), text, len(text) + 1, tag.encode())
            self.wfile.write(b"%x\r\n%b\r\n" % (len(frame), frame))
            self.close_connection = True

    def _headers(self, request: Request) -> dict[str, str]:
        named = request.query_id if request.query_id.isprintable() else ""
        return {
            "X-ClickHouse-Query-Id": named or secrets.token_hex(16),
            "X-ClickHouse-Server-Display-Name": "tally store",
            "X-ClickHouse-Timezone": "UTC",
        }

    def _send_error(self, status: int, code: int, text: str) -> None:
        if self._body is None or not self._body.drain():
            self.close_connection = True
        headers = {"X-ClickHouse-Exception-Code": str(code), "Content-Type": "text/plain; charset=UTF-8"}
        if status == HTTPStatus.UNAUTHORIZED:
            headers["WWW-Authenticate"] = 'Basic realm="ClickHouse server HTTP API"'
        version = "" if "(version " in text else f" (version {self.server.engine.version})"
        self._send(status, [f"{text}{version}\n".encode()], headers)

    def _send(self, status: int, pieces: list[bytes] | list[memoryview], headers: Mapping[str, str]) -> None:
        size = sum(len(piece) for piece in pieces)
        head = self._head(status, {**headers, "Content-Length": str(size)})
        if self.command == "HEAD":
            self.wfile.write(head)
        elif size <= PIECE_BYTES:
            self.wfile.write(b"".join([head, *pieces]))  # one packet, one wake-up of the client
        else:
            self.wfile.write(head)
            for piece in pieces:
                self.wfile.write(piece)

    def _send_head(self, status: int, headers: Mapping[str, str]) -> None:
        self.wfile.write(self._head(status, headers))

    def _head(self, status: int, headers: Mapping[str, str]) -> bytes:
        connection = "close" if self.close_connection else "Keep-Alive"
        lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", f"Connection: {connection}"]
        lines += [f"{name}: {_one_line(value)}" for name, value in headers.items()]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", errors="replace")


class _Body:
    """The body of one request, read once, in pieces, up to a limit."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._limit = handler.server.limits.body_bytes
        self._chunked = "chunked" in handler.headers.get("Transfer-Encoding", "").lower()
        self._length = 0 if self._chunked else _length(handler.headers.get("Content-Length") or "0")
        self._raw = self._read_chunks() if self._chunked else self._read_length()
        self._spoilt = False

    def pieces(self) -> Iterator[bytes]:
        """The body as it was before its Content-Encoding. Raises RequestError beyond the limit."""
        taken = 0
        for piece in decoded(self._raw, self._handler.headers.get("Content-Encoding", "")):
            taken += len(piece)
            if taken > self._limit:
                raise RequestError(229, "QUERY_IS_TOO_LARGE", f"The body is larger than {self._limit} bytes.")
            yield piece

    def whole(self, limit: int) -> bytes:
        """The whole body at once, for what has to be small."""
        return self.rest(self.pieces(), limit)

    @staticmethod
    def rest(pieces: Iterator[bytes], limit: int) -> bytes:
        """What is left of the pieces. Raises RequestError when that is more than ``limit`` bytes."""
        taken = list(_until(pieces, limit))
        if next(pieces, None) is not None:
            raise RequestError(229, "QUERY_IS_TOO_LARGE", f"The statement is larger than {limit} bytes.")
        return b"".join(taken)

    def drain(self) -> bool:
        """Reads the rest, so that the client gets to read the answer; False if there is too much of it."""
        with contextlib.suppress(RequestError):
            taken = sum(len(piece) for piece in _until(self._raw, 64 * PIECE_BYTES))
            return taken < 64 * PIECE_BYTES and not self._spoilt
        return False

    def _read_length(self) -> Iterator[bytes]:
        left = self._length
        while left:
            piece = self._exactly(min(left, PIECE_BYTES))
            left -= len(piece)
            yield piece

    def _read_chunks(self) -> Iterator[bytes]:
        while size := self._chunk_size():
            while size:
                piece = self._exactly(min(size, PIECE_BYTES))
                size -= len(piece)
                yield piece
            self._exactly(2)
        while self._handler.rfile.readline(65_537).strip():
            pass  # trailers

    def _chunk_size(self) -> int:
        line = self._handler.rfile.readline(1_024)
        try:
            return int(line.partition(b";")[0].strip(), 16)
        except ValueError:
            self._spoilt = True
            raise RequestError(36, "BAD_ARGUMENTS", "The chunks of the body can't be read.") from None

    def _exactly(self, size: int) -> bytes:
        piece = self._handler.rfile.read(size)
        if len(piece) < size:
            raise ConnectionResetError("the client ended in the middle of a body")
        return piece


def _url(text: str) -> SplitResult:
    try:
        return urlsplit(text)
    except ValueError as error:
        raise RequestError(36, "BAD_ARGUMENTS", f"The address of the request can't be read: {error}.") from error


def _length(text: str) -> int:
    if not text.isdecimal():
        raise RequestError(36, "BAD_ARGUMENTS", "The Content-Length can't be read.")
    return int(text)


def _head(pieces: Iterator[bytes]) -> bytes:
    return b"".join(_until(pieces, STATEMENT_HEAD_BYTES))


def _until(pieces: Iterator[bytes], size: int) -> Iterator[bytes]:
    """Pieces until they hold ``size`` bytes together; the rest stays in ``pieces``."""
    taken = 0
    while taken < size and (piece := next(pieces, None)) is not None:
        taken += len(piece)
        yield piece


def _one_line(text: str) -> str:
    return " ".join(text.splitlines())
