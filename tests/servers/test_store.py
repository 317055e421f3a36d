"""``tally store`` as a client sees it: the real engine, the ordinary client, real kills."""

from __future__ import annotations

import base64
import contextlib
import http.client
import io
import json
import random
import signal
import socket
import threading
import time
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import clickhouse_connect
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import urllib3
from clickhouse_connect.driver.exceptions import ClickHouseError, DatabaseError, OperationalError, StreamFailureError

from clickhouse.http_protocol import STATUS_OF_CODES
from tests.processes import limited_store_process, store_process

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.servers


def connect(url: str, **options: Any) -> Any:
    """The ordinary ClickHouse client over HTTP, as the project uses it."""
    return clickhouse_connect.get_client(dsn=url, autogenerate_session_id=False, **options)


def post(url: str, statement: bytes | str = b"", *, arguments: str = "", **options: Any) -> urllib3.BaseHTTPResponse:
    """One raw request to the store, like curl."""
    parts = urlsplit(url)
    target = f"http://{parts.netloc}/?database={parts.path.strip('/')}&{arguments}"
    return urllib3.request("POST", target, body=statement, retries=False, **options)


@pytest.fixture
def client(database: str) -> Iterator[Any]:
    """The ordinary client on an empty database."""
    client = connect(database)
    yield client
    client.close()


def numbers(first: int, count: int) -> pa.Table:
    """Rows for ``CREATE TABLE t (a UInt64, b LowCardinality(String))``."""
    values = pa.array(range(first, first + count), pa.uint64())
    return pa.table({"a": values, "b": pa.array(["x"] * count).dictionary_encode()})


TABLE = "CREATE TABLE t (a UInt64, b LowCardinality(String)) ENGINE = MergeTree ORDER BY a"


def test_the_printed_url_works_as_it_is(store: str) -> None:
    """It names a database that exists."""
    client = connect(store)

    assert client.command("SELECT currentDatabase()") == "tally"
    assert client.command("SELECT timezone()") == "UTC"
    assert client.ping()
    client.close()


def test_values_go_in_and_come_out_unchanged(client: Any) -> None:
    """Rows of Python values, with exact decimals and parameters bound by the server."""
    client.command(
        "CREATE TABLE v (s String, d Decimal(38, 12), m Map(String, Decimal(38, 12))) ENGINE = MergeTree ORDER BY s"
    )
    amount = Decimal("12345678901234567890123456.123456789012")

    summary = client.insert("v", [["it's\t\\x", amount, {"k": Decimal("0.1")}]], column_names=["s", "d", "m"])

    assert summary.written_rows == 1
    found = client.query("SELECT * FROM v WHERE s = {s:String}", parameters={"s": "it's\t\\x"}).result_rows
    assert found == [("it's\t\\x", amount, {"k": Decimal("0.1")})]


def test_an_arrow_table_goes_in_and_comes_out(client: Any) -> None:
    """The way of every block of facts."""
    client.command(TABLE)

    assert client.insert_arrow("t", numbers(0, 50_000)).written_rows == 50_000

    back = client.query_arrow("SELECT a, b FROM t ORDER BY a", use_strings=True)
    assert back.column("a").to_pylist() == list(range(50_000))


def body_in(form: str) -> bytes:
    """Three rows of the table t in a format."""
    sink = io.BytesIO()
    if form == "Parquet":
        pq.write_table(numbers(0, 3), sink)
    elif form == "ArrowStream":
        with pa.ipc.new_stream(sink, numbers(0, 3).schema) as writer:
            writer.write_table(numbers(0, 3))
    elif form == "RowBinary":
        sink.write(b"".join(n.to_bytes(8, "little") + b"\x01x" for n in range(3)))
    else:
        sink.write(b"\x02\x03\x01a\x06UInt64" + b"".join(n.to_bytes(8, "little") for n in range(3)))
        sink.write(b"\x01b\x06String" + b"\x01x" * 3)
    return sink.getvalue()


@pytest.mark.parametrize("form", ["Parquet", "ArrowStream", "RowBinary", "Native"])
@pytest.mark.parametrize("compression", [None, "gzip", "lz4"])
def test_ready_made_bytes_go_in(client: Any, form: str, compression: str | None) -> None:
    """In any format of ClickHouse, as they are or compressed."""
    client.command(TABLE)
    body: bytes | Iterator[bytes] = body_in(form)
    if compression:
        body = pa.compress(body, codec="lz4" if compression == "lz4" else "gzip", asbytes=True)

    client.raw_insert("t", ["a", "b"], body, fmt=form, compression=compression)

    assert client.query("SELECT a, b FROM t ORDER BY a").result_rows == [(0, "x"), (1, "x"), (2, "x")]


def test_a_generator_of_bytes_goes_in(client: Any) -> None:
    """A chunked body without a length."""
    client.command(TABLE)

    client.raw_insert("t", ["a", "b"], (f'{n},"x"\n'.encode() for n in range(1_000)), fmt="CSV")

    assert client.command("SELECT count() FROM t") == 1_000


def test_parameters_that_are_too_long_for_a_url_are_taken(client: Any) -> None:
    """Fifty thousand hashes in one question: the client sends them as a form."""
    hashes = [2**63 + n for n in range(50_000)]

    answer = client.query("SELECT length({hashes:Array(UInt64)})", parameters={"hashes": hashes})

    assert answer.result_rows == [(50_000,)]


def test_a_statement_may_hold_bytes_that_are_no_utf8(database: str) -> None:
    """ClickHouse's strings are bytes."""
    assert post(database, b"SELECT hex('\xff\x00')").data == b"FF00\n"
    assert post(database, b"INSERT INTO FUNCTION null('a String') VALUES ('\xff')").status == 200


@pytest.mark.parametrize(
    ("statement", "code", "status"),
    [
        ("SELECT nope", 47, 404),
        ("SELECT * FROM nope", 60, 404),
        ("SELEC 1", 62, 400),
        ("SELECT toDecimal64('x', 2)", 6, 400),
        ("SELECT throwIf(1)", 395, 500),
        ("SELECT 1; SELECT 2", 62, 400),
        ("CREATE USER u", 497, 403),
        ("SELECT sleep(1) SETTINGS max_execution_time = 0.1", 159, 408),
        ("INSERT INTO nope FORMAT CSV\n1", 60, 404),
    ],
)
def test_an_error_has_the_engines_number_and_text(database: str, statement: str, code: int, status: int) -> None:
    """As from a server: status, X-ClickHouse-Exception-Code, and the sentence in the body."""
    answer = post(database, statement)

    assert answer.status == status
    assert answer.headers["X-ClickHouse-Exception-Code"] == str(code)
    assert answer.data.startswith(f"Code: {code}. DB::Exception: ".encode())


def test_the_numbers_of_errors_are_clickhouses_own(client: Any) -> None:
    """Each number that gets a status of its own is one that the engine knows."""
    rows = client.query(
        "SELECT arrayJoin({codes:Array(Int32)}) AS code, errorCodeToName(code)",
        parameters={"codes": list(STATUS_OF_CODES)},
    ).result_rows

    assert {name for _, name in rows} == {
        *("REQUIRED_PASSWORD", "UNKNOWN_USER", "WRONG_PASSWORD", "ACCESS_DENIED", "SET_NON_GRANTED_ROLE"),
        *("AUTHENTICATION_FAILED", "BAD_ARGUMENTS", "CANNOT_COMPILE_REGEXP", "CANNOT_PARSE_TEXT"),
        *("CANNOT_PARSE_ESCAPE_SEQUENCE", "CANNOT_PARSE_QUOTED_STRING", "CANNOT_PARSE_DATE", "CANNOT_PARSE_DATETIME"),
        *("CANNOT_PARSE_NUMBER", "CANNOT_PARSE_DOMAIN_VALUE_FROM_STRING", "CANNOT_PARSE_IPV4", "CANNOT_PARSE_IPV6"),
        *("CANNOT_PARSE_INPUT_ASSERTION_FAILED", "CANNOT_PARSE_UUID", "DUPLICATE_COLUMN", "ILLEGAL_COLUMN"),
        *("UNKNOWN_ELEMENT_IN_AST", "UNKNOWN_TYPE_OF_AST_NODE", "THERE_IS_NO_COLUMN", "TOO_DEEP_AST", "TOO_BIG_AST"),
        *("UNEXPECTED_AST_STRUCTURE", "SYNTAX_ERROR", "INCORRECT_DATA", "TYPE_MISMATCH"),
        *("VALUE_IS_OUT_OF_RANGE_OF_DATA_TYPE", "UNKNOWN_TABLE", "UNKNOWN_FUNCTION", "UNKNOWN_IDENTIFIER"),
        *("UNKNOWN_TYPE", "UNKNOWN_STORAGE", "UNKNOWN_DATABASE", "UNKNOWN_SETTING", "UNKNOWN_DIRECTION_OF_SORTING"),
        *("UNKNOWN_AGGREGATE_FUNCTION", "UNKNOWN_FORMAT", "UNKNOWN_DATABASE_ENGINE", "UNKNOWN_TYPE_OF_QUERY"),
        *("UNKNOWN_ROLE", "QUERY_IS_TOO_LARGE", "NOT_IMPLEMENTED", "SOCKET_TIMEOUT", "CANNOT_OPEN_FILE"),
        *("HTTP_LENGTH_REQUIRED", "TIMEOUT_EXCEEDED", "CANNOT_SCHEDULE_TASK", "UNSUPPORTED_MEDIA_TYPE"),
    }


def test_a_database_that_is_not_there_is_an_error(store: str) -> None:
    """Nothing is written to another one instead."""
    assert post(store.replace("/tally", "/nope"), "SELECT 1").headers["X-ClickHouse-Exception-Code"] == "81"


def test_settings_reach_the_engine_and_end_with_their_request(database: str) -> None:
    """Neither the next request on the connection nor another client sees them."""
    question = "SELECT getSetting('max_threads'), getSetting('max_block_size')"
    with urllib3.PoolManager(num_pools=1, maxsize=1) as pool:
        base = f"http://{urlsplit(database).netloc}/?"
        with_settings = pool.request("POST", f"{base}max_threads=1&max_block_size=77", body=question).data
        without = pool.request("POST", base, body=question).data

    assert with_settings == b"1\t77\n"
    assert without != with_settings


def test_an_unknown_setting_is_an_error(database: str) -> None:
    """Ignoring it would ignore a limit that somebody relies on."""
    assert post(database, "SELECT 1", arguments="no_such_setting=1").headers["X-ClickHouse-Exception-Code"] == "115"
    assert post(database, "SELECT 1", arguments="a%20b=1").headers["X-ClickHouse-Exception-Code"] == "115"


def test_http_only_arguments_are_accepted(database: str) -> None:
    """What clients send for the transport is no setting of the engine."""
    arguments = (
        "wait_end_of_query=1&send_progress_in_http_headers=1&query_id=q1&session_id=s&client_protocol_version=54405"
    )

    answer = post(database, "SELECT 1", arguments=arguments)

    assert (answer.data, answer.headers["X-ClickHouse-Query-Id"]) == (b"1\n", "q1")


def test_readonly_forbids_writing_whatever_else_is_set(database: str) -> None:
    """Limits sent together with readonly=1 hold too."""
    assert post(database, "SELECT getSetting('max_threads')", arguments="readonly=1&max_threads=1").data == b"1\n"
    refused = post(database, "CREATE TABLE t (a Int8) ENGINE = Memory", arguments="readonly=1&max_threads=1")
    assert refused.headers["X-ClickHouse-Exception-Code"] == "164"


def test_a_get_request_only_reads(database: str) -> None:
    """A link that somebody follows changes nothing."""
    base = f"http://{urlsplit(database).netloc}/?query="

    assert urllib3.request("GET", base + quote("SELECT 1")).data == b"1\n"
    refused = urllib3.request("GET", base + quote("CREATE TABLE t (a Int8) ENGINE = Memory"))
    assert refused.headers["X-ClickHouse-Exception-Code"] == "164"


@pytest.mark.parametrize("headers", [{"Origin": "https://example.org"}, {"Host": "example.org"}])
def test_pages_in_a_browser_are_refused(database: str, headers: dict[str, str]) -> None:
    """A web page must not reach the store of the person who reads it, by whatever name it calls it."""
    answer = post(database, "SELECT 1", headers=headers)

    assert (answer.status, answer.headers["X-ClickHouse-Exception-Code"]) == (403, "497")


def test_health_is_answered_without_a_query(store: str) -> None:
    """As by a server: GET and HEAD of /ping, and of the root."""
    base = f"http://{urlsplit(store).netloc}"

    assert urllib3.request("GET", f"{base}/ping").data == b"Ok.\n"
    assert urllib3.request("GET", base).data == b"Ok.\n"
    assert urllib3.request("HEAD", f"{base}/ping").status == 200


def test_a_large_answer_arrives_whole(client: Any) -> None:
    """In blocks, while the engine goes on."""
    with client.query_row_block_stream("SELECT number FROM numbers(3000000)") as blocks:
        total = sum(sum(row[0] for row in block) for block in blocks)

    assert total == 3_000_000 * 2_999_999 // 2


def test_an_error_in_the_middle_of_an_answer_reaches_the_client(client: Any) -> None:
    """A short answer must never look like a whole one."""
    query = "SELECT number, throwIf(number = 3000000) FROM numbers(4000000)"

    with pytest.raises(StreamFailureError, match="throwIf"), client.query_row_block_stream(query) as blocks:
        for _ in blocks:
            pass


def test_a_client_that_leaves_in_the_middle_of_an_answer_harms_nobody(database: str) -> None:
    """Its query is given up and the store goes on."""
    answer = post(database, "SELECT number FROM numbers(100000000000) FORMAT RowBinary", preload_content=False)
    answer.read(1_000)
    answer.close()

    assert post(database, "SELECT 1").data == b"1\n"
    while post(database, "SELECT count() FROM system.processes").data != b"1\n":
        time.sleep(0.02)  # the test's own timeout is the limit


def test_a_client_that_leaves_in_the_middle_of_an_insert_stores_nothing(client: Any, database: str) -> None:
    """Half a block is no block."""
    client.command(TABLE)
    parts = urlsplit(database)
    connection = http.client.HTTPConnection(parts.netloc)
    connection.putrequest("POST", f"/?database={parts.path.strip('/')}&query={quote('INSERT INTO t FORMAT CSV')}")
    connection.putheader("Content-Length", "1000000")
    connection.endheaders(b'1,"x"\n' * 1_000)
    connection.close()

    while post(database, "SELECT count() FROM system.processes").data != b"1\n":
        time.sleep(0.02)
    assert client.command("SELECT count() FROM t") == 0


def test_readers_see_whole_blocks_while_others_write(client: Any, database: str) -> None:
    """Several clients at once, each with a connection of its own."""
    client.command(TABLE)
    seen: list[int] = []
    done = threading.Event()

    def read() -> None:
        reader = connect(database)
        while not done.is_set():
            seen.append(reader.query("SELECT count() FROM t").result_rows[0][0])
        reader.close()

    def write(first: int) -> None:
        writer = connect(database)
        for block in range(10):
            writer.insert_arrow("t", numbers(first + block * 1_000, 1_000))
        writer.close()

    readers = [threading.Thread(target=read) for _ in range(3)]
    writers = [threading.Thread(target=write, args=(first,)) for first in (0, 10_000)]
    for thread in [*readers, *writers]:
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    for thread in readers:
        thread.join()

    assert seen
    assert all(count % 1_000 == 0 for count in seen)
    assert client.query("SELECT count(), uniqExact(a) FROM t").result_rows == [(20_000, 20_000)]


def test_a_broken_request_is_refused_and_the_store_goes_on(database: str) -> None:
    """Chunks, lengths and encodings that can't be read."""
    parts = urlsplit(database)
    for head in (b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", b"Content-Length: -1\r\n\r\n"):
        with socket.create_connection((parts.hostname or "", parts.port or 0)) as raw:
            raw.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\n" + head)
            assert raw.recv(100).startswith(b"HTTP/1.1 400 ")
    assert post(database, "SELECT 1", headers={"Content-Encoding": "lz4"}).status == 400
    assert post(database, "SELECT 1").data == b"1\n"


# Below: stores of one's own, to be killed, limited and misled.


def test_a_password_is_asked_for_when_there_is_one(tmp_path: Path) -> None:
    """By basic authentication or ClickHouse's headers; the health check needs none."""
    login = {"TALLY_STORE_USER": "ana", "TALLY_STORE_PASSWORD": "s3 cret"}
    with store_process(tmp_path / "data", environment=login) as process:
        url = process.wait_until_ready()["url"]
        basic = {"Authorization": f"Basic {base64.b64encode(b'ana:s3 cret').decode()}"}
        wrong = {"Authorization": f"Basic {base64.b64encode(b'ana:secret').decode()}"}
        client = connect(url, username="ana", password="s3 cret")  # noqa: S106 -- made up

        assert client.command("SELECT 1") == 1
        assert post(url, "SELECT 1", headers=basic).data == b"1\n"
        assert post(url, "SELECT 1", headers={"X-ClickHouse-User": "ana", "X-ClickHouse-Key": "s3 cret"}).status == 200
        assert post(url, "SELECT 1", headers=wrong).status == 403
        assert post(url, "SELECT 1", headers=wrong).headers["X-ClickHouse-Exception-Code"] == "516"
        assert post(url, "SELECT 1").status == 401
        assert urllib3.request("GET", f"http://{urlsplit(url).netloc}/ping").status == 200
        with pytest.raises(ClickHouseError):
            connect(url, username="ana", password="wrong")  # noqa: S106 -- made up
        client.close()


def test_what_was_acknowledged_before_a_kill_is_there_after_it(tmp_path: Path) -> None:
    """Every block that was acknowledged, whole; the one in flight whole or not at all. The folder is free at once."""
    for _ in range(3):
        process = store_process(tmp_path / "data")
        url = process.wait_until_ready()["url"]
        client = connect(url)
        client.command(TABLE.replace("TABLE t", "TABLE IF NOT EXISTS t"))
        first = int(client.command("SELECT count() FROM t"))
        acknowledged = threading.Semaphore(0)

        def write(url: str = url, first: int = first, acknowledged: threading.Semaphore = acknowledged) -> None:
            writer = connect(url)
            with contextlib.suppress(OperationalError, DatabaseError, urllib3.exceptions.HTTPError):
                for block in range(10_000):
                    writer.insert_arrow("t", numbers(first + block * 1_000, 1_000))
                    acknowledged.release()
            writer.close()

        writer = threading.Thread(target=write)
        writer.start()
        for _ in range(15):
            assert acknowledged.acquire(timeout=60)
        process.kill()
        writer.join()
        client.close()
        count = 15
        while acknowledged.acquire(blocking=False):
            count += 1

        with store_process(tmp_path / "data") as again:
            check = connect(again.wait_until_ready()["url"])
            rows, distinct, largest = check.query("SELECT count(), uniqExact(a), max(a) FROM t").result_rows[0]
            check.close()
        assert rows in {first + count * 1_000, first + (count + 1) * 1_000}
        assert rows == distinct == largest + 1


def test_a_second_store_on_the_same_folder_says_so(tmp_path: Path) -> None:
    """Exit 2 and one sentence; the first one goes on."""
    with store_process(tmp_path / "data") as first:
        url = first.wait_until_ready()["url"]
        second = store_process(tmp_path / "data")

        assert second.process.wait(60) == 2
        second.stop()
        assert second.stderr() == (
            f"tally: Another store runs on {tmp_path / 'data'}: stop it, or name another folder with --data.\n"
        )
        assert post(url, "SELECT 1").data == b"1\n"


def test_a_taken_port_says_so(tmp_path: Path) -> None:
    """Exit 2 and one sentence."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = store_process(tmp_path / "data", port=port)

        assert process.process.wait(60) == 2
        process.stop()
    assert f"Port {port} on 127.0.0.1 can't be used (Address already in use): stop" in process.stderr()
    assert process.stderr().count("\n") == 1


def test_other_machines_need_a_password(tmp_path: Path) -> None:
    """Without one the store refuses to listen beyond loopback."""
    process = store_process(tmp_path / "data", options=("--host", "0.0.0.0"))  # noqa: S104 -- to be refused

    assert process.process.wait(60) == 2
    process.stop()
    assert "with TALLY_STORE_USER and TALLY_STORE_PASSWORD" in process.stderr()


def test_an_empty_data_folder_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    """A file stands where the folder should be."""
    (tmp_path / "file").write_text("")
    process = store_process(tmp_path / "file")

    assert process.process.wait(60) == 2
    process.stop()
    assert process.stderr().count("\n") == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_in_order_when_asked(tmp_path: Path, number: signal.Signals) -> None:
    """A running query gets its answer, then the process ends with 0 and the data are there at the next start."""
    with store_process(tmp_path / "data") as process:
        url = process.wait_until_ready()["url"]
        post(url, "CREATE TABLE t (a UInt64) ENGINE = MergeTree ORDER BY a")
        answers: list[bytes] = []
        asking = threading.Thread(
            target=lambda: answers.append(post(url, "INSERT INTO t SELECT sleepEachRow(0.1) FROM numbers(10)").data)
        )
        asking.start()
        while post(url, "SELECT count() FROM system.processes").data != b"2\n":
            time.sleep(0.02)

        assert process.stop(number) == 0
        asking.join()
    assert answers == [b""]
    with store_process(tmp_path / "data") as again:
        assert post(again.wait_until_ready()["url"], "SELECT count() FROM t").data == b"10\n"


def test_limits_fail_the_request_and_not_the_store(tmp_path: Path) -> None:
    """A body that is too large, a query that wants too much memory: an error for that client alone."""
    limits = "server_limits=ServerLimits(body_bytes=2_000_000), engine_limits=EngineLimits(memory_bytes=700_000_000)"
    with limited_store_process(tmp_path / "data", limits=limits) as process:
        url = process.wait_until_ready()["url"]
        post(url, "CREATE TABLE t (a String) ENGINE = MergeTree ORDER BY a")
        insert = f"query={quote('INSERT INTO t FORMAT LineAsString')}"

        assert post(url, b"x" * 3_000_000, arguments=insert).status == 413
        bomb = pa.compress(bytes(50_000_000), codec="gzip", asbytes=True)
        assert post(url, bomb, arguments=insert, headers={"Content-Encoding": "gzip"}).status == 413
        greedy = post(url, "SELECT length(groupArray(number)) FROM numbers(1000000000)")
        assert greedy.headers["X-ClickHouse-Exception-Code"] == "241"
        assert post(url, "SELECT count() FROM t").data == b"0\n"


def test_a_connection_beyond_the_limit_waits_and_does_not_keep_the_store_from_stopping(tmp_path: Path) -> None:
    """It is served when another one ends."""
    limits = "server_limits=ServerLimits(connections=1)"
    with limited_store_process(tmp_path / "data", limits=limits) as process:
        parts = urlsplit(process.wait_until_ready()["url"])
        address = (parts.hostname or "", parts.port or 0)
        request = b"GET /ping HTTP/1.1\r\nHost: localhost\r\n\r\n"
        with socket.create_connection(address) as first, socket.create_connection(address) as second:
            first.sendall(request)
            assert first.recv(15) == b"HTTP/1.1 200 OK"
            second.sendall(request)
            second.settimeout(0.5)
            with pytest.raises(TimeoutError):
                second.recv(15)
            first.close()
            second.settimeout(60)

            assert second.recv(15) == b"HTTP/1.1 200 OK"
            with socket.create_connection(address):
                assert process.stop() == 0


@pytest.mark.parametrize(
    "statement",
    ["INSERT INTO t SELECT number FROM numbers(1000)", "INSERT INTO t FORMAT CSV\n" + "1\n" * 1000],
    ids=["from a query", "with data"],
)
def test_an_insert_that_would_fill_the_disk_fails_and_the_store_goes_on(tmp_path: Path, statement: str) -> None:
    """The engine would acknowledge a truncated part on a full disk, so it is kept from meeting one."""
    limits = f"engine_limits=EngineLimits(keep_free_bytes={10**18})"
    with limited_store_process(tmp_path / "data", limits=limits) as process:
        url = process.wait_until_ready()["url"]
        post(url, "CREATE TABLE t (a UInt64) ENGINE = MergeTree ORDER BY a")

        assert post(url, statement).headers["X-ClickHouse-Exception-Code"] == "243"
        assert post(url, "SELECT count() FROM t").data == b"0\n"
    with store_process(tmp_path / "data") as with_room:
        url = with_room.wait_until_ready()["url"]

        assert post(url, statement).status == 200
        assert post(url, "SELECT count() FROM t").data == b"1000\n"


@pytest.mark.parametrize(
    ("table", "data", "code"),
    [
        ("(a UInt64, CONSTRAINT small CHECK a < 10) ENGINE = MergeTree ORDER BY a", "1\n99", 469),
        ("(a UInt64) ENGINE = MergeTree PARTITION BY a ORDER BY a", "\n".join(map(str, range(101))), 252),
    ],
    ids=["a violated constraint", "too many partitions"],
)
def test_an_insert_that_fails_while_a_part_is_written_is_not_acknowledged(
    database: str, table: str, data: str, code: int
) -> None:
    """An acknowledged insert is a stored insert: the writer moves on and never sends these rows again."""
    post(database, f"CREATE TABLE t {table}")

    answer = post(database, f"INSERT INTO t FORMAT CSV\n{data}")

    assert answer.headers["X-ClickHouse-Exception-Code"] == str(code)
    assert post(database, "SELECT count() FROM t").data == b"0\n"


def test_settings_within_an_insert_count(database: str) -> None:
    """They stand before the data, as ClickHouse's grammar has it."""
    post(database, "CREATE TABLE t (a UInt64) ENGINE = MergeTree PARTITION BY a ORDER BY a")
    data = "\n".join(map(str, range(101)))

    answer = post(database, f"INSERT INTO t (a) SETTINGS max_partitions_per_insert_block = 0 FORMAT CSV\n{data}")

    assert answer.status == 200, answer.data
    assert post(database, "SELECT count() FROM t").data == b"101\n"


@pytest.mark.parametrize("statement", ["INSERT INTO t FORMAT CSV\n1", "INSERT INTO t SELECT 1"])
def test_an_insert_on_a_disk_that_got_full_meanwhile_is_not_acknowledged(tmp_path: Path, statement: str) -> None:
    """Somebody else may have filled it while the engine wrote."""
    limits = f"engine_limits=EngineLimits(full_below_bytes={10**18})"
    with limited_store_process(tmp_path / "data", limits=limits) as process:
        url = process.wait_until_ready()["url"]
        post(url, "CREATE TABLE t (a UInt64) ENGINE = MergeTree ORDER BY a")

        assert post(url, statement).headers["X-ClickHouse-Exception-Code"] == "243"
        assert post(url, "SELECT 1").status == 200


TARGETS = (
    *(
        "/",
        "/?query=select+1",
        "/?query=%ff%fe",
        "/?database=%00",
        "/?param_a=%ff&query=select+{a:String}",
        "//[",
        "/ping",
    ),
    *(
        "/?database=a%27b&query=select+1",
        "/?query_id=%0d%0aX:1&query=select+1",
        "/?query=select+1+format+Nope",
        "/?x=%",
    ),
)
HEADERS = (
    *("Host: [::", "Host: ]", "Host: localhost:99999", "Content-Length: 99999999999999999999", "Content-Length: x"),
    *(
        "Transfer-Encoding: chunked",
        "Content-Type: multipart/form-data",
        "Content-Type: multipart/form-data; boundary=x",
    ),
    *("Content-Encoding: gzip", "Content-Encoding: zstd", "Authorization: Basic !!!", "Authorization: \xff", ":"),
    *("X-ClickHouse-User: \xff", "Expect: 100-continue", "X-ClickHouse-Database: \xff", f"{'a' * 70_000}: b"),
)
BODIES = (
    *(b"", b"select 1", b"\xff\x00", b"5\r\nselec\r\n0\r\n\r\n", b"--x\r\n\r\n", b"insert into x format CSV\n1", b"/*"),
    *(b"select '", b"$$", b"insert", b"\x1f\x8b\x08"),
)


def test_no_request_breaks_the_store(tmp_path: Path) -> None:
    """Six hundred requests put together from what is wrong in requests: refused or answered, never a traceback."""
    chance = random.Random(1)
    with store_process(tmp_path / "data") as process:
        url = process.wait_until_ready()["url"]
        address = (urlsplit(url).hostname or "", urlsplit(url).port or 0)
        for _ in range(600):
            body = chance.choice(BODIES)
            headers = [*chance.sample(HEADERS, chance.randint(0, 3)), f"Content-Length: {len(body)}"]
            chance.shuffle(headers)
            method = chance.choice(["GET", "POST", "HEAD", "PUT", "\xff"])
            head = "\r\n".join([f"{method} {chance.choice(TARGETS)} HTTP/1.1", *headers, "", ""])
            with socket.create_connection(address) as raw, contextlib.suppress(ConnectionError):
                raw.sendall(head.encode("latin-1") + body)
                raw.shutdown(socket.SHUT_WR)
                assert raw.recv(9) in {b"", b"HTTP/1.1 "}

        assert post(url, "SELECT 1").data == b"1\n"
        assert process.stop() == 0
    assert process.stderr() == ""


def test_it_says_nothing_but_its_ready_line(tmp_path: Path) -> None:
    """One JSON line on stdout, nothing on stderr, also after errors of clients."""
    with store_process(tmp_path / "data") as process:
        ready = process.wait_until_ready()
        post(ready["url"], "SELECT nope")

        assert process.stop() == 0
    assert json.loads(json.dumps(ready)) == {"ready": True, "url": ready["url"]}
    assert process.stderr() == ""
