"""The settings, read once at the entry: ``TALLY_*`` variables, or a file given by ``--config``.

Nothing else in the project reads the environment. ``tally config`` prints them with secrets masked.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import urlsplit, urlunsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from schemas.errors import WrongUse
from schemas.topics import Topics

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

TOPIC_RETENTION_DAYS: Final = 35
SECONDS_PER_DAY: Final = 86_400
PORT_MAX: Final = 65_535
SASL_MECHANISMS: Final = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")

#: A name or an address, and a port unless it is Kafka's own (9092).
KAFKA_ADDRESS: Final = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[^\s:\[\]]+)(?::([0-9]{1,5}))?")
DATABASE: Final = re.compile(r"[A-Za-z0-9_]+")

#: What a person is told instead of a pattern.
WORDS: Final = {
    "app_id": "may hold letters, digits, dots, underscores and hyphens only, 1 to 200 of them",
    "topic_prefix": "may hold letters, digits, dots, underscores and hyphens only, at most 100 of them",
    "log_level": "must be debug, info, warning or error",
}
LIMITS: Final = {"ge": "at least", "gt": "more than", "le": "at most"}
#: By the beginning of what pydantic calls the mistake; the empty one is any other.
KINDS: Final = {
    "int": "must be a whole number",
    "float": "must be a number",
    "path": "must be the path of a file or folder",
    "": "must be text (in a config file: in quotes)",
}


class Settings(BaseSettings):
    """Everything that can be set. Units stand at the end of the names; defaults run on a laptop."""

    model_config = SettingsConfigDict(env_prefix="TALLY_", extra="forbid", frozen=True)

    kafka_bootstrap: str = Field("127.0.0.1:9092", description="Kafka brokers, host:port, separated by commas.")
    kafka_security_protocol: str = Field("PLAINTEXT", description="PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL.")
    kafka_sasl_mechanism: str | None = Field(None, description="PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512.")
    kafka_sasl_username: str | None = Field(None, description="SASL user.")
    kafka_sasl_password: SecretStr | None = Field(None, description="SASL password.")
    kafka_ssl_cafile: Path | None = Field(None, description="PEM file of the authorities to trust.")
    kafka_ssl_certfile: Path | None = Field(None, description="PEM file of the client's certificate.")
    kafka_ssl_keyfile: Path | None = Field(None, description="PEM file of the client's key.")
    kafka_ssl_password: SecretStr | None = Field(None, description="Password of the client's key.")
    store_url: SecretStr = Field(
        SecretStr("http://127.0.0.1:8123/tally"),
        description="ClickHouse over HTTP, http(s)://[user:password@]host:port/database.",
    )
    store_user: str | None = Field(None, description="ClickHouse user, unless the URL names one.")
    store_password: SecretStr | None = Field(None, description="ClickHouse password, unless the URL names one.")
    store_ssl_cafile: Path | None = Field(None, description="PEM file of the authorities to trust for https.")
    app_id: str = Field("tallyhouse", pattern=r"^[A-Za-z0-9._-]{1,200}$", description="Kafka consumer group.")
    topic_prefix: str = Field("", pattern=r"^[A-Za-z0-9._-]{0,100}$", description="Stands before every topic name.")
    state_dir: Path = Field(Path(".tally"), description="Scratch files; nothing in it matters for the numbers.")
    max_ahead_seconds: int = Field(300, ge=0, le=SECONDS_PER_DAY * 366, description="Events further ahead are refused.")
    max_age_days: int = Field(35, ge=1, le=20_000, description="Events older than this on arrival are refused.")
    dedupe_days: int = Field(35, ge=1, le=40_000, description="For how long an identity is remembered.")
    metrics_port: int = Field(9464, ge=0, le=65_535, description="Port of /metrics, /livez, /readyz; 0 takes a free.")
    metrics_host: str = Field("127.0.0.1", description="Address that /metrics binds to.")
    batch_events_max: int = Field(
        50_000, ge=1, le=500_000, description="A flush to the store holds about this at most."
    )
    batch_wait_seconds: float = Field(0.25, gt=0, le=10, description="A flush happens at the latest after this.")
    identities_max: int = Field(
        40_000_000, ge=1_000, description="Identities kept in memory per worker, 8 bytes each; older ones are asked."
    )
    totals_rows_max: int = Field(
        500_000, ge=1_000, description="Hourly totals kept in memory per partition, about 400 bytes each."
    )
    session_timeout_seconds: float = Field(30.0, ge=6, le=300, description="A silent worker loses its partitions.")
    audit_seconds: float = Field(
        300.0, ge=0, le=86_400, description="One worker audits the newest books this often; 0 is never."
    )
    connect_seconds: float = Field(10.0, gt=0, le=300, description="How long to try to reach a server at start.")
    log_level: str = Field("info", pattern="^(debug|info|warning|error)$", description="debug, info, warning, error.")

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_value(cls, value: object) -> object:
        if isinstance(value, bool):  # YAML's true, which Python would take for a 1
            raise ValueError("is neither true nor false")  # noqa: TRY004 -- pydantic passes a TypeError on
        return value

    @field_validator("kafka_bootstrap")
    @classmethod
    def _addresses(cls, value: str) -> str:
        """Port 0 is for `tally up`, which takes a free one."""
        found = [KAFKA_ADDRESS.fullmatch(server.strip()) for server in value.split(",")]
        if not all(one and int(one[1] or 0) <= PORT_MAX for one in found):
            raise ValueError(
                f"must look like 127.0.0.1:9092, several separated by commas, ports at most {PORT_MAX}; it is {value!r}"
            )
        return value

    @field_validator("kafka_sasl_mechanism")
    @classmethod
    def _known_mechanism(cls, value: str | None) -> str | None:
        if value is not None and value.upper() not in SASL_MECHANISMS:
            raise ValueError(f"must be PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512 (it is {value!r})")
        return None if value is None else value.upper()

    @field_validator("kafka_security_protocol")
    @classmethod
    def _known_protocol(cls, value: str) -> str:
        upper = value.upper()
        if upper not in {"PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"}:
            raise ValueError("must be PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL")
        return upper

    @field_validator("store_url")
    @classmethod
    def _usable_store_url(cls, value: SecretStr) -> SecretStr:
        parts = urlsplit(value.get_secret_value())
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("must look like http://127.0.0.1:8123/tally")
        try:
            _ = parts.port
        except ValueError as error:
            raise ValueError(f"must have a port of at most {PORT_MAX}, as in http://127.0.0.1:8123/tally") from error
        database = parts.path.strip("/")
        if database and not DATABASE.fullmatch(database):
            raise ValueError(f"must name a database of letters, digits and underscores (it names {database!r})")
        return value

    @model_validator(mode="after")
    def _horizons_fit(self) -> Self:
        if self.dedupe_days < self.max_age_days:
            raise ValueError(
                f"TALLY_DEDUPE_DAYS ({self.dedupe_days}) must not be shorter than TALLY_MAX_AGE_DAYS "
                f"({self.max_age_days}), or an old repeat could be billed twice"
            )
        if self.dedupe_days < TOPIC_RETENTION_DAYS:
            raise ValueError(
                f"TALLY_DEDUPE_DAYS ({self.dedupe_days}) must not be shorter than the retention of the topics "
                f"({TOPIC_RETENTION_DAYS} days), or a replay could be billed twice"
            )
        if self.kafka_security_protocol.startswith("SASL") and not (
            self.kafka_sasl_mechanism and self.kafka_sasl_username and self.kafka_sasl_password
        ):
            raise ValueError(
                f"TALLY_KAFKA_SECURITY_PROTOCOL={self.kafka_security_protocol} needs TALLY_KAFKA_SASL_MECHANISM, "
                "TALLY_KAFKA_SASL_USERNAME and TALLY_KAFKA_SASL_PASSWORD"
            )
        return self

    @property
    def topics(self) -> Topics:
        """The topic names of this installation."""
        return Topics(self.topic_prefix)

    def masked(self) -> dict[str, str]:
        """Every setting by its variable name, as text; secrets and the password inside the store URL are masked."""
        shown: dict[str, str] = {}
        for name in type(self).model_fields:
            value = getattr(self, name)
            if name == "store_url":
                text = _without_password(value.get_secret_value())
            elif isinstance(value, SecretStr):
                text = "********"
            else:
                text = "" if value is None else str(value)
            shown[f"TALLY_{name.upper()}"] = text
        return shown


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    if parts.password is None:
        return url
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{parts.username}:********@{host}"))


def load_settings(config: Path | None = None) -> Settings:
    """Settings from the environment, over those of ``config`` (YAML, names with or without ``TALLY_``).

    Raises:
        WrongUse: an unknown name, a value that does not fit, a pair that makes no sense, or a file that can't be read.
    """
    from_file = {} if config is None else _read_config(config)
    known = {f"TALLY_{name.upper()}" for name in Settings.model_fields}
    for name in sorted(os.environ):  # noqa: TID251 -- the one place
        if name.startswith("TALLY_") and name not in known:
            sys.stderr.write(f"warning: {name} is no setting of tally and is ignored; `tally config` lists them.\n")
    try:
        return _settings_over(from_file)
    except ValidationError as error:
        raise WrongUse(_first_sentence(error)) from error


def _settings_over(from_file: dict[str, Any]) -> Settings:
    """The environment wins over the file, as in most Unix programs."""

    class WithFile(Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            _ = settings_cls, dotenv_settings, file_secret_settings
            return (env_settings, init_settings)

    return WithFile(**from_file)


def _read_config(config: Path) -> dict[str, Any]:
    try:
        loaded = YAML(typ="safe").load(config.read_text(encoding="utf-8"))
    except OSError as error:
        raise WrongUse(f"The config file {config} can't be read ({error.strerror}): name one that exists.") from error
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise WrongUse(f"The config file {config} is not YAML{place}: {error.problem or error.context}.") from error
    except (YAMLError, UnicodeDecodeError) as error:
        said = " ".join(str(error).split()).rstrip(".")
        raise WrongUse(f"The config file {config} is not YAML: {said}.") from error
    if loaded is None:  # nothing but remarks: everything has its default
        return {}
    if not isinstance(loaded, dict):
        raise WrongUse(f"The config file {config} must hold `name: value` lines, for example `app_id: tallyhouse`.")
    values = {str(key).removeprefix("TALLY_").lower(): value for key, value in loaded.items()}
    unknown = sorted(set(values) - set(Settings.model_fields))
    if unknown:
        raise WrongUse(f"{unknown[0]} in {config} is no setting of tally: see `tally config` for the names.")
    return values


def _first_sentence(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    if not first["loc"]:
        return f"{str(first['msg']).removeprefix('Value error, ')}."
    name = str(first["loc"][0])
    return f"TALLY_{name.upper()} {_what_it_must_be(name, first)}."


def _what_it_must_be(name: str, mistake: ErrorDetails) -> str:
    """The predicate of the sentence, in words of the person who wrote the value."""
    kind = mistake["type"]
    if kind == "value_error":
        return str(mistake["msg"]).removeprefix("Value error, ")
    if kind == "string_pattern_mismatch":
        return WORDS[name]
    for limit, words in LIMITS.items():
        if limit in (limits := mistake.get("ctx", {})):
            return f"must be {words} {limits[limit]:.15g}"
    return next(words for start, words in KINDS.items() if kind.startswith(start))
