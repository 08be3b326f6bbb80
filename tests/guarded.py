"""A hospital at smoke size, behind the real guard, whose handlers give the answers that a test sets."""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from flwr.app import ArrayRecord, Context, Message, RecordDict
from traffic import RUN, honest, order

from fedserdiff import wire
from fedserdiff.diffusion.refiner import new_student
from fedserdiff.settings.experiment import Settings, Site
from fedserdiff.settings.sources import make_settings
from fedserdiff.wire import Fault
from sites.egress import Door, GuardedApp
from sites.ledger import LEDGER_FILE, Entry, read_ledger

SITE = 1
"""The hospital's number: there is a site before it and one after it."""

Handler = Callable[[Message, Context], Message]


def smoke(**changes: object) -> Settings:
    sites = tuple(Site(name, "brats2021", f"/scans/{name}") for name in ("north", "east", "west"))
    return make_settings("smoke", {"method": "ser-diff", "sites": sites, **changes})


@lru_cache(maxsize=8)
def student(config: Settings) -> ArrayRecord:
    """The student that the coordinator sends."""
    return wire.weights_to_record(new_student(config))


def make_app(door: Door, handler: Handler) -> GuardedApp:
    """A hospital's app, registered as the real one is, all of whose handlers are this one."""
    app = GuardedApp(lambda context: door)
    app.query()(handler)
    app.query("statistics")(handler)
    app.train()(handler)
    app.train("consolidate")(handler)
    app.evaluate()(handler)
    return app


def context() -> Context:
    return Context(RUN, 2, node_config={}, state=RecordDict(), run_config={})


def ask(door: Door, message_type: str, handler: Handler) -> Message:
    """What comes out of the hospital when `handler` has answered a message."""
    return make_app(door, handler)(order(message_type, student(door.config)), context())


def ask_for(door: Door, message_type: str, content: RecordDict) -> Message:
    """What comes out of the hospital when it would answer `content`."""
    return ask(door, message_type, lambda message, context: Message(content, reply_to=message))


def honest_reply(door: Door, message_type: str) -> RecordDict:
    return honest(message_type, door.config, student(door.config), door.site)


def entries(door: Door) -> tuple[Entry, ...]:
    file = Path(door.records) / LEDGER_FILE
    return read_ledger(file) if file.is_file() else ()


def assert_fault(reply: Message, fault: Fault) -> None:
    """The reply tells a fault's code and its name, and nothing else."""
    assert reply.has_error()
    assert not reply.has_content()
    assert (reply.error.code, reply.error.reason) == (int(fault), fault.name)
