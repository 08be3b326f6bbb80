"""What went wrong at a site, in words: of an error reply its code alone is believed."""

from collections.abc import Mapping, Sequence

from flwr.app import Error, Message
from flwr.common.constant import ErrorCode

from fedserdiff import wire
from fedserdiff.gpu_memory import what_to_lower
from fedserdiff.settings.experiment import Settings


def faults_of(replies: Sequence[Message], nodes: Mapping[int, str], config: Settings) -> dict[str, str]:
    """Say, by site, which fault each answered and who never answered; empty where nobody failed."""
    told = {nodes[m.metadata.src_node_id]: _describe(m, config) for m in replies if m.has_error()}
    answered = {message.metadata.src_node_id for message in replies}
    return told | {site: "did not answer in time" for node, site in nodes.items() if node not in answered}


def in_words(failed: Mapping[str, str]) -> str:
    """Join what is known of sites that failed to one line."""
    return "; ".join(f"{site} {what}" for site, what in failed.items())


def may_pass(error: Error) -> bool:
    """Say whether the same message may be answered next time: what follows from data or message will not pass."""
    return error.code in _PASSING


def describe_fault(error: Error) -> str:
    """Say what an error reply means; a text that is not ours may hold anything, so it is not repeated."""
    if error.code in set(wire.Fault):
        meaning = _MEANINGS.get(wire.Fault(error.code), "its own log says why")
        return f"answered {wire.Fault(error.code).name} (code {error.code}), {meaning}"
    if error.code == ErrorCode.UNKNOWN:
        return "lost its worker's process, which was killed or ran out of memory (code 0)"
    return f"failed outside its own app (code {error.code})"


def _describe(reply: Message, config: Settings) -> str:
    """Say what an error reply means, and which of the agreed settings to lower where a GPU was full."""
    fault = describe_fault(reply.error)
    if reply.error.code == wire.Fault.GPU_MEMORY:
        return (
            f"{fault}: {what_to_lower(config, reply.metadata.message_type)} or less (its hospital.log has the figures)"
        )
    return fault


_PASSING = (
    wire.Fault.MEMORY,
    wire.Fault.INTERNAL,
    ErrorCode.UNKNOWN,  # of a worker's process that was killed, in a simulation
    ErrorCode.CLIENT_APP_RAISED_EXCEPTION,
)

_MEANINGS = {
    wire.Fault.EXPERIMENT: "it was given another experiment, or another version of this software",
    wire.Fault.GPU_MEMORY: "its GPU's memory does not suffice",
    wire.Fault.DIVERGED: "its training diverged: a loss or a weight is not finite; λ may be too large",
    wire.Fault.RECORDS: "it has lost what it keeps for itself, such as its adapter: its own log says which file",
    wire.Fault.BLOCKED: "its own guard held the answer back: its ledger says why",
}
