"""What is taken for a secret, what is not, and that nothing of one is shown."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from schemas.secrets import MASK, is_secret, redact, redacted_prefix

SECRETS = [
    "sk-abcdefghijklmnopqrs1",
    "sk-proj-A_b-C_d-E_f-G_h-7",
    "sk-svcacct-abcDEF0123456789_-x",
    "sk_live_4eC39HqLyjWDarjtT1",
    "sk_test_4eC39HqLyjWDarjtT1",
    "rk_live_51H",
    "AKIAIOSFODNN7EXAMPLE",
    "ASIAIOSFODNN7EXAMPLE",
    "ghp_16C7e42F292c6912E7710c838347Ae178B4a",
    "gho_16C7e42F292c6912E7710c838347Ae178B4a",
    "ghs_16C7e42F292c6912E7710c838347Ae178B4a",
    "github_pat_11ABCDEFG0",
    "xoxb-1234-5678-abcdef",
    "xoxp-1234-5678-abcdef",
    "AIzaSyD-9tSrke72PouQMnMX-a7eZSW0jkFMBWY",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U",
    "eyJhbGciOiJub25lIn0.eyJzdWIiOiIxIn0.",
]
HARMLESS = [
    "",
    "sk-",
    "sk-abcdefghijklmnopqr1",  # 19 characters
    "sk-abcdefghijklmnopqrstuvwxyz",  # no digit
    "sk_prod",
    "skunkworks-project-number-1234567890",
    "AKIA",
    "AKIAIOSFODNN7",
    "akiaiosfodnn7example",
    "ASIAPacificRegionalCluster01",
    "AIza-short",
    "eyJhbGciOiJIUzI1NiJ9",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0",
    "ghost_writer",
    "xox-1",
    "Bearer key_42",
    "key_42",
    "d41d8cd98f00b204e9800998ecf8427e",
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "req-7f3a0b1c2d3e4f50",
    "gpt-4o-mini-2024-07-18",
    str(uuid.UUID(int=2**127 + 12345)),
]


@pytest.mark.parametrize("secret", SECRETS)
def test_each_shape_is_recognised_and_masked(secret: str) -> None:
    """At the beginning of a string, behind Bearer, and masked wherever it stands in a text."""
    assert is_secret(secret)
    assert is_secret(f"Bearer {secret}")
    assert is_secret(f"bearer  {secret}")
    assert redact(f'{{"key":"{secret}","n":1}}') == f'{{"key":"{MASK}","n":1}}'


@pytest.mark.parametrize("text", HARMLESS)
def test_what_only_looks_a_little_like_one_is_left_alone(text: str) -> None:
    """Digests, UUIDs and names that begin alike are ids of somebody."""
    assert not is_secret(text)
    assert redact(f'{{"key":"{text}"}}') == f'{{"key":"{text}"}}'


def test_a_secret_in_the_middle_is_not_begun_with_but_masked() -> None:
    """Refusing is about whole strings, masking is about every substring."""
    assert not is_secret("the key is ghp_16C7e42F292c")
    assert redact("the key is ghp_16C7e42F292c, keep it") == f"the key is {MASK}, keep it"


@pytest.mark.parametrize(
    "disguised",
    [
        r"\u0073\u006b-abcdefghijklmnopqrs1",
        r"sk\u002dabcdefghij\u006Blmnopqrs1",
        r"sk_live\u005fabc",
        "\x00".join("sk-abcdefghijklmnopqrs1"),
    ],
)
def test_json_escapes_and_utf16_do_not_hide_a_secret(disguised: str) -> None:
    """What a reader can undo is as good as shown."""
    assert redact(f'{{"key":"{disguised}","n":1}}') == f'{{"key":"{MASK}","n":1}}'


def test_overlapping_shapes_are_masked_as_one() -> None:
    """Masking one must not leave the rest of the other."""
    assert redact("sk-abcdefghijklmnopqrs1eyJhbGci.eyJzdWI.c2ln!") == f"{MASK}!"


@pytest.mark.parametrize("at", range(200, 260))
def test_a_limit_never_cuts_a_secret_open(at: int) -> None:
    """What is shown is cut after masking."""
    text = "." * at + " sk-abcdefghijklmnopqrstuvwxyz" + "a" * 100 + "1"

    shown = redacted_prefix(text, 256)

    assert len(shown) <= 256
    assert "sk-" not in shown


def test_a_text_that_was_cut_may_hold_the_beginning_of_a_secret() -> None:
    """Its digit, or its second dot, may have been cut off: then it is masked to be safe."""
    for beginning in ("sk-abc", "eyJhbGci.eyJz", "AKIA", "AIzaSy"):
        assert redacted_prefix(f"{beginning}", 256, was_cut=True) == MASK
        assert redacted_prefix(f"{beginning}", 256, was_cut=False) == beginning


@pytest.mark.parametrize(
    "unit", ["sk-", "eyJ", "eyJ.", "eyJa.b ", "AKIA", "AIza", "ghp_ ", "Bearer ", r"\u0073k-", "\x00s"]
)
def test_a_hostile_mebibyte_is_decided(unit: str) -> None:
    """Time grows with the length of the text alone: scanning once per beginning would take hours here."""
    text = unit * (1024 * 1024 // len(unit))

    assert len(redact(text)) <= len(text) * len(MASK)
    assert is_secret(text) == is_secret(text[:100])


@given(st.text(), st.sampled_from(SECRETS), st.text())
@example("sk-", "sk-abcdefghijklmnopqrs1", "sk-")
@example("\\", SECRETS[0], "\\")
def test_nothing_of_a_secret_survives_between_any_texts(before: str, secret: str, after: str) -> None:
    """Whatever stands around it."""
    assert secret not in redact(f"{before} {secret} {after}")


@given(st.text(alphabet='sk-_liveAIzaAKIAghp.eyJ1 \\u0063"', max_size=80), st.integers(0, 90))
def test_masking_is_idempotent_and_keeps_to_the_limit(text: str, limit: int) -> None:
    """A masked text has nothing left to mask."""
    masked = redact(text)

    assert redact(masked) == masked
    assert len(redacted_prefix(text, limit)) <= max(limit, len(masked))


@given(st.text(alphabet="sk-_liveAIzaAKIAghp.eyJ1 ", max_size=60))
def test_what_begins_like_a_secret_is_masked_from_the_beginning(text: str) -> None:
    """Refusing and masking agree on what a secret is."""
    if is_secret(text):
        assert redact(text).startswith(MASK)
