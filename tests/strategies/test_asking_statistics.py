"""The coordinator asks every hospital once, and goes on without those that refuse: on Flower's own state."""

import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MessageType, RecordDict
from superlink import Answer, SuperLink, SuperNode
from traffic import histograms, honest

from fedserdiff import wire
from fedserdiff.errors import FederationError
from fedserdiff.report.events import RunEvents
from fedserdiff.settings.experiment import Site
from fedserdiff.settings.sources import make_settings
from fedserdiff.wire import Fault
from strategies.statistics import ask_for_statistics

SITES = ("north", "east", "west")
CONFIG = make_settings(
    "smoke",
    {"machine.site_timeout_s": 1, "machine.stage_timeout_s": 3, "machine.retries": 1},
    sites=tuple(Site(name, "brats2021", f"/scans/{name}") for name in SITES),
)


def hospital(number: int, *answers: RecordDict | Error | None) -> Answer:
    """Introduces itself, and then gives one answer after another."""
    left = list(answers)

    def answer(node: SuperNode, message: Message) -> RecordDict | Error | None:
        if message.metadata.message_type == MessageType.QUERY:
            return honest(MessageType.QUERY, CONFIG, ArrayRecord(), number)
        return left.pop(0)

    return answer


def told(seed: int) -> RecordDict:
    return RecordDict({wire.HISTOGRAMS: histograms(seed)})


def test_every_hospital_is_asked_once_and_what_it_told_is_its_own(link: SuperLink) -> None:
    nodes = [link.node(hospital(number, told(number))).start() for number in (2, 0, 1)]
    found = ask_for_statistics(link.grid, CONFIG, RunEvents())
    assert list(found.told) == list(SITES)
    for number, site in enumerate(SITES):
        for name, array in histograms(number).items():
            assert found.told[site][name].tolist() == array.numpy().tolist()
    assert found.refused == {}
    for node in nodes:
        introduction, asked = (message for message in node.seen)
        assert introduction.metadata.message_type == "query"
        assert asked.metadata.message_type == "query.statistics"
        assert asked.content == RecordDict({wire.CONFIG: ConfigRecord({"experiment": CONFIG.fingerprint})})
    sent = {site: dict(kinds) for site, kinds in found.bytes_out.items()}
    assert all(sent[site][wire.HISTOGRAMS] == histograms(0).count_bytes() for site in SITES)
    assert all({"site", "scan-hashes"} < set(kinds) for kinds in sent.values())


def test_hospitals_that_refuse_or_send_what_was_not_agreed_are_told_of_and_the_others_count(link: SuperLink) -> None:
    more = ArrayRecord({**histograms(), "ages": Array(histograms()["patients"].numpy())})
    link.node(hospital(0, Error(int(Fault.BLOCKED), "BLOCKED"))).start()
    link.node(hospital(1, RecordDict({wire.HISTOGRAMS: more}))).start()
    link.node(hospital(2, told(2))).start()
    found = ask_for_statistics(link.grid, CONFIG, RunEvents())
    assert list(found.told) == ["west"]
    assert (
        found.refused["north"] == "answered BLOCKED (code 214), its own guard held the answer back; its ledger says why"
    )
    assert found.refused["east"].startswith(
        "sent what was not agreed, dropped (histograms: names differ from those agreed"
    )


def test_a_hospital_that_never_answers_is_waited_for_no_longer_than_agreed(link: SuperLink) -> None:
    link.node(hospital(0, None)).start()
    link.node(hospital(1, told(1))).start()
    link.node(hospital(2, Error(int(Fault.MEMORY), "MEMORY"), told(2))).start()
    found = ask_for_statistics(link.grid, CONFIG, RunEvents())
    assert list(found.told) == ["east", "west"], "what may pass is asked again"
    assert found.refused == {"north": "did not answer in time"}


def test_a_hospital_that_does_not_come_is_an_error_that_names_it(link: SuperLink) -> None:
    link.node(hospital(0, told(0))).start()
    with pytest.raises(FederationError, match=r"^waited 1 s for east, west: no such site appeared$"):
        ask_for_statistics(link.grid, CONFIG, RunEvents(), prepared=True)
