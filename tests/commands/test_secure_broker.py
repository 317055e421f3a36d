"""TLS and logins reach every client: a real broker that takes nobody without them, and all that can be wrong with them.

The broker has three doors: SASL over TLS with a password (PLAIN and SCRAM), TLS with a client certificate, and one
without anything for the test's own use.
"""

from __future__ import annotations

import gc
import socket
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import pytest

from tally.broker import ensure_jars, find_java
from tally.kafka import lag
from tally.settings import Settings
from tests.commands.conftest import Tally
from tests.processes import ServerProcess

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: A TLS connection that is closed waits for the other side's goodbye, and aiokafka does not wait for that wait: where
#: the event loop ends first, the socket stays for the garbage collector, which complains in whatever test runs then.
UNSAID_GOODBYES: Final = ("ignore:unclosed transport:ResourceWarning", "ignore:unclosed <s:ResourceWarning")
pytestmark = [pytest.mark.servers, pytest.mark.filterwarnings(*UNSAID_GOODBYES)]

USER: Final = "tally"
PASSWORD: Final = "opensesame"  # noqa: S105 -- of a broker that lives as long as this test

DOORS: Final = "PLAINTEXT://127.0.0.1:{port},SASL_SSL://127.0.0.1:LOGIN,SSL://127.0.0.1:MUTUAL"
MODULE: Final = "org.apache.kafka.common.security.{}.{}LoginModule required"
#: What stands behind the properties of `tally broker`; the last one of a name counts.
PROPERTIES: Final = f"""
listeners={DOORS},CONTROLLER://127.0.0.1:{{controller_port}}
advertised.listeners={DOORS}
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL,SSL:SSL
inter.broker.listener.name=PLAINTEXT
ssl.keystore.type=PEM
ssl.keystore.location=FOLDER/server.pem
ssl.truststore.type=PEM
ssl.truststore.location=FOLDER/ca.crt
listener.name.ssl.ssl.client.auth=required
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-512
listener.name.sasl_ssl.plain.sasl.jaas.config={MODULE.format("plain", "Plain")} user_{USER}="{PASSWORD}";
listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config={MODULE.format("scram", "Scram")};
"""


@dataclass(frozen=True)
class SecureBroker:
    """Addresses of the doors, and the folder with the certificates."""

    login: str
    mutual: str
    folder: Path

    def over_login(self, mechanism: str) -> dict[str, str]:
        """The settings of somebody who may come in with a password."""
        return {
            "kafka_bootstrap": self.login,
            "kafka_security_protocol": "SASL_SSL",
            "kafka_sasl_mechanism": mechanism,
            "kafka_sasl_username": USER,
            "kafka_sasl_password": PASSWORD,
            "kafka_ssl_cafile": str(self.folder / "ca.crt"),
            "connect_seconds": "10",
        }

    def over_certificate(self) -> dict[str, str]:
        """The settings of somebody who may come in with a certificate."""
        return {
            "kafka_bootstrap": self.mutual,
            "kafka_security_protocol": "SSL",
            "kafka_ssl_cafile": str(self.folder / "ca.crt"),
            "kafka_ssl_certfile": str(self.folder / "client.crt"),
            "kafka_ssl_keyfile": str(self.folder / "client.key"),
            "connect_seconds": "10",
        }


def make_certificates(folder: Path) -> None:
    """An authority, and certificates for 127.0.0.1 and for a client, signed by it."""

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    def authority(name: str) -> None:
        key = ("-newkey", "rsa:2048", "-nodes", "-keyout", f"{name}.key")
        openssl("req", "-x509", *key, "-out", f"{name}.crt", "-days", "2", "-subj", f"/CN={name}")

    authority("ca")
    authority("stranger")
    (folder / "san").write_text("subjectAltName=IP:127.0.0.1\n", encoding="utf-8")
    for name in ("server", "client"):
        openssl(
            "req", "-newkey", "rsa:2048", "-nodes", "-keyout", f"{name}.key", "-out", "request", "-subj", f"/CN={name}"
        )
        signed = ("-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "san")
        openssl("x509", "-req", "-in", "request", *signed, "-out", f"{name}.crt", "-days", "2")
    pem = (folder / "server.key").read_text(encoding="utf-8") + (folder / "server.crt").read_text(encoding="utf-8")
    (folder / "server.pem").write_text(pem, encoding="utf-8")


def free_port() -> int:
    """A port that nobody has now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(autouse=True)
def _no_socket_is_left_to_other_tests() -> Iterator[None]:
    """What `UNSAID_GOODBYES` are about is collected here, where they are expected."""
    yield
    gc.collect()


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureBroker]:
    """`tally broker` with two more doors."""
    folder = tmp_path_factory.mktemp("secure")
    make_certificates(folder)
    login, mutual = free_port(), free_port()
    more = PROPERTIES.replace("LOGIN", str(login)).replace("MUTUAL", str(mutual)).replace("FOLDER", str(folder))
    code = f"import sys; from pathlib import Path; from tally import broker; broker.SERVER_PROPERTIES += {more!r}; "
    code += "sys.exit(broker.run_broker(Path(sys.argv[1]), 0))"
    with ServerProcess("-c", code, str(folder / "data"), log=folder / "broker.stderr") as process:
        bootstrap = str(process.wait_until_ready()["bootstrap"])
        scram = f"SCRAM-SHA-512=[password={PASSWORD}]"
        entity = ("--entity-type", "users", "--entity-name", USER)
        subprocess.run(
            [
                *(find_java(), "-cp", f"{ensure_jars()}/*", "kafka.admin.ConfigCommand"),
                *("--bootstrap-server", bootstrap, "--alter", "--add-config", scram, *entity),
            ],
            check=True,
            capture_output=True,
        )
        yield SecureBroker(f"127.0.0.1:{login}", f"127.0.0.1:{mutual}", folder)


@pytest.mark.parametrize("door", ["PLAIN", "SCRAM-SHA-512", "certificate"])
def test_every_client_comes_in(secure: SecureBroker, database: str, tmp_path: Path, book: Path, door: str) -> None:
    """Migrating, applying, the worker's Faust clients, sending and draining all take the same settings."""
    settings = secure.over_certificate() if door == "certificate" else secure.over_login(door)
    prefix = f"{door}."
    own = {"store_url": database, "topic_prefix": prefix, "app_id": door, "metrics_port": "0"}
    tally = Tally().given(**settings, **own)
    events = tmp_path / "events.ndjson"
    events.write_bytes(b"{broken\n")

    assert tally("migrate", "--partitions", "1").code == 0
    assert tally("catalog", "apply", str(book)).code == 0
    assert tally("send", str(events)).json == {"sent": 1}
    with ServerProcess("-m", "tally", "worker", log=tmp_path / "worker", environment=tally.environment) as worker:
        worker.wait_until_ready()
        assert tally("drain").code == 0
        assert worker.stop() == 0

    given: dict[str, Any] = {**settings, **own}
    assert lag(Settings(**given)) == {f"{prefix}usage.events": {0: 0}, f"{prefix}usage.priced": {0: 0}}
    assert PASSWORD not in worker.stderr()


def test_a_wrong_password_is_said_without_it(secure: SecureBroker) -> None:
    """Exit 2: waiting can't help; neither the right nor the wrong password is printed."""
    for mechanism in ("PLAIN", "SCRAM-SHA-512"):
        answer = Tally().given(**{**secure.over_login(mechanism), "kafka_sasl_password": "letmein"})("drain")

        assert answer.code == 2
        assert "refuses the login" in answer.sentence
        assert "letmein" not in answer.stderr


def test_a_mechanism_that_the_broker_does_not_have_is_said(secure: SecureBroker) -> None:
    """Exit 2, with the settings that may be wrong."""
    answer = Tally().given(**secure.over_login("SCRAM-SHA-256")).apart("drain")

    assert answer.code == 2
    assert "TALLY_KAFKA_SASL_" in answer.sentence


def test_a_server_of_another_authority_is_not_talked_to(secure: SecureBroker) -> None:
    """Certificates are verified, always: another authority, or the system's own, is refused."""
    other = {**secure.over_login("PLAIN"), "kafka_ssl_cafile": str(secure.folder / "stranger.crt")}
    system = {name: value for name, value in secure.over_login("PLAIN").items() if name != "kafka_ssl_cafile"}

    for settings in (other, system):
        answer = Tally().given(**settings)("drain")

        assert answer.code == 2
        assert "certificate that can't be verified" in answer.sentence


def test_a_server_under_another_name_is_not_talked_to(secure: SecureBroker) -> None:
    """The certificate is for 127.0.0.1: the same server as localhost is somebody else."""
    settings = {**secure.over_login("PLAIN"), "kafka_bootstrap": secure.login.replace("127.0.0.1", "localhost")}

    answer = Tally().given(**settings)("drain")

    assert answer.code == 2
    assert "certificate that can't be verified" in answer.sentence


def test_without_a_certificate_of_its_own_a_client_stays_outside(secure: SecureBroker) -> None:
    """The broker closes the door; nothing hangs."""
    settings = {name: value for name, value in secure.over_certificate().items() if "certfile" not in name}

    answer = Tally().given(**{name: value for name, value in settings.items() if "keyfile" not in name})("drain")

    assert answer.code == 3
    assert secure.mutual in answer.sentence


def test_plain_text_to_a_tls_door_is_an_answer_too(secure: SecureBroker) -> None:
    """A forgotten protocol does not hang."""
    answer = Tally().given(kafka_bootstrap=secure.login, connect_seconds="5")("drain")

    assert answer.code == 3
    assert secure.login in answer.sentence


@pytest.mark.parametrize("name", ["cafile", "certfile", "keyfile"])
def test_a_file_that_can_not_be_used_is_named(secure: SecureBroker, name: str) -> None:
    """Missing, or not what it should be: exit 2 with the name of the setting."""
    junk = secure.folder / "san"
    for path in (str(junk), "no/such/file"):
        answer = Tally().given(**{**secure.over_certificate(), f"kafka_ssl_{name}": path})("drain")

        assert answer.code == 2
        assert f"TALLY_KAFKA_SSL_{name.upper()} ({path})" in answer.sentence
