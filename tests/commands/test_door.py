"""What happens at the door: help, wrong use, wrong settings, servers that are not there."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tally.main import ORDER
from tests.processes import ROOT

if TYPE_CHECKING:
    from tests.commands.conftest import Tally

#: Contract §7, "Commands".
COMMANDS = (
    "broker",
    "store",
    "migrate",
    "catalog",
    "rules",
    "worker",
    "send",
    "drain",
    "report",
    "reprice",
    "audit",
    "config",
    "up",
    "demo",
)
#: Commands of one of the two servers, with what they need on the line.
NEED_KAFKA = (("migrate",), ("send", "README.md"), ("drain",), ("catalog", "show"))


def test_the_help_names_every_command(tally: Tally) -> None:
    """`tally --help` lists every command of the contract, each with what it does."""
    answer = tally("--help")

    assert (answer.code, answer.stderr) == (0, "")
    listed = answer.stdout.partition("Commands:")[2].partition("Examples:")[0].split("\n")[1:]
    assert tuple(line.split()[0] for line in listed if line.strip()) == COMMANDS == ORDER
    assert all(len(line.split()) > 2 for line in listed if line.strip())


REPORTS = ("summary", "concentration", "success", "invoice", "unpriced", "rejected", "duplicates")


@pytest.mark.parametrize("group", [(), ("catalog",), ("report",)], ids=" ".join)
def test_the_help_of_each_group_has_examples(tally: Tally, group: tuple[str, ...]) -> None:
    """Its commands as they are written, each on a line of its own below the list."""
    answer = tally(*group, "--help")

    beginning = " ".join(("tally", *group, ""))
    shown = answer.stdout.partition("Examples:\n")[2].splitlines()
    assert len(shown) == 3
    assert all(line.strip().startswith(beginning) for line in shown)


@pytest.mark.parametrize(
    "command",
    [
        *(name for name in COMMANDS if name not in ("catalog", "report", "rules")),
        *(f"catalog {name}" for name in ("apply", "check", "show")),
        *(f"report {name}" for name in REPORTS),
        "rules backtest",
    ],
)
def test_the_help_of_each_command_has_examples_that_begin_with_it(tally: Tally, command: str) -> None:
    """`tally COMMAND --help` explains the command and shows how to write it, on lines of their own."""
    answer = tally(*command.split(), "--help")

    assert (answer.code, answer.stderr) == (0, "")
    assert f"  tally {command}" in answer.stdout or f"Example: tally {command}" in answer.stdout
    assert "\\b" not in answer.stdout


def test_tally_alone_shows_its_help_as_it_is(tally: Tally) -> None:
    """Without a command there is nothing to do: the help, with its lines kept, and exit code 2."""
    answer = tally()

    assert (answer.code, answer.stdout) == (2, "")
    assert "\n  migrate  " in answer.stderr


def test_a_group_without_a_command_shows_its_help(tally: Tally) -> None:
    """The same for `tally catalog`."""
    answer = tally("catalog")

    assert answer.code == 2
    assert "\n  apply  " in answer.stderr


def test_the_version_is_printed(tally: Tally) -> None:
    """`tally --version` says which one it is."""
    answer = tally("--version")

    assert (answer.code, answer.stdout) == (0, "tally 0.1.0\n")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (("sned",), "Did you mean 'send'?"),
        (("nonsense",), "No such command 'nonsense'."),
        (("send",), "Missing argument 'file'."),
        (("migrate", "--partitions", "0"), "greater than or equal to 1"),
        (("migrate", "--partitions", "many"), "valid integer"),
        (("drain", "--timeout", "-1"), "--timeout"),
        (("drain", "--nonsense"), "--nonsense"),
        (("config", "--format", "xml"), "--format"),
        (("catalog", "show", "--at", "2026-03-01T00:00:00Z"), "NAME"),
        (("send", "no/such/file"), "no/such/file can't be read"),
        (("send", "README.md", "--rate", "0"), "--rate"),
        (("catalog", "check", "no/such/file"), "no/such/file can't be read"),
        (("catalog", "apply", "."), "can't be read"),
    ],
)
def test_wrong_use_is_one_sentence_and_exit_code_2(tally: Tally, line: tuple[str, ...], said: str) -> None:
    """What is wrong on the line is said in one sentence on stderr, and stdout stays empty."""
    answer = tally(*line)

    assert (answer.code, answer.stdout) == (2, "")
    assert said in answer.sentence


def test_the_help_comes_without_the_machinery() -> None:
    """`tally --help` loads none of the large libraries, so that it comes at once."""
    heavy = (
        "polars",
        "pyarrow",
        "numpy",
        "aiokafka",
        "faust",
        "clickhouse_connect",
        "chdb",
        "pydantic",
        "prometheus_client",
    )
    code = (
        "import sys, tally.main\n"
        "try: tally.main.main(['--help'])\n"
        "except SystemExit: pass\n"
        f"sys.exit(', '.join(name for name in {heavy!r} if name in sys.modules) or 0)"
    )

    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")


def test_config_prints_every_setting_with_secrets_masked(tally: Tally) -> None:
    """`tally config` shows what each setting is, and never a password."""
    secrets = {"store_url": "http://me:hush@db:8123/t", "kafka_sasl_password": "hush"}

    answer = tally.given(app_id="mine", **secrets)("config", "--format", "json")

    assert answer.code == 0
    assert "hush" not in answer.stdout
    assert answer.json["TALLY_STORE_URL"] == "http://me:********@db:8123/t"
    assert answer.json["TALLY_APP_ID"] == "mine"


def test_a_config_file_stands_under_the_environment(tally: Tally, tmp_path: Path) -> None:
    """`--config FILE` gives values; a TALLY_* variable wins over it."""
    path = tmp_path / "tally.yaml"
    path.write_text("app_id: from-file\ntopic_prefix: eu.\n", encoding="utf-8")

    answer = tally.given(app_id="from-environment")("--config", str(path), "config", "--format", "json")

    assert (answer.json["TALLY_APP_ID"], answer.json["TALLY_TOPIC_PREFIX"]) == ("from-environment", "eu.")


@pytest.mark.parametrize("text", ["", "# app_id: mine\n"])
def test_a_config_file_without_any_value_is_all_defaults(tally: Tally, tmp_path: Path, text: str) -> None:
    """A template with every line commented out changes nothing."""
    path = tmp_path / "tally.yaml"
    path.write_text(text, encoding="utf-8")

    answer = tally("--config", str(path), "config", "--format", "json")

    assert answer.json == tally("config", "--format", "json").json


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nonsense: 1", "nonsense"),
        ("[1, 2]", "name: value"),
        ("a: [", "not YAML"),
        ("a: b: c", "is not YAML at line 1, column 5: mapping values are not allowed"),
        ("max_age_days: old", "TALLY_MAX_AGE_DAYS must be a whole number."),
        ("metrics_port: true", "TALLY_METRICS_PORT is neither true nor false."),
        ("app_id: 5", "TALLY_APP_ID must be text (in a config file: in quotes)."),
    ],
)
def test_a_config_file_that_can_not_be_used_is_refused(tally: Tally, tmp_path: Path, text: str, said: str) -> None:
    """Unknown names, other shapes and wrong values end with exit code 2 before anything is done."""
    path = tmp_path / "tally.yaml"
    path.write_text(text, encoding="utf-8")

    answer = tally("--config", str(path), "config")

    assert answer.code == 2
    assert said in answer.sentence


def test_a_config_file_that_is_not_there_is_refused(tally: Tally) -> None:
    """The sentence names the file."""
    answer = tally("--config", "no/such/file", "config")

    assert answer.code == 2
    assert "no/such/file" in answer.sentence


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"dedupe_days": "10", "max_age_days": "10"}, "TALLY_DEDUPE_DAYS"),
        ({"dedupe_days": "40", "max_age_days": "50"}, "TALLY_MAX_AGE_DAYS"),
        ({"store_url": "localhost:8123"}, "TALLY_STORE_URL"),
        ({"kafka_security_protocol": "TLS"}, "TALLY_KAFKA_SECURITY_PROTOCOL"),
        ({"kafka_security_protocol": "SASL_SSL"}, "TALLY_KAFKA_SASL_MECHANISM"),
        ({"metrics_port": "70000"}, "TALLY_METRICS_PORT must be at most 65535."),
        ({"metrics_port": "nine"}, "TALLY_METRICS_PORT must be a whole number."),
        ({"connect_seconds": "soon"}, "TALLY_CONNECT_SECONDS must be a number."),
        ({"identities_max": "1"}, "TALLY_IDENTITIES_MAX must be at least 1000."),
        ({"batch_wait_seconds": "0"}, "TALLY_BATCH_WAIT_SECONDS must be more than 0."),
        ({"app_id": "a b"}, "TALLY_APP_ID may hold letters, digits, dots, underscores and hyphens only"),
        ({"topic_prefix": "a/b"}, "TALLY_TOPIC_PREFIX may hold letters"),
        ({"log_level": "loud"}, "TALLY_LOG_LEVEL must be debug, info, warning or error."),
        ({"kafka_sasl_mechanism": "GSSAPI"}, "TALLY_KAFKA_SASL_MECHANISM must be PLAIN"),
        ({"store_url": "http://127.0.0.1:99999/tally"}, "TALLY_STORE_URL must have a port of at most 65535"),
        ({"store_url": "http://127.0.0.1:8123/my-db"}, "TALLY_STORE_URL must name a database of letters"),
    ],
)
def test_settings_that_make_no_sense_are_refused_by_name(tally: Tally, settings: dict[str, str], said: str) -> None:
    """A wrong value, or a pair that would break a promise, is refused at the start."""
    answer = tally.given(**settings)("config")

    assert answer.code == 2
    assert said in answer.sentence


@pytest.mark.parametrize("command", NEED_KAFKA)
def test_a_missing_broker_is_one_sentence_and_exit_code_3(tally: Tally, command: tuple[str, ...]) -> None:
    """It names the address and the setting, and stdout stays empty."""
    answer = tally(*command)

    assert (answer.code, answer.stdout) == (3, "")
    assert "127.0.0.1:9 can't be reached" in answer.sentence
    assert "TALLY_KAFKA_BOOTSTRAP" in answer.sentence


@pytest.mark.parametrize("bootstrap", ["127.0.0.1:port", "", ",", "a:1:2", "127.0.0.1:99999", "127.0.0.1:0"])
def test_a_bootstrap_that_is_no_address_is_refused(tally: Tally, bootstrap: str) -> None:
    """What can't be an address at all is a wrong setting, not a server that is away."""
    answer = tally.given(kafka_bootstrap=bootstrap)("drain")

    assert answer.code == 2
    assert answer.sentence.startswith("TALLY_KAFKA_BOOTSTRAP ")


def test_a_name_that_can_not_be_resolved_is_a_missing_broker(tally: Tally) -> None:
    """The sentence carries the name."""
    answer = tally.given(kafka_bootstrap="no-such-host.invalid:9092", connect_seconds="5")("drain")

    assert answer.code == 3
    assert "no-such-host.invalid:9092" in answer.sentence


def test_a_server_that_takes_a_connection_and_says_nothing_is_given_up(tally: Tally) -> None:
    """`TALLY_CONNECT_SECONDS` bounds the whole attempt."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"

        answer = tally.given(kafka_bootstrap=address, connect_seconds="1").apart("drain", seconds_max=20)

    assert answer.code == 3
    assert f"Kafka at {address} can't be reached (no answer)" in answer.sentence


@pytest.mark.servers
def test_a_missing_store_is_one_sentence_and_exit_code_3(tally: Tally, broker: str, book: Path) -> None:
    """With a broker there, the sentence is about the store."""
    for command in (("migrate",), ("catalog", "apply", str(book))):
        answer = tally.given(kafka_bootstrap=broker)(*command)

        assert (answer.code, answer.stdout) == (3, "")
        assert "ClickHouse at http://127.0.0.1:9/tally can't be reached" in answer.sentence


@pytest.mark.servers
def test_what_was_never_migrated_says_so(installed: Tally, book: Path, tmp_path: Path) -> None:
    """Every command that needs topics or tables says which command makes them, and exits 2."""
    events = tmp_path / "events.ndjson"
    events.write_text("{}\n", encoding="utf-8")
    for command in (("send", str(events)), ("drain",), ("catalog", "show"), ("catalog", "apply", str(book))):
        answer = installed(*command)

        assert (answer.code, answer.stdout) == (2, ""), command
        assert "tally migrate" in answer.sentence


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, as Linux has it")
@pytest.mark.parametrize("command", [("config", "--format", "json"), ("config", "--format", "table"), ("--help",)])
def test_a_full_disk_is_one_sentence_and_never_exit_code_0(tally: Tally, command: tuple[str, ...]) -> None:
    """`tally config > FILE` on a full disk: an answer that was cut short must not look like a whole one."""
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "tally", *command],
            cwd=ROOT, env=tally.variables(), stdout=full, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip

    assert done.returncode == 2
    assert done.stderr == "tally: No more can be written (No space left on device): make room, and ask again.\n"


def test_a_closed_stdout_is_no_error(tally: Tally) -> None:
    """`tally config >&-` wants no answer, and gets none."""
    line = f'exec "{sys.executable}" -m tally config >&-'
    done = subprocess.run(
        ["/bin/sh", "-c", line], cwd=ROOT, env=tally.variables(), capture_output=True, text=True, check=False
    )  # fmt: skip

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_reader_that_goes_away_is_no_error(tally: Tally) -> None:
    """`tally config | head -0` ends quietly."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tally", "config", "--format", "json"],
        cwd=ROOT,
        env=tally.variables(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()

    said = process.stderr.read()
    process.stderr.close()
    assert (process.wait(), said) == (0, b"")


def test_python_minus_m_tally_is_tally(tally: Tally) -> None:
    """Both ways in are one: the installed program prints what the module prints."""
    done = subprocess.run(
        [f"{sys.prefix}/bin/tally", "config", "--format", "json"],
        env=tally.variables(),
        capture_output=True,
        check=True,
    )

    assert json.loads(done.stdout) == tally.apart("config", "--format", "json").json
