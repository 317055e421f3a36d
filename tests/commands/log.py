"""Looks into the real log and into the real store, and puts things there that no command would."""

from __future__ import annotations

import asyncio
from contextlib import closing
from typing import TYPE_CHECKING, Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import NewTopic, RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from tally.connect import open_store
from tally.kafka import admin, client_settings, partitions, reader, run

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tally.migrate import TopicPlan
    from tally.settings import Settings


def topic_settings(settings: Settings, topic: str) -> dict[str, str]:
    """What the broker says of a topic's settings."""

    async def ask() -> dict[str, str]:
        async with admin(settings) as client:
            (answer,) = await client.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
            (resource,) = answer.to_object()["resources"]
            return {entry["config_names"]: entry["config_value"] for entry in resource["config_entries"]}

    return run(settings, ask())


def alter_topic(settings: Settings, topic: str, values: Mapping[str, str]) -> None:
    """Sets a topic's settings to exactly these."""

    async def ask() -> None:
        async with admin(settings) as client:
            await client.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, configs=dict(values))])

    run(settings, ask())


def delete_records(settings: Settings, topic: str, *, before: int) -> None:
    """Deletes the records of partition 0 below an offset, as retention does."""

    async def ask() -> None:
        async with admin(settings) as client:
            await client.delete_records({TopicPartition(topic, 0): RecordsToDelete(before_offset=before)})

    run(settings, ask())


def partition_count(settings: Settings, topic: str) -> int:
    """How many partitions a topic has; 0 when there is none."""

    async def ask() -> int:
        async with admin(settings) as client:
            return len((await partitions(client, [topic]))[topic])

    return run(settings, ask())


def create_topics(settings: Settings, plans: Sequence[TopicPlan]) -> None:
    """Makes topics as ``tally migrate`` does, and waits until they are there."""

    async def ask() -> None:
        async with admin(settings) as client:
            await client.create_topics(
                [NewTopic(plan.name, plan.partitions, 1, topic_configs=dict(plan.settings)) for plan in plans]
            )
            for plan in plans:
                while len((await partitions(client, [plan.name]))[plan.name]) < plan.partitions:  # noqa: ASYNC110
                    await asyncio.sleep(0.1)

    run(settings, ask())


def delete_topics(settings: Settings, *topics: str) -> None:
    """Deletes topics and waits until they are gone."""

    async def ask() -> None:
        async with admin(settings) as client:
            await client.delete_topics(list(topics))
            while any((await partitions(client, topics)).values()):  # noqa: ASYNC110 -- nothing tells when it is done
                await asyncio.sleep(0.1)

    run(settings, ask())


def records(settings: Settings, topic: str) -> list[Any]:
    """All committed records of a topic, by partition and offset."""

    async def ask() -> list[Any]:
        async with admin(settings) as client, reader(settings) as consumer:
            found: list[Any] = []
            for number in (await partitions(client, [topic]))[topic]:
                partition = TopicPartition(topic, number)
                consumer.assign([partition])
                end = (await consumer.end_offsets([partition]))[partition]
                await consumer.seek_to_beginning(partition)
                while await consumer.position(partition) < end:
                    found += (await consumer.getmany(partition, timeout_ms=200)).get(partition, [])
            return found

    return run(settings, ask())


def produce(
    settings: Settings,
    topic: str,
    values: Sequence[bytes],
    *,
    key: bytes | None = None,
    headers: Sequence[tuple[str, bytes]] = (),
) -> None:
    """Puts records into partition 0 of a topic."""

    async def ask() -> None:
        producer = AIOKafkaProducer(**client_settings(settings), acks="all")
        await producer.start()
        try:
            for value in values:
                await producer.send_and_wait(topic, value, key=key, partition=0, headers=list(headers))
        finally:
            await producer.stop()

    run(settings, ask())


def produce_keyed(settings: Settings, topic: str, messages: Sequence[tuple[str, bytes | None]]) -> None:
    """Puts messages where their keys belong, as a worker's publisher does, one after the other."""

    async def ask() -> None:
        producer = AIOKafkaProducer(**client_settings(settings), acks="all")
        await producer.start()
        try:
            sent = [await producer.send(topic, value, key=key.encode()) for key, value in messages]
            await asyncio.gather(*sent)
        finally:
            await producer.stop()

    run(settings, ask())


def produce_in_transaction(settings: Settings, topic: str, values: Sequence[bytes], *, commit: bool) -> None:
    """Puts records into partition 0 of a topic in one transaction, which leaves a marker behind them."""

    async def ask() -> None:
        producer = AIOKafkaProducer(**client_settings(settings), transactional_id=f"{topic}.test")
        await producer.start()
        try:
            await producer.begin_transaction()
            for value in values:
                await producer.send_and_wait(topic, value, partition=0)
            await (producer.commit_transaction() if commit else producer.abort_transaction())
        finally:
            await producer.stop()
        # Kafka answers before the marker is in the log; what is produced next must stand behind it.
        partition = TopicPartition(topic, 0)
        async with reader(settings) as stable, reader(settings, isolation="read_uncommitted") as whole:
            while await stable.end_offsets([partition]) != await whole.end_offsets([partition]):  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    run(settings, ask())


def commit(settings: Settings, topic: str, offsets: Mapping[int, int]) -> None:
    """Commits offsets for the group of the settings, as a worker would."""

    async def ask() -> None:
        consumer = AIOKafkaConsumer(**client_settings(settings), group_id=settings.app_id, enable_auto_commit=False)
        await consumer.start()
        try:
            wanted = {TopicPartition(topic, number): offset for number, offset in offsets.items()}
            consumer.assign(list(wanted))
            await consumer.commit(wanted)
        finally:
            await consumer.stop()

    run(settings, ask())


def rows(settings: Settings, sql: str) -> list[dict[str, Any]]:
    """The answer of the store."""
    with closing(open_store(settings)) as store:
        return store.rows(sql)
