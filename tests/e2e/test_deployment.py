"""A deployment on loopback with Flower's own processes, TLS and keys, and the faults of a wide-area network."""

import json
import os
import shutil
import subprocess
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import preloaded
import pytest

from fedserdiff.deployment.address import NO_PROXY
from fedserdiff.deployment.certificates import make_node_key
from fedserdiff.errors import FederationError
from fedserdiff.experiments.local_federation import LocalFederation
from fedserdiff.experiments.statistics import page_of
from fedserdiff.settings.experiment import Settings
from fedserdiff.wire import Fault
from sites.ledger import read_ledger

ROOT = Path(__file__).parents[2]

LIMIT_S = 900
SITE_TIMEOUT_S = 600
NOWHERE = "http://10.255.255.1:3128"  # a proxy that answers nobody, as of a network that was left


def says(log: Path, text: str, times: int = 1) -> bool:
    return log.exists() and log.read_text(errors="replace").count(text) >= times


def wait_until_says(log: Path, text: str, times: int = 1) -> None:
    end = time.monotonic() + LIMIT_S
    while not says(log, text, times):
        assert time.monotonic() < end, f"{log.name} never said {text!r}:\n{log.read_text(errors='replace')[-3000:]}"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def behind_a_proxy() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            patch.setenv(name, NOWHERE)
            patch.setenv(name.upper(), NOWHERE)
        for name in ("no_proxy", "NO_PROXY"):
            patch.delenv(name, raising=False)
        yield


@pytest.fixture(scope="module")
def deployed(
    tmp_path_factory: pytest.TempPathFactory, ser_diff: dict[str, Any], workplace: Path, behind_a_proxy: None
) -> Iterator[LocalFederation]:
    """The simulation's federation, deployed: all that can happen to it happens in one run."""
    config = Settings.from_dict(json.loads((workplace / "ser-diff" / "config.json").read_text()))
    config = config.replace({"machine.site_timeout_s": SITE_TIMEOUT_S})
    with LocalFederation(tmp_path_factory.mktemp("deployed") / "federation", config) as federation:
        federation.start_coordinator()
        federation.start_hospital("site-1")
        stranger = shutil.copytree(federation.kit("site-2"), federation.folder / "stranger")
        (stranger / "node.key").write_bytes(make_node_key()[0])
        federation.start_hospital("stranger", stranger)
        impostor = shutil.copytree(federation.kit("site-1"), federation.folder / "impostor")
        shutil.copy(federation.kit("site-3") / "node.key", impostor / "node.key")
        federation.start_hospital("impostor", impostor)
        federation.start_run()
        wait_until_says(federation.log("run"), "waiting for site-2")

        federation.kill("run")
        federation.kill("coordinator")
        preloaded.settle()
        federation.start_coordinator()
        federation.start_run()
        wait_until_says(federation.log("run"), "resuming after stage 1")
        wait_until_says(federation.log("run"), "waiting for site-2", 2)

        federation.kill("impostor")
        preloaded.settle()
        federation.start_hospital("site-3")  # comes late by itself: its key's cut connection has to lapse first
        federation.start_hospital("site-2")
        wait_until_says(federation.log("site-2"), "train: working")
        federation.crash("site-2")
        preloaded.settle()
        federation.start_hospital("site-2")
        federation.wait_for_run(LIMIT_S)
        yield federation


def test_the_deployment_ends_with_the_simulations_results(deployed: LocalFederation, ser_diff: dict[str, Any]) -> None:
    results = json.loads((deployed.run / "results.json").read_text())
    for matrix in ("R", "R_coarse"):
        for metric in ("dice", "hd95"):
            for key, expected in ser_diff[matrix][metric].items():
                assert np.abs(np.array(results[matrix][metric][key]) - expected).max() <= 1e-5
    assert results["losses"] == ser_diff["losses"]
    assert results["bwt"] == ser_diff["bwt"]


def test_an_unregistered_key_is_refused_and_its_hospital_says_so(deployed: LocalFederation) -> None:
    assert deployed.exit_code("stranger", LIMIT_S) == 1
    text = deployed.log("stranger").read_text()
    assert "SuperNode ended" in text
    assert ": working" not in text
    assert "Traceback" not in text


def test_a_node_that_claims_anothers_site_is_refused(deployed: LocalFederation) -> None:
    assert says(deployed.log("run"), "turned away: site-3 claims to be site-1, whose key it does not hold")
    assert says(deployed.log("impostor"), "query: working")
    assert not says(deployed.log("impostor"), "train:")
    assert not says(deployed.log("impostor"), "evaluate:")


def test_a_client_without_tls_or_with_another_authority_is_refused(deployed: LocalFederation, tmp_path: Path) -> None:
    program = str(Path(sysconfig.get_path("scripts")) / "flower-supernode")
    address = ["--superlink", f"localhost:{deployed.port}", "--max-retries", "1", "--isolation", "process"]
    plain = subprocess.run(
        [program, "--insecure", *address, "--port", "19871"],
        env={**os.environ, **NO_PROXY},
        capture_output=True,
        timeout=LIMIT_S,
    )
    assert plain.returncode != 0
    assert b"Failed to initialize the connection" in plain.stdout + plain.stderr


def test_an_answer_of_flowers_that_says_it_failed_is_no_answer(deployed: LocalFederation) -> None:
    """Its exit code is 0."""
    with pytest.raises(FederationError, match=r"flwr stop 12345 .*Run ID not found"):
        deployed.flower("stop", "12345", "federation")


def test_a_site_that_was_killed_in_its_stage_finished_it(deployed: LocalFederation) -> None:
    assert says(deployed.log("run"), "site-2 was restarted")
    trained = [e for e in read_ledger(deployed.ledger("site-2")) if e.message == "train" and e.verdict == "sent"]
    assert {(entry.stage, entry.server_round) for entry in trained} == {(2, 1), (2, 2)}


def test_sites_that_came_late_were_waited_for_and_scored_every_student(deployed: LocalFederation) -> None:
    assert says(deployed.log("run"), f"waiting for site-2 (up to {SITE_TIMEOUT_S} s)")
    assert says(deployed.log("site-3"), "rejected: the coordinator")
    for site in ("site-2", "site-3"):
        scored = {e.stage for e in read_ledger(deployed.ledger(site)) if e.message == "evaluate"}
        assert scored == {0, 1, 2, 3}


def test_ledgers_hold_every_byte_that_the_coordinator_received(deployed: LocalFederation) -> None:
    """site-3 alone met no killing on its way: of the others some answers were lost with a process."""
    results = json.loads((deployed.run / "results.json").read_text())
    entries = read_ledger(deployed.ledger("site-3"))
    by_kind: dict[str, int] = {}
    for record in (record for entry in entries for record in entry.records):
        by_kind[record.name] = by_kind.get(record.name, 0) + record.bytes
    assert by_kind == results["bytes_out"]["site-3"]
    assert sum(entry.bytes for entry in entries) == sum(by_kind.values())


def test_each_hospital_was_told_of_its_own_cases_alone(deployed: LocalFederation, workplace: Path) -> None:
    config = json.loads((workplace / "ser-diff" / "config.json").read_text())
    secrets = {site["name"]: [site["path"], *site["cases"]] for site in config["sites"]}
    folders = {site: deployed.kit(site) for site in secrets} | {"coordinator": deployed.coordinator.folder}
    for owner, folder in folders.items():
        files = [file for file in folder.rglob("*") if file.is_file()]
        # A declared release has an example of a case's name in the app that Flower installs: it is nobody's.
        texts = {file: file.read_bytes() for file in files if "declared" not in file.parts}
        for site, (path, *cases) in secrets.items():
            expected = site == owner
            assert any(path.encode() in text for text in texts.values()) == expected, (owner, site)
            ours = [text for file, text in texts.items() if file.suffix in (".json", ".toml", ".csv", ".jsonl", ".pt")]
            named = [case for case in cases if any(case.encode() in text for text in ours)]
            assert named == (cases if expected else []), (owner, site)


FOREIGN_PROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "foreign"
version = "1.0.0"
description = "an app that wants the scans"
license = "Apache-2.0"
dependencies = ["flwr"]
[tool.flwr.app]
publisher = "foreign"
[tool.flwr.app.components]
serverapp = "foreign.apps:server"
clientapp = "foreign.apps:client"
[tool.flwr.app.config]
loot = ""
fingerprint = 0
"""

FOREIGN_APPS = """
import json
from pathlib import Path
import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

LOOT = Path("LOOT")
LOOT.joinpath("imported-" + __name__.replace(".", "-") + "-" + str(__import__("os").getpid())).touch()
client = ClientApp()
server = ServerApp()


def steal(message, context):
    LOOT.joinpath("ran-in-a-hospital").touch()
    scan = ArrayRecord({"scan": Array(np.zeros((4, 9, 9, 9), np.float32))})
    return Message(RecordDict({"arrays": scan}), reply_to=message)


client.query()(steal)
client.train()(steal)
client.evaluate()(steal)
client.query("scans")(steal)


@server.main()
def main(grid, context):
    fingerprint = context.run_config["fingerprint"]
    asks = [
        ("query", {"experiment": fingerprint, "salt": bytes(16)}), ("query", {"experiment": 0}), ("query", {}),
        ("query.scans", {}),
        ("train", {"stage": 1, "server-round": 1, "length": 1, "teacher-stage": [0]}), ("train", {}),
        ("train.consolidate", {"stage": 1}), ("evaluate", {"stage": 0}), ("evaluate.scans", {}), ("system", {}),
    ]
    arrays = ArrayRecord({"weights": Array(np.zeros(7, np.float32))})
    messages = [
        Message(RecordDict({"arrays": arrays, "config": ConfigRecord(orders)}), node, kind)
        for kind, orders in asks
        for node in list(grid.get_node_ids())[:1]
    ]
    said = []
    for reply in grid.send_and_receive(messages, timeout=600):
        kind = reply.metadata.message_type
        if reply.has_error():
            said.append([kind, reply.error.code, reply.error.reason])
        else:
            told = {n: dict(r) if n == "site" else {k: a.shape for k, a in r.items()} for n, r in reply.content.items()}
            said.append([kind, "content", told])
    LOOT.joinpath("partial").write_text(json.dumps(said))
    LOOT.joinpath("partial").rename(LOOT.joinpath("replies.json"))
"""


def test_hospitals_are_asked_for_statistics_without_training(deployed: LocalFederation) -> None:
    before = {site: len(read_ledger(deployed.ledger(site))) for site in ("site-1", "site-2", "site-3")}
    wanted = f'federation="{deployed.coordinator.folder}" ask="statistics"'
    deployed.flower("run", str(ROOT), "federation", "--run-config", wanted)
    end = time.monotonic() + LIMIT_S
    while not (files := list(deployed.coordinator.folder.glob("statistics-*/statistics.json"))):
        assert time.monotonic() < end, "no statistics were written"
        time.sleep(0.5)
    told = json.loads(files[0].read_text())
    assert told["too_few"] == list(before)  # which is all that hospitals of two patients tell
    for site, entries in before.items():
        messages = [entry.message for entry in read_ledger(deployed.ledger(site))[entries:]]
        assert messages == ["query", "query.statistics"]
    assert "site-3" in page_of(files[0]).read_text()


def test_an_app_of_a_hostile_coordinator_never_runs_in_a_hospital(deployed: LocalFederation, tmp_path: Path) -> None:
    """What a coordinator can do at worst: ship another bundle under a run of its own, and ask for anything."""
    loot, package = tmp_path / "loot", tmp_path / "app" / "foreign"
    package.mkdir(parents=True)
    loot.mkdir()
    (tmp_path / "app" / "pyproject.toml").write_text(FOREIGN_PROJECT)
    (package / "__init__.py").touch()
    (package / "apps.py").write_text(FOREIGN_APPS.replace('LOOT")', f'{loot}")'))
    ledgers = {site: deployed.ledger(site) for site in ("site-1", "site-2", "site-3")}
    before = {site: len(read_ledger(ledger)) for site, ledger in ledgers.items()}
    wanted = f"fingerprint={deployed.coordinator.config.fingerprint}"
    deployed.flower("run", str(tmp_path / "app"), "federation", "--run-config", wanted)
    end = time.monotonic() + 2 * LIMIT_S
    while not (loot / "replies.json").exists():
        assert time.monotonic() < end, "the foreign run told nothing"
        time.sleep(0.5)
    said = json.loads((loot / "replies.json").read_text())
    assert {kind for kind, *_ in said} >= {"query", "query.scans", "train", "train.consolidate", "evaluate"}
    told = [what["site"] for _, code, what in said if code == "content"]  # the true introduction, counts rounded to 5
    assert [(one["training-cases"], one["test-cases"]) for one in told] == [(5, 5)]
    assert [what["scan-hashes"] for _, code, what in said if code == "content"] == [{"hashes": [15, 32]}]  # with decoys
    refusals = {(code, what) for _, code, what in said if code != "content"}
    assert refusals <= {(fault.value, fault.name) for fault in Fault}
    imported = [file.name.split("-")[0] for file in loot.iterdir()]
    assert sorted(imported) == ["imported", "replies.json"]  # once, at the coordinator
    asked = f"site-{told[0]['site'] + 1}"
    for site, ledger in ledgers.items():
        verdicts = [entry.verdict for entry in read_ledger(ledger)[before[site] :]]
        assert (len(verdicts), verdicts.count("sent")) == ((len(said), 1) if site == asked else (0, 0))
