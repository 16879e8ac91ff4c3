"""What breaks is told once, and that it is well again; nobody is told of a secret."""

import json
import os
import signal
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from dagster import AssetKey, DagsterInstance, asset, build_sensor_context, materialize

from orchestration.alerts import outbox
from orchestration.alerts.ledger import Ledger
from orchestration.alerts.outbox import Message
from orchestration.catalog.notify import Notify, addresses
from orchestration.catalog.products import read_products_file
from orchestration.catalog.retention import Retention
from orchestration.catalog.yaml_file import YamlFileError
from orchestration.definitions.operations import operations_definitions
from orchestration.definitions.product import product_definitions
from orchestration.instance.home import prepare_dagster_home
from orchestration.server.nightly import clean_up
from tests.harness.forks import forked
from tests.harness.receivers import Mailbox, Webhook, receiving
from tests.harness.up_server import checkout_of, copy_project, selector, started, write_products

DRY_RUN = """
mutation Look($sensor: SensorSelector!) { sensorDryRun(selectorData: $sensor, cursor: null) {
  ... on DryRunInstigationTick { evaluationResult { error { message } } }
  ... on PythonError { message }
} }
"""


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    webhook = Webhook()
    with receiving(webhook):
        yield webhook


def look(instance: DagsterInstance, cursors: Mapping[str, str | None]) -> dict[str, str | None]:
    """Has all sensors look once; takes how far they have seen, and gives it."""
    return {
        sensor.name: sensor.evaluate_tick(
            build_sensor_context(instance, cursor=cursors.get(sensor.name))
        ).cursor
        for sensor in operations_definitions().sensors or ()
    }


def look_and_die(home: str, cursors: Mapping[str, str | None], *, is_noted: bool) -> None:
    """Looks, and is killed when there is something to tell, or as soon as that is written down."""
    put = outbox.put

    def dying(folder: Path, message: Message, moment: float) -> None:
        if is_noted:
            put(folder, message, moment)
        os.kill(os.getpid(), signal.SIGKILL)

    outbox.put = dying
    with DagsterInstance.local_temp(home) as instance:
        look(instance, cursors)


class Company:
    """A checkout with a product, its instance, and sensors that look when they are told to."""

    def __init__(self, instance: DagsterInstance, root: Path, lifecycle: Path) -> None:
        self.instance, self.lifecycle = instance, lifecycle
        self.products = root / "products" / "products.yml"
        self.cursors: dict[str, str | None] = {}

    def write(self, **notify: Any) -> None:
        """Has products.yml say that of `notify`."""
        product = {"id": "own", "build_command": "true", "owners": ["team:housing"]}
        (self.products.parent / "own").mkdir(exist_ok=True)
        notify = {"link": "https://dagster.example.org", "disk_free_gb": 0, **notify}
        self.products.write_text(yaml.safe_dump({"products": [product], "notify": notify}))
        self.look()

    def build(self, command: str, partition: str = "main") -> str:
        """Runs the build stage, and gives the run's id."""
        load = self.lifecycle / "builds" / "own" / partition / "load"
        load.mkdir(parents=True, exist_ok=True)
        (load / "recipe.lock.yml").write_text("product: own\n")
        build = product_definitions(id="own", build_command=command).get_assets_def(
            AssetKey(["own", "build"])
        )
        self.instance.add_dynamic_partitions("build_own", [partition])
        result = materialize(
            [build],
            instance=self.instance,
            partition_key=partition,
            raise_on_error=False,
            tags={".dagster/repository": "__repository__@own"},
        )
        return result.run_id

    def look(self) -> None:
        """Has all sensors look once, as the daemon does."""
        self.cursors = look(self.instance, self.cursors)


@pytest.fixture
def company(
    checkout: Path, lifecycle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Company]:
    monkeypatch.setenv("DATA_ENGINEERING_ROOT", str(checkout))
    (tmp_path / "dagster").mkdir()
    with DagsterInstance.local_temp(str(tmp_path / "dagster")) as instance:
        yield Company(instance, checkout, lifecycle)


def test_what_breaks_is_told_once_and_that_it_is_well_again_once(
    company: Company, webhook: Webhook
) -> None:
    company.write(urls=[webhook.url])
    run_id = company.build("echo oh no; exit 3", "nightly_qa")
    company.look()
    [message] = webhook.got
    assert message["title"] == "own (nightly_qa) failed"
    assert message["type"] == "failure"
    assert message["message"].splitlines() == [
        "Product 'own': the build command ended with exit code 3.",
        "Failed: own/build",
        "Partition: nightly_qa",
        "Owners: team:housing",
        f"https://dagster.example.org/runs/{run_id}",
    ]
    for _ in range(3):
        company.build("exit 4", "nightly_qa")
        company.look()
    # Another build of it is another thing.
    company.build("true", "main")
    company.look()
    assert len(webhook.got) == 1
    company.build("true", "nightly_qa")
    company.look()
    company.build("true", "nightly_qa")
    company.look()
    assert webhook.titles[1:] == ["own (nightly_qa) is well again"]
    assert "It was broken since" in webhook.got[1]["message"]


@pytest.mark.parametrize("is_noted", [True, False])
def test_who_is_killed_while_noting_what_broke_has_it_told_once_all_the_same(
    company: Company, webhook: Webhook, tmp_path: Path, is_noted: bool
) -> None:
    company.write(urls=[webhook.url])
    company.build("false")
    home = company.instance.root_directory
    with forked(
        partial(look_and_die, is_noted=is_noted), home, company.cursors, log=tmp_path / "log"
    ) as fork:
        assert fork.wait() == -signal.SIGKILL, fork.output
    for _ in range(2):
        company.look()
    assert webhook.titles == ["own (main) failed"]


def test_of_a_product_the_stage_that_failed_is_named(company: Company, webhook: Webhook) -> None:
    company.write(urls=[webhook.url])
    company.instance.add_dynamic_partitions("build_own", ["main"])
    product = product_definitions(id="own", build_command="true")
    job = product.resolve_job_def("build_own")
    result = job.execute_in_process(
        instance=company.instance, partition_key="main", raise_on_error=False
    )
    assert not result.success
    company.look()
    [message] = webhook.got
    assert "Failed: own/plan" in message["message"]


@pytest.mark.parametrize("key", [["ingest", "bpl_libraries"], ["own", "report"]])
def test_owners_are_those_that_the_ui_shows_of_a_template_and_those_of_the_location_otherwise(
    company: Company, webhook: Webhook, key: list[str]
) -> None:
    company.write(urls=[webhook.url])
    recipe = company.products.parent / "own" / "recipe.yml"
    recipe.write_text("inputs: {datasets: [{name: bpl_libraries}]}\n")

    @asset(key=key)
    def failing() -> None:
        raise RuntimeError("no data")

    tags = {".dagster/repository": f"__repository__@{key[0]}"}
    materialize([failing], instance=company.instance, tags=tags, raise_on_error=False)
    company.look()
    [message] = webhook.got
    assert "Owners: team:housing" in message["message"].splitlines()


def test_builds_of_one_note_are_one_thing_over_the_nights(
    company: Company, webhook: Webhook
) -> None:
    company.write(urls=[webhook.url])
    for partition, command in (("1-n", "false"), ("2-n", "false"), ("3-n", "true")):
        company.build(command, partition)
        company.look()
    assert webhook.titles == ["own (n) failed", "own (n) is well again"]


def test_what_failed_before_it_went_well_is_not_told_afterwards() -> None:
    ledger = Ledger()
    assert ledger.recovers("x", whats=None, time=20.0) is None
    assert not ledger.breaks("x", what="build", time=10.0)
    assert ledger.broken() == {}


def test_a_product_is_not_taken_for_a_disk_of_its_name() -> None:
    ledger = Ledger()
    assert ledger.breaks("Disk (main)", what="Disk/build", time=10.0)
    assert ledger.observe("Disk", {}, unknown=(), time=20.0) == (set(), {})
    assert [*ledger.broken()] == ["Disk (main)"]
    assert ledger.recovers("Disk (main)", whats=None, time=30.0) == 10.0


def test_no_secret_is_told(
    company: Company, webhook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOMEBODYS_TOKEN", "t0ps3cret")
    company.write(urls=[webhook.url])

    @asset
    def report() -> None:
        raise RuntimeError("t0ps3cret is refused by postgresql://me:pass1234@db:5432/x")

    materialize([report], instance=company.instance, raise_on_error=False)
    company.look()
    [message] = webhook.got
    assert "is refused by" in message["message"]
    assert "t0ps3cret" not in str(message)
    assert "pass1234" not in str(message)


def test_what_cannot_be_sent_is_tried_again_and_said_and_sent_to_nobody_twice(
    webhook: Webhook, tmp_path: Path
) -> None:
    said: list[str] = []
    mailbox = Mailbox()
    with receiving(mailbox):
        places = [webhook.url, mailbox.url, "nothing://known"]
        outbox.put(tmp_path, Message("failure", "Ein Tübinger Titel", "One\nTwo"), 1.0)
        webhook.status = 500
        outbox.deliver(tmp_path, places, said.append)
        assert len(mailbox.letters) == 1
        assert "One" in mailbox.letters[0]
        assert len(said) == 2
        assert "error=500" in said[0]
        assert "It is tried again in 60 s." in said[0]
        assert "nothing://… is no address" in said[1]
        assert "hunter2secret" not in str(said)
        outbox.deliver(tmp_path, places, said.append)
        assert len(said) == 2
        webhook.status = 200
        [path] = (tmp_path / "outbox").iterdir()
        path.write_text(json.dumps(json.loads(path.read_text()) | {"next": 0.0}))
        outbox.put(tmp_path, Message("success", "Later", "Three"), 2.0)
        outbox.deliver(tmp_path, places[:2], said.append)
    assert webhook.titles == ["Ein Tübinger Titel", "Later"]
    assert len(mailbox.letters) == 2
    assert not list((tmp_path / "outbox").iterdir())


def test_a_message_that_a_power_cut_left_empty_is_set_aside_and_the_others_are_sent(
    webhook: Webhook, tmp_path: Path
) -> None:
    for number in (1, 2):
        outbox.put(tmp_path, Message("failure", f"Title {number}", "One"), float(number))
    first, _ = sorted((tmp_path / "outbox").iterdir())
    first.write_bytes(b"")
    said: list[str] = []
    for _ in range(2):
        outbox.deliver(tmp_path, [webhook.url], said.append)
    assert webhook.titles == ["Title 2"]
    [complaint] = said
    assert f"{first} cannot be read" in complaint
    assert list((tmp_path / "outbox").iterdir()) == [first.with_suffix(".bad")]


@pytest.mark.parametrize("content", ["", '{"subjects": {"": {"own', "[]"])
def test_a_ledger_that_a_power_cut_left_unreadable_begins_anew_and_says_so(
    company: Company, webhook: Webhook, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    company.write(urls=[webhook.url])
    ledger = Path(company.instance.root_directory) / "alerts" / "ledger.json"
    ledger.write_text(content)
    company.build("false")
    company.look()
    assert webhook.titles == ["own (main) failed"]
    assert f"{ledger} cannot be read" in capsys.readouterr().out
    assert ledger.with_suffix(".bad").read_text() == content


def test_a_disk_without_room_is_told_once(company: Company, webhook: Webhook) -> None:
    company.write(urls=[webhook.url], disk_free_gb=10**6)
    company.look()
    company.look()
    assert webhook.titles[0].startswith("Disk ")
    assert len(webhook.got) == 1
    company.write(urls=[webhook.url])
    assert webhook.titles[1:] == [webhook.titles[0].replace(": nearly full", " is well again")]


def test_a_cleaning_that_fails_is_told_once(
    company: Company, webhook: Webhook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    prepare_dagster_home()
    company.write(urls=[webhook.url])
    company.products.write_text(f"{company.products.read_text()}retention: {{keep: 1}}\n")
    # It cannot be listed.
    folder = company.lifecycle / "builds"
    folder.touch()
    with pytest.raises(SystemExit, match="Cleaning up has failed"):
        clean_up(Retention(keep=1))
    for _ in range(3):
        company.look()
    [message] = webhook.got
    assert message["title"] == "Cleaning by night: failed"
    assert str(folder) in message["message"]
    folder.unlink()
    clean_up(Retention(keep=1))
    company.look()
    assert webhook.titles[1:] == ["Cleaning by night is well again"]


def test_while_products_yml_cannot_be_read_that_is_told_and_nothing_is_lost(
    company: Company, webhook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_the_environment = Webhook()
    monkeypatch.setenv("APPRISE_URLS", of_the_environment.url)
    with receiving(of_the_environment):
        company.write(urls=[webhook.url])
        good = company.products.read_text()
        company.products.write_text("products: [\n")
        company.build("false", "1-x")
        for _ in range(3):
            company.look()
        told = ["own (x) failed", "File products.yml: cannot be read"]
        assert of_the_environment.titles == told
        assert f"{company.products}:2: " in of_the_environment.got[1]["message"]
        assert webhook.titles == []
        company.products.write_text(good)
        for _ in range(2):
            company.look()
    told.append("File products.yml is well again")
    assert of_the_environment.titles == webhook.titles == told


def test_a_digest_tells_once_a_day_what_is_broken(company: Company, webhook: Webhook) -> None:
    company.write(urls=[webhook.url], digest="00:00")
    company.build("false")
    company.look()
    assert webhook.titles == ["own (main) failed"]
    ledger = Path(company.instance.root_directory) / "alerts" / "ledger.json"
    ledger.write_text(json.dumps(json.loads(ledger.read_text()) | {"digest": 1.0}))
    company.look()
    company.look()
    assert webhook.titles[1:] == ["Data products: 1 broken"]
    digest = webhook.got[1]["message"]
    assert digest.startswith("0 runs succeeded in the last 24 hours, and 1 failed.\nBroken since ")
    assert "own (main) (own/build)" in digest


def test_a_digest_that_was_due_before_midnight_is_told_after_it(
    company: Company, webhook: Webhook
) -> None:
    # The next one is due in an hour, whatever the time is now.
    later = datetime.now() + timedelta(hours=1)
    company.write(urls=[webhook.url], digest=f"{later:%H:%M}")
    ledger = Path(company.instance.root_directory) / "alerts" / "ledger.json"

    def told_before(hours: float) -> None:
        told = (datetime.now() - timedelta(hours=hours)).timestamp()
        ledger.write_text(json.dumps(json.loads(ledger.read_text()) | {"digest": told}))
        company.look()

    # Yesterday's was due 23 hours ago.
    told_before(22)
    assert webhook.titles == []
    told_before(24)
    company.look()
    assert webhook.titles == ["Data products: All is well"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("['slack:t0ken']", "must be a URL of apprise"),
        ("{digest: '8:00'}", "a time of the day"),
        ("{url: x}", "unknown key `url`; did you mean `urls`?"),
    ],
)
def test_what_nobody_could_be_told_by_is_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "products.yml"
    path.write_text(f"products: []\nnotify: {text}\n")
    with pytest.raises(YamlFileError, match=said.replace("?", r"\?")) as error:
        read_products_file(path)
    assert "t0ken" not in str(error.value)


def test_addresses_come_from_the_file_and_from_the_environment() -> None:
    environ = {"APPRISE_URLS": "json://a, mailto://b?to=c,d  json://x"}
    found = addresses(Notify(urls=("json://x",)), environ)
    assert found == ["json://x", "json://a", "mailto://b?to=c,d"]
    assert addresses(None, {}) == []


def test_up_tells_of_a_location_that_cannot_be_loaded_or_goes_without_its_definitions(
    tmp_path: Path, webhook: Webhook
) -> None:
    project = copy_project(tmp_path)
    write_products(project, {"other": "true", "own": "true"})
    products = checkout_of(project) / "products" / "products.yml"
    products.write_text(f"{products.read_text()}  definitions_python: ./none\n")
    definitions = checkout_of(project) / "products" / "other" / "definitions.py"
    definitions.write_text("import no_such_module\n")
    with started(project, env={"APPRISE_URLS": webhook.url}) as server:
        server.wait_for_error("own", "definitions_python")
        server.wait_for(lambda: server.locations().get("operations", "missing") is None)
        sensor = {**selector("operations"), "sensorName": "alerts"}

        def look(number: int) -> bool:
            # As the daemon does every two minutes.
            told = server.query(DRY_RUN, sensor=sensor)["sensorDryRun"]
            assert told["evaluationResult"]["error"] is None
            return len(webhook.got) >= number

        server.wait_for(lambda: look(2))
        message, of_the_team = webhook.got
        assert of_the_team["title"] == "definitions.py of other: cannot be used"
        assert "products/other/definitions.py:1: ModuleNotFoundError" in of_the_team["message"]
        look(2)
        assert len(webhook.got) == 2
        definitions.write_text("from dagster import Definitions\ndefs = Definitions()\n")
        server.wait_for(lambda: look(3))
        assert webhook.titles[2:] == ["definitions.py of other is well again"]
        assert message["title"] == "Location own: cannot be loaded"
        assert "definitions_python" in message["message"]
        assert server.url in message["message"]
        # It is there only as long as it looks.
        server.wait_for(lambda: "operations" not in server.awake())
        server.stop()
