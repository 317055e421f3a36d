"""What a request asks for: the part of ClickHouse's HTTP protocol that needs no socket."""

from __future__ import annotations

import contextlib
import gzip
import zlib
from email.message import Message

import lz4.frame
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clickhouse.http_protocol import (
    PIECE_BYTES,
    InsertHead,
    RequestError,
    can_be_streamed,
    decoded,
    form_fields,
    insert_head,
    is_asking,
    read_request,
    refuse_what_a_server_refuses,
    result_format,
)


def headers(**values: str) -> Message[str, str]:
    """Request headers; underscores in the names stand for hyphens."""
    message: Message[str, str] = Message()
    for name, value in values.items():
        message[name.replace("_", "-")] = value
    return message


@pytest.mark.parametrize(
    ("text", "statement", "form", "data"),
    [
        (b"INSERT INTO t FORMAT CSV\n1,2\n", b"INSERT INTO t ", "CSV", b"1,2\n"),
        (b"insert into t (a, b) format Native\n\x00\xff", b"insert into t (a, b) ", "Native", b"\x00\xff"),
        (b"INSERT INTO t FORMAT CSV 1,2", b"INSERT INTO t ", "CSV", b"1,2"),
        (b"INSERT INTO t FORMAT CSV;\n1,2", b"INSERT INTO t ", "CSV", b"1,2"),
        (b"INSERT INTO t FORMAT CSV\r\n\n1", b"INSERT INTO t ", "CSV", b"\n1"),
        (b"INSERT INTO t VALUES (1), (2)", b"INSERT INTO t ", "Values", b" (1), (2)"),
        (
            b"INSERT INTO t SETTINGS async_insert=0 FORMAT CSV\n1",
            b"INSERT INTO t SETTINGS async_insert=0 ",
            "CSV",
            b"1",
        ),
        (
            b"-- who\n/* FORMAT TSV */ INSERT INTO t FORMAT CSV\n1",
            b"-- who\n/* FORMAT TSV */ INSERT INTO t ",
            "CSV",
            b"1",
        ),
        (b"INSERT INTO `format` (`values`) FORMAT CSV\n1", b"INSERT INTO `format` (`values`) ", "CSV", b"1"),
        (b'INSERT INTO "select" ("a""b") FORMAT CSV\n1', b'INSERT INTO "select" ("a""b") ', "CSV", b"1"),
        (
            b"INSERT INTO FUNCTION null('a String, format Int') FORMAT CSV\n1",
            b"INSERT INTO FUNCTION null('a String, format Int') ",
            "CSV",
            b"1",
        ),
    ],
)
def test_an_insert_is_cut_where_its_data_begin(text: bytes, statement: bytes, form: str, data: bytes) -> None:
    """The engine gets the statement as text and the data as bytes, whatever stands in quotes or comments."""
    head = insert_head(text)

    assert head == InsertHead(statement, form, len(text) - len(data))


@pytest.mark.parametrize(
    "text",
    [
        b"INSERT INTO t SELECT 1 FORMAT CSV",
        b"INSERT INTO t WITH 1 AS x SELECT x",
        b"SELECT 'INSERT INTO t FORMAT CSV'",
        b"CREATE TABLE t (a Int8) ENGINE = Memory",
        b"INSERT INTO t",
        b"INSERT INTO t FORMAT",
        b"",
        b"'",
    ],
)
def test_a_statement_without_data_is_no_insert_with_data(text: bytes) -> None:
    """They go to the engine as a whole."""
    assert insert_head(text) is None


@given(st.binary(max_size=300))
def test_any_data_may_follow_an_insert(data: bytes) -> None:
    """Binary data is never mistaken for a part of the statement."""
    head = insert_head(b"INSERT INTO t (a) FORMAT RowBinary\n" + data)

    assert head is not None
    assert (b"INSERT INTO t (a) FORMAT RowBinary\n" + data)[head.data_start :] == data


@given(st.binary(max_size=200))
def test_no_bytes_break_the_reading_of_a_statement(text: bytes) -> None:
    """Whatever is sent, the answer is a decision or a refusal in ClickHouse's words."""
    insert_head(b"INSERT " + text)
    with contextlib.suppress(RequestError):
        refuse_what_a_server_refuses(text)

    assert result_format(text, "TabSeparated") != ""
    assert is_asking(text) in {True, False}


def test_settings_and_parameters_are_told_from_what_the_transport_consumes() -> None:
    """Settings go to the engine unchanged, parameters to the statement, and HTTP's own names to nobody."""
    query = "max_threads=1&readonly=1&param_org=a%20b&database=d&query_id=q&wait_end_of_query=1&session_id=s"

    request = read_request(query, headers())

    assert request.settings == {"max_threads": "1", "readonly": "1"}
    assert request.parameters == {"org": "a b"}
    assert (request.database, request.query_id) == ("d", "q")


def test_the_statement_is_the_query_argument_and_then_the_body() -> None:
    """As with a server: either one, or both with a line break between them."""
    assert read_request("query=SELECT+1", headers()).statement(b"") == b"SELECT 1"
    assert read_request("", headers()).statement(b"SELECT 2") == b"SELECT 2"
    assert read_request("query=SELECT", headers()).statement(b"3") == b"SELECT\n3"


@pytest.mark.parametrize(
    ("query", "given_headers", "login"),
    [
        ("", {}, None),
        ("", {"Authorization": "Basic dTpwOnc="}, ("u", "p:w")),
        ("", {"X_ClickHouse_User": "u", "X_ClickHouse_Key": "p"}, ("u", "p")),
        ("", {"X_ClickHouse_Key": "p"}, ("default", "p")),
        ("user=u&password=p", {}, ("u", "p")),
    ],
)
def test_a_login_comes_in_three_ways(query: str, given_headers: dict[str, str], login: tuple[str, str] | None) -> None:
    """Basic authentication, ClickHouse's own headers, or the query string."""
    assert read_request(query, headers(**given_headers)).login == login


@pytest.mark.parametrize("query", ["compress=1", "decompress=1", "ext_structure=a+Int8", "ext_types=Int8"])
def test_what_the_embedded_engine_lacks_is_refused_and_not_ignored(query: str) -> None:
    """Ignoring it would change the answer or its encoding silently."""
    with pytest.raises(RequestError) as refused:
        read_request(query, headers())

    assert (refused.value.code, refused.value.status) == (48, 501)


@pytest.mark.parametrize(
    ("statement", "code"),
    [
        (b"SELECT 1; SELECT 2", 62),
        (b"SELECT 1 INTO OUTFILE '/tmp/x'", 48),
        (b"INSERT INTO t FROM INFILE '/etc/passwd' FORMAT LineAsString", 48),
    ],
)
def test_statements_that_only_a_client_may_run_are_refused(statement: bytes, code: int) -> None:
    """The embedded engine would run them: several statements at once, and files of this machine."""
    with pytest.raises(RequestError) as refused:
        refuse_what_a_server_refuses(statement)

    assert refused.value.code == code


@pytest.mark.parametrize("statement", [b"SELECT 1;", b"SELECT ';'", b"SELECT 1 -- ; SELECT 2", b"SELECT `;` ; \n"])
def test_a_semicolon_inside_or_at_the_end_is_no_second_statement(statement: bytes) -> None:
    """Quotes, comments and the end of the statement may hold one."""
    refuse_what_a_server_refuses(statement)


@pytest.mark.parametrize(
    ("statement", "form", "streamed"),
    [
        (b"SELECT 1", "TabSeparated", True),
        (b"SELECT 1 FORMAT Native", "Native", True),
        (b"WITH 1 AS x SELECT x\n FORMAT rowbinary ;", "rowbinary", True),
        (b"SELECT 1 FORMAT Arrow", "Arrow", False),
        (b"SELECT 1 FORMAT Native SETTINGS max_threads = 1", None, False),
        (b"SHOW TABLES", "TabSeparated", False),
    ],
)
def test_only_formats_without_head_and_foot_are_streamed(statement: bytes, form: str | None, streamed: bool) -> None:  # noqa: FBT001
    """Blocks of the others can't be strung together, so they come as one piece."""
    found = result_format(statement, "TabSeparated")

    assert found == form
    assert can_be_streamed(statement, found) is streamed


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    """The data in pieces of these sizes, and the rest."""
    pieces, start = [], 0
    for size in sizes:
        pieces.append(data[start : start + size])
        start += size
    return [*pieces, data[start:]]


@given(
    st.binary(max_size=2_000),
    st.sampled_from([("lz4", lz4.frame.compress), ("gzip", gzip.compress), ("deflate", zlib.compress), ("", bytes)]),
    st.lists(st.integers(1, 400), max_size=5),
)
def test_a_body_is_decoded_however_it_is_cut(data: bytes, encoding: tuple[str, object], sizes: list[int]) -> None:
    """The network cuts where it likes."""
    name, encode = encoding
    assert callable(encode)

    pieces = cut(encode(data), sizes)

    assert b"".join(decoded(pieces, name)) == data


def test_two_lz4_frames_are_one_body() -> None:
    """The format allows frames to be strung together."""
    body = lz4.frame.compress(b"one") + lz4.frame.compress(b"two")

    assert b"".join(decoded([body], "lz4")) == b"onetwo"


@pytest.mark.parametrize(("name", "encode"), [("lz4", lz4.frame.compress), ("gzip", gzip.compress)])
def test_a_small_body_that_expands_a_thousandfold_comes_in_small_pieces(name: str, encode: object) -> None:
    """So that the limit on the body's size is met before the memory is taken."""
    assert callable(encode)
    body = encode(bytes(40 * PIECE_BYTES))

    sizes = [len(piece) for piece in decoded([body], name)]

    assert sum(sizes) == 40 * PIECE_BYTES
    assert max(sizes) <= PIECE_BYTES


@pytest.mark.parametrize("name", ["lz4", "gzip"])
@pytest.mark.parametrize("body", [b"no such thing", b""])
def test_a_body_that_is_not_in_its_encoding_is_refused(name: str, body: bytes) -> None:
    """Also when it ends too early."""
    with pytest.raises(RequestError) as refused:
        list(decoded([body], name))

    assert refused.value.status == 400


def test_an_unknown_encoding_is_refused() -> None:
    """Storing bytes that were not understood would be worse."""
    with pytest.raises(RequestError, match="br is not supported"):
        list(decoded([b""], "br"))


def test_a_form_carries_the_statement_and_its_parameters() -> None:
    """Clients send one when parameters are too long for a URL."""
    body = (
        b'--x\r\nContent-Disposition: form-data; name="query"\r\n\r\nSELECT {a:String}\r\n'
        b'--x\r\nContent-Disposition: form-data; name="param_a"\r\n\r\n\r\nb--x\r\n\r\n--x--\r\n'
    )

    assert form_fields(body, "multipart/form-data; boundary=x") == {
        "query": "SELECT {a:String}",
        "param_a": "\r\nb--x\r\n",
    }


def test_files_in_a_form_are_refused() -> None:
    """They would be external data, which the embedded engine lacks."""
    body = b'--x\r\nContent-Disposition: form-data; name="t"; filename="t"\r\n\r\n1\r\n--x--\r\n'

    with pytest.raises(RequestError, match="External data"):
        form_fields(body, "multipart/form-data; boundary=x")
