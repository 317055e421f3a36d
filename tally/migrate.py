"""``tally migrate``: the database, its tables and views, and the topics with the settings that the promises need.

Safe to repeat. What can be corrected on an existing topic is corrected; the partition count of ``usage.priced`` never
changes, because an org must stay in its partition (docs/design.md).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from aiokafka import errors as kafka_errors
from aiokafka.admin import NewPartitions, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from clickhouse.client import Store
from clickhouse.migrate import create_database, installation, migrate_store, record_installation
from schemas.errors import BrokerUnavailable, WrongUse
from schemas.topics import DAY_MS, MIB
from tally.connect import store_address
from tally.kafka import admin, partitions, run
from tally.settings import TOPIC_RETENTION_DAYS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aiokafka.admin import AIOKafkaAdminClient

    from tally.settings import Settings

PARTITIONS_DEFAULT: Final = 4
PARTITIONS_MAX: Final = 10_000
PRICED_PARTITIONS: Final = "priced_partitions"
TOPIC_PREFIX: Final = "topic_prefix"

TOPIC_SECONDS_MAX: Final = 30.0
DYNAMIC_TOPIC_CONFIG: Final = 1  # the source of a value that was set on the topic itself (DescribeConfigs, Kafka)

#: The broker's clock decides about lateness and about the dedupe horizon, never a producer's. Retention by size would
#: delete records before their time.
_KEPT: Final = {
    "cleanup.policy": "delete",
    "message.timestamp.type": "LogAppendTime",
    "retention.ms": str(TOPIC_RETENTION_DAYS * DAY_MS),
    "retention.bytes": "-1",
}


@dataclass(frozen=True, slots=True)
class TopicPlan:
    """What a topic must be."""

    name: str
    partitions: int
    settings: Mapping[str, str]


def topic_plans(settings: Settings, *, priced_partitions: int) -> tuple[TopicPlan, ...]:
    """The six topics. Sizes are of a record batch as stored, with keys and headers.

    ``usage.events`` is stored uncompressed: the broker then unpacks what a producer compressed and judges the size
    again. With the producer's compression a record of a few kilobytes could unfold to gigabytes in a worker, since
    ``max.message.bytes`` is compared with the compressed size. 2 MiB let a record of more than the allowed 1 MiB in,
    so that it is refused visibly (``too_large``) instead of at the producer alone.

    ``usage.priced`` holds blocks that are zstd inside, so nothing is compressed again. ``usage.alerts.state`` has as
    many partitions as ``usage.alerts``, so that an alert id has the same one in both.
    """
    topics, count = settings.topics, priced_partitions
    compacted = {
        "cleanup.policy": "compact",
        "message.timestamp.type": "LogAppendTime",
        "compression.type": "producer",
    }
    return (
        TopicPlan(
            topics.events, count, {**_KEPT, "max.message.bytes": str(2 * MIB), "compression.type": "uncompressed"}
        ),
        TopicPlan(topics.priced, count, {**_KEPT, "max.message.bytes": str(9 * MIB), "compression.type": "producer"}),
        TopicPlan(topics.rejected, count, {**_KEPT, "max.message.bytes": str(MIB), "compression.type": "producer"}),
        TopicPlan(topics.alerts, count, {**_KEPT, "max.message.bytes": str(MIB), "compression.type": "producer"}),
        TopicPlan(topics.alerts_state, count, {**compacted, "max.message.bytes": str(MIB)}),
        TopicPlan(topics.catalog, 1, {**compacted, "max.message.bytes": str(9 * MIB)}),
    )


def migrate(settings: Settings, *, priced_partitions: int | None = None) -> dict[str, Any]:
    """Creates or upgrades everything and says what it did.

    ``priced_partitions`` None keeps the count that is there, or takes 4.

    Raises:
        WrongUse: another partition count or topic prefix than the installation has, or an edited migration.
        ServerUnavailable: Kafka or ClickHouse can't be reached; what was done stays, repeat.
    """
    if priced_partitions is not None and not 1 <= priced_partitions <= PARTITIONS_MAX:
        raise WrongUse(f"--partitions must be between 1 and {PARTITIONS_MAX}.")
    return run(settings, _migrate(settings, priced_partitions))


async def _migrate(settings: Settings, asked: int | None) -> dict[str, Any]:
    address = store_address(settings)
    async with admin(settings) as client:
        created = create_database(address)
        store = Store(address)
        try:
            recorded = installation(store)
            count = await _priced_partitions(settings, client, recorded, asked, where=address.shown)
            done = migrate_store(store)
            topics = [await _settle(settings, client, plan) for plan in topic_plans(settings, priced_partitions=count)]
            record_installation(store, {TOPIC_PREFIX: settings.topic_prefix, PRICED_PARTITIONS: str(count)})
            installation(store)  # refuses when another run has just recorded something else
        finally:
            store.close()
    return {
        "store": {
            "url": address.shown,
            "database_created": created,
            "applied": list(done.applied),
            "already": done.already,
        },
        "topics": topics,
    }


async def _priced_partitions(
    settings: Settings, client: AIOKafkaAdminClient, recorded: Mapping[str, str], asked: int | None, *, where: str
) -> int:
    """The partition count of ``usage.priced``: what Kafka or the store has, else what was asked for, else 4."""
    prefix = recorded.get(TOPIC_PREFIX, settings.topic_prefix)
    if prefix != settings.topic_prefix:
        raise WrongUse(
            f"The database {where} belongs to the topics with the prefix {prefix!r}, not {settings.topic_prefix!r}: "
            "correct TALLY_TOPIC_PREFIX or use another database in TALLY_STORE_URL."
        )
    topic = settings.topics.priced
    existing = len((await partitions(client, [topic]))[topic])
    stored = int(recorded.get(PRICED_PARTITIONS, "0"))
    if existing and stored and existing != stored:
        raise WrongUse(
            f"The database {where} was filled from {stored} partitions of {topic}, but Kafka has {existing}: "
            "correct TALLY_KAFKA_BOOTSTRAP, TALLY_TOPIC_PREFIX or TALLY_STORE_URL, one of them is of another "
            "installation."
        )
    count = existing or stored
    if count and asked is not None and asked != count:
        raise WrongUse(
            f"{topic} has {count} partitions and can't get {asked}: each org must stay in its partition; leave "
            "--partitions out, or migrate another TALLY_TOPIC_PREFIX into another database."
        )
    return count or asked or PARTITIONS_DEFAULT


async def _settle(settings: Settings, client: AIOKafkaAdminClient, plan: TopicPlan) -> dict[str, Any]:
    """Makes one topic what its plan says; hands back what was done."""
    created = await _create(client, plan)
    count = await _wait_for_partitions(settings, client, plan)
    grown = plan.name == settings.topics.events and count < plan.partitions
    if grown:
        await client.create_partitions({plan.name: NewPartitions(plan.partitions)})
        count = plan.partitions
    corrected = {} if created else await _correct(client, plan)
    done = "created" if created else "corrected" if corrected or grown else "unchanged"
    return {"topic": plan.name, "partitions": count, "done": done, "corrected": corrected}


async def _create(client: AIOKafkaAdminClient, plan: TopicPlan) -> bool:
    """True when the topic is new."""
    if (await partitions(client, [plan.name]))[plan.name]:
        return False
    topic = NewTopic(plan.name, plan.partitions, 1, topic_configs=dict(plan.settings))
    topic.replication_factor = -1  # the broker's default decides about replicas; the constructor refuses to say so
    answer = (await client.create_topics([topic])).to_object()
    for entry in answer["topic_errors"]:
        error = kafka_errors.for_code(entry["error_code"])
        if error is kafka_errors.TopicAlreadyExistsError:  # a run at the same time was faster
            return False
        if error is not kafka_errors.NoError:
            _raise_refusal(plan.name, error, entry.get("error_message"))
    return True


def _raise_refusal(topic: str, error: type[kafka_errors.KafkaError], said: str | None) -> None:
    if error.retriable:
        raise error(said or topic)
    if issubclass(error, (kafka_errors.TopicAuthorizationFailedError, kafka_errors.ClusterAuthorizationFailedError)):
        raise error(said or topic)
    raise WrongUse(f"Kafka refuses the topic {topic} ({error.__name__}): {said or 'it does not say why'}.")


async def _wait_for_partitions(settings: Settings, client: AIOKafkaAdminClient, plan: TopicPlan) -> int:
    """How many partitions the topic has; a new one takes a moment to be known."""
    deadline = asyncio.get_running_loop().time() + TOPIC_SECONDS_MAX
    while asyncio.get_running_loop().time() < deadline:
        count = len((await partitions(client, [plan.name]))[plan.name])
        if count:
            return count
        await asyncio.sleep(0.1)
    raise BrokerUnavailable(
        f"Kafka at {settings.kafka_bootstrap} has not made the topic {plan.name} within {TOPIC_SECONDS_MAX:.0f} s: "
        "look at its log and migrate again."
    )


async def _correct(client: AIOKafkaAdminClient, plan: TopicPlan) -> dict[str, str]:
    """Sets what differs from the plan, keeps what else was set on the topic, and hands back what it changed."""
    entries = await _config_entries(client, plan.name)
    current = {entry["config_names"]: entry["config_value"] for entry in entries}
    wrong = {name: value for name, value in plan.settings.items() if current.get(name) != value}
    if not wrong:
        return {}
    # AlterConfigs replaces all that was set on the topic: what an operator has set beside ours is sent along.
    own = {
        entry["config_names"]: entry["config_value"]
        for entry in entries
        if entry["config_source"] == DYNAMIC_TOPIC_CONFIG and entry["config_value"] is not None
    }
    changed = ConfigResource(ConfigResourceType.TOPIC, plan.name, configs={**own, **wrong})
    for answer in await client.alter_configs([changed]):
        for found in answer.to_object()["resources"]:
            error = kafka_errors.for_code(found["error_code"])
            if error is not kafka_errors.NoError:
                _raise_refusal(plan.name, error, found.get("error_message"))
    return wrong


async def topic_settings(client: AIOKafkaAdminClient, topic: str) -> dict[str, str]:
    """The settings in force on a topic, by name."""
    return {entry["config_names"]: entry["config_value"] for entry in await _config_entries(client, topic)}


async def _config_entries(client: AIOKafkaAdminClient, topic: str) -> list[dict[str, Any]]:
    return [
        entry
        for answer in await client.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
        for found in answer.to_object()["resources"]
        for entry in found["config_entries"]
    ]


def migration_rows(answer: Mapping[str, Any]) -> Sequence[dict[str, Any]]:
    """The answer of ``migrate`` as rows for a table: what was touched, and what was done to it."""
    store = answer["store"]
    rows = [{"what": f"database {store['url']}", "done": "created" if store["database_created"] else "unchanged"}]
    rows += [{"what": f"migration {name}", "done": "applied"} for name in store["applied"]]
    if store["already"]:
        rows.append({"what": f"{store['already']} earlier migrations", "done": "unchanged"})
    for topic in answer["topics"]:
        changes = ", ".join(f"{name}={value}" for name, value in topic["corrected"].items())
        done = f"{topic['done']}: {changes}" if changes else topic["done"]
        rows.append({"what": f"topic {topic['topic']} ({topic['partitions']} partitions)", "done": done})
    return rows
