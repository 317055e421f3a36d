"""``tally catalog``: prices and rules from files into force, once and for every worker at the same place of the log.

Applying is one writer at a time: a transactional producer takes over from any other apply, and Kafka refuses what the
other one still tries to write (fencing). Under it the newest revisions are read from ``usage.catalog``, and then

1. the new revisions go into ``usage.catalog``, all files in one transaction: from here on a number has one content,
2. their rows go into the store (written again they are the same rows),
3. a control block that names what is in force goes into each partition of ``usage.priced``,
4. the records are written again as *announced*.

Killed in between, the next apply finds a revision that is not announced and does 2 to 4 for it first. An apply that was
overtaken after 1 may still send its control blocks late, so readers never go back to a lower revision of a name.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from aiokafka import AIOKafkaProducer
from aiokafka import errors as kafka_errors
from aiokafka.errors import ProducerFenced

from agents.catalog_follower import (
    PRICE_BOOK,
    RULE_SET,
    CatalogEntry,
    CatalogFollower,
    append_time,
)
from clickhouse.catalog import newest_revisions, stored_revision, write_revision
from pipeline.catalog import load_catalog_file
from schemas.alerting import InForce
from schemas.catalog_file import CatalogError, Mistake, place_after
from schemas.catalog_values import read_instant, write_instant
from schemas.errors import BrokerUnavailable, WrongUse
from schemas.period_prices import with_ids
from schemas.price_book import DAY_US, SECOND_US, WHOLE_DAY, PriceBook, microseconds
from schemas.rules import RuleSet
from tally.catalog_plan import UNCHANGED, Change, RefusedCatalogError, plan
from tally.connect import open_store
from tally.kafka import REQUEST_SECONDS_MAX, admin, client_settings, close, missing_topic, partitions, run, start

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    from clickhouse.catalog import StoredRevision
    from clickhouse.client import Store
    from schemas.catalog_file import CatalogFile
    from schemas.price_book import Adjustment, Price
    from tally.settings import Settings

#: The header that marks a control block in ``usage.priced``.
CONTROL_HEADER: Final = ("control", b"catalog")

ATTEMPTS_MAX: Final = 10
ATTEMPT_SECONDS_MAX: Final = 60.0
ATTEMPT_WAIT_SECONDS_MAX: Final = 10.0
#: What Kafka says to an apply that another one has taken over from.
OVERTAKEN: Final = (ProducerFenced, kafka_errors.InvalidProducerEpoch)


def load_files(paths: Sequence[Path]) -> list[CatalogFile]:
    """All files, read and validated each for itself.

    Raises:
        WrongUse: a file can't be read.
        RefusedCatalogError: mistakes in one or more of them, all of them listed.
    """
    files: list[CatalogFile] = []
    refused: list[CatalogError] = []
    for path in paths:
        try:
            files.append(load_catalog_file(path.read_text(encoding="utf-8"), filename=str(path)))
        except CatalogError as error:
            refused.append(error)
        except UnicodeDecodeError as error:
            refused.append(_no_utf8(path, error))
        except OSError as error:
            raise WrongUse(f"{path} can't be read ({error.strerror}): name a YAML file of prices or rules.") from error
    if refused:
        raise RefusedCatalogError(refused)
    return files


def _no_utf8(path: Path, error: UnicodeDecodeError) -> CatalogError:
    line, column = place_after(error.object[: error.start].decode())
    byte = error.object[error.start]
    sentence = f"the byte 0x{byte:02x} is not UTF-8: write the file as UTF-8"
    return CatalogError(filename=str(path), mistakes=[Mistake(line, column, sentence)])


def check(paths: Sequence[Path]) -> list[Change]:
    """What is in the files, as if nothing were in force; needs no server.

    Raises:
        RefusedCatalogError: mistakes in the files, or files that contradict each other.
        WrongUse: a file can't be read.
    """
    return list(plan(load_files(paths), in_force={}, known={}))


@dataclass(frozen=True, slots=True)
class Applied:
    """What an apply did to one name."""

    change: Change
    applied_at: datetime

    def answer(self) -> dict[str, Any]:
        """As JSON values."""
        return {**self.change.answer(), "applied_at": write_instant(self.applied_at)}


def apply(settings: Settings, paths: Sequence[Path]) -> list[Applied]:
    """Puts the files into force, all or none; what has not changed keeps its revision and nothing is written.

    Raises:
        RefusedCatalogError: mistakes in the files, or against what is in force; nothing was applied.
        WrongUse: a file can't be read, or there are no tables or topics.
        ServerUnavailable: Kafka or ClickHouse is away; apply again, that also finishes what was begun.
    """
    files = load_files(paths)
    store = open_store(settings)
    try:
        newest_revisions(store)  # a store without tables is refused before anything is published
        return run(settings, _apply(settings, store, files))
    finally:
        store.close()


async def _apply(settings: Settings, store: Store, files: Sequence[CatalogFile]) -> list[Applied]:
    for attempt in range(ATTEMPTS_MAX):
        try:
            # A producer of aiokafka never gives up by itself when the broker goes away.
            async with asyncio.timeout(ATTEMPT_SECONDS_MAX), _writer(settings) as writer:
                return await _apply_alone(writer, store, files)
        except OVERTAKEN:
            # Several at once: whoever waits longest finds the work of the others done.
            wait_seconds = min(0.5 * 2**attempt, ATTEMPT_WAIT_SECONDS_MAX)
            await asyncio.sleep(random.uniform(0.1, wait_seconds))  # noqa: S311 -- no secret
    raise BrokerUnavailable(
        f"Other `tally catalog apply` runs took over {ATTEMPTS_MAX} times: let them finish, then apply again."
    )


async def _apply_alone(writer: _Writer, store: Store, files: Sequence[CatalogFile]) -> list[Applied]:
    entries = await writer.follower.entries()
    await writer.finish([entry for entry in entries.values() if not entry.announced], store=store, in_force=entries)
    in_force = {name: entry.content for name, entry in entries.items()}
    known = {**{name: _content(stored) for name, stored in newest_revisions(store).items()}, **in_force}
    changes = plan(files, in_force=in_force, known=known)
    published = await writer.publish([change.after for change in changes if change.state != UNCHANGED])
    in_force_now = {**entries, **published}
    await writer.finish(list(published.values()), store=store, in_force=in_force_now)
    return [Applied(change, in_force_now[change.after.name].applied_at) for change in changes]


def _content(stored: StoredRevision) -> PriceBook | RuleSet:
    return PriceBook.from_json(stored.body) if stored.kind == PRICE_BOOK else RuleSet.from_json(stored.body)


def _kind(content: PriceBook | RuleSet) -> str:
    return PRICE_BOOK if isinstance(content, PriceBook) else RULE_SET


class _Writer:
    """The one apply that Kafka lets write at a time."""

    def __init__(
        self,
        settings: Settings,
        *,
        catalog: AIOKafkaProducer,
        control: AIOKafkaProducer,
        priced: Sequence[int],
        follower: CatalogFollower,
    ) -> None:
        self.follower = follower
        self._topics = settings.topics
        self._catalog = catalog
        self._control = control
        self._priced = priced

    async def publish(self, contents: Sequence[PriceBook | RuleSet]) -> dict[str, CatalogEntry]:
        """Puts new revisions into ``usage.catalog``, all or none; hands them back with their instant, by name."""
        entries: dict[str, CatalogEntry] = {}
        if not contents:
            return entries
        async with self._catalog.transaction():
            for content in contents:
                sent = await self._catalog.send_and_wait(
                    self._topics.catalog,
                    key=content.name.encode(),
                    value=content.to_json().encode(),
                    headers=[("kind", _kind(content).encode())],
                )
                entries[content.name] = CatalogEntry(content, append_time(sent.timestamp), announced=False)
        return entries

    async def finish(
        self, entries: Sequence[CatalogEntry], *, store: Store, in_force: Mapping[str, CatalogEntry]
    ) -> None:
        """Stores published revisions, tells the counting side, and notes in ``usage.catalog`` that this is done."""
        if not entries:
            return
        for entry in entries:
            write_revision(store, entry.content, kind=entry.kind, applied_at=entry.applied_at)
        value = control_value(in_force.values())
        sends = [
            await self._control.send(self._topics.priced, value=value, headers=[CONTROL_HEADER], partition=number)
            for number in self._priced
        ]
        await asyncio.gather(*sends)
        async with self._catalog.transaction():
            for entry in entries:
                done = replace(entry, announced=True)
                await self._catalog.send_and_wait(
                    self._topics.catalog,
                    key=done.name.encode(),
                    value=done.content.to_json().encode(),
                    headers=done.headers(),
                )
        await self._until_seen(entries)

    async def _until_seen(self, entries: Sequence[CatalogEntry]) -> None:
        """Kafka answers a commit before its marker is in the log, and readers see nothing before the marker."""
        while True:
            seen = await self.follower.entries()
            found = [(seen.get(entry.name, entry), entry) for entry in entries]
            if all(now.revision > mine.revision or now.announced for now, mine in found if mine.name in seen):
                return
            await asyncio.sleep(0.01)


def control_value(entries: Iterable[CatalogEntry]) -> bytes:
    """The control block: every rule set in force, and which books. Readers never go back to a lower revision."""
    contents = [entry.content for entry in entries]
    books = [content for content in contents if isinstance(content, PriceBook)]
    in_force = InForce(
        currency=books[0].currency if books else "",  # all books in force share one
        rule_sets={content.name: content for content in contents if isinstance(content, RuleSet)},
        price_books={book.name: book.revision for book in books},
    )
    return in_force.to_json().encode()


@asynccontextmanager
async def _writer(settings: Settings) -> AsyncIterator[_Writer]:
    """Takes over from any other apply; whoever comes later takes over from this one."""
    topics = settings.topics
    async with admin(settings) as client:
        found = await partitions(client, [topics.catalog, topics.priced])
    for topic, numbers in found.items():
        if not numbers:
            raise missing_topic(settings, topic)
    login = client_settings(settings)
    options: dict[str, Any] = {"acks": "all", "request_timeout_ms": int(REQUEST_SECONDS_MAX * 1000)}
    sizes: dict[str, Any] = {"max_request_size": 9 * 1024 * 1024, "compression_type": "zstd"}
    catalog = AIOKafkaProducer(**login, **options, **sizes, transactional_id=f"{topics.catalog}.apply")
    control = AIOKafkaProducer(**login, **options, enable_idempotence=True)
    follower = CatalogFollower(topics.catalog, client=login)
    try:
        await start(catalog, settings)
        # The first transaction waits until Kafka has fenced the others and ended what they left open.
        await catalog.begin_transaction()
        await catalog.commit_transaction()
        await start(control, settings)
        await follower.start()
        yield _Writer(settings, catalog=catalog, control=control, priced=found[topics.priced], follower=follower)
    finally:
        await follower.stop()
        await close(control)
        await close(catalog)


async def _entries(settings: Settings) -> dict[str, CatalogEntry]:
    topic = settings.topics.catalog
    async with admin(settings) as client:
        if not (await partitions(client, [topic]))[topic]:
            raise missing_topic(settings, topic)
    async with CatalogFollower(topic, client=client_settings(settings)) as follower:
        return await follower.entries()


def read_catalog(settings: Settings) -> dict[str, CatalogEntry]:
    """Everything in force, by name.

    Raises:
        WrongUse: there is no topic yet.
        BrokerUnavailable: Kafka can't be reached.
    """
    return run(settings, _entries(settings))


def read_revision(settings: Settings, name: str, *, revision: int | None = None) -> CatalogEntry:
    """One book or set: the revision in force, or any that ever was.

    Raises:
        WrongUse: nothing of that name, or no such revision.
    """
    if revision is None:
        entries = read_catalog(settings)
        if name not in entries:
            known = ", ".join(sorted(entries)) or "nothing"
            raise WrongUse(f"Nothing named {name} is in force: there is {known}.")
        return entries[name]
    store = open_store(settings)
    try:
        stored = stored_revision(store, name, revision=revision)
    finally:
        store.close()
    if stored is None:
        raise WrongUse(f"There is no revision {revision} of {name}: see `tally catalog show {name}`.")
    return CatalogEntry(_content(stored), stored.applied_at)


def summarize(entry: CatalogEntry) -> dict[str, Any]:
    """One name in force, as JSON values."""
    content = entry.content
    return {
        "name": entry.name,
        "kind": entry.kind,
        "revision": entry.revision,
        "applied_at": write_instant(entry.applied_at),
        "rows": len(content.prices) + len(content.period_prices)
        if isinstance(content, PriceBook)
        else len(content.rules),
        "announced": entry.announced,
    }


def describe(entry: CatalogEntry, *, at: str | None = None) -> dict[str, Any]:
    """One book or set with its rows, as JSON values; with ``at`` only the prices that apply at that instant.

    Raises:
        WrongUse: ``at`` is no instant, or the name is a rule set.
    """
    head = {key: value for key, value in summarize(entry).items() if key != "rows"}
    if isinstance(entry.content, RuleSet):
        if at is not None:
            raise WrongUse(f"{entry.name} is a rule set: --at looks into price books.")
        rules = entry.content.model_dump(mode="json", by_alias=True, exclude_defaults=True).get("rules", [])
        return {**head, "rules": rules}
    book = entry.content
    instant = None if at is None else _instant(at)
    prices = [
        {"price_id": book.price_id(place), **price.content()}
        for place, price in enumerate(book.prices)
        if instant is None or _applies(price, instant)
    ]
    period_prices = [
        {"period_price_id": price_id, **price.content()}
        for price_id, price in with_ids(book.name, book.revision, book.period_prices)
        if instant is None or price.holds_in(f"{instant.year:04}-{instant.month:02}")
    ]
    adjustments = [
        {"adjustment_id": book.adjustment_id(place), **entry.content()}
        for place, entry in enumerate(book.adjustments)
        if instant is None or _applies(entry, instant)
    ]
    return {
        **head,
        "currency": book.currency,
        "prices": prices,
        "period_prices": period_prices,
        "adjustments": adjustments,
        "provider_aliases": book.provider_aliases,
        "ignore": list(book.ignore),
    }


def _applies(row: Price | Adjustment, instant: datetime) -> bool:
    """Whether the row's span and hours hold the instant."""
    instant_us = microseconds(instant)
    spans = WHOLE_DAY if row.hours is None else row.hours.spans
    second = instant_us % DAY_US // SECOND_US
    return row.start_us <= instant_us < row.end_us and any(start <= second < end for start, end in spans)


def _instant(text: str) -> datetime:
    try:
        return read_instant(text)
    except ValueError as error:
        raise WrongUse(f"--at {error}.") from error
