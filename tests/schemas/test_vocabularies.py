"""The table of vocabularies, row by row: an object as the system's own documents show it, and what it becomes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pytest

from schemas.event_values import USAGE_NAME_PATTERN, read_decimal_string
from schemas.translation import translated
from schemas.vocabularies import VOCABULARIES, Count, Vocabulary, snake_case

OPENAI_PYTHON = "https://github.com/openai/openai-python/blob/main/src/openai/types"
ANTHROPIC_PYTHON = "https://github.com/anthropics/anthropic-sdk-python/blob/main/src/anthropic/types"
OTEL_GENAI = "https://github.com/open-telemetry/semantic-conventions-genai/blob/main/model/gen-ai/registry.yaml"
OTEL_DEPRECATED = (
    "https://github.com/open-telemetry/semantic-conventions/blob/main/model/gen-ai/deprecated/registry-deprecated.yaml"
)
SENTRY = "https://getsentry.github.io/relay/relay_conventions/attributes/index.html"
LITELLM_TYPES = "https://github.com/BerriAI/litellm/blob/main/litellm/types/utils.py"
LITELLM_COSTS = "https://github.com/BerriAI/litellm/blob/main/litellm/litellm_core_utils/llm_cost_calc/utils.py"
LITELLM_ISSUE = "https://github.com/BerriAI/litellm/issues/15945"
LANGFUSE_TYPES = "https://github.com/langfuse/langfuse/blob/main/packages/shared/src/server/ingestion/types.ts"
LANGFUSE_PRICES = "https://github.com/langfuse/langfuse/blob/main/worker/src/constants/default-model-prices.json"
LANGFUSE_LANGCHAIN = "https://github.com/langfuse/langfuse-python/blob/main/langfuse/langchain/CallbackHandler.py"
GENAI_PYTHON = "https://github.com/googleapis/python-genai/blob/main/google/genai/types.py"
GENAI_JS = "https://googleapis.github.io/js-genai/release_docs/classes/types.GenerateContentResponseUsageMetadata.html"
GENAI_BETA = "https://hexdocs.pm/geminix/Geminix.V1beta.UsageMetadata.html"


@dataclass(frozen=True)
class Example:
    """A usage object, where its shape was found, and our quantities of it."""

    vocabulary: str
    what: str
    source: str
    usage: dict[str, Any]
    quantities: dict[str, int | str]

    def __str__(self) -> str:
        """The name of the test."""
        return f"{self.vocabulary}: {self.what}"


EXAMPLES = [
    # -- OpenTelemetry: input_tokens include all kinds of cached tokens, output_tokens include reasoning.
    Example(
        "otel_genai",
        "cached, written and reasoning tokens are inside the sums",
        OTEL_GENAI,
        {
            "gen_ai.usage.input_tokens": 100,
            "gen_ai.usage.cache_read.input_tokens": 50,
            "gen_ai.usage.cache_creation.input_tokens": 25,
            "gen_ai.usage.text.input_tokens": 100,
            "gen_ai.usage.output_tokens": 180,
            "gen_ai.usage.reasoning.output_tokens": 50,
            "gen_ai.usage.text.output_tokens": 180,
        },
        {
            "input_tokens": 25,
            "cache_read_tokens": 50,
            "cache_write_5m_tokens": 25,
            "output_tokens": 180,
            "reasoning_tokens": 50,
        },
    ),
    Example(
        "otel_genai",
        "audio, images and video are subsets of the sums",
        OTEL_GENAI,
        {
            "gen_ai.usage.input_tokens": 100,
            "gen_ai.usage.audio.input_tokens": 10,
            "gen_ai.usage.image.input_tokens": 40,
            "gen_ai.usage.video.input_tokens": 20,
            "gen_ai.usage.output_tokens": 60,
            "gen_ai.usage.audio.output_tokens": 10,
            "gen_ai.usage.image.output_tokens": 20,
            "gen_ai.usage.video.output_tokens": 5,
        },
        {
            "input_tokens": 30,
            "input_audio_tokens": 10,
            "input_image_tokens": 40,
            "input_video_tokens": 20,
            "output_tokens": 25,
            "output_audio_tokens": 10,
            "output_image_tokens": 20,
            "output_video_tokens": 5,
        },
    ),
    Example(
        "otel_genai",
        "the names before v1.27",
        OTEL_DEPRECATED,
        {"gen_ai.usage.prompt_tokens": 42, "gen_ai.usage.completion_tokens": 7},
        {"input_tokens": 42, "output_tokens": 7},
    ),
    Example(
        "otel_genai",
        "cache names with underscores, as some emitters still write them, and the newer name of a write",
        SENTRY,
        {
            "gen_ai.usage.input_tokens": 100,
            "gen_ai.usage.cache_read_input_tokens": 60,
            "gen_ai.usage.cache_creation_input_tokens": 30,
            "gen_ai.usage.cache_write.input_tokens": 30,
        },
        {"input_tokens": 10, "cache_read_tokens": 60, "cache_write_5m_tokens": 30},
    ),
    # -- OpenAI: prompt_tokens include cached ones, completion_tokens include reasoning.
    Example(
        "openai",
        "chat completions",
        f"{OPENAI_PYTHON}/completion_usage.py",
        {
            "prompt_tokens": 2006,
            "completion_tokens": 300,
            "total_tokens": 2306,
            "prompt_tokens_details": {"cached_tokens": 1920, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": 64,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 12,
                "rejected_prediction_tokens": 3,
            },
        },
        {"input_tokens": 86, "cache_read_tokens": 1920, "output_tokens": 300, "reasoning_tokens": 64},
    ),
    Example(
        "openai",
        "chat completions with audio, images and cache writes",
        f"{OPENAI_PYTHON}/completion_usage.py",
        {
            "prompt_tokens": 1000,
            "completion_tokens": 200,
            "total_tokens": 1200,
            "prompt_tokens_details": {
                "cached_tokens": 100,
                "cache_write_tokens": 50,
                "audio_tokens": 300,
                "image_tokens": 200,
                "video_tokens": 100,
                "text_tokens": 400,
            },
            "completion_tokens_details": {
                "audio_tokens": 150,
                "image_tokens": 20,
                "video_tokens": 10,
                "text_tokens": 20,
            },
        },
        {
            "input_tokens": 250,
            "cache_read_tokens": 100,
            "cache_write_5m_tokens": 50,
            "input_audio_tokens": 300,
            "input_image_tokens": 200,
            "input_video_tokens": 100,
            "output_tokens": 20,
            "output_audio_tokens": 150,
            "output_image_tokens": 20,
            "output_video_tokens": 10,
        },
    ),
    Example(
        "openai",
        "responses",
        f"{OPENAI_PYTHON}/responses/response_usage.py",
        {
            "input_tokens": 328,
            "input_tokens_details": {
                "cached_tokens": 128,
                "cache_write_tokens": 100,
                "cache_write_tokens_details": {"ttl_30m_tokens": 60, "ttl_12h_tokens": 40},
            },
            "output_tokens": 52,
            "output_tokens_details": {"reasoning_tokens": 20},
            "total_tokens": 380,
        },
        {
            "input_tokens": 100,
            "cache_read_tokens": 128,
            "cache_write_5m_tokens": 60,
            "cache_write_1h_tokens": 40,
            "output_tokens": 52,
            "reasoning_tokens": 20,
        },
    ),
    Example(
        "openai",
        "realtime, where the cached tokens are told apart",
        f"{OPENAI_PYTHON}/realtime/realtime_response_usage.py",
        {
            "total_tokens": 253,
            "input_tokens": 132,
            "output_tokens": 121,
            "input_token_details": {
                "text_tokens": 72,
                "audio_tokens": 40,
                "image_tokens": 20,
                "cached_tokens": 64,
                "cached_tokens_details": {"text_tokens": 34, "audio_tokens": 20, "image_tokens": 10},
            },
            "output_token_details": {"text_tokens": 30, "audio_tokens": 91},
        },
        {
            "input_tokens": 38,
            "input_audio_tokens": 20,
            "input_image_tokens": 10,
            "cache_read_tokens": 34,
            "cache_audio_read_tokens": 20,
            "cache_image_read_tokens": 10,
            "output_tokens": 30,
            "output_audio_tokens": 91,
        },
    ),
    Example(
        "openai",
        "images",
        f"{OPENAI_PYTHON}/images_response.py",
        {
            "input_tokens": 50,
            "input_tokens_details": {"image_tokens": 40, "text_tokens": 10},
            "output_tokens": 50,
            "output_tokens_details": {"image_tokens": 50, "text_tokens": 0},
            "total_tokens": 100,
        },
        {"input_tokens": 10, "input_image_tokens": 40, "output_image_tokens": 50, "output_tokens": 0},
    ),
    Example(
        "openai",
        "a transcription by tokens",
        f"{OPENAI_PYTHON}/audio/transcription.py",
        {
            "type": "tokens",
            "input_tokens": 14,
            "input_token_details": {"text_tokens": 0, "audio_tokens": 14},
            "output_tokens": 45,
            "total_tokens": 59,
        },
        {"input_audio_tokens": 14, "input_tokens": 0, "output_tokens": 45},
    ),
    Example(
        "openai",
        "a transcription by duration",
        f"{OPENAI_PYTHON}/audio/transcription.py",
        {"type": "duration", "seconds": "9.5"},
        {"audio_seconds": "9.5"},
    ),
    Example(
        "openai",
        "embeddings",
        f"{OPENAI_PYTHON}/create_embedding_response.py",
        {"prompt_tokens": 8, "total_tokens": 8},
        {"input_tokens": 8},
    ),
    Example(
        "openai",
        "DeepSeek: hits and misses make the prompt",
        "https://api-docs.deepseek.com/guides/kv_cache",
        {
            "prompt_tokens": 1200,
            "completion_tokens": 10,
            "total_tokens": 1210,
            "prompt_cache_hit_tokens": 1152,
            "prompt_cache_miss_tokens": 48,
            "prompt_tokens_details": {"cached_tokens": 1152},
        },
        {"input_tokens": 48, "cache_read_tokens": 1152, "output_tokens": 10},
    ),
    Example(
        "openai",
        "OpenRouter: what it cost there is no quantity",
        "https://openrouter.ai/docs/use-cases/usage-accounting",
        {
            "prompt_tokens": 194,
            "prompt_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 100, "audio_tokens": 0},
            "completion_tokens": 2,
            "completion_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 196,
            "cost": "0.0000000000095",
            "cost_details": {"upstream_inference_cost": 19},
            "is_byok": False,
        },
        {"input_tokens": 94, "cache_write_5m_tokens": 100, "output_tokens": 2},
    ),
    Example(
        "openai",
        "Groq: times are no quantities",
        "https://github.com/groq/groq-typescript/blob/main/src/resources/completions.ts",
        {
            "queue_time": "0.037493756000",
            "prompt_tokens": 18,
            "prompt_time": "0.000680594",
            "completion_tokens": 556,
            "completion_time": "0.463333333",
            "total_tokens": 574,
            "total_time": "0.464013927",
        },
        {"input_tokens": 18, "output_tokens": 556},
    ),
    # -- Anthropic: input_tokens are what was neither read from a cache nor written to one.
    Example(
        "anthropic",
        "a message; its input is the sum of three counts",
        f"{ANTHROPIC_PYTHON}/message.py",
        {
            "input_tokens": 50,
            "cache_creation_input_tokens": 248,
            "cache_read_input_tokens": 1800,
            "cache_creation": {"ephemeral_5m_input_tokens": 148, "ephemeral_1h_input_tokens": 100},
            "output_tokens": 503,
            "output_tokens_details": {"thinking_tokens": 400},
            "server_tool_use": {"web_search_requests": 3, "web_fetch_requests": 1},
            "service_tier": "standard",
            "inference_geo": "us",
        },
        {
            "input_tokens": 50,
            "cache_read_tokens": 1800,
            "cache_write_5m_tokens": 148,
            "cache_write_1h_tokens": 100,
            "output_tokens": 503,
            "reasoning_tokens": 400,
            "web_searches": 3,
        },
    ),
    Example(
        "anthropic",
        "without the split, writes are kept for five minutes",
        f"{ANTHROPIC_PYTHON}/usage.py",
        {"input_tokens": 50, "cache_creation_input_tokens": 248, "cache_read_input_tokens": None, "output_tokens": 5},
        {"input_tokens": 50, "cache_write_5m_tokens": 248, "output_tokens": 5},
    ),
    Example(
        "anthropic",
        "iterations of sampling are in the counts",
        f"{ANTHROPIC_PYTHON}/beta/beta_usage.py",
        {
            "input_tokens": 50,
            "output_tokens": 5,
            "fallback_credit": {"tokens": 7},
            "iterations": [{"type": "message", "input_tokens": 50, "output_tokens": 5}],
        },
        {"input_tokens": 50, "output_tokens": 5},
    ),
    # -- LiteLLM: everything is inside prompt_tokens and completion_tokens, whoever answered.
    Example(
        "litellm",
        "an answer of Anthropic's, cached tokens added to the prompt",
        LITELLM_ISSUE,
        {
            "prompt_tokens": 2098,
            "completion_tokens": 503,
            "total_tokens": 2601,
            "prompt_tokens_details": {
                "cached_tokens": 1800,
                "text_tokens": 50,
                "cache_write_tokens": 248,
                "cache_creation_tokens": 248,
                "cache_creation_token_details": {
                    "ephemeral_5m_input_tokens": 140,
                    "ephemeral_30m_input_tokens": 8,
                    "ephemeral_1h_input_tokens": 90,
                    "ephemeral_12h_input_tokens": 10,
                },
            },
            "completion_tokens_details": {"reasoning_tokens": 400, "text_tokens": 103},
            "cache_creation_input_tokens": 248,
            "cache_read_input_tokens": 1800,
            "reasoning_tokens": 400,
            "server_tool_use": {"web_search_requests": 3, "tool_search_requests": 1},
            "iterations": [{"type": "message"}, {"type": "compaction"}],
        },
        {
            "input_tokens": 50,
            "cache_read_tokens": 1800,
            "cache_write_5m_tokens": 148,
            "cache_write_1h_tokens": 100,
            "output_tokens": 503,
            "reasoning_tokens": 400,
            "web_searches": 3,
        },
    ),
    Example(
        "litellm",
        "an answer of Google's: a total with the tokens of a search that are not billed",
        LITELLM_TYPES,
        {
            "prompt_tokens": 1000,
            "completion_tokens": 100,
            "total_tokens": 1150,
            "prompt_tokens_details": {
                "cached_tokens": 300,
                "cached_tokens_details": {"text_tokens": 100, "audio_tokens": 150, "image_tokens": 50},
                "audio_tokens": 450,
                "image_tokens": 250,
                "video_tokens": 100,
                "text_tokens": 200,
                "tool_use_tokens": 50,
                "web_search_requests": 2,
            },
            "completion_tokens_details": {"image_tokens": 60, "audio_tokens": 20, "video_tokens": 10},
        },
        {
            "input_tokens": 100,
            "input_audio_tokens": 300,
            "input_image_tokens": 200,
            "input_video_tokens": 100,
            "cache_read_tokens": 100,
            "cache_audio_read_tokens": 150,
            "cache_image_read_tokens": 50,
            "output_tokens": 10,
            "output_audio_tokens": 20,
            "output_image_tokens": 60,
            "output_video_tokens": 10,
            "web_searches": 2,
        },
    ),
    Example(
        "litellm",
        "audio that may lie inside the cached tokens gets what they leave",
        LITELLM_COSTS,
        {
            "prompt_tokens": 1000,
            "completion_tokens": 0,
            "prompt_tokens_details": {"cached_tokens": 800, "audio_tokens": 900},
        },
        {"cache_read_tokens": 800, "input_audio_tokens": 200, "input_tokens": 0, "output_tokens": 0},
    ),
    Example(
        "litellm",
        "DeepSeek's names, and embeddings of text and sound",
        LITELLM_TYPES,
        {
            "prompt_tokens": 100,
            "prompt_cache_hit_tokens": 60,
            "prompt_cache_miss_tokens": 40,
            "prompt_tokens_details": {"character_count": 400, "audio_length_seconds": 12},
        },
        {"input_tokens": 40, "cache_read_tokens": 60, "input_characters": 400, "input_audio_seconds": 12},
    ),
    # -- Langfuse: every usage type is a bucket of its own.
    Example(
        "langfuse",
        "what its server makes of OpenAI's usage",
        LANGFUSE_TYPES,
        {
            "input": 80,
            "output": 200,
            "total": 2306,
            "input_cached_tokens": 1920,
            "input_audio_tokens": 6,
            "output_reasoning_tokens": 64,
            "output_audio_tokens": 21,
            "output_accepted_prediction_tokens": 12,
            "output_rejected_prediction_tokens": 3,
        },
        {
            "input_tokens": 80,
            "cache_read_tokens": 1920,
            "input_audio_tokens": 6,
            "output_tokens": 279,
            "reasoning_tokens": 64,
            "output_audio_tokens": 21,
        },
    ),
    Example(
        "langfuse",
        "usage types that it has prices for",
        LANGFUSE_PRICES,
        {
            "input_tokens": 1,
            "input_text": 2,
            "input_text_tokens": 4,
            "input_cache_read": 8,
            "cache_read_input_tokens": 16,
            "input_cached_text_tokens": 32,
            "input_cached_audio_tokens": 64,
            "input_cache_creation": 128,
            "input_cache_creation_5m": 256,
            "input_cache_write_tokens": 512,
            "input_cache_creation_1h": 1024,
            "output_tokens": 1,
            "output_text": 2,
            "output_text_tokens": 4,
            "output_reasoning": 8,
            "reasoning_tokens": 16,
        },
        {
            "input_tokens": 7,
            "cache_read_tokens": 56,
            "cache_audio_read_tokens": 64,
            "cache_write_5m_tokens": 896,
            "cache_write_1h_tokens": 1024,
            "output_tokens": 31,
            "reasoning_tokens": 24,
        },
    ),
    Example(
        "langfuse",
        "audio, images and video in both spellings",
        LANGFUSE_PRICES,
        {
            f"{side}_{kind}{end}": 1
            for side in ("input", "output")
            for kind in ("audio", "image", "video")
            for end in ("", "_tokens")
        },
        {f"{side}_{kind}_tokens": 2 for side in ("input", "output") for kind in ("audio", "image", "video")},
    ),
    Example(
        "langfuse",
        "what its LangChain handler makes of Anthropic's usage: a sum of writes beside them",
        LANGFUSE_LANGCHAIN,
        {
            "input": 50,
            "output": 503,
            "cache_creation_input_tokens": 248,
            "cache_creation_ephemeral_5m_input_tokens": 148,
            "cache_creation_ephemeral_1h_input_tokens": 100,
            "input_ephemeral_5m_input_tokens": 20,
            "input_ephemeral_1h_input_tokens": 10,
        },
        {"input_tokens": 50, "cache_write_5m_tokens": 168, "cache_write_1h_tokens": 110, "output_tokens": 503},
    ),
    # -- Google: the prompt includes cached tokens; thoughts and results of tools are counted beside it.
    Example(
        "gemini",
        "the total is the sum of prompt, candidates, tools and thoughts",
        GENAI_PYTHON,
        {
            "promptTokenCount": 1000,
            "cachedContentTokenCount": 600,
            "toolUsePromptTokenCount": 90,
            "candidatesTokenCount": 200,
            "thoughtsTokenCount": 300,
            "totalTokenCount": 1590,
            "trafficType": "ON_DEMAND",
        },
        {"input_tokens": 490, "cache_read_tokens": 600, "output_tokens": 500, "reasoning_tokens": 300},
    ),
    Example(
        "gemini",
        "lists by modality",
        GENAI_JS,
        {
            "promptTokenCount": 1000,
            "promptTokensDetails": [
                {"modality": "TEXT", "tokenCount": 100},
                {"modality": "AUDIO", "tokenCount": 500},
                {"modality": "IMAGE", "tokenCount": 258},
                {"modality": "VIDEO", "tokenCount": 42},
                {"modality": "DOCUMENT", "tokenCount": 100},
            ],
            "cachedContentTokenCount": 500,
            "cacheTokensDetails": [
                {"modality": "TEXT", "tokenCount": 70},
                {"modality": "AUDIO", "tokenCount": 300},
                {"modality": "IMAGE", "tokenCount": 100},
                {"modality": "VIDEO", "tokenCount": 30},
            ],
            "toolUsePromptTokenCount": 60,
            "toolUsePromptTokensDetails": [
                {"modality": "TEXT", "tokenCount": 30},
                {"modality": "AUDIO", "tokenCount": 10},
                {"modality": "IMAGE", "tokenCount": 15},
                {"modality": "VIDEO", "tokenCount": 5},
            ],
            "candidatesTokenCount": 1410,
            "candidatesTokensDetails": [
                {"modality": "TEXT"},
                {"modality": "IMAGE", "tokenCount": 1290},
                {"modality": "AUDIO", "tokenCount": 50},
                {"modality": "AUDIO", "tokenCount": 50},
                {"modality": "VIDEO", "tokenCount": 20},
            ],
            "totalTokenCount": 2470,
        },
        {
            "input_tokens": 160,
            "input_audio_tokens": 210,
            "input_image_tokens": 173,
            "input_video_tokens": 17,
            "cache_read_tokens": 70,
            "cache_audio_read_tokens": 300,
            "cache_image_read_tokens": 100,
            "cache_video_read_tokens": 30,
            "output_image_tokens": 1290,
            "output_audio_tokens": 100,
            "output_video_tokens": 20,
            "output_tokens": 0,
        },
    ),
    Example(
        "gemini",
        "the live API, as the Python library writes it",
        GENAI_PYTHON,
        {
            "prompt_token_count": 100,
            "cached_content_token_count": 30,
            "response_token_count": 40,
            "response_tokens_details": [{"modality": "AUDIO", "token_count": 25}, {"modality": "TEXT"}],
            "prompt_tokens_details": [{"modality": "AUDIO", "token_count": 80}],
            "cache_tokens_details": [{"modality": "AUDIO", "token_count": 30}],
            "tool_use_prompt_token_count": None,
            "thoughts_token_count": 5,
            "total_token_count": 145,
            "traffic_type": None,
        },
        {
            "cache_audio_read_tokens": 30,
            "input_audio_tokens": 50,
            "input_tokens": 20,
            "output_audio_tokens": 25,
            "output_tokens": 20,
            "reasoning_tokens": 5,
        },
    ),
    Example(
        "gemini",
        "with cached content the prompt is still the whole prompt",
        GENAI_BETA,
        {"promptTokenCount": 1000, "cachedContentTokenCount": 1000},
        {"cache_read_tokens": 1000, "input_tokens": 0},
    ),
]
ROWS = [(vocabulary, count) for vocabulary in VOCABULARIES.values() for count in vocabulary.all()]


def read(value: object) -> Decimal | None:
    """A quantity of an example."""
    if isinstance(value, str):
        return read_decimal_string(value)
    return Decimal(value) if isinstance(value, int) and not isinstance(value, bool) else None


def names_in(members: dict[str, Any], prefix: str = "") -> set[str]:
    """The names of all members of an example, those of objects and lists in it behind a dot."""
    names = set()
    for member, value in members.items():
        name = f"{prefix}{member}"
        names.add(name)
        if isinstance(value, dict):
            names |= names_in(value, f"{name}.")
        elif isinstance(value, list):
            names |= {f"{name}.{item['modality']}" for item in value if "modality" in item}
    return names


@pytest.mark.parametrize("example", EXAMPLES, ids=str)
def test_an_object_as_the_system_sends_it_becomes_disjoint_quantities(example: Example) -> None:
    """Pasted as it is, with everything in it that is no count."""
    quantities = translated(example.usage, vocabulary=example.vocabulary, read=read)

    assert quantities == {name: Decimal(value) for name, value in example.quantities.items()}


@pytest.mark.parametrize(
    ("vocabulary", "count"), ROWS, ids=[f"{vocabulary.name}: {count.name}" for vocabulary, count in ROWS]
)
def test_every_row_has_an_example_with_its_source(vocabulary: Vocabulary, count: Count) -> None:
    """A row that nobody looked up in the system's own documents is a guess about money."""
    names = {name for example in EXAMPLES if example.vocabulary == vocabulary.name for name in names_in(example.usage)}

    assert names & set(count.names)


@pytest.mark.parametrize("vocabulary", VOCABULARIES.values(), ids=VOCABULARIES)
def test_sources_are_those_of_the_examples(vocabulary: Vocabulary) -> None:
    """So that the documentation lists where the names were found, and nothing else."""
    used = {example.source for example in EXAMPLES if example.vocabulary == vocabulary.name}

    assert used == set(vocabulary.sources)


@pytest.mark.parametrize("vocabulary", VOCABULARIES.values(), ids=VOCABULARIES)
def test_every_name_says_one_thing(vocabulary: Vocabulary) -> None:
    """No name stands in two rows, or in a row and among what is left out."""
    names = [name for count in vocabulary.all() for name in count.names]
    names += [*vocabulary.totals, *vocabulary.left_out, *vocabulary.lists]

    assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize(("vocabulary", "count"), ROWS)
def test_a_row_is_well_formed(vocabulary: Vocabulary, count: Count) -> None:
    """Quantities have names of ours, and the cached part of a kind is a row too."""
    assert re.fullmatch(USAGE_NAME_PATTERN, count.quantity)
    assert count.memo in {"", "reasoning_tokens"}
    assert not count.cached or count.cached in {other.name for other in vocabulary.all()}


@pytest.mark.parametrize(
    ("name", "snake"),
    [("promptTokenCount", "prompt_token_count"), ("a.bC", "a_b_c"), ("plain_name", "plain_name"), ("ttl30m", "ttl30m")],
)
def test_a_name_in_snake_case(name: str, snake: str) -> None:
    """As Python libraries write what comes in camel case, and what the path of a member becomes."""
    assert snake_case(name) == snake
