"""What other systems call the counts of a request, and which of our quantities each becomes: one table, as data.

An event may name the system whose usage object it carries (``data.vocabulary``). What matters is which counts include
which. OpenAI's ``prompt_tokens`` hold the cached tokens, Anthropic's ``input_tokens`` do not; Google counts thoughts
beside the answer, everyone else inside it. Our quantities are disjoint, so a count that includes others becomes what is
left of it when they are taken out. ``schemas/translation.py`` does that, for every system in the same way.

Names are those of the wire, members of an object behind a dot. The documents they were taken from stand with each
vocabulary; ``tests/schemas/test_vocabularies.py`` has an example for every row.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

INPUT: Final = "input_tokens"
OUTPUT: Final = "output_tokens"
CACHE_READ: Final = "cache_read_tokens"
#: The shorter of the retentions that a vendor sells (5 or 30 minutes), and whatever does not say how long it is kept.
CACHE_WRITE_SHORT: Final = "cache_write_5m_tokens"
#: The longer one (1 or 12 hours).
CACHE_WRITE_LONG: Final = "cache_write_1h_tokens"
REASONING: Final = "reasoning_tokens"


@dataclass(frozen=True, slots=True)
class Count:
    """A count of a usage object, with what it includes.

    Attributes:
        names: what it is called, the usual name first. Several names say the same count again.
        quantity: what remains of it becomes, when ``parts`` and ``kinds`` are taken out.
        memo: a quantity that repeats all of it, "" for none.
        parts: counts that it includes. They have nothing in common.
        kinds: counts of audio, images and video that it includes. They have nothing in common with each other, but may
            lie inside the parts: cached tokens are taken for text as far as they can be.
        cached: of a kind, the usual name of the part of it that was read from the cache, where the system tells.
    """

    names: tuple[str, ...]
    quantity: str
    memo: str = ""
    parts: tuple[Count, ...] = ()
    kinds: tuple[Count, ...] = ()
    cached: str = ""

    @property
    def name(self) -> str:
        """The usual name."""
        return self.names[0]

    def all(self) -> Iterator[Count]:
        """This count and every one inside it."""
        yield self
        for inside in (*self.parts, *self.kinds):
            yield from inside.all()


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The names of one system.

    Attributes:
        name: as in ``data.vocabulary``.
        system: whose names they are, in words.
        counts: what has nothing in common with each other.
        totals: names of the sum of all tokens, which has to be right.
        left_out: names that say nothing that is not said elsewhere, and members that are no counts.
        lists: lists of counts by modality (``{"modality": "AUDIO", "tokenCount": 9}``), read as members ``LIST.AUDIO``.
        entries: lists of usage objects that the counts include when they are of these types; others are not included.
        sources: where the names were found.
    """

    name: str
    system: str
    counts: tuple[Count, ...]
    sources: tuple[str, ...]
    totals: tuple[str, ...] = ()
    left_out: frozenset[str] = frozenset()
    lists: frozenset[str] = frozenset()
    entries: tuple[tuple[str, frozenset[str]], ...] = ()

    def all(self) -> Iterator[Count]:
        """Every count, those inside others too."""
        for count in self.counts:
            yield from count.all()


_GEN_AI: Final = "gen_ai.usage."
_GITHUB: Final = "https://github.com/"

OTEL_GENAI: Final = Vocabulary(
    name="otel_genai",
    system="OpenTelemetry's GenAI conventions",
    counts=(
        Count(
            (f"{_GEN_AI}input_tokens", f"{_GEN_AI}prompt_tokens"),
            INPUT,
            parts=(
                Count((f"{_GEN_AI}cache_read.input_tokens", f"{_GEN_AI}cache_read_input_tokens"), CACHE_READ),
                Count(
                    (
                        f"{_GEN_AI}cache_creation.input_tokens",
                        f"{_GEN_AI}cache_write.input_tokens",
                        f"{_GEN_AI}cache_creation_input_tokens",
                    ),
                    CACHE_WRITE_SHORT,
                ),
            ),
            kinds=tuple(
                Count((f"{_GEN_AI}{kind}.input_tokens",), f"input_{kind}_tokens")
                for kind in ("audio", "image", "video")
            ),
        ),
        Count(
            (f"{_GEN_AI}output_tokens", f"{_GEN_AI}completion_tokens"),
            OUTPUT,
            parts=(Count((f"{_GEN_AI}reasoning.output_tokens",), OUTPUT, memo=REASONING),),
            kinds=tuple(
                Count((f"{_GEN_AI}{kind}.output_tokens",), f"output_{kind}_tokens")
                for kind in ("audio", "image", "video")
            ),
        ),
    ),
    left_out=frozenset(
        {f"{_GEN_AI}text.input_tokens", f"{_GEN_AI}text.output_tokens", f"{_GEN_AI}cost", f"{_GEN_AI}total_tokens"}
    ),
    sources=(
        f"{_GITHUB}open-telemetry/semantic-conventions-genai/blob/main/model/gen-ai/registry.yaml",
        f"{_GITHUB}open-telemetry/semantic-conventions/blob/main/model/gen-ai/deprecated/registry-deprecated.yaml",
        "https://getsentry.github.io/relay/relay_conventions/attributes/index.html",
    ),
)

_INPUT_DETAILS: Final = ("prompt_tokens_details", "input_tokens_details", "input_token_details")
_OUTPUT_DETAILS: Final = ("completion_tokens_details", "output_tokens_details", "output_token_details")


def _in(objects: tuple[str, ...], member: str) -> tuple[str, ...]:
    return tuple(f"{name}.{member}" for name in objects)


OPENAI: Final = Vocabulary(
    name="openai",
    system="OpenAI's API (chat completions, responses, realtime, embeddings, images, transcription) and those like it",
    counts=(
        Count(
            ("prompt_tokens", "input_tokens"),
            INPUT,
            parts=(
                Count(
                    (*_in(_INPUT_DETAILS, "cached_tokens"), "prompt_cache_hit_tokens"),
                    CACHE_READ,
                    parts=tuple(
                        Count(
                            _in(_INPUT_DETAILS, f"cached_tokens_details.{kind}_tokens"),
                            f"cache_{kind}_read_tokens",
                        )
                        for kind in ("audio", "image")
                    ),
                ),
                Count(
                    _in(_INPUT_DETAILS, "cache_write_tokens"),
                    CACHE_WRITE_SHORT,
                    parts=(
                        Count(_in(_INPUT_DETAILS, "cache_write_tokens_details.ttl_30m_tokens"), CACHE_WRITE_SHORT),
                        Count(_in(_INPUT_DETAILS, "cache_write_tokens_details.ttl_12h_tokens"), CACHE_WRITE_LONG),
                    ),
                ),
            ),
            kinds=(
                *(
                    Count(
                        _in(_INPUT_DETAILS, f"{kind}_tokens"),
                        f"input_{kind}_tokens",
                        cached=f"{_INPUT_DETAILS[0]}.cached_tokens_details.{kind}_tokens",
                    )
                    for kind in ("audio", "image")
                ),
                Count(_in(_INPUT_DETAILS, "video_tokens"), "input_video_tokens"),
            ),
        ),
        Count(
            ("completion_tokens", "output_tokens"),
            OUTPUT,
            parts=(Count(_in(_OUTPUT_DETAILS, "reasoning_tokens"), OUTPUT, memo=REASONING),),
            kinds=tuple(
                Count(_in(_OUTPUT_DETAILS, f"{kind}_tokens"), f"output_{kind}_tokens")
                for kind in ("audio", "image", "video")
            ),
        ),
        Count(("seconds",), "audio_seconds"),
    ),
    totals=("total_tokens",),
    left_out=frozenset(
        {
            *_in((*_INPUT_DETAILS, *_OUTPUT_DETAILS), "text_tokens"),
            *_in(_INPUT_DETAILS, "cached_tokens_details.text_tokens"),
            *_in(_OUTPUT_DETAILS, "accepted_prediction_tokens"),
            *_in(_OUTPUT_DETAILS, "rejected_prediction_tokens"),
            "prompt_cache_miss_tokens",
            *("cost", "cost_details"),
            *("queue_time", "prompt_time", "completion_time", "total_time"),
        }
    ),
    sources=(
        f"{_GITHUB}openai/openai-python/blob/main/src/openai/types/completion_usage.py",
        f"{_GITHUB}openai/openai-python/blob/main/src/openai/types/responses/response_usage.py",
        f"{_GITHUB}openai/openai-python/blob/main/src/openai/types/realtime/realtime_response_usage.py",
        f"{_GITHUB}openai/openai-python/blob/main/src/openai/types/images_response.py",
        f"{_GITHUB}openai/openai-python/blob/main/src/openai/types/audio/transcription.py",
        f"{_GITHUB}openai/openai-python/blob/main/src/openai/types/create_embedding_response.py",
        "https://api-docs.deepseek.com/guides/kv_cache",
        "https://openrouter.ai/docs/use-cases/usage-accounting",
        f"{_GITHUB}groq/groq-typescript/blob/main/src/resources/completions.ts",
    ),
)

ANTHROPIC: Final = Vocabulary(
    name="anthropic",
    system="Anthropic's messages API",
    counts=(
        Count(("input_tokens",), INPUT),
        Count(("cache_read_input_tokens",), CACHE_READ),
        Count(
            ("cache_creation_input_tokens",),
            CACHE_WRITE_SHORT,
            parts=(
                Count(("cache_creation.ephemeral_5m_input_tokens",), CACHE_WRITE_SHORT),
                Count(("cache_creation.ephemeral_1h_input_tokens",), CACHE_WRITE_LONG),
            ),
        ),
        Count(
            ("output_tokens",),
            OUTPUT,
            parts=(Count(("output_tokens_details.thinking_tokens",), OUTPUT, memo=REASONING),),
        ),
        Count(("server_tool_use.web_search_requests",), "web_searches"),
    ),
    # A fetch costs nothing but its tokens.
    left_out=frozenset({"server_tool_use.web_fetch_requests", "fallback_credit"}),
    entries=(("iterations", frozenset({"message"})),),
    sources=(
        f"{_GITHUB}anthropics/anthropic-sdk-python/blob/main/src/anthropic/types/usage.py",
        f"{_GITHUB}anthropics/anthropic-sdk-python/blob/main/src/anthropic/types/message.py",
        f"{_GITHUB}anthropics/anthropic-sdk-python/blob/main/src/anthropic/types/beta/beta_usage.py",
    ),
)

_LITELLM_INPUT: Final = "prompt_tokens_details"
_LITELLM_OUTPUT: Final = "completion_tokens_details"
_LITELLM_WRITES: Final = f"{_LITELLM_INPUT}.cache_creation_token_details.ephemeral"

LITELLM: Final = Vocabulary(
    name="litellm",
    system="LiteLLM's normalised usage, whoever answered",
    counts=(
        Count(
            ("prompt_tokens",),
            INPUT,
            parts=(
                Count(
                    (f"{_LITELLM_INPUT}.cached_tokens", "cache_read_input_tokens", "prompt_cache_hit_tokens"),
                    CACHE_READ,
                    parts=tuple(
                        Count(
                            (f"{_LITELLM_INPUT}.cached_tokens_details.{kind}_tokens",),
                            f"cache_{kind}_read_tokens",
                        )
                        for kind in ("audio", "image")
                    ),
                ),
                Count(
                    (
                        f"{_LITELLM_INPUT}.cache_write_tokens",
                        f"{_LITELLM_INPUT}.cache_creation_tokens",
                        "cache_creation_input_tokens",
                    ),
                    CACHE_WRITE_SHORT,
                    parts=(
                        Count((f"{_LITELLM_WRITES}_5m_input_tokens",), CACHE_WRITE_SHORT),
                        Count((f"{_LITELLM_WRITES}_30m_input_tokens",), CACHE_WRITE_SHORT),
                        Count((f"{_LITELLM_WRITES}_1h_input_tokens",), CACHE_WRITE_LONG),
                        Count((f"{_LITELLM_WRITES}_12h_input_tokens",), CACHE_WRITE_LONG),
                    ),
                ),
            ),
            kinds=(
                *(
                    Count(
                        (f"{_LITELLM_INPUT}.{kind}_tokens",),
                        f"input_{kind}_tokens",
                        cached=f"{_LITELLM_INPUT}.cached_tokens_details.{kind}_tokens",
                    )
                    for kind in ("audio", "image")
                ),
                Count((f"{_LITELLM_INPUT}.video_tokens",), "input_video_tokens"),
            ),
        ),
        Count(
            ("completion_tokens",),
            OUTPUT,
            parts=(Count((f"{_LITELLM_OUTPUT}.reasoning_tokens", "reasoning_tokens"), OUTPUT, memo=REASONING),),
            kinds=tuple(
                Count((f"{_LITELLM_OUTPUT}.{kind}_tokens",), f"output_{kind}_tokens")
                for kind in ("audio", "image", "video")
            ),
        ),
        Count(
            ("server_tool_use.web_search_requests", f"{_LITELLM_INPUT}.web_search_requests"),
            "web_searches",
        ),
        Count((f"{_LITELLM_INPUT}.character_count",), "input_characters"),
        Count((f"{_LITELLM_INPUT}.audio_length_seconds",), "input_audio_seconds"),
    ),
    # total_tokens is the provider's, and holds what LiteLLM takes out: tokens of a grounding search, for example.
    left_out=frozenset(
        {
            "total_tokens",
            f"{_LITELLM_INPUT}.text_tokens",
            f"{_LITELLM_INPUT}.cached_tokens_details.text_tokens",
            f"{_LITELLM_INPUT}.tool_use_tokens",
            f"{_LITELLM_INPUT}.initial_prompt_tokens",
            f"{_LITELLM_OUTPUT}.text_tokens",
            f"{_LITELLM_OUTPUT}.accepted_prediction_tokens",
            f"{_LITELLM_OUTPUT}.rejected_prediction_tokens",
            "server_tool_use.tool_search_requests",
            "prompt_cache_miss_tokens",
            *("cost", "cost_details", "iterations"),
        }
    ),
    sources=(
        f"{_GITHUB}BerriAI/litellm/blob/main/litellm/types/utils.py",
        f"{_GITHUB}BerriAI/litellm/blob/main/litellm/litellm_core_utils/llm_cost_calc/utils.py",
        f"{_GITHUB}BerriAI/litellm/issues/15945",
    ),
)

LANGFUSE: Final = Vocabulary(
    name="langfuse",
    system="Langfuse's usage details",
    # Every usage type is a bucket of its own there, with a price of its own.
    counts=(
        *(Count((name,), INPUT) for name in ("input", "input_tokens", "input_text", "input_text_tokens")),
        *(
            Count((name,), CACHE_READ)
            for name in (
                "input_cached_tokens",
                "input_cache_read",
                "cache_read_input_tokens",
                "input_cached_text_tokens",
            )
        ),
        Count(("input_cached_audio_tokens",), "cache_audio_read_tokens"),
        *(
            Count((name,), CACHE_WRITE_SHORT)
            for name in (
                "input_cache_creation",
                "input_cache_creation_5m",
                "input_ephemeral_5m_input_tokens",
                "input_cache_write_tokens",
            )
        ),
        *(Count((name,), CACHE_WRITE_LONG) for name in ("input_cache_creation_1h", "input_ephemeral_1h_input_tokens")),
        Count(
            ("cache_creation_input_tokens",),
            CACHE_WRITE_SHORT,
            parts=(
                Count(("cache_creation_ephemeral_5m_input_tokens",), CACHE_WRITE_SHORT),
                Count(("cache_creation_ephemeral_1h_input_tokens",), CACHE_WRITE_LONG),
            ),
        ),
        *(
            Count((f"input_{kind}{end}",), f"input_{kind}_tokens")
            for kind in ("audio", "image", "video")
            for end in ("", "_tokens")
        ),
        *(
            Count((name,), OUTPUT)
            for name in (
                "output",
                "output_tokens",
                "output_text",
                "output_text_tokens",
                "output_accepted_prediction_tokens",
                "output_rejected_prediction_tokens",
            )
        ),
        *(
            Count((name,), OUTPUT, memo=REASONING)
            for name in ("output_reasoning", "output_reasoning_tokens", "reasoning_tokens")
        ),
        *(
            Count((f"output_{kind}{end}",), f"output_{kind}_tokens")
            for kind in ("audio", "image", "video")
            for end in ("", "_tokens")
        ),
    ),
    totals=("total",),
    sources=(
        f"{_GITHUB}langfuse/langfuse/blob/main/packages/shared/src/server/ingestion/types.ts",
        f"{_GITHUB}langfuse/langfuse/blob/main/worker/src/constants/default-model-prices.json",
        f"{_GITHUB}langfuse/langfuse-python/blob/main/langfuse/langchain/CallbackHandler.py",
    ),
)


def snake_case(name: str) -> str:
    """The name in lower case, with ``_`` before what was upper case in it and in the place of dots."""
    return re.sub(r"(?<=[a-z0-9])([A-Z])", r"_\1", name).replace(".", "_").lower()


def _both(*names: str, modality: str = "") -> tuple[str, ...]:
    """The names on Google's wire, and as its Python library writes them."""
    end = modality and f".{modality}"
    return tuple(f"{spelling}{end}" for name in names for spelling in (name, snake_case(name)))


_MODALITIES: Final = (("AUDIO", "audio"), ("IMAGE", "image"), ("VIDEO", "video"))
_PROMPT_DETAILS: Final = "promptTokensDetails"
_CACHE_DETAILS: Final = "cacheTokensDetails"
_TOOL_DETAILS: Final = "toolUsePromptTokensDetails"
_ANSWER_DETAILS: Final = ("candidatesTokensDetails", "responseTokensDetails")

GEMINI: Final = Vocabulary(
    name="gemini",
    system="Google's Gemini API, live API and Vertex AI (`usageMetadata`)",
    counts=(
        Count(
            _both("promptTokenCount"),
            INPUT,
            parts=(
                Count(
                    _both("cachedContentTokenCount"),
                    CACHE_READ,
                    parts=tuple(
                        Count(_both(_CACHE_DETAILS, modality=modality), f"cache_{kind}_read_tokens")
                        for modality, kind in _MODALITIES
                    ),
                ),
            ),
            kinds=tuple(
                Count(
                    _both(_PROMPT_DETAILS, modality=modality),
                    f"input_{kind}_tokens",
                    cached=f"{_CACHE_DETAILS}.{modality}",
                )
                for modality, kind in _MODALITIES
            ),
        ),
        Count(
            _both("toolUsePromptTokenCount"),
            INPUT,
            kinds=tuple(
                Count(_both(_TOOL_DETAILS, modality=modality), f"input_{kind}_tokens") for modality, kind in _MODALITIES
            ),
        ),
        Count(
            _both("candidatesTokenCount", "responseTokenCount"),
            OUTPUT,
            kinds=tuple(
                Count(_both(*_ANSWER_DETAILS, modality=modality), f"output_{kind}_tokens")
                for modality, kind in _MODALITIES
            ),
        ),
        Count(_both("thoughtsTokenCount"), OUTPUT, memo=REASONING),
    ),
    totals=_both("totalTokenCount"),
    lists=frozenset(_both(_PROMPT_DETAILS, _CACHE_DETAILS, _TOOL_DETAILS, *_ANSWER_DETAILS)),
    sources=(
        f"{_GITHUB}googleapis/python-genai/blob/main/google/genai/types.py",
        "https://googleapis.github.io/js-genai/release_docs/classes/types.GenerateContentResponseUsageMetadata.html",
        "https://hexdocs.pm/geminix/Geminix.V1beta.UsageMetadata.html",
    ),
)

#: The vocabularies by name: every value that ``data.vocabulary`` may have.
VOCABULARIES: Final = {
    vocabulary.name: vocabulary for vocabulary in (OTEL_GENAI, OPENAI, ANTHROPIC, LITELLM, LANGFUSE, GEMINI)
}
