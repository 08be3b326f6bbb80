"""Messages about faults at sites. Only the code of an error reply is trusted, not its text."""

from collections.abc import Mapping, Sequence

from flwr.app import Error, Message
from flwr.common.constant import ErrorCode

from fedserdiff import wire
from fedserdiff.gpu_memory import what_to_lower
from fedserdiff.settings.experiment import Settings


def faults_of(replies: Sequence[Message], nodes: Mapping[int, str], config: Settings) -> dict[str, str]:
    """Return, by site, the fault that it answered, or that it never answered; empty if no site failed."""
    told = {nodes[m.metadata.src_node_id]: _describe(m, config) for m in replies if m.has_error()}
    answered = {message.metadata.src_node_id for message in replies}
    return told | {site: "did not answer in time" for node, site in nodes.items() if node not in answered}


def in_words(failed: Mapping[str, str]) -> str:
    """Join the messages about failed sites to one line."""
    return "; ".join(f"{site} {what}" for site, what in failed.items())


def may_pass(error: Error) -> bool:
    """Return whether a fault may pass if the message is sent again; faults caused by data or the message will not."""
    return error.code in _PASSING


def describe_fault(error: Error) -> str:
    """Return what an error reply means; foreign text is not repeated, because it may contain anything."""
    if error.code in set(wire.Fault):
        meaning = _MEANINGS.get(wire.Fault(error.code), "its own log says why")
        return f"answered {wire.Fault(error.code).name} (code {error.code}), {meaning}"
    if error.code == ErrorCode.UNKNOWN:
        return "lost its worker's process, which was killed or ran out of memory (code 0)"
    return f"failed outside its own app (code {error.code})"


def _describe(reply: Message, config: Settings) -> str:
    """Return what an error reply means and, if GPU memory was full, which of the agreed settings to lower."""
    fault = describe_fault(reply.error)
    if reply.error.code == wire.Fault.GPU_MEMORY:
        return (
            f"{fault}: {what_to_lower(config, reply.metadata.message_type)} or less (its hospital.log has the figures)"
        )
    return fault


_PASSING = (
    wire.Fault.MEMORY,
    wire.Fault.INTERNAL,
    ErrorCode.UNKNOWN,  # in a simulation: a worker's process was killed
    ErrorCode.CLIENT_APP_RAISED_EXCEPTION,
)

_MEANINGS = {
    wire.Fault.EXPERIMENT: "it was given another experiment, or another version of this software",
    wire.Fault.GPU_MEMORY: "its GPU's memory is not large enough",
    wire.Fault.DIVERGED: "its training diverged: a loss or a weight is not finite; λ may be too large",
    wire.Fault.RECORDS: "it has lost a file that it keeps for itself, such as its adapter; its own log says which",
    wire.Fault.BLOCKED: "its own guard held the answer back; its ledger says why",
}
