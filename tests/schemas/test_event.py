"""The models say what is accepted: decode takes an event exactly when they do."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any, Literal, get_args

import pytest
from hypothesis import HealthCheck, given, settings
from pydantic import ValidationError

from pipeline.decode import Limits, decode
from schemas.event import UsageData, UsageEvent
from schemas.vocabularies import VOCABULARIES
from tests.pipeline.event_examples import compact, make_data, make_event, make_record
from tests.pipeline.test_decode_fast_path import EVENTS, ORDINARY

#: How far a time may lie away is about the record and nothing that a model could know.
ANY_TIME = Limits(max_ahead_seconds=10**12, max_age_days=10**7)


def model_accepts(value: bytes) -> bool:
    """Whether the model takes the event. Fractions are read as decimals: a float has lost digits already."""
    try:
        UsageEvent.model_validate(json.loads(value, parse_float=Decimal))
    except ValidationError:
        return False
    return True


def decode_accepts(value: bytes) -> bool:
    """Whether the pipeline takes the event."""
    return decode([make_record(value)], limits=ANY_TIME).rejects == []


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(ORDINARY | EVENTS)
def test_decode_accepts_exactly_what_the_model_accepts(event: dict[str, Any]) -> None:
    """So that the published schema is the contract and not a picture of it. NaN is no JSON and so no event."""
    value = compact(event)
    if b"NaN" not in value and b"Infinity" not in value:
        assert decode_accepts(value) == model_accepts(value)


@pytest.mark.parametrize(
    "event",
    [
        make_event(),
        make_event(data=make_data(model="", user=None, status=None, usage=None, tags=None)),
        make_event(data=make_data(usage={"a": "0.1", "b": 10**15, "c": -0.0})),
        make_event(time="2026-03-01t12:00:00.1234567890z", ext={"any": ["thing"]}),
        make_event(id=""),
        make_event(subject=5),
        make_event(specversion="1.1"),
        make_event(time="2026-02-29T12:00:00Z"),
        make_event(data=make_data(api_key="sk_live_1")),
        make_event(data=make_data(other=None)),
        make_event(data=make_data(usage={"requests": 1})),
        make_event(data=make_data(usage={"a": True})),
        make_event(data=make_data(usage={"a": 1e-10})),
        make_event(data=make_data(usage={f"a{i}": 1 for i in range(65)})),
        make_event(data=make_data(tags={"a": "Bearer sk_live_1"})),
        make_event(data=make_data(tags={f"a{i}": "" for i in range(17)})),
        make_event(data=make_data(tags={"a": "x" * 129})),
        make_event(data=make_data(variant={"service_tier": "flex", "batch": True, "speed": "", "region": None})),
        make_event(data=make_data(variant={})),
        make_event(data=make_data(variant=None)),
        make_event(data=make_data(variant={"batch": "true"})),
        make_event(data=make_data(variant={"batch": 1})),
        make_event(data=make_data(variant={"tier": "flex"})),
        make_event(data=make_data(variant={"region": "e u"})),
        make_event(data=make_data(variant="")),
        make_event(data=make_data(status="")),
        make_event(data=make_data(vocabulary="openai", usage={"prompt_tokens": 5, "details": {"text": "a"}})),
        make_event(data=make_data(vocabulary="openai", usage={"prompt_tokens": 5, "total_tokens": 6})),
        make_event(data=make_data(vocabulary="openai", usage={"prompt_tokens": 5, "details": {"text": "sk_live_1"}})),
        make_event(data=make_data(vocabulary="openai", usage={"prompt_tokens": 5, "details": [{"sk_live_1": 1}]})),
        make_event(data=make_data(vocabulary="openai", usage={"prompt_tokens": 5, "details": ["\ud800"]})),
        make_event(data=make_data(vocabulary="openai", usage={f"a{i}": None for i in range(65)})),
        make_event(data=make_data(vocabulary="openai", usage={"a": {f"a{i}": 1 for i in range(65)}})),
        make_event(data=make_data(vocabulary="openai", usage={"a": {f"a{i}": 1 for i in range(64)}})),
        make_event(data=make_data(vocabulary="openai", usage=[])),
        make_event(data=make_data(vocabulary="openai", usage=None)),
        make_event(data=make_data(vocabulary="OpenAI")),
        make_event(data=make_data(vocabulary="")),
        make_event(data=make_data(vocabulary=None, usage={"prompt_tokens_details": {}})),
        make_event(data=[]),
    ],
)
def test_the_model_and_decode_agree_on_the_edges(event: dict[str, Any]) -> None:
    """The cases that chance would not find in a lifetime."""
    assert decode_accepts(compact(event)) == model_accepts(compact(event))


def test_the_model_keeps_quantities_exactly() -> None:
    """As decimals, whatever way they were written."""
    data = UsageData.model_validate(make_data(usage={"a": "12345678901234.123456789", "b": Decimal("1E+3"), "c": 7}))

    assert data.usage == {"a": Decimal("12345678901234.123456789"), "b": Decimal(1000), "c": Decimal(7)}


def test_the_model_holds_the_translation_of_another_systems_usage() -> None:
    """As the pipeline counts it, with fractions as strings."""
    usage = {"prompt_tokens": 2000, "completion_tokens": "0.5", "prompt_tokens_details": {"cached_tokens": 800}}

    data = UsageData.model_validate(make_data(vocabulary="openai", usage=usage))

    assert data.usage == {"input_tokens": 1200, "cache_read_tokens": 800, "output_tokens": Decimal("0.5")}


def test_the_model_knows_every_vocabulary_and_no_other() -> None:
    """The list in the schema is the table's."""
    assert {*get_args(UsageData.model_fields["vocabulary"].annotation)} == {Literal[tuple(VOCABULARIES)], type(None)}


def test_the_model_refuses_a_float() -> None:
    """It has lost digits before it came here."""
    with pytest.raises(ValidationError):
        UsageData.model_validate(make_data(usage={"a": 0.1}))
