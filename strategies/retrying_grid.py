"""Flower's grid with retries: if a hospital restarts or fails temporarily, its message is sent again."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from flwr.app import Message
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid

from strategies.faults import describe_fault, may_pass

_LOOK_S, _MOST_LOOK_S, _LOOK_SHARE = 0.03, 1.0, 0.01
"""Seconds between two polls for replies: when they are due, and at most; and their share of the time since then, so
that a long wait does not take CPUs from the hospitals."""

_DUE = 0.9
"""Replies are due after this share of the time that the last replies of the same type took; before, polls are rare."""

_SEE_TO_S = 0.2
"""Smallest time between two checks for restarted nodes: a node that starts while its message is sent receives it."""

_MOST_SENDINGS = 4
"""Largest number of sendings of one message, for a hospital whose process always ends with it."""

_ABOUT_NODES = (ErrorCode.NODE_UNAVAILABLE, ErrorCode.REPLY_MESSAGE_UNAVAILABLE, ErrorCode.MESSAGE_UNAVAILABLE)
"""Flower's own errors, which are not answers of a hospital."""


@dataclass
class _Errand:
    """A message, its unanswered copies, its node's activation time when the last copy was sent, and counts."""

    message: Message
    copies: set[str]
    activated: str | None
    sendings: int = 1
    lost: bool = False
    faults: int = 0


class RetryingGrid(Grid):
    """Wrapper of Flower's grid; only `send_and_receive` differs.

    A SuperNode forgets everything when it ends. A message that it had received is then lost, and Flower waits for the
    reply until the message expires. This grid sends the message again if the node has been activated again, or if it
    answered with a fault that may pass.

    Parameters
    ----------
    grid : Grid
        Flower's own grid.
    retries : int
        How often a node that answered with such a fault gets its message again.
    sent_again : callable
        Callback with the node whose message is sent again, and the reason.
    """

    def __init__(
        self, grid: Grid, retries: int = 0, sent_again: Callable[[int, str], None] = lambda node, why: None
    ) -> None:
        self._grid = grid
        self._retries = retries
        self._sent_again = sent_again
        self._took: dict[str, float] = {}  # seconds until the last replies to messages of a type

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Send messages and return the replies that arrive within `timeout` seconds; None means no limit.

        A missing node counts as not answering; Flower's own errors about it are not returned.
        """
        started = time.monotonic()
        end = started + (float("inf") if timeout is None else timeout)
        messages = list(messages)
        kind = messages[0].metadata.message_type if messages else ""
        due = _DUE * self._took.get(kind, 0.0)
        activations = self._activations()
        errands = [
            _Errand(message, {self._send(message)}, activations.get(message.metadata.dst_node_id))
            for message in messages
        ]
        replies: list[Message] = []
        seen_to = started
        while errands and time.monotonic() < end:
            by_copy = {copy: errand for errand in errands for copy in errand.copies}
            for reply in self._grid.pull_messages(list(by_copy)):
                errand = by_copy[reply.metadata.reply_to_message_id]
                if reply.has_error() and reply.error.code in _ABOUT_NODES:
                    errand.copies.discard(reply.metadata.reply_to_message_id)
                    about = errand.message.metadata
                    # an expired message does not count as lost
                    errand.lost |= time.time() < about.created_at + about.ttl
                elif reply.has_error() and may_pass(reply.error) and errand.faults < self._retries:
                    errand.copies.discard(reply.metadata.reply_to_message_id)
                    errand.faults += 1
                    self._send_again(errand, describe_fault(reply.error))
                elif errand in errands:  # the first answer to any copy counts
                    errands.remove(errand)
                    replies.append(reply)
            now = time.monotonic()
            if now - seen_to >= _SEE_TO_S:
                activations, seen_to = self._activations(), now
                errands = [errand for errand in errands if self._see_to(errand, activations)]
            if errands:
                time.sleep(_pause_s(now - started, due))
        self._took[kind] = time.monotonic() - started
        return replies

    def _see_to(self, errand: _Errand, activations: dict[int, str | None]) -> bool:
        """Send a message again if its node has lost it; return whether to wait for an answer."""
        node = errand.message.metadata.dst_node_id
        if node not in activations or not (errand.lost or activations[node] != errand.activated):
            return True
        if errand.sendings == _MOST_SENDINGS:
            return False
        self._send_again(errand, "was restarted")
        errand.activated, errand.lost = activations[node], False
        errand.sendings += 1
        return True

    def _send_again(self, errand: _Errand, why: str) -> None:
        self._sent_again(errand.message.metadata.dst_node_id, why)
        errand.copies.add(self._send(_copy(errand.message)))

    def _send(self, message: Message) -> str:
        (identifier,) = self._grid.push_messages([message])
        return identifier

    def _activations(self) -> dict[int, str | None]:
        """Return the time of the last activation of each present node."""
        return {node.node_id: node.last_activated_at for node in self._grid.get_nodes()}

    # Flower's grid, unchanged

    def set_run(self, run: Any) -> None:
        """Set the run."""
        self._grid.set_run(run)

    @property
    def run(self) -> Any:
        """Flower's run."""
        return self._grid.run

    def create_message(self, *arguments: Any, **options: Any) -> Message:
        """Create a message (deprecated by Flower)."""
        return self._grid.create_message(*arguments, **options)

    def get_node_ids(self) -> Iterable[int]:
        """Return the ids of the present nodes."""
        return self._grid.get_node_ids()

    def get_nodes(self) -> Iterable[Any]:
        """Return Flower's information on the present nodes, including their authenticated keys."""
        return self._grid.get_nodes()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages."""
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies that have arrived."""
        return self._grid.pull_messages(message_ids)


def _pause_s(waited: float, due: float) -> float:
    """Return the seconds until the next poll, after `waited` seconds for replies that are due after `due` seconds."""
    if waited < due:
        return min(max(_LOOK_S, due - waited), _MOST_LOOK_S)
    return min(max(_LOOK_S, _LOOK_SHARE * (waited - due)), _MOST_LOOK_S)


def _copy(message: Message) -> Message:
    about = message.metadata
    return Message(message.content, about.dst_node_id, about.message_type, ttl=about.ttl)
