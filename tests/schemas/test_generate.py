"""The generated documents: what they describe is what is sent, and they are up to date."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
import referencing
from pydantic import TypeAdapter

from pipeline.decode import Limits, decode
from schemas.event import UsageData, UsageEvent
from schemas.generate import ASYNCAPI, FOLDER, documents, main
from schemas.price_book import PriceBook
from schemas.published import Alert, RejectedEvent
from schemas.rules import RuleSet
from schemas.topics import Topics
from tests.pipeline.event_examples import make_record
from tests.schemas.test_vocabularies import EXAMPLES as VOCABULARY_EXAMPLES
from tests.schemas.test_vocabularies import Example as VocabularyExample

if TYPE_CHECKING:
    from pathlib import Path

DOCUMENTS = documents()
SCHEMAS = {name: document for name, document in DOCUMENTS.items() if name != ASYNCAPI}
EXAMPLES = [(name, example) for name, document in SCHEMAS.items() for example in document["examples"]]
ASYNCAPI_DOCUMENT = DOCUMENTS[ASYNCAPI]
MODELS: dict[str, Any] = {
    "usage-event.schema.json": UsageEvent,
    "usage-event-batch.schema.json": list[UsageEvent],
    "usage-data.schema.json": UsageData,
    "usage-rejected.schema.json": RejectedEvent,
    "usage-alert.schema.json": Alert,
    "price-book.schema.json": PriceBook,
    "rule-set.schema.json": RuleSet,
}


def validator(name: str) -> jsonschema.Draft202012Validator:
    """A validator for one of the schemas that finds the others by their names."""
    registry = referencing.Registry[Any]().with_contents(SCHEMAS.items())
    return jsonschema.Draft202012Validator(SCHEMAS[name], registry=registry)


def references(node: Any) -> list[str]:
    """Every ``$ref`` in a document."""
    if isinstance(node, dict):
        own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
        return own + [found for value in node.values() for found in references(value)]
    return [found for value in node for found in references(value)] if isinstance(node, list) else []


def test_the_files_are_what_the_models_say() -> None:
    """Nothing derivable is typed twice: `python -m schemas.generate` writes them."""
    assert {path.name: json.loads(path.read_text("utf-8")) for path in FOLDER.glob("*.json")} == DOCUMENTS


def test_check_names_what_is_out_of_date(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And exits 1 until the files are written again."""
    assert main([], folder=tmp_path) == 0
    assert main(["--check"], folder=tmp_path) == 0
    (tmp_path / ASYNCAPI).write_text("{}")
    (tmp_path / "left-over.schema.json").write_text("{}")

    assert main(["--check"], folder=tmp_path) == 1

    message = capsys.readouterr().err
    assert "asyncapi.json" in message
    assert "left-over.schema.json" in message
    assert main([], folder=tmp_path) == 0
    assert main(["--check"], folder=tmp_path) == 0


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_schema_is_a_json_schema(name: str) -> None:
    """Of the dialect that it names."""
    jsonschema.Draft202012Validator.check_schema(SCHEMAS[name])


@pytest.mark.parametrize(("name", "example"), EXAMPLES, ids=[name for name, _ in EXAMPLES])
def test_every_example_is_valid(name: str, example: Any) -> None:
    """For a JSON Schema validator and for the model alike."""
    validator(name).validate(example)

    assert TypeAdapter(MODELS[name]).validate_python(example) is not None


def test_the_example_event_is_accepted() -> None:
    """What the documents show can be sent as it is."""
    (example,) = SCHEMAS["usage-event.schema.json"]["examples"]

    assert decode([make_record(example)], limits=Limits()).events.height == 1


def test_the_example_of_a_vocabulary_says_the_same_as_the_ordinary_one() -> None:
    """Whoever reads the schema sees what is inside of what."""
    ordinary, pasted = (UsageData.model_validate(data) for data in SCHEMAS["usage-data.schema.json"]["examples"])

    assert pasted.vocabulary == "openai"
    assert ordinary == pasted.model_copy(update={"vocabulary": None})


@pytest.mark.parametrize(
    "wrong",
    [{"time": "2026-03-01 12:00:00Z"}, {"id": ""}, {"specversion": "0.3"}, {"data": {"project": "p"}}, {"subject": 5}],
)
def test_a_wrong_event_is_invalid_for_its_schema(wrong: dict[str, Any]) -> None:
    """A producer that validates before sending learns of it there."""
    (example,) = SCHEMAS["usage-event.schema.json"]["examples"]

    assert not validator("usage-event.schema.json").is_valid(example | wrong)
    assert not validator("usage-event-batch.schema.json").is_valid([example, example | wrong])


@pytest.mark.parametrize("example", VOCABULARY_EXAMPLES, ids=str)
def test_a_usage_object_of_another_system_is_valid_for_the_schema(example: VocabularyExample) -> None:
    """With its vocabulary, and only then: without it names and values are ours."""
    (event,) = SCHEMAS["usage-event.schema.json"]["examples"]
    pasted = event | {"data": event["data"] | {"vocabulary": example.vocabulary, "usage": example.usage}}

    validator("usage-event.schema.json").validate(pasted)

    nested = event | {"data": event["data"] | {"usage": {"details": {"cached_tokens": 5}}}}
    assert not validator("usage-event.schema.json").is_valid(nested)
    assert not validator("usage-event.schema.json").is_valid(event | {"data": pasted["data"] | {"vocabulary": "x"}})


def test_asyncapi_describes_every_topic() -> None:
    """With the addresses that an installation without a prefix has."""
    addresses = {channel["address"] for channel in ASYNCAPI_DOCUMENT["channels"].values()}
    topics = Topics()

    outgoing = {topics.priced, topics.rejected, topics.alerts, topics.alerts_state, topics.catalog}
    assert addresses == {topics.events} | outgoing


def test_asyncapi_has_no_dangling_references() -> None:
    """Each points into the document or to a generated file beside it."""
    for reference in references(ASYNCAPI_DOCUMENT):
        if not reference.startswith("#/"):
            assert reference.removeprefix("./") in SCHEMAS
            continue
        node = ASYNCAPI_DOCUMENT
        for step in reference.removeprefix("#/").split("/"):
            node = node[step]


def test_every_channel_has_an_operation_and_every_message_a_channel() -> None:
    """So that nothing in the document is out of reach for its readers."""
    channels = ASYNCAPI_DOCUMENT["channels"]
    operated = {
        operation["channel"]["$ref"].rpartition("/")[2] for operation in ASYNCAPI_DOCUMENT["operations"].values()
    }
    messages = {message for channel in channels.values() for message in channel["messages"]}

    assert operated == set(channels)
    assert messages == set(ASYNCAPI_DOCUMENT["components"]["messages"])


@pytest.mark.parametrize("name", ASYNCAPI_DOCUMENT["components"]["messages"])
def test_every_example_in_asyncapi_is_valid(name: str) -> None:
    """For the schema that its message points to."""
    message = ASYNCAPI_DOCUMENT["components"]["messages"][name]
    for example in message.get("examples", []):
        reference = message["payload"]["schema"]["$ref"]
        validator(reference.removeprefix("./")).validate(example["payload"])
        jsonschema.validate(example.get("headers", {}), message.get("headers", {}))


def test_a_refusal_as_published_fits_its_schema() -> None:
    """The fields of a refusal are the fields of the schema, but for how many events its record held."""
    (reject,) = decode([make_record(None)], limits=Limits()).rejects
    fields = {name: getattr(reject, name) for name in RejectedEvent.model_fields}
    fields |= {"reason": reject.reason.value, "received_at": f"{reject.received_at:%Y-%m-%dT%H:%M:%S.%f}Z"}

    validator("usage-rejected.schema.json").validate(fields)
