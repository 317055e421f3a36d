"""`tally catalog`: files into force, once, in order, and whole after any crash or race."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from agents.catalog_follower import CatalogFollower
from clickhouse.catalog import write_revision
from clickhouse.reports import period_prices
from pipeline.periods import ALL_TIME
from schemas.errors import BrokerUnavailable, LogBroken
from tally import catalog
from tally.connect import open_store
from tally.kafka import client_settings
from tests.commands.conftest import BOOK
from tests.commands.log import delete_topics, produce, records, rows
from tests.processes import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from tally.settings import Settings
    from tests.commands.conftest import Tally

pytestmark = pytest.mark.servers


@pytest.fixture
def ready(installed: Tally) -> Tally:
    """The command line on an installation with two partitions."""
    assert installed("migrate", "--partitions", "2").code == 0
    return installed


def applied(answer: Any) -> dict[str, tuple[int, str]]:
    """Revision and state by name."""
    assert answer.code == 0, answer.stderr
    return {done["name"]: (done["revision"], done["state"]) for done in answer.json["applied"]}


def controls(settings: Settings) -> list[dict[str, Any]]:
    """The control blocks of partition 0 of the priced topic, in their order; every partition has the same."""
    by_partition: dict[int, list[dict[str, Any]]] = {0: [], 1: []}
    for record in records(settings, settings.topics.priced):
        assert dict(record.headers) == {"control": b"catalog"}
        by_partition[record.partition].append(json.loads(record.value))
    assert by_partition[0] == by_partition[1]
    return by_partition[0]


def written(settings: Settings) -> dict[str, Any]:
    """All that an apply can leave behind: log, control blocks, rows."""
    return {
        "log": [(record.offset, record.value) for record in records(settings, settings.topics.catalog)],
        "controls": controls(settings),
        "catalog": rows(settings, "SELECT * FROM catalog_rows ORDER BY ALL"),
        "prices": rows(settings, "SELECT * FROM price_rows ORDER BY ALL"),
    }


def test_a_file_is_put_into_force_everywhere(ready: Tally, settings: Settings, book: Path) -> None:
    """The topic has it by name, the store has its rows, every partition of the priced topic is told."""
    assert applied(ready("catalog", "apply", str(book))) == {"standard": (1, "new"), "default": (1, "new")}

    assert {record.key for record in records(settings, settings.topics.catalog)} == {b"standard", b"default"}
    assert rows(settings, "SELECT price_id, meter, name, toString(price) AS price FROM price_books ORDER BY row") == [
        {"price_id": "standard@1:1", "meter": "input_tokens", "name": "input_tokens", "price": "0.15"},
        {"price_id": "standard@1:2", "meter": "requests", "name": "lookups", "price": "0.0415"},
    ]
    assert rows(settings, "SELECT name, revision, kind FROM catalog_rows ORDER BY name") == [
        {"name": "default", "revision": 1, "kind": "rule_set"},
        {"name": "standard", "revision": 1, "kind": "price_book"},
    ]
    (control,) = controls(settings)
    assert (control["schema"], control["currency"]) == ("tally.control.v1", "USD")
    assert (control["price_books"], control["rule_sets"]["default"]["revision"]) == ({"standard": 1}, 1)
    assert [rule["id"] for rule in control["rule_sets"]["default"]["rules"]] == ["day-budget"]


def test_twice_changes_nothing(ready: Tally, settings: Settings, book: Path) -> None:
    """The same content keeps its revision, and nothing at all is written: comments and order of keys are no content."""
    ready("catalog", "apply", str(book))
    before = written(settings)
    book.write_text(f"# a comment\n{BOOK}", encoding="utf-8")

    again = ready("catalog", "apply", str(book))

    assert applied(again) == {"standard": (1, "unchanged"), "default": (1, "unchanged")}
    assert written(settings) == before


def test_a_changed_file_is_a_new_revision_and_the_old_one_stays_readable(
    ready: Tally, settings: Settings, book: Path
) -> None:
    """The diff names new, changed and ended rows; `show --revision` still knows the old content."""
    ready("catalog", "apply", str(book))
    changed = BOOK.replace("0.0415", "0.0390").replace("gpt-4o-mini", "gpt-5")
    book.write_text(changed, encoding="utf-8")

    answer = ready("catalog", "apply", str(book))

    assert applied(answer) == {"standard": (2, "changed"), "default": (1, "unchanged")}
    lines = answer.json["applied"][0]["rows"]
    assert sorted(row["change"] for row in lines) == ["changed", "ended", "new"]
    (moved,) = [row for row in lines if row["change"] == "changed"]
    assert (moved["before"]["price"], moved["after"]["price"]) == ("0.0415", "0.039")
    assert controls(settings)[-1]["price_books"] == {"standard": 2}
    old = ready("catalog", "show", "standard", "--revision", "1").json
    assert [price["price"] for price in old["prices"]] == ["0.15", "0.0415"]
    now = ready("catalog", "show", "standard").json
    assert (now["revision"], [price["price"] for price in now["prices"]]) == (2, ["0.15", "0.039"])


def test_going_back_is_a_revision_too(ready: Tally, book: Path) -> None:
    """A number never comes back: the old content under a new number."""
    ready("catalog", "apply", str(book))
    book.write_text(BOOK.replace("0.0415", "0.0390"), encoding="utf-8")
    ready("catalog", "apply", str(book))
    book.write_text(BOOK, encoding="utf-8")

    assert applied(ready("catalog", "apply", str(book)))["standard"] == (3, "changed")


def test_all_mistakes_of_all_files_are_printed_and_nothing_is_applied(
    ready: Tally, settings: Settings, book: Path, tmp_path: Path
) -> None:
    """Each with file, line and column; one good file among them does not go through."""
    bad = tmp_path / "bad.yaml"
    bad.write_text(
        "price_book: x\ncurrency: USD\nprices:\n  - {operation: a, meter: b, price: 0.1}\n", encoding="utf-8"
    )
    worse = tmp_path / "worse.yaml"
    worse.write_text("nonsense: 1\n", encoding="utf-8")

    answer = ready("catalog", "apply", str(book), str(bad), str(worse))

    assert (answer.code, answer.stdout) == (2, "")
    assert f"{bad}:4:" in answer.stderr
    assert f"{worse}:1:" in answer.stderr
    assert answer.stderr.splitlines()[-1].endswith("nothing was applied.")
    assert written(settings) == {"log": [], "controls": [], "catalog": [], "prices": []}


def test_a_file_in_another_encoding_is_refused_with_its_place(tally: Tally, tmp_path: Path) -> None:
    """Line and column of the first byte that is not UTF-8, as for any other mistake."""
    latin = tmp_path / "latin.yaml"
    latin.write_bytes("price_book: standard\ncurrency: 'caf\xe9'\nprices: []\n".encode("latin-1"))

    answer = tally("catalog", "check", str(latin))

    assert (answer.code, answer.stdout) == (2, "")
    assert f"{latin}:2:15: the byte 0xe9 is not UTF-8: write the file as UTF-8\n" in answer.stderr


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """Another file beside the book."""
    return tmp_path / "other.yaml"


OTHER = """\
price_book: other
currency: USD
prices:
  - {operation: lookup, meter: requests, price: 1}
"""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (OTHER, ":4:1: this price for requests is as specific as standard@1:2, which is in force"),
        (OTHER.replace("USD", "EUR").replace("lookup", "web"), ":2:1: `currency` is EUR, but the book standard"),
        ("rules: []\nrule_set: standard\n", ":2:1: `standard` is the name of a price book"),
        (OTHER.replace("other", "default").replace("lookup", "web"), ":1:1: `default` is the name of a rule set"),
        (
            "rule_set: more\nrules:\n  - {id: day-budget, scope: org, measure: cost, window: day, thresholds: [1]}\n",
            ":3:1: the rule id day-budget is taken by the rule set default",
        ),
    ],
)
def test_what_contradicts_the_files_in_force_is_refused(
    ready: Tally, book: Path, other: Path, text: str, said: str
) -> None:
    """Ambiguity across books, two currencies, shared names and shared rule ids: nothing is applied."""
    ready("catalog", "apply", str(book))
    other.write_text(text, encoding="utf-8")

    answer = ready("catalog", "apply", str(other))

    assert answer.code == 2
    assert said in answer.stderr
    in_force = ready("catalog", "show").json["in_force"]
    assert {(found["name"], found["revision"]) for found in in_force} == {("standard", 1), ("default", 1)}


def test_files_of_one_apply_may_not_contradict_each_other(
    ready: Tally, book: Path, other: Path, tmp_path: Path
) -> None:
    """`check` finds it without any server, `apply` refuses it."""
    other.write_text(OTHER, encoding="utf-8")
    twin = tmp_path / "twin.yaml"
    twin.write_text(BOOK, encoding="utf-8")

    for command in ("check", "apply"):
        assert f"{other}:4:1: this price" in ready("catalog", command, str(book), str(other)).stderr
        assert (
            f"{twin}:1:1: the price book `standard` is in {book} too"
            in ready("catalog", command, str(book), str(twin)).stderr
        )


def test_a_price_may_move_between_books_in_one_apply(ready: Tally, book: Path, other: Path) -> None:
    """The files are judged as they will stand together, not one after the other."""
    ready("catalog", "apply", str(book))
    other.write_text(OTHER, encoding="utf-8")
    book.write_text(BOOK.replace("operation: lookup", "operation: search"), encoding="utf-8")

    answer = ready("catalog", "apply", str(other), str(book))

    assert applied(answer) == {"other": (1, "new"), "standard": (2, "changed"), "default": (1, "unchanged")}


#: What of an apply is not reached when the process dies there, as a function of tally.catalog.
DEATHS = {
    "before the rows": "write_revision",
    "before the control blocks": "control_value",
    "before the end": "replace",
}


@pytest.mark.parametrize("death", DEATHS)
def test_an_apply_that_died_is_finished_by_the_next(
    ready: Tally, settings: Settings, book: Path, other: Path, death: str
) -> None:
    """Whatever is left to do when the process is gone: applying again, even another file, does it first."""
    code = f"import os, sys, tally.main, tally.catalog; tally.catalog.{DEATHS[death]} = lambda *_, **__: os._exit(77)\n"
    code += "tally.main.main(['catalog', 'apply', sys.argv[1]])"
    died = subprocess.run([sys.executable, "-c", code, str(book)], cwd=ROOT, env=ready.variables(), check=False)
    assert died.returncode == 77
    other.write_text("rule_set: more\nrules: []\n", encoding="utf-8")

    ready("catalog", "apply", str(other))

    assert applied(ready("catalog", "apply", str(book))) == {"standard": (1, "unchanged"), "default": (1, "unchanged")}
    assert rows(settings, "SELECT count() AS n FROM price_books") == [{"n": 2}]
    assert controls(settings)[-1]["price_books"] == {"standard": 1}
    shown = ready("catalog", "show").json["in_force"]
    assert {(done["name"], done["announced"]) for done in shown} == {
        ("standard", True),
        ("default", True),
        ("more", True),
    }


def test_applies_at_the_same_time_never_give_one_number_to_two_contents(
    ready: Tally, settings: Settings, tmp_path: Path
) -> None:
    """Four at once, each with its own price: every one gets through, and each number has one content everywhere."""
    paths = []
    for number in range(4):
        path = tmp_path / f"{number}.yaml"
        path.write_text(BOOK.replace("0.0415", f"0.0{number + 1}"), encoding="utf-8")
        paths.append(path)

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda path: ready.apart("catalog", "apply", str(path)), paths))

    assert [(answer.code, answer.stderr) for answer in answers] == [(0, "")] * 4
    kept = rows(settings, "SELECT revision, body FROM catalog_rows WHERE name = 'standard'")
    numbers = {row["revision"] for row in kept}
    assert numbers == set(range(1, max(numbers) + 1))
    assert len({row["body"] for row in kept}) == len(numbers)
    assert len({json.loads(row["body"])["prices"][1]["price"] for row in kept}) == 4
    in_log: dict[int, set[bytes]] = {}
    for record in records(settings, settings.topics.catalog):
        if record.key == b"standard":
            in_log.setdefault(json.loads(record.value)["revision"], set()).add(record.value)
    assert all(len(values) == 1 for values in in_log.values())
    announced = [block["price_books"].get("standard", 0) for block in controls(settings)]
    assert set(announced) == numbers


def test_a_lost_topic_goes_on_counting_where_the_store_is(ready: Tally, settings: Settings, book: Path) -> None:
    """A number that prices facts is never used again, even if the catalog topic had to be made anew."""
    ready("catalog", "apply", str(book))
    delete_topics(settings, settings.topics.catalog)
    ready("migrate")

    assert applied(ready("catalog", "apply", str(book)))["standard"][0] == 1
    book.write_text(BOOK.replace("0.0415", "0.0390"), encoding="utf-8")
    delete_topics(settings, settings.topics.catalog)
    ready("migrate")
    assert applied(ready("catalog", "apply", str(book)))["standard"][0] == 2


def test_show_lists_what_is_in_force_and_one_book_at_an_instant(ready: Tally, tmp_path: Path) -> None:
    """`--at` leaves only the prices whose span and hours hold the instant."""
    path = tmp_path / "book.yaml"
    path.write_text(
        "price_book: night\ncurrency: USD\nprices:\n"
        '  - {operation: a, meter: requests, price: 1, from: "2026-03-01T00:00:00Z", until: "2026-04-01T00:00:00Z"}\n'
        '  - {operation: b, meter: requests, price: 2, hours: {from: "16:30", until: "00:30"}}\n',
        encoding="utf-8",
    )
    ready("catalog", "apply", str(path))

    def at(instant: str) -> list[str]:
        shown = ready("catalog", "show", "night", "--at", instant)
        return [price["operation"] for price in shown.json["prices"]]

    assert at("2026-03-01T00:00:00Z") == ["a", "b"]
    assert at("2026-03-31T16:29:59Z") == ["a"]
    assert at("2026-04-01T16:30:00Z") == ["b"]
    assert at("2026-04-01T00:30:00Z") == []
    assert ready("catalog", "show", "night", "--at", "yesterday").code == 2
    assert ready("catalog", "show", "nobody").code == 2
    assert ready("catalog", "show", "night", "--revision", "7").code == 2


def test_a_book_of_thousands_of_prices_goes_through(ready: Tally, settings: Settings, tmp_path: Path) -> None:
    """A record of the catalog may be several megabytes."""
    path = tmp_path / "large.yaml"
    keys = ", ".join(f"{key}: {'x' * 128}" for key in ("org", "provider", "model", "name"))
    lines = (f"  - {{operation: op-{n}, meter: requests, price: {n}, {keys}}}" for n in range(3_000))
    path.write_text("price_book: large\ncurrency: USD\nprices:\n" + "\n".join(lines), encoding="utf-8")

    assert applied(ready("catalog", "apply", str(path))) == {"large": (1, "new")}

    assert len(records(settings, settings.topics.catalog)[0].value) > 1_500_000
    assert rows(settings, "SELECT count() AS n FROM price_books") == [{"n": 3_000}]


def follow(settings: Settings) -> CatalogFollower:
    """A follower of this installation."""
    return CatalogFollower(settings.topics.catalog, client=client_settings(settings))


@pytest.mark.usefixtures("ready")
async def test_a_follower_sees_what_was_applied_before_it_is_asked(settings: Settings, book: Path) -> None:
    """Each answer is as of the call; without a change it is the very same object."""
    async with follow(settings) as follower:
        assert await follower.current() == ()
        await asyncio.to_thread(catalog.apply, settings, [book])
        first = await follower.current()
        assert [(found.name, found.revision, len(found.prices)) for found in first] == [("standard", 1, 2)]
        assert await follower.current() is first
        assert [found.name for found in await follower.current_rule_sets()] == ["default"]

        await asyncio.to_thread(apply_changed, settings, book)
        second = await follower.current()

    assert [found.revision for found in second] == [2]


def apply_changed(settings: Settings, book: Path) -> None:
    """Another price for a lookup, applied."""
    book.write_text(BOOK.replace("0.0415", "0.0390"), encoding="utf-8")
    catalog.apply(settings, [book])


@pytest.mark.usefixtures("ready")
async def test_a_follower_asks_fast_when_nothing_has_changed(settings: Settings, book: Path) -> None:
    """No fetch of its own holds up the question: a thousand answers take far less than a thousand fetch waits."""
    await asyncio.to_thread(catalog.apply, settings, [book])
    async with follow(settings) as follower:
        await follower.current()
        async with asyncio.timeout(20):  # a thousand waits for an empty fetch would take 50 s
            for _ in range(1_000):
                await follower.current()


@pytest.mark.usefixtures("ready")
async def test_a_follower_never_goes_back_to_a_lower_revision(settings: Settings, book: Path) -> None:
    """The late record of an apply that was overtaken changes nothing."""
    await asyncio.to_thread(catalog.apply, settings, [book])
    old = next(found for found in await asyncio.to_thread(records, settings, settings.topics.catalog))
    await asyncio.to_thread(apply_changed, settings, book)
    await asyncio.to_thread(
        produce, settings, settings.topics.catalog, [old.value], key=old.key, headers=list(old.headers)
    )

    async with follow(settings) as follower:
        assert [found.revision for found in await follower.current()] == [2]


@pytest.mark.usefixtures("ready")
async def test_a_follower_stops_at_what_nobody_applied_until_it_is_applied_again(
    settings: Settings, book: Path
) -> None:
    """Pricing by a book that can't be read would be a guess; applying the file again mends it."""
    await asyncio.to_thread(catalog.apply, settings, [book])
    await asyncio.to_thread(produce, settings, settings.topics.catalog, [b"{nonsense"], key=b"standard")

    async with follow(settings) as follower:
        with pytest.raises(LogBroken, match="apply standard again"):
            await follower.current()
        await asyncio.to_thread(apply_changed, settings, book)
        assert [found.revision for found in await follower.current()] == [2]


async def test_a_follower_without_a_broker_says_so(settings: Settings) -> None:
    """Kafka away is "wait and ask again", never an empty catalog."""
    away = settings.model_copy(update={"kafka_bootstrap": "127.0.0.1:9"})

    with pytest.raises(BrokerUnavailable):
        async with follow(away):
            pass


def test_a_store_that_is_away_leaves_the_log_alone(ready: Tally, settings: Settings, book: Path) -> None:
    """Nothing is published that could not be stored."""
    answer = ready.given(store_url="http://127.0.0.1:9/tally")("catalog", "apply", str(book))

    assert answer.code == 3
    assert records(settings, settings.topics.catalog) == []


def test_the_rows_of_a_revision_are_the_same_whoever_writes_them(ready: Tally, settings: Settings, book: Path) -> None:
    """`applied_at` is the broker's time of the record, not a clock of the command."""
    ready("catalog", "apply", str(book))
    entry = catalog.read_catalog(settings)["standard"]

    before = rows(settings, "SELECT DISTINCT * FROM price_rows ORDER BY ALL")
    with closing(open_store(settings)) as store:
        write_revision(store, entry.content, kind=entry.kind, applied_at=entry.applied_at)

    assert rows(settings, "SELECT count() AS n FROM price_rows") == [{"n": 4}]
    assert rows(settings, "SELECT DISTINCT * FROM price_rows ORDER BY ALL") == before


def test_period_prices_are_applied_shown_and_in_force(ready: Tally, settings: Settings, book: Path) -> None:
    """From the running month on; `show` lists them with their ids, and with --at those of its month."""
    rows_of_file = (
        "period_prices:\n"
        '  - {operation: lookup, meter: lookups, minimum: 5, until: "2020-01"}\n'
        '  - {operation: lookup, meter: lookups, kind: volume, tiers: [{price: "0.04"}], from: "2020-01"}\n'
    )
    book.write_text(BOOK + rows_of_file, encoding="utf-8")

    (change,) = [done for done in ready("catalog", "apply", str(book)).json["applied"] if done["name"] == "standard"]

    assert [row["after"]["period_price"]["meter"] for row in change["rows"][2:]] == ["lookups", "lookups"]
    shown = ready("catalog", "show", "standard", "--at", "2026-03-01T00:00:00Z").json["period_prices"]
    assert [row["period_price_id"] for row in shown] == ["standard@1:period:2"]
    assert "standard@1:period:1" in ready("catalog", "show", "standard", "--format", "table").stdout
    with closing(open_store(settings)) as store:
        in_force = period_prices(store, period=ALL_TIME)
    assert [row.id for row in in_force] == ["standard@1:period:1", "standard@1:period:2"]
