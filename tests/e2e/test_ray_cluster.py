"""A simulation on an existing Ray cluster: two nodes, like two machines that share a file system."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from ray_cluster import two_nodes

from fedserdiff import wire
from fedserdiff.errors import ConfigError
from fedserdiff.launch import Resources, simulate

LIMIT_S = 300.0


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    with two_nodes() as address:
        yield address


def where_sites_work(resources: Resources, tmp_path: Path) -> tuple[set[str], int]:
    """Return the Ray nodes on which two sites answer when both are asked at once, and how many nodes there are."""
    client, server = ClientApp(), ServerApp()
    seen = tmp_path / "seen.json"

    @client.query()
    def where(message: Message, context: Context) -> Message:
        import time

        import ray

        time.sleep(2)  # long enough that both are at work at once
        record = ConfigRecord({"node": ray.get_runtime_context().get_node_id()})
        return Message(RecordDict({wire.SITE: record}), reply_to=message)

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        end = time.monotonic() + LIMIT_S
        while len(nodes := list(grid.get_node_ids())) < 2 and time.monotonic() < end:
            time.sleep(0.1)
        ask = [Message(RecordDict({wire.CONFIG: ConfigRecord()}), node, "query") for node in nodes]
        replies = list(grid.send_and_receive(ask, timeout=LIMIT_S))
        used = [reply.content.config_records[wire.SITE]["node"] for reply in replies]
        seen.write_text(json.dumps([used, len(ray.nodes())]))

    simulate(server, client, 2, resources, tmp_path / "flower.log", LIMIT_S)
    used, there = json.loads(seen.read_text())
    assert len(used) == 2
    return set(used), there


def test_a_run_on_a_cluster_of_two_nodes_ends_with_the_results_of_one_on_this_machine(
    cluster: str, run: Callable[..., dict[str, Any]], fine_tune: dict[str, Any], workplace: Path
) -> None:
    results = run("on-cluster", "--sites", "2", "--method", "fine-tune", "--ray-address", cluster)
    compared = set(results) - {"seconds"}
    assert {name: results[name] for name in compared} == {name: fine_tune[name] for name in compared}
    weights = [(workplace / name / "student.pt").read_bytes() for name in ("on-cluster", "fine-tune")]
    assert weights[0] == weights[1]
    workers = [(workplace / name / "flower.log").read_text() for name in ("on-cluster", "fine-tune")]
    assert "ActorPool with: 2 actors" in workers[0], "one on each node"
    assert "ActorPool with: 1 actors" in workers[1]


def test_sites_that_are_asked_at_once_work_on_both_nodes(cluster: str, tmp_path: Path) -> None:
    used, there = where_sites_work(Resources(1, address=cluster), tmp_path)
    assert there == len(used) == 2


def test_without_an_address_a_run_does_not_join_the_cluster_of_its_machine(
    cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", cluster)
    used, there = where_sites_work(Resources(1, cpus=2), tmp_path)
    assert there == len(used) == 1


def test_a_cluster_none_of_whose_machines_is_large_enough_for_a_site_is_refused(cluster: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"a site needs 2 CPUs .* have 1 CPUs and 0 GPUs, 1 CPUs and 0 GPUs"):
        simulate(ServerApp(), ClientApp(), 1, Resources(2, address=cluster), tmp_path / "flower.log", LIMIT_S)
