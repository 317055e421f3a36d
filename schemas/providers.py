"""Names that programs use for a provider of models, beside the one that price books usually have."""

from __future__ import annotations

from typing import Final

#: Under the names of the genai-prices package: what OpenTelemetry writes into ``gen_ai.provider.name`` (before that
#: ``gen_ai.system``), and what LiteLLM calls ``custom_llm_provider``, where it is another word.
#: https://opentelemetry.io/docs/specs/semconv/registry/attributes/gen-ai/ and https://docs.litellm.ai/docs/providers
OTHER_NAMES: Final = {
    "aws": ("aws.bedrock", "bedrock"),
    "azure": ("az.ai.inference", "az.ai.openai", "azure.ai.inference", "azure.ai.openai", "azure_ai"),
    "fireworks": ("fireworks_ai",),
    "google": ("gcp.gemini", "gcp.gen_ai", "gcp.vertex_ai", "gemini", "vertex_ai"),
    "mistral": ("mistral_ai",),
    "moonshotai": ("moonshot",),
    "together": ("together_ai",),
    "voyageai": ("voyage",),
    "x-ai": ("x_ai", "xai"),
}
#: The provider that each of the other names means.
PROVIDER_OF: Final = {name: provider for provider, names in OTHER_NAMES.items() for name in names}
