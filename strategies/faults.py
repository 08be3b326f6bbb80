"""What went wrong at a site, in words: of an error reply its code alone is believed."""

from collections.abc import Mapping, Sequence

from flwr.app import Error, Message

from fedserdiff import wire


def describe_faults(replies: Sequence[Message], nodes: Mapping[int, str]) -> str:
    """Say, by site, which fault each answered and who never answered; empty where nobody failed."""
    told = {
        nodes[message.metadata.src_node_id]: describe_fault(message.error) for message in replies if message.has_error()
    }
    answered = {message.metadata.src_node_id for message in replies}
    told |= {site: "did not answer in time" for node, site in nodes.items() if node not in answered}
    return "; ".join(f"{site} {what}" for site, what in told.items())


def describe_fault(error: Error) -> str:
    """Say what an error reply means; a text that is not ours may hold anything, so it is not repeated."""
    if error.code in set(wire.Fault):
        meaning = _MEANINGS.get(wire.Fault(error.code), "its own log says why")
        return f"answered {wire.Fault(error.code).name} (code {error.code}), {meaning}"
    return f"failed outside its own app (code {error.code})"


_MEANINGS = {
    wire.Fault.EXPERIMENT: "it was given another experiment, or another version of this software",
    wire.Fault.DIVERGED: "its training diverged: a loss or a weight is not finite; λ may be too large",
    wire.Fault.BLOCKED: "its own guard held the answer back: its ledger says why",
}
