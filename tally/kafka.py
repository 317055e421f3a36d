"""One way to Kafka for every command: how to log in, what its errors mean to a person, where the log ends.

Every coroutine here takes the settings and either answers or raises one of ours (schemas/errors.py) with one sentence
that names the address. Records of aborted transactions do not count: all reading is ``read_committed``. An end is the
offset of the next record, whatever transactions are open.
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
import sys
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka import errors as kafka
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.conn import collect_hosts, create_conn

from schemas.errors import BrokerUnavailable, WrongUse

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence

    from aiokafka import ConsumerRecord

    from tally.settings import Settings

Answer = TypeVar("Answer")

READ_COMMITTED: Final = "read_committed"
REQUEST_SECONDS_MAX: Final = 30.0
COORDINATOR_SECONDS_MAX: Final = 15.0
CLOSE_SECONDS_MAX: Final = 5.0
FETCH_WAIT_MS: Final = 50
#: A lag up to this is looked at offset by offset, because it may be nothing but the markers of transactions.
MARKERS_MAX: Final = 100

REFUSALS: Final = (
    kafka.TopicAuthorizationFailedError,
    kafka.GroupAuthorizationFailedError,
    kafka.ClusterAuthorizationFailedError,
    kafka.TransactionalIdAuthorizationFailed,
)
LOGIN_REFUSALS: Final = (
    kafka.AuthenticationFailedError,
    kafka.AuthenticationMethodNotSupported,
    kafka.UnsupportedSaslMechanismError,
    kafka.SaslAuthenticationFailed,
)

#: The client's own words for "not now". Its remaining errors are mistakes of ours, and crash.
PASSING: Final = (
    kafka.KafkaConnectionError,
    kafka.KafkaTimeoutError,
    kafka.KafkaUnavailableError,
    kafka.NoBrokersAvailable,
    kafka.NodeNotReadyError,
    kafka.KafkaProtocolError,
    kafka.StaleMetadata,
    kafka.IncompatibleBrokerVersion,
    kafka.UnrecognizedBrokerVersion,
)


def client_settings(settings: Settings) -> dict[str, Any]:
    """Keyword arguments for any aiokafka client: address, login, and TLS with certificates verified.

    Raises:
        WrongUse: the address is not host:port, or a PEM file can't be used.
    """
    return {
        "bootstrap_servers": _bootstrap_servers(settings),
        "security_protocol": settings.kafka_security_protocol,
        "ssl_context": ssl_context(settings),
        **_sasl(settings),
    }


def broker_credentials(settings: Settings) -> Any:  # noqa: ANN401 -- Faust has no types for mypy
    """The same login as Faust wants it (``broker_credentials``); None when there is neither TLS nor SASL."""
    from faust.auth import SASLCredentials, SSLCredentials  # noqa: PLC0415 -- Faust takes half a second to import

    context = ssl_context(settings)
    if settings.kafka_security_protocol.startswith("SASL"):
        sasl = _sasl(settings)
        return SASLCredentials(
            username=sasl["sasl_plain_username"],
            password=sasl["sasl_plain_password"],
            mechanism=sasl["sasl_mechanism"],
            ssl_context=context,
        )
    return None if context is None else SSLCredentials(context)


def ssl_context(settings: Settings) -> ssl.SSLContext | None:
    """TLS as the protocol asks for it: the server's certificate and name are always verified."""
    if not settings.kafka_security_protocol.endswith("SSL"):
        return None
    cafile, certfile, keyfile = settings.kafka_ssl_cafile, settings.kafka_ssl_certfile, settings.kafka_ssl_keyfile
    password = settings.kafka_ssl_password
    try:
        context = ssl.create_default_context(cafile=None if cafile is None else str(cafile))
    except (OSError, ssl.SSLError) as error:
        raise WrongUse(f"TALLY_KAFKA_SSL_CAFILE ({cafile}) can't be used: {_reason(error)}.") from error
    if certfile is None:
        return context
    try:
        # An empty password keeps OpenSSL from asking for one on the terminal.
        secret = "" if password is None else password.get_secret_value()
        context.load_cert_chain(certfile, keyfile, password=secret)
    except (OSError, ssl.SSLError) as error:
        raise WrongUse(
            f"TALLY_KAFKA_SSL_CERTFILE ({certfile}) and TALLY_KAFKA_SSL_KEYFILE ({keyfile}) can't be used: "
            f"{_reason(error)}."
        ) from error
    return context


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or getattr(error, "reason", None) or error)


def _sasl(settings: Settings) -> dict[str, str]:
    if not settings.kafka_security_protocol.startswith("SASL"):
        return {}
    password = settings.kafka_sasl_password
    return {
        "sasl_mechanism": settings.kafka_sasl_mechanism or "",
        "sasl_plain_username": settings.kafka_sasl_username or "",
        "sasl_plain_password": "" if password is None else password.get_secret_value(),
    }


def _bootstrap_servers(settings: Settings) -> list[str]:
    servers = [server.strip() for server in settings.kafka_bootstrap.split(",")]
    if any(server.rpartition(":")[2].strip("0") == "" for server in servers):
        raise WrongUse(
            f"TALLY_KAFKA_BOOTSTRAP ({settings.kafka_bootstrap}) has the port 0, which only `tally up` can use: name "
            "the port of the broker."
        )
    return servers


def run(settings: Settings, work: Coroutine[Any, Any, Answer]) -> Answer:
    """Runs one piece of Kafka work to its end; what goes wrong becomes one of our errors."""
    quiet()
    with broker_errors(settings), asyncio.Runner() as runner:
        runner.get_loop().set_exception_handler(_report_unless_told)
        return runner.run(work)


def _report_unless_told(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Aiokafka leaves futures behind whose exceptions nobody reads; what broke a connection was raised to us before."""
    if not isinstance(context.get("exception"), kafka.KafkaError | OSError):
        loop.default_exception_handler(context)


def quiet() -> None:
    """Aiokafka logs each failed attempt with a stack trace; ours is the one sentence that is printed."""
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL + 1)


@contextmanager
def broker_errors(settings: Settings) -> Iterator[None]:
    """Turns what aiokafka raises into WrongUse (do not repeat) or BrokerUnavailable (wait, repeat), cause kept."""
    address = settings.kafka_bootstrap
    try:
        yield
    except LOGIN_REFUSALS as error:
        raise WrongUse(
            f"Kafka at {address} refuses the login ({_name(error)}): check TALLY_KAFKA_SECURITY_PROTOCOL and "
            "TALLY_KAFKA_SASL_*."
        ) from error
    except REFUSALS as error:
        raise WrongUse(
            f"Kafka at {address} does not allow this ({_name(error)}): give the user the right to do it."
        ) from error
    except (kafka.UnknownTopicOrPartitionError, kafka.InvalidTopicError) as error:
        raise WrongUse(f"Kafka at {address} does not have the topics: run `tally migrate` first.") from error
    except ssl.SSLCertVerificationError as error:
        raise WrongUse(
            f"Kafka at {address} shows a certificate that can't be verified ({error.verify_message}): correct "
            "TALLY_KAFKA_SSL_CAFILE or the host name in TALLY_KAFKA_BOOTSTRAP."
        ) from error
    except kafka.BrokerResponseError as error:
        if error.retriable:
            raise _unreachable(address, error) from error
        raise WrongUse(f"Kafka at {address} refuses ({_name(error)}): {error.description}") from error
    except (*PASSING, TimeoutError, OSError) as error:
        raise _unreachable(address, error) from error


def _unreachable(address: str, error: Exception) -> BrokerUnavailable:
    return BrokerUnavailable(
        f"Kafka at {address} can't be reached ({_name(error)}): start it (`tally broker`) or correct "
        "TALLY_KAFKA_BOOTSTRAP."
    )


def _name(error: BaseException) -> str:
    """Why, in few words: a system's own message, else the protocol's name for it."""
    if isinstance(error, TimeoutError):
        return "no answer"
    if isinstance(error, OSError) and error.errno:
        # asyncio writes the address into strerror; a name that can't be resolved has a number of its own (negative).
        return (os.strerror(error.errno) if error.errno > 0 else error.strerror or "").lower()
    return type(error).__name__.removesuffix("Error")


async def start(client: Any, settings: Settings) -> None:  # noqa: ANN401 -- any aiokafka client
    """Starts an aiokafka client within ``connect_seconds``, or closes it and raises why the broker said no."""
    try:
        async with asyncio.timeout(settings.connect_seconds):
            try:
                await client.start()
            except kafka.KafkaConnectionError:
                await _raise_cause(settings)
                raise
    except BaseException:
        await close(client)
        raise


async def close(client: Any) -> None:  # noqa: ANN401 -- any aiokafka client
    """Closes an aiokafka client of either naming; one that still waits for a broker that is away is given up."""
    try:
        async with asyncio.timeout(CLOSE_SECONDS_MAX):
            await (client.stop() if hasattr(client, "stop") else client.close())
    except TimeoutError:
        await client.client.close()


async def _raise_cause(settings: Settings) -> None:
    """Aiokafka drops the reason why a bootstrap failed: asks each address once more, and raises the first reason."""
    login = client_settings(settings)
    for host, port, _ in collect_hosts(login.pop("bootstrap_servers")):
        connection = await create_conn(host, port, client_id="tally", **login)
        connection.close()


@asynccontextmanager
async def admin(settings: Settings) -> AsyncIterator[AIOKafkaAdminClient]:
    """A started admin client, closed at the end."""
    client = AIOKafkaAdminClient(**client_settings(settings), request_timeout_ms=int(REQUEST_SECONDS_MAX * 1000))
    await start(client, settings)
    try:
        yield client
    finally:
        await client.close()


@asynccontextmanager
async def reader(settings: Settings, *, isolation: str = READ_COMMITTED) -> AsyncIterator[AIOKafkaConsumer]:
    """A started consumer without a group that sees committed records only; nothing it does moves an offset."""
    client = AIOKafkaConsumer(
        **client_settings(settings),
        group_id=None,
        enable_auto_commit=False,
        isolation_level=isolation,
        auto_offset_reset="earliest",
        request_timeout_ms=int(REQUEST_SECONDS_MAX * 1000),
        fetch_max_wait_ms=FETCH_WAIT_MS,  # a fetch that waits holds up the questions behind it on its connection
    )
    await start(client, settings)
    try:
        yield client
    finally:
        await _stop(client)


async def _stop(client: AIOKafkaConsumer) -> None:
    """Stops a consumer, also one that waits for a broker that is away."""
    try:
        await client.stop()
    except asyncio.CancelledError:
        # Aiokafka raises what it did to its own fetch that was waiting; when we are cancelled the task knows it.
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise


async def partitions(client: AIOKafkaAdminClient, topics: Iterable[str]) -> dict[str, list[int]]:
    """The partition numbers of each topic, ascending; a topic that does not exist has none."""
    wanted = list(topics)
    described = await client.describe_topics(wanted)
    found = {topic["topic"]: sorted(part["partition"] for part in topic["partitions"]) for topic in described}
    return {topic: found.get(topic, []) for topic in wanted}


def missing_topic(settings: Settings, topic: str) -> WrongUse:
    """The sentence for a topic that is not there."""
    return WrongUse(f"Kafka at {settings.kafka_bootstrap} has no topic {topic}: run `tally migrate` first.")


@dataclass(frozen=True, slots=True)
class GroupPosition:
    """Where a partition begins and ends, and up to where the group has finished it (never committed: its begin)."""

    begin: int
    end: int
    committed: int


async def group_positions(settings: Settings, topics: Sequence[str]) -> dict[TopicPartition, GroupPosition]:
    """Begin, end and the group's committed offset of every partition of these topics.

    Raises:
        WrongUse: a topic does not exist.
    """
    async with admin(settings) as client, reader(settings, isolation="read_uncommitted") as consumer:
        wanted = await all_partitions(settings, client, topics)
        # Committed first, ends last: the lag may come out too large for a moment, never too small.
        committed = await committed_offsets(client, settings.app_id, wanted)
        begins = await consumer.beginning_offsets(wanted)
        ends = await consumer.end_offsets(wanted)
    return {
        partition: GroupPosition(
            begin=begins[partition],
            end=ends[partition],
            committed=committed.get(partition, begins[partition]),
        )
        for partition in wanted
    }


async def all_partitions(
    settings: Settings, client: AIOKafkaAdminClient, topics: Sequence[str]
) -> list[TopicPartition]:
    """Every partition of these topics. Raises WrongUse when one of the topics does not exist."""
    by_topic = await partitions(client, topics)
    for topic, numbers in by_topic.items():
        if not numbers:
            raise missing_topic(settings, topic)
    return [TopicPartition(topic, number) for topic, numbers in by_topic.items() for number in numbers]


async def committed_offsets(
    client: AIOKafkaAdminClient, group: str, wanted: Sequence[TopicPartition]
) -> dict[TopicPartition, int]:
    """The group's committed offsets (the next one to be read); a partition without a commit is left out."""
    coordinator = await group_coordinator(client, group)
    found = await client.list_consumer_group_offsets(group, coordinator, partitions=list(wanted))
    return {partition: entry.offset for partition, entry in found.items() if entry.offset >= 0}


async def group_coordinator(client: AIOKafkaAdminClient, group: str) -> int:
    """The node that keeps the group's offsets; a cluster that never had a group makes one up in a moment."""
    deadline = asyncio.get_running_loop().time() + COORDINATOR_SECONDS_MAX
    while True:
        try:
            return int(await client.find_coordinator(group))
        except kafka.GroupCoordinatorNotAvailableError:
            if asyncio.get_running_loop().time() > deadline:
                raise
            await asyncio.sleep(0.1)


async def _lag(settings: Settings) -> dict[str, dict[int, int]]:
    topics = [settings.topics.events, settings.topics.priced]
    answer: dict[str, dict[int, int]] = {topic: {} for topic in topics}
    async with reader(settings) as consumer:
        for partition, position in (await group_positions(settings, topics)).items():
            left = await _records_left(consumer, partition, position)
            answer[partition.topic][partition.partition] = left
    return answer


async def _records_left(consumer: AIOKafkaConsumer, partition: TopicPartition, position: GroupPosition) -> int:
    """Records between committed and end; a group that reads to the end never commits past the last record there."""
    first = max(position.committed, position.begin)
    left = max(0, position.end - first)
    if not 0 < left <= MARKERS_MAX:
        return left
    stable: int = (await consumer.end_offsets([partition]))[partition]
    found = await readable_offsets(consumer, partition, [(first, position.end)])
    return len(found) + max(0, position.end - max(stable, first))


def lag(settings: Settings) -> dict[str, dict[int, int]]:
    """Records that the group has not finished, by topic and partition of ``usage.events`` and ``usage.priced``.

    Raises:
        BrokerUnavailable: Kafka can't be reached.
        WrongUse: a topic does not exist.
    """
    return run(settings, _lag(settings))


def total_lag(settings: Settings) -> int | None:
    """All of ``lag`` in one number; None when Kafka can't be asked, so that a report can say "unknown"."""
    try:
        by_topic = lag(settings)
    except (BrokerUnavailable, WrongUse):
        return None
    return sum(sum(by_partition.values()) for by_partition in by_topic.values())


async def readable_offsets(
    consumer: AIOKafkaConsumer,
    partition: TopicPartition,
    spans: Iterable[tuple[int, int]],
    *,
    at_most: int = sys.maxsize,
) -> list[int]:
    """The first offsets within half-open spans that hold a record, ascending per span.

    Markers, records of aborted or open transactions and offsets that were never used hold none.
    """
    consumer.assign([partition])
    begin = (await consumer.beginning_offsets([partition]))[partition]
    end = (await consumer.end_offsets([partition]))[partition]
    found: list[int] = []
    for start_offset, stop in spans:
        first, last = max(start_offset, begin), min(stop, end)
        if first >= last:
            continue
        consumer.seek(partition, first)
        while await consumer.position(partition) < last and len(found) < at_most:
            batch = await consumer.getmany(partition, timeout_ms=2 * FETCH_WAIT_MS)
            found += [record.offset for record in batch.get(partition, ()) if first <= record.offset < last]
    return found[:at_most]


@dataclass(frozen=True, slots=True)
class Extent:
    """What could be read of a partition: records before ``begin`` are deleted; with ``is_open`` not up to its end.

    Behind the first record of a transaction that is open, nothing is committed yet for its readers.
    """

    begin: int
    is_open: bool = False


async def read_until(
    consumer: AIOKafkaConsumer, ends: Mapping[TopicPartition, int], take: Callable[[Sequence[ConsumerRecord]], None]
) -> None:
    """Hands on every record before these offsets, those of a partition in their order.

    Raises:
        TimeoutError: nothing came for half a minute.
    """
    left = dict(ends)
    consumer.assign(list(left))
    await consumer.seek_to_beginning(*left)
    loop, reached = asyncio.get_running_loop(), -1
    async with asyncio.timeout(REQUEST_SECONDS_MAX) as patience:
        while left:
            for partition, records in (await consumer.getmany(*left, timeout_ms=2 * FETCH_WAIT_MS)).items():
                take([record for record in records if record.offset < ends[partition]])
            positions = {partition: await consumer.position(partition) for partition in ends}
            if sum(positions.values()) > reached:
                reached = sum(positions.values())
                patience.reschedule(loop.time() + REQUEST_SECONDS_MAX)
            for partition in [partition for partition, end in left.items() if positions[partition] >= end]:
                consumer.pause(partition)  # else it would be fetched on and on, in vain
                del left[partition]


class LogView:
    """What the audit asks Kafka: how far the group is, where the log begins and ends, which offsets hold a record.

    Each question opens its own connection; nothing it does moves an offset.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def positions(self, topic: str) -> dict[int, GroupPosition]:
        """Begin, end and committed offset by partition. Raises WrongUse when the topic does not exist."""
        found = run(self._settings, group_positions(self._settings, [topic]))
        return {partition.partition: position for partition, position in found.items()}

    def held(self, topic: str, spans: Mapping[int, Sequence[tuple[int, int]]]) -> dict[int, list[int]]:
        """Which offsets of these half-open spans, by partition, Kafka holds as committed records."""
        return run(self._settings, self._held(topic, spans))

    async def _held(self, topic: str, spans: Mapping[int, Sequence[tuple[int, int]]]) -> dict[int, list[int]]:
        async with reader(self._settings) as consumer:
            return {
                number: await readable_offsets(consumer, TopicPartition(topic, number), wanted)
                for number, wanted in spans.items()
            }

    def read(self, topic: str, take: Callable[[Sequence[ConsumerRecord]], None]) -> dict[int, Extent]:
        """Hands on all committed records up to the end that the topic has now; gives what was read, by partition.

        Raises:
            WrongUse: the topic does not exist.
        """
        return run(self._settings, self._read(topic, take))

    async def _read(self, topic: str, take: Callable[[Sequence[ConsumerRecord]], None]) -> dict[int, Extent]:
        settings = self._settings
        async with admin(settings) as client, reader(settings) as consumer:
            wanted = await all_partitions(settings, client, [topic])
            async with reader(settings, isolation="read_uncommitted") as uncommitted:
                ends = await uncommitted.end_offsets(wanted)
            stable = await consumer.end_offsets(wanted)  # after the ends: what is short of them is held up
            await read_until(consumer, stable, take)
            begins = await consumer.beginning_offsets(wanted)  # now: retention may have been at work meanwhile
        return {
            partition.partition: Extent(begins[partition], is_open=stable[partition] < ends[partition])
            for partition in wanted
        }

    def live_members(self) -> list[str]:
        """The client ids of the group's live members; empty when the group is stopped or was never there."""
        return run(self._settings, self._live_members())

    async def _live_members(self) -> list[str]:
        async with admin(self._settings) as client:
            group = self._settings.app_id
            answers = await client.describe_consumer_groups([group], await group_coordinator(client, group))
            groups = [found for answer in answers for found in answer.to_object()["groups"]]
            return sorted(member["client_id"] for found in groups for member in found["members"])
