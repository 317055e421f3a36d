"""The private parts of Faust, aiokafka and mode that agents/chunks.py overrides or leans on are what they were.

The three packages are pinned exactly. When a pin is moved, this test says which of these parts changed: read them, make
sure that the chunk transport still does what its docstrings say, run `make soak`, then write the new digests down here
(``python -m tests.agents.test_chunks_guard`` prints them).
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import inspect
from typing import TYPE_CHECKING, Any, Final

import faust.streams
import pytest
from aiokafka.consumer.consumer import AIOKafkaConsumer
from aiokafka.consumer.fetcher import Fetcher
from aiokafka.consumer.group_coordinator import GroupCoordinator
from faust.app.base import App
from faust.serializers.schemas import Schema
from faust.streams import Stream
from faust.tables.recovery import Recovery
from faust.transport import consumer as transport
from faust.transport.drivers import aiokafka as driver
from faust.types.tuples import ConsumerMessage, Message
from mode import Service
from mode.utils import futures

from agents.chunks import ChunkConsumer, ChunkConsumerThread, ChunkSchema

if TYPE_CHECKING:
    from collections.abc import Callable

VERSIONS: Final = {"faust-streaming": "0.15.3", "aiokafka": "0.14.0", "mode-streaming": "0.7.1"}

OVERRIDDEN: Final[tuple[tuple[type, type, tuple[str, ...]], ...]] = (
    (
        ChunkConsumer,
        driver.Consumer,
        (
            "__init__",
            "_add_gap",
            "_commit",
            "_filter_tps_with_pending_acks",
            "_new_consumer_thread",
            "_new_offset",
            "_wait_next_records",
            "ack",
            "getmany",
            "on_buffer_drop",
            "on_partitions_revoked",
            "perform_seek",
            "verify_event_path",
            "wait_empty",
        ),
    ),
    (ChunkConsumerThread, driver.AIOKafkaConsumerThread, ("_create_worker_consumer", "seek_to_committed")),
    (ChunkSchema, Schema, ("loads_key", "loads_value")),
)

LEANED_ON: Final[tuple[Callable[..., Any], ...]] = (
    App._new_transport,
    App._on_partitions_assigned,
    App._on_partitions_revoked,
    App._stop_consumer,
    App.on_rebalance_start,
    AIOKafkaConsumer.getmany,
    AIOKafkaConsumer.seek_to_beginning,
    AIOKafkaConsumer.seek_to_committed,
    ConsumerMessage,
    Fetcher.fetched_records,
    Fetcher.request_offset_reset,
    Fetcher.seek_to,
    GroupCoordinator._coordination_routine,
    GroupCoordinator._on_join_complete,
    GroupCoordinator._on_join_prepare,
    GroupCoordinator.check_errors,
    GroupCoordinator.ensure_active_group,
    Message,
    Recovery._resume_streams,
    Recovery.on_recovery_completed,
    Service.itertimer,
    Stream.noack,
    driver.AIOKafkaConsumerThread._commit,
    driver.AIOKafkaConsumerThread._fetch_records,
    driver.AIOKafkaConsumerThread.getmany,
    driver.AIOKafkaConsumerThread.seek_to_beginning,
    driver.AIOKafkaConsumerThread.verify_event_path,
    futures.notify,
    transport.Consumer._clean_unacked_messages,
    transport.Consumer._commit_offsets,
    transport.Consumer._commit_tps,
    transport.Consumer._drain_messages,
    transport.Consumer._filter_committable_offsets,
    transport.Consumer._get_active_partitions,
    transport.Consumer._should_commit,
    transport.Consumer._wait_for_ack,
    transport.Consumer.force_commit,
    transport.Consumer.track_message,
    transport.ensure_TP,
)

DIGESTS: Final = {
    "aiokafka.consumer.consumer.AIOKafkaConsumer.getmany": "bc6d248e42a4e9d9",
    "aiokafka.consumer.consumer.AIOKafkaConsumer.seek_to_beginning": "231229deedd7d1ef",
    "aiokafka.consumer.consumer.AIOKafkaConsumer.seek_to_committed": "f6cd85c8b70a4ccf",
    "aiokafka.consumer.fetcher.Fetcher.fetched_records": "be4348896b9b66af",
    "aiokafka.consumer.fetcher.Fetcher.request_offset_reset": "e5bd8ba8838613c9",
    "aiokafka.consumer.fetcher.Fetcher.seek_to": "f0ba6aba6c22ef83",
    "aiokafka.consumer.group_coordinator.GroupCoordinator._coordination_routine": "75273e127d4a4f5d",
    "aiokafka.consumer.group_coordinator.GroupCoordinator._on_join_complete": "0b0b3d204b408f3c",
    "aiokafka.consumer.group_coordinator.GroupCoordinator._on_join_prepare": "4d9524afc0ee2c2f",
    "aiokafka.consumer.group_coordinator.GroupCoordinator.check_errors": "ba6ca51ad34838d9",
    "aiokafka.consumer.group_coordinator.GroupCoordinator.ensure_active_group": "33c84c1a93012e81",
    "faust.app.base.App._new_transport": "42db531312dd776f",
    "faust.app.base.App._on_partitions_assigned": "de932b7927db85b3",
    "faust.app.base.App._on_partitions_revoked": "d5c895bbe57dc73a",
    "faust.app.base.App._stop_consumer": "55854a5de12c3f52",
    "faust.app.base.App.on_rebalance_start": "5c1e23de30674082",
    "faust.serializers.schemas.Schema.loads_key": "9adc30303f20915c",
    "faust.serializers.schemas.Schema.loads_value": "61a4628b4e0966e6",
    "faust.streams.Stream.noack": "921a6f5c674d32d4",
    "faust.tables.recovery.Recovery._resume_streams": "d986a6710c1aca98",
    "faust.tables.recovery.Recovery.on_recovery_completed": "6ef567acf072e46d",
    "faust.transport.consumer.Consumer._add_gap": "4df2573ded7c1c2c",
    "faust.transport.consumer.Consumer._clean_unacked_messages": "11be2587e71c9162",
    "faust.transport.consumer.Consumer._commit_offsets": "1a69799041188441",
    "faust.transport.consumer.Consumer._commit_tps": "a20e230b05ae8b15",
    "faust.transport.consumer.Consumer._drain_messages": "44a2500309e83c63",
    "faust.transport.consumer.Consumer._filter_committable_offsets": "dc5e9baf5d994485",
    "faust.transport.consumer.Consumer._filter_tps_with_pending_acks": "f6f9239774234e7e",
    "faust.transport.consumer.Consumer._get_active_partitions": "b24897f3c7afdb5d",
    "faust.transport.consumer.Consumer._new_offset": "1d2c7ea89a7ad4f1",
    "faust.transport.consumer.Consumer._should_commit": "5ce941793947ad42",
    "faust.transport.consumer.Consumer._wait_for_ack": "d9c9337d4af88e54",
    "faust.transport.consumer.Consumer._wait_next_records": "6218e1969a636b3f",
    "faust.transport.consumer.Consumer.ack": "5fcf41cf45153475",
    "faust.transport.consumer.Consumer.force_commit": "cc094614d22c70fb",
    "faust.transport.consumer.Consumer.getmany": "4b168d84882a70d6",
    "faust.transport.consumer.Consumer.on_buffer_drop": "4b57e8a418d5ad9c",
    "faust.transport.consumer.Consumer.on_partitions_revoked": "d04b7ae72c6fc206",
    "faust.transport.consumer.Consumer.perform_seek": "0e8c130ff4b0afd8",
    "faust.transport.consumer.Consumer.track_message": "217d7f1399a4cd8e",
    "faust.transport.consumer.Consumer.wait_empty": "e4662fe24f094819",
    "faust.transport.consumer.ThreadDelegateConsumer.__init__": "7072ae80eac1ff62",
    "faust.transport.consumer.ThreadDelegateConsumer._commit": "a20eec84e4b2ed50",
    "faust.transport.consumer.ensure_TP": "62a2822ff531792e",
    "faust.transport.drivers.aiokafka.AIOKafkaConsumerThread._commit": "932852ce7a23f658",
    "faust.transport.drivers.aiokafka.AIOKafkaConsumerThread._create_worker_consumer": "c2701bfc3e6f6cad",
    "faust.transport.drivers.aiokafka.AIOKafkaConsumerThread._fetch_records": "39a2c6c79fc1455a",
    "faust.transport.drivers.aiokafka.AIOKafkaConsumerThread.getmany": "26fc5fc9f3b667e1",
    "faust.transport.drivers.aiokafka.AIOKafkaConsumerThread.seek_to_beginning": "bd4250b8d1e76d33",
    "faust.transport.drivers.aiokafka.AIOKafkaConsumerThread.seek_to_committed": "775ab0adc4b052ab",
    "faust.transport.drivers.aiokafka.AIOKafkaConsumerThread.verify_event_path": "b983e7735f647cb3",
    "faust.transport.drivers.aiokafka.Consumer._new_consumer_thread": "0870ec53dea75083",
    "faust.transport.drivers.aiokafka.Consumer.verify_event_path": "a17e8f0610e1abcb",
    "faust.types.tuples.ConsumerMessage": "5edc45d571eb42a2",
    "faust.types.tuples.Message": "e8c4626e99192f7e",
    "mode.services.Service.itertimer": "4d8c5910afd70c7b",
    "mode.utils.futures.notify": "ef6a073439d5ece3",
}


def parts() -> dict[str, Callable[..., Any]]:
    """Everything that is guarded, by name."""
    overridden = [getattr(base, name) for _, base, names in OVERRIDDEN for name in names]
    return {f"{part.__module__}.{part.__qualname__}": part for part in (*overridden, *LEANED_ON)}


def digest(part: Callable[..., Any]) -> str:
    """Of the source, which begins with the signature."""
    return hashlib.sha256(inspect.getsource(part).encode()).hexdigest()[:16]


@pytest.mark.parametrize(("package", "version"), VERSIONS.items())
def test_the_pinned_version_is_installed(package: str, version: str) -> None:
    """The digests below are those of these versions."""
    assert importlib.metadata.version(package) == version


@pytest.mark.parametrize("name", sorted(parts()))
def test_a_part_that_the_transport_leans_on_is_unchanged(name: str) -> None:
    """An upgrade that changes one of them is a decision, not an accident."""
    assert DIGESTS[name] == digest(parts()[name])


def test_no_digest_is_left_over() -> None:
    """Each digest belongs to a part that is still leaned on."""
    assert set(DIGESTS) == set(parts())


@pytest.mark.parametrize(("ours", "base", "names"), OVERRIDDEN, ids=lambda value: getattr(value, "__name__", ""))
def test_every_override_is_guarded_and_takes_what_its_base_takes(
    ours: type, base: type, names: tuple[str, ...]
) -> None:
    """A new override must be listed here; its parameters are those with which the base is called."""
    own = {
        name
        for name, value in vars(ours).items()
        if hasattr(base, name) and (inspect.isfunction(value) or name == "__init__")
    }

    assert own == set(names)
    for name in names:
        expected, actual = inspect.signature(getattr(base, name)), inspect.signature(getattr(ours, name))
        takes_all = any(part.kind is inspect.Parameter.VAR_POSITIONAL for part in actual.parameters.values())
        assert takes_all or list(actual.parameters) == list(expected.parameters), name


def test_the_compiled_stream_iterator_is_installed() -> None:
    """The one in Python acks events of old generations that it skipped."""
    assert faust.streams._CStreamIterator is not None


def test_a_coordinator_has_what_the_watchdog_looks_at() -> None:
    """Both attributes are set where the watchdog expects them."""
    source = inspect.getsource(GroupCoordinator)

    assert "self._coordination_task = " in source
    assert "self._pending_exception = " in source


if __name__ == "__main__":
    for found, part in sorted(parts().items()):
        print(f'    "{found}": "{digest(part)}",')  # noqa: T201
