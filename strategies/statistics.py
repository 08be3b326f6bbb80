"""Statistics before training: the coordinator asks every hospital once, and continues without those that refuse."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context
from flwr.serverapp import Grid, ServerApp
from numpy.typing import NDArray

from fedserdiff import wire
from fedserdiff.report.events import RunEvents
from fedserdiff.settings.experiment import Settings
from fedserdiff.statistics.summary import statistics_csv, summarised
from strategies.inbox import Inbox
from strategies.outbox import Outbox
from strategies.retrying_grid import RetryingGrid
from strategies.roster import Roster
from strategies.run_directory import RunDirectory

STATISTICS = "statistics"
"""The name of the files that are written: ``.json`` and ``.csv``, and ``.html`` of the former."""


@dataclass(frozen=True)
class Answers:
    """The hospitals' answers.

    Attributes
    ----------
    told : mapping
        Answered arrays by site, in the config's order: int32, by name, as in `fedserdiff.statistics.cells`.
    refused : mapping of str to str
        Reason why each other site sent no statistics, in words.
    bytes_out : mapping
        Bytes that left each site, by site and kind of record, including those of its introduction.
    """

    told: Mapping[str, Mapping[str, NDArray[np.int32]]]
    refused: Mapping[str, str]
    bytes_out: Mapping[str, Mapping[str, int]]


def ask_for_statistics(
    grid: Grid,
    config: Settings,
    events: RunEvents,
    keys: Mapping[str, bytes] | None = None,
    prepared: bool = False,
) -> Answers:
    """Wait for all sites, ask each once, and return their answers; `keys` and `prepared` are as in `Roster`.

    Raises
    ------
    FederationError
        If a site does not appear, as in `Roster.wait_for`.
    """
    inbox, outbox = Inbox(config), Outbox(config)
    again = RetryingGrid(grid, config.machine.retries, lambda node, why: events.sent_again(roster.name(node), why))
    roster = Roster(again, config, events, keys, inbox.count, prepared=prepared)
    nodes = roster.wait_for([site.name for site in config.sites])
    question = ConfigRecord({"experiment": config.fingerprint})
    messages = [outbox.message_to(site, node, wire.STATISTICS, {wire.CONFIG: question}) for site, node in nodes.items()]
    replies = again.send_and_receive(messages, timeout=config.machine.stage_timeout_s)
    by_node = {node: site for site, node in nodes.items()}
    accepted, refused = inbox.accept(replies, wire.STATISTICS, ArrayRecord(), by_node)
    told = {
        site: {name: array.numpy() for name, array in accepted[site].array_records[wire.HISTOGRAMS].items()}
        for site in nodes
        if site in accepted
    }
    return Answers(told, refused, inbox.bytes_out)


def write_statistics(run: RunDirectory, answers: Answers, config: Settings, data: str) -> dict[str, Any]:
    """Write the hospitals' answers as ``statistics.json`` and ``.csv``; return the content of the JSON file.

    Parameters
    ----------
    run : RunDirectory
    answers : Answers
    config : Settings
    data : str
        Name of the hospitals' data, such as ``phantom``.
    """
    summary = summarised(answers.told, answers.refused, answers.bytes_out, config, data)
    run.write_json(f"{STATISTICS}.json", summary)
    run.write_file(f"{STATISTICS}.csv", statistics_csv(summary))
    return summary


def make_statistics_app(
    config: Settings, events: RunEvents, take: Callable[[Answers], None], prepared: bool = False
) -> ServerApp:
    """Return a ServerApp that asks the hospitals and passes their answers to `take`."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        take(ask_for_statistics(grid, config, events, prepared=prepared))

    return app
