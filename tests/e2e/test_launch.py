"""Both halves on the real engine in unusual cases: faults, absent sites, more than one worker."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import ray
from flwr.app import Array, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fedserdiff import wire
from fedserdiff.errors import ConfigError, DataError, FederationError
from fedserdiff.federation import phantom_federation
from fedserdiff.launch import Resources, simulate
from fedserdiff.report.events import RunEvents
from fedserdiff.settings.experiment import Settings
from fedserdiff.settings.sources import make_settings
from sites.client_app import Premises, make_client_app
from sites.egress import Door, GuardedApp
from strategies.run_directory import RunDirectory
from strategies.server_app import make_server_app

SECRET = "/scans/patient-007"
LIMIT_S = 300.0


@pytest.fixture
def config(tmp_path: Path) -> Settings:
    config = make_settings("smoke", {"training.rounds": 1, "machine.site_timeout_s": 300})
    return config.replace(sites=phantom_federation(2, config, tmp_path / "phantom"))


def premises(tmp_path: Path) -> Premises:
    return Premises(tmp_path / "cache", tmp_path / "hospitals")


def rows(run: RunDirectory) -> int:
    """How many rows of R a run left."""
    return len(json.loads((run.path / "results.json").read_text())["R"]["dice"]["mean"])


def behind_the_guard(
    handler: Callable[[Message, Context], Message], tmp_path: Path, config: Settings, site: int
) -> GuardedApp:
    """A hospital that trains by another handler."""
    door = Door(tmp_path / "hospitals" / config.sites[site].name, config, site)
    app = GuardedApp(lambda context: door)
    app.train()(handler)
    return app


def test_a_stage_whose_site_has_bad_data_fails_by_name_and_the_reason_stays_in_the_hospital(
    config: Settings, tmp_path: Path
) -> None:
    real = make_client_app(config, premises(tmp_path))

    def handler(message: Message, context: Context) -> Message:
        raise DataError(f"{SECRET}/t1.nii.gz: truncated or damaged")

    broken = behind_the_guard(handler, tmp_path, config, 0)

    def cannot_train(message: Message, context: Context) -> Message:
        return (broken if message.metadata.message_type == "train" else real)(message, context)

    run = RunDirectory.new(tmp_path / "run")
    log = tmp_path / "flower.log"
    with pytest.raises(
        FederationError, match=r"stage 1 \(site-1\), round 1.*site-1 answered DATA \(code 210\)"
    ) as caught:
        simulate(make_server_app(config, run, RunEvents()), cannot_train, 2, Resources(1), log, LIMIT_S)  # type: ignore[arg-type]
    assert SECRET not in str(caught.value)
    assert SECRET not in log.read_text()
    assert SECRET in (tmp_path / "hospitals" / "site-1" / "hospital.log").read_text()
    assert rows(run) == 1, "the untrained student's"


def test_a_hospital_that_cannot_open_its_own_folder_tells_no_path(config: Settings, tmp_path: Path) -> None:
    occupied = tmp_path / "patient-007"
    occupied.write_text("a file where the records should be")
    client = make_client_app(config, Premises(tmp_path / "cache", occupied))
    run = RunDirectory.new(tmp_path / "run")
    log = tmp_path / "flower.log"
    with pytest.raises(FederationError, match="answered INTERNAL") as caught:
        simulate(make_server_app(config, run, RunEvents()), client, 2, Resources(1), log, LIMIT_S)
    assert "patient-007" not in str(caught.value)
    assert "patient-007" not in log.read_text()


def test_a_site_that_hangs_ends_the_run_by_name(config: Settings, tmp_path: Path) -> None:
    """The engine would wait for the busy worker: the run must end without it."""
    real = make_client_app(config, premises(tmp_path))

    def never_trains(message: Message, context: Context) -> Message:
        if message.metadata.message_type == "train":
            import time

            time.sleep(600)
        return real(message, context)

    run = RunDirectory.new(tmp_path / "run")
    server = make_server_app(config.replace({"machine.stage_timeout_s": 30}), run, RunEvents())
    with pytest.raises(FederationError, match="site-1 did not answer in time"):
        simulate(server, never_trains, 2, Resources(1), tmp_path / "flower.log", 30)  # type: ignore[arg-type]


def test_a_round_goes_on_without_a_site_that_failed_and_says_so(config: Settings, tmp_path: Path) -> None:
    config = config.replace({"training.participation": "cumulative", "machine.site_failure": "go-on"})
    real = make_client_app(config, premises(tmp_path))

    def handler(message: Message, context: Context) -> Message:
        raise MemoryError

    broken = behind_the_guard(handler, tmp_path, config, 1)

    def second_cannot_train(message: Message, context: Context) -> Message:
        fails = message.metadata.message_type == "train" and context.node_config["partition-id"] == 1
        return (broken if fails else real)(message, context)

    class Heard(RunEvents):
        def __init__(self) -> None:
            self.failures: list[str] = []
            self.again: list[tuple[str, str]] = []

        def sent_again(self, site: str, why: str) -> None:
            self.again.append((site, why))

        def sites_failed(self, what: str) -> None:
            self.failures.append(what)

    run, heard = RunDirectory.new(tmp_path / "run"), Heard()
    server = make_server_app(config, run, heard)
    simulate(server, second_cannot_train, 2, Resources(1), tmp_path / "flower.log", LIMIT_S)  # type: ignore[arg-type]
    why = "answered MEMORY (code 212), its own log says why"
    assert heard.failures == [f"site-2 {why}"]
    assert heard.again == [("site-2", why)] * config.machine.retries
    results = json.loads((run.path / "results.json").read_text())
    assert results["absences"] == [{"stage": 2, "round": 1, "site": "site-2", "why": why}]
    assert rows(run) == 3


def test_a_student_that_is_not_finite_fails_its_stage_and_is_not_scored(config: Settings, tmp_path: Path) -> None:
    real = make_client_app(config, premises(tmp_path))

    def diverges(message: Message, context: Context) -> Message:
        reply = real(message, context)
        if message.metadata.message_type == "train":
            weights = reply.content.array_records[wire.ARRAYS]
            name = next(iter(weights))
            weights[name] = Array(np.full_like(weights[name].numpy(), np.nan))
        return reply

    run = RunDirectory.new(tmp_path / "run")
    server = make_server_app(config, run, RunEvents())
    with pytest.raises(FederationError, match=r"stage 1 \(site-1\), round 1: .*arrays: weights: not finite"):
        simulate(server, diverges, 2, Resources(1), tmp_path / "flower.log", LIMIT_S)  # type: ignore[arg-type]
    assert rows(run) == 1, "the untrained student's"


def test_a_site_that_never_comes_is_named_after_the_timeout(config: Settings, tmp_path: Path) -> None:
    run = RunDirectory.new(tmp_path / "run")
    server = make_server_app(config.replace({"machine.site_timeout_s": 3}), run, RunEvents())
    client = make_client_app(config, premises(tmp_path))
    with pytest.raises(FederationError, match="waited 3 s for site-2"):
        simulate(server, client, 1, Resources(1), tmp_path / "flower.log", LIMIT_S)


def test_more_resources_than_any_machine_has_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="lower --cpus-per-site"):
        simulate(ServerApp(), ClientApp(), 1, Resources(10_000), tmp_path / "flower.log", LIMIT_S)
    assert not ray.is_initialized()


def test_a_hospital_at_work_yields_to_nobody_else_on_its_machine(config: Settings, tmp_path: Path) -> None:
    """By default Ray lowers its workers' priority: a busy program on every CPU would stop them for minutes."""
    real = make_client_app(config, premises(tmp_path))

    def notes_its_niceness(message: Message, context: Context) -> Message:
        (tmp_path / "niceness").write_text(str(os.getpriority(os.PRIO_PROCESS, 0)))
        return real(message, context)

    server = make_server_app(config, RunDirectory.new(tmp_path / "run"), RunEvents())
    log = tmp_path / "flower.log"
    simulate(server, notes_its_niceness, 2, Resources(1), log, LIMIT_S)  # type: ignore[arg-type]  # it is only called
    assert (tmp_path / "niceness").read_text() == str(os.getpriority(os.PRIO_PROCESS, 0))


def test_sites_that_ask_for_a_gpu_are_placed_on_different_ones(tmp_path: Path) -> None:
    """Ray's logical GPUs: the placement is real, the devices need not be."""
    ray.init(num_cpus=2, num_gpus=2, include_dashboard=False, log_to_driver=False)
    client, server = ClientApp(), ServerApp()
    seen = tmp_path / "seen"

    @client.query()
    def where(message: Message, context: Context) -> Message:
        import time

        import ray

        time.sleep(2)  # long enough that both are at work at once
        record = ConfigRecord({"gpus": [str(i) for i in ray.get_gpu_ids()]})
        return Message(RecordDict({wire.SITE: record}), reply_to=message)

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        import time

        end = time.monotonic() + LIMIT_S
        while len(nodes := list(grid.get_node_ids())) < 2 and time.monotonic() < end:
            time.sleep(0.1)
        ask = [Message(RecordDict({wire.CONFIG: ConfigRecord()}), node, "query") for node in nodes]
        replies = list(grid.send_and_receive(ask, timeout=LIMIT_S))
        used = [str(gpu) for reply in replies for gpu in reply.content.config_records[wire.SITE]["gpus"]]  # type: ignore[union-attr]
        seen.write_text(" ".join(sorted(used)))

    simulate(server, client, 2, Resources(1, gpus_per_site=1), tmp_path / "flower.log", LIMIT_S)
    assert seen.read_text() == "0 1"
