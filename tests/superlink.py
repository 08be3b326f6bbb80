"""Flower's SuperLink in this process, with its real state and grid; threads play SuperNodes."""

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self
from uuid import uuid4

from flwr.app import Error, Message, RecordDict
from flwr.common.constant import HEARTBEAT_INTERVAL_INF
from flwr.server.superlink.linkstate import LinkState, LinkStateFactory
from flwr.supercore.constant import FLWR_IN_MEMORY_DB_NAME, NOOP_FEDERATION_ID, TaskType
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.superlink.federation import NoOpFederationManager
from flwr.superlink.grid import InMemoryGrid

POLL_S = 0.01
LONG_S = 60.0
"""Longer than any test: a message that lives as long does not expire in it."""

Answer = Callable[["SuperNode", Message], RecordDict | Error | None]


class SuperNode:
    """A node that takes one message after another, as a SuperNode does, and forgets them when it ends.

    Parameters
    ----------
    state : LinkState
        The SuperLink's, where it is registered, and not yet started.
    key : bytes
        Its public key.
    answer : callable
        Returns what the node answers to a message; None is no answer.
    """

    def __init__(self, state: LinkState, key: bytes, answer: Answer) -> None:
        self._state = state
        self._answer = answer
        self._there, self._over = threading.Event(), threading.Event()
        self.id = state.create_node("owner", "owner", key, HEARTBEAT_INTERVAL_INF)
        self.seen: list[Message] = []
        self.stored: list[Message] = []
        self._thread = threading.Thread(target=self._live, daemon=True)
        self._thread.start()

    def start(self) -> Self:
        assert self._state.activate_node(self.id, HEARTBEAT_INTERVAL_INF)
        self._there.set()
        return self

    def pause(self) -> None:
        """Take no message until the node is started again."""
        self._there.clear()

    def end(self) -> None:
        """End the node's process: what it has taken and not answered is lost with it."""
        self._there.clear()
        assert self._state.deactivate_node(self.id)

    def start_anew(self, after_s: float = 0.0) -> None:
        self.end()
        self._over.wait(after_s)
        self.start()

    def close(self) -> None:
        self._over.set()
        self._thread.join()

    def reply(self, message: Message, content: RecordDict | Error) -> None:
        """Answer a message, which the SuperLink takes or does not."""
        reply = Message(content, reply_to=message)
        reply.metadata.__dict__["_message_id"] = str(uuid4())  # as Flower's own engine does
        if self._state.store_message_res(reply):
            self.stored.append(reply)

    def _live(self) -> None:
        while not self._over.wait(POLL_S):
            if self._there.is_set():
                for message in self._state.get_message_ins(self.id, limit=1):
                    self.seen.append(message)
                    content = self._answer(self, message)
                    if content is not None:
                        self.reply(message, content)


class SuperLink:
    """A SuperLink with one run; leaving it ends the threads of its nodes."""

    def __init__(self) -> None:
        factory = LinkStateFactory(FLWR_IN_MEMORY_DB_NAME, NoOpFederationManager(), ObjectStoreFactory())
        self.state = factory.state()
        self.run_id = self.state.create_run(
            None, None, None, {}, NOOP_FEDERATION_ID, None, None, primary_task_type=TaskType.SERVER_APP
        )
        self.grid = InMemoryGrid(factory)
        self.grid.set_run(*self.state.get_run_info(run_ids=[self.run_id]))
        self._nodes: list[SuperNode] = []

    def node(self, answer: Answer, key: bytes | None = None) -> SuperNode:
        """Register a node; it is not there until it is started."""
        node = SuperNode(self.state, uuid4().bytes if key is None else key, answer)
        self._nodes.append(node)
        return node

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for node in self._nodes:
            node.close()
