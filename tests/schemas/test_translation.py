"""Translating a usage object: nothing is counted twice, nothing is lost, and a contradiction is never mended."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal, localcontext
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from schemas.event_values import QUANTITY_MAX
from schemas.translation import UntranslatableError, translated
from schemas.vocabularies import OTEL_GENAI, REASONING, VOCABULARIES, Count, Vocabulary
from tests.schemas.test_vocabularies import EXAMPLES, read

VOCABULARY = st.sampled_from(list(VOCABULARIES.values()))
COUNTS = st.one_of(st.just(0), st.integers(1, 5_000), st.integers(1, 10**12))


def translate(usage: dict[str, Any], vocabulary: str = "openai") -> dict[str, Any]:
    """Our quantities of the usage object."""
    return translated(usage, vocabulary=vocabulary, read=read)


def refusal(usage: dict[str, Any], vocabulary: str = "openai") -> str:
    """Why the usage object is refused."""
    with pytest.raises(UntranslatableError) as caught:
        translate(usage, vocabulary)
    return str(caught.value)


def nested(counts: dict[str, Any], vocabulary: Vocabulary) -> dict[str, Any]:
    """The usage object that has these counts: what stands behind a dot is a member, or an entry of a list."""
    usage: dict[str, Any] = {}
    for name, value in counts.items():
        members = [name] if vocabulary is OTEL_GENAI else name.split(".")
        node = usage
        if members[0] in vocabulary.lists:
            usage.setdefault(members[0], []).append({"modality": members[1], "tokenCount": value})
            continue
        for member in members[:-1]:
            node = node.setdefault(member, {})
        node[members[-1]] = value
    return usage


class Drawn:
    """Counts that fit each other, by name, and the quantities that they are made of."""

    def __init__(self, vocabulary: Vocabulary, data: st.DataObject) -> None:
        self.data = data
        self.counts: dict[str, int] = {}
        self.usual: dict[str, int] = {}
        self.quantities: Counter[str] = Counter()
        self.tokens = 0
        for count in vocabulary.counts:
            value = self.count(count)
            if count.quantity.endswith("_tokens"):
                self.tokens += value
        total = data.draw(st.sampled_from(["", *vocabulary.totals]))
        if total:
            self.counts[total] = self.tokens

    def count(self, count: Count) -> int:
        """A value for a count: what is in it, and something more."""
        rest = self.data.draw(COUNTS)
        value = rest + sum(self.count(part) for part in count.parts)
        self.quantities[count.quantity] += rest
        for kind in count.kinds:
            uncached = self.data.draw(COUNTS)
            self.quantities[kind.quantity] += uncached
            self.say(kind, uncached + self.usual.get(kind.cached, 0))
            value += uncached
        if count.memo:
            self.quantities[count.memo] += value
        self.say(count, value)
        return value

    def say(self, count: Count, value: int) -> None:
        """Puts a value under one of the count's names."""
        self.counts[self.data.draw(st.sampled_from(count.names))] = value
        self.usual[count.name] = value


@settings(deadline=None)
@given(VOCABULARY, st.data())
def test_the_quantities_are_disjoint_and_nothing_is_lost(vocabulary: Vocabulary, data: st.DataObject) -> None:
    """Each quantity is what the system counted of it alone, for any counts and any spelling of them."""
    drawn = Drawn(vocabulary, data)

    quantities = translate(nested(drawn.counts, vocabulary), vocabulary.name)

    assert Counter(quantities) == Counter({name: Decimal(value) for name, value in drawn.quantities.items()})
    tokens = sum(value for name, value in quantities.items() if name.endswith("_tokens") and name != REASONING)
    assert tokens == drawn.tokens


@settings(deadline=None)
@given(VOCABULARY, st.data())
def test_whatever_is_accepted_sums_to_what_was_counted(vocabulary: Vocabulary, data: st.DataObject) -> None:
    """Any numbers at all under the names of a vocabulary: they are refused, or nothing of them is lost."""
    counts = {
        data.draw(st.sampled_from(count.names)): data.draw(COUNTS)
        for count in vocabulary.all()
        if data.draw(st.sampled_from([True, True, False]))
    }
    outermost = {name for count in vocabulary.counts for name in count.names if count.quantity.endswith("_tokens")}

    try:
        quantities = translate(nested(counts, vocabulary), vocabulary.name)
    except UntranslatableError:
        assume(False)

    assert all(value >= 0 for value in quantities.values())
    tokens = sum(value for name, value in quantities.items() if name.endswith("_tokens") and name != REASONING)
    assert tokens == sum(value for name, value in counts.items() if name in outermost)
    assert quantities.get(REASONING, 0) <= quantities.get("output_tokens", 0)


INCLUDED = [
    (vocabulary, count, inside)
    for vocabulary in VOCABULARIES.values()
    for count in vocabulary.all()
    for inside in (*count.parts, *count.kinds)
]


@pytest.mark.parametrize(
    ("vocabulary", "count", "inside"),
    INCLUDED,
    ids=[f"{vocabulary.name}: {inside.name}" for vocabulary, _, inside in INCLUDED],
)
def test_a_subset_greater_than_its_total_is_refused(vocabulary: Vocabulary, count: Count, inside: Count) -> None:
    """Clamping the difference at 0 would hide the error that caused it. The refusal names both, with their values."""
    around = {outer.name: 10 for outer in vocabulary.all() if count in (*outer.parts, *outer.kinds)}

    message = refusal(nested({**around, count.name: 5, inside.name: 6}, vocabulary), vocabulary.name)
    missing = refusal(nested({inside.name: 6}, vocabulary), vocabulary.name)

    assert message == f"{inside.name} is 6, more than the 5 of {count.name}, which includes it"
    assert missing == f"{inside.name} is 6, and {count.name}, which includes it, is missing"


@settings(deadline=None)
@given(st.sampled_from(EXAMPLES), st.data())
def test_the_order_of_members_does_not_matter(example: Any, data: st.DataObject) -> None:
    """And neither do members that are null."""
    members = data.draw(st.permutations([*example.usage.items(), ("anything", None), ("promptTokenCountX", None)]))

    assert translate(dict(members), example.vocabulary) == translate(example.usage, example.vocabulary)


@pytest.mark.parametrize("example", EXAMPLES, ids=str)
def test_flattened_members_are_the_same_members(example: Any) -> None:
    """Pipelines that flatten objects join the names with dots."""

    def flattened(members: dict[str, Any], prefix: str = "") -> dict[str, Any]:
        flat: dict[str, Any] = {}
        for name, value in members.items():
            flat |= flattened(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
        return flat

    left_out = VOCABULARIES[example.vocabulary].left_out
    usage = {name: value for name, value in example.usage.items() if name not in left_out}

    assert translate(flattened(usage), example.vocabulary) == translate(example.usage, example.vocabulary)


def test_parts_may_not_be_more_than_their_total_together() -> None:
    """Each of them alone would fit."""
    usage = {"prompt_tokens": 100, "prompt_tokens_details": {"cached_tokens": 60, "cache_write_tokens": 50}}

    assert refusal(usage) == (
        "prompt_tokens_details.cached_tokens and prompt_tokens_details.cache_write_tokens are 110,"
        " more than the 100 of prompt_tokens, which includes them"
    )


def test_kinds_may_not_be_more_than_their_total_together() -> None:
    """Cached tokens may be audio or images, but nothing is both audio and image."""
    usage = {"prompt_tokens": 100, "prompt_tokens_details": {"audio_tokens": 60, "image_tokens": 50}}

    assert "are 110, more than the 100 of prompt_tokens" in refusal(usage)


@pytest.mark.parametrize("audio", [40, 0])
def test_more_cached_audio_than_audio_is_refused(audio: int) -> None:
    """The cached part of a kind is a subset like any other."""
    details = {"cached_tokens": 60, "audio_tokens": audio, "cached_tokens_details": {"audio_tokens": 50}}

    message = refusal({"prompt_tokens": 100, "prompt_tokens_details": details})

    assert message == (
        "prompt_tokens_details.cached_tokens_details.audio_tokens is 50,"
        f" more than the {audio} of prompt_tokens_details.audio_tokens"
    )


def test_cached_tokens_are_taken_for_text_as_far_as_they_can_be() -> None:
    """Where a system does not say what was cached, audio gets what the cache did not cover: no token is two things."""
    details = {"cached_tokens": 700, "audio_tokens": 200, "image_tokens": 300}

    quantities = translate({"prompt_tokens": 1000, "prompt_tokens_details": details})

    assert quantities == {
        "cache_read_tokens": 700,
        "input_audio_tokens": 200,
        "input_image_tokens": 100,
        "input_tokens": 0,
    }


@pytest.mark.parametrize(
    ("vocabulary", "usage"),
    [
        ("openai", {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 16}),
        ("langfuse", {"input": 1000, "input_cached_tokens": 800, "output": 5, "total": 1005}),
        ("gemini", {"promptTokenCount": 10, "candidatesTokenCount": 7, "thoughtsTokenCount": 5, "totalTokenCount": 17}),
    ],
)
def test_a_total_that_is_not_the_sum_is_refused(vocabulary: str, usage: dict[str, Any]) -> None:
    """An inclusive count where an exclusive one should be, or thoughts on the wrong side, shows only there."""
    assert "but the counts make" in refusal(usage, vocabulary)


def test_reasoning_beside_the_answer_is_not_openais_vocabulary() -> None:
    """As xAI counts it: the total gives it away, before an answer's largest part is billed at nothing."""
    usage = {
        "prompt_tokens": 32,
        "completion_tokens": 9,
        "total_tokens": 135,
        "completion_tokens_details": {"reasoning_tokens": 94},
    }

    assert "completion_tokens_details.reasoning_tokens is 94, more than the 9" in refusal(usage)
    assert "but the counts make 41" in refusal(usage | {"completion_tokens_details": {"reasoning_tokens": 5}})


def test_two_names_of_one_count_must_agree() -> None:
    """Unless one of them is the 0 of a default that nobody filled in."""
    hits = {"prompt_tokens": 100, "prompt_cache_hit_tokens": 60}

    assert translate(hits | {"prompt_tokens_details": {"cached_tokens": 0}})["cache_read_tokens"] == 60
    assert translate({"prompt_tokens_details": {"cached_tokens": 60}, **hits})["cache_read_tokens"] == 60
    assert refusal(hits | {"prompt_tokens_details": {"cached_tokens": 50}}) == (
        "prompt_tokens_details.cached_tokens is 50, but prompt_cache_hit_tokens says 60 of the same"
    )


def test_two_lists_of_one_count_must_agree() -> None:
    """Both spellings of Google's, for example."""
    entries = [{"modality": "AUDIO", "tokenCount": 5}]
    usage = {"promptTokenCount": 10, "promptTokensDetails": entries, "prompt_tokens_details": entries}

    assert translate(usage, "gemini") == {"input_tokens": 5, "input_audio_tokens": 5}
    assert "says 5 of the same" in refusal(
        usage | {"prompt_tokens_details": [entries[0] | {"tokenCount": 4}]}, "gemini"
    )


@pytest.mark.parametrize(
    ("vocabulary", "usage", "owner"),
    [
        ("anthropic", {"prompt_tokens": 10, "completion_tokens": 5}, "openai"),
        ("anthropic", {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15}, "openai"),
        ("anthropic", {"input_tokens": 10, "input_tokens_details": {"cached_tokens": 5}}, "openai"),
        ("openai", {"input_tokens": 10, "cache_read_input_tokens": 5}, "anthropic"),
        ("openai", {"promptTokenCount": 10}, "gemini"),
        ("gemini", {"gen_ai.usage.input_tokens": 10}, "otel_genai"),
        ("langfuse", {"prompt_tokens": 10}, "openai"),
    ],
)
def test_counts_of_another_vocabulary_are_refused(vocabulary: str, usage: dict[str, Any], owner: str) -> None:
    """The wrong word in one field would else bill nothing, or everything twice."""
    assert refusal(usage, vocabulary).endswith(f"is no name of the vocabulary {vocabulary}, but one of {owner}")


def test_a_name_of_another_vocabulary_that_counts_nothing_does_no_harm() -> None:
    """Clients fill in zeros for what their vendor does not have."""
    usage = {"prompt_tokens": 10, "cache_read_input_tokens": 0, "input_audio_tokens": 0, "promptTokenCount": 0}

    assert translate(usage) == {"input_tokens": 10}


def test_quantities_of_the_producers_own_stand_beside_the_counts() -> None:
    """As they are, 0 included; a price or `ignore:` decides about them."""
    usage = {"prompt_tokens": 10, "latency_ms": 120, "tools": "2", "retries": 0}

    assert translate(usage) == {"input_tokens": 10, "latency_ms": 120, "tools": 2, "retries": 0}


def test_a_count_that_is_newer_than_the_table_is_kept_in_sight() -> None:
    """It has no price, so the event is unpriced, and nobody finds out from the vendor's bill."""
    usage = {"prompt_tokens": 10, "prompt_tokens_details": {"holographicTokens": 4, "smell_tokens": 0, "mood": "good"}}

    assert translate(usage) == {"input_tokens": 10, "prompt_tokens_details_holographic_tokens": 4}


def test_what_is_no_number_and_has_no_known_name_is_left_out() -> None:
    """Text, booleans and lists count nothing."""
    usage = {"prompt_tokens": 10, "service_tier": "flex", "is_byok": True, "chunks": [1, 2], "note": {"a": "b"}}

    assert translate(usage) == {"input_tokens": 10}


@pytest.mark.parametrize(
    "name", ["input_audio_tokens", "cache_read_tokens", "reasoning_tokens", "requests", "input_context_tokens"]
)
def test_our_own_names_are_not_mixed_in(name: str) -> None:
    """Whether they are inside the prompt's count could only be guessed."""
    assert "and none that a quantity beside it can have" in refusal({"prompt_tokens": 10, name: 5})


@pytest.mark.parametrize("name", ["Größe", "x" * 65, "a b", "9lives", ""])
def test_a_number_under_a_name_that_no_quantity_can_have_is_refused(name: str) -> None:
    """It could be stored under no name."""
    assert "none that a quantity beside it can have" in refusal({"prompt_tokens": 10, name: 5})


def test_an_object_with_an_endless_name_is_refused() -> None:
    """Before its name is put in front of each of a hundred thousand members."""
    usage = {"prompt_tokens": 10, "x" * 500_000: dict.fromkeys(map(str, range(100_000)), "text")}

    assert "none that a quantity" in refusal(usage)


def test_a_path_may_not_become_a_secret() -> None:
    """Its members alone are none."""
    assert "none that a quantity" in refusal({"prompt_tokens": 10, "sk": {"live": {"key": 4}}})


def test_two_paths_may_not_become_one_name() -> None:
    """One of the two would be lost."""
    assert "none that a quantity" in refusal({"prompt_tokens": 10, "a": {"b": 4, "B": 5}})


@pytest.mark.parametrize("value", ["many", "1e3", True, [], {}, {"a": 1}, "-1"])
def test_a_known_count_that_is_no_quantity_is_refused(value: Any) -> None:
    """Text under the name of a count is a mistake and no remark."""
    assert refusal({"prompt_tokens": value}) == "prompt_tokens is no quantity"


def test_an_unknown_number_that_is_no_quantity_is_refused() -> None:
    """As it is without a vocabulary."""
    assert refusal({"prompt_tokens": 1, "delta": 2.5}) == "delta is no quantity"


@pytest.mark.parametrize(
    "entries",
    [
        [5],
        [{"tokenCount": 5}],
        [{"modality": 5, "tokenCount": 5}],
        [{"modality": "AUDIO", "tokenCount": "x"}],
        ["AUDIO"],
    ],
)
def test_a_list_by_modality_must_be_one(entries: Any) -> None:
    """What an entry counts has to be known."""
    usage = {"promptTokenCount": 10, "promptTokensDetails": entries}

    assert refusal(usage, "gemini") == ("promptTokensDetails has an entry without a modality or without its count")


def test_a_modality_that_nobody_knows_stays_in_the_sum() -> None:
    """It is in the prompt's count in any case, like text and documents."""
    usage = {"promptTokenCount": 10, "promptTokensDetails": [{"modality": "smell", "tokenCount": 5}]}

    assert translate(usage, "gemini") == {"input_tokens": 10}


@pytest.mark.parametrize("kind", ["compaction", "advisor_message", "fallback_message", None])
def test_an_iteration_that_the_counts_do_not_include_is_refused(kind: str | None) -> None:
    """Its tokens are billed by Anthropic, by another model's price for some: they would be lost here."""
    usage = {"input_tokens": 10, "output_tokens": 5, "iterations": [{"type": "message"}, {"type": kind}]}

    assert refusal(usage, "anthropic").startswith("iterations has an entry that the counts do not include")


def test_quantities_are_exact_whatever_the_callers_context_is() -> None:
    """A quantity has up to 25 digits, and none of them is rounded."""
    usage = {"prompt_tokens": "999999999999999.999999999", "prompt_tokens_details": {"cached_tokens": "0.000000001"}}

    with localcontext(prec=3):
        quantities = translate(usage)

    assert quantities["input_tokens"] == Decimal("999999999999999.999999998")


def test_a_sum_beyond_the_limit_of_a_quantity_is_refused() -> None:
    """Two counts that each keep it may not break it together."""
    usage = {"promptTokenCount": QUANTITY_MAX, "toolUsePromptTokenCount": 1}

    assert refusal(usage, "gemini") == "input_tokens sums to 1000000000000001, more than the 1e15 of a quantity"


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_an_empty_usage_object_says_nothing(vocabulary: str) -> None:
    """No quantity is invented."""
    assert translate({}, vocabulary) == {}
