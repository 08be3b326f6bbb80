"""The outbox: what is sent to sites, and how many bytes went."""

from collections import defaultdict
from collections.abc import Callable, Mapping

from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict

from fedserdiff import wire
from fedserdiff.settings.experiment import Settings


class Outbox:
    """Addresses messages to sites.

    Parameters
    ----------
    config : Settings
        The experiment: messages live as long as it waits for a stage.

    Attributes
    ----------
    bytes_in : dict
        By site and kind of record, the payload bytes that were sent to the site.
    left_out : callable
        By site, the record that says which of its scans an earlier site brought; none where there are none.
    """

    def __init__(self, config: Settings) -> None:
        self._config = config
        self.bytes_in: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
        self.left_out: Callable[[str], Mapping[str, ArrayRecord]] = lambda site: {}

    def message_to(
        self, site: str, node: int, message_type: str, records: Mapping[str, ArrayRecord | ConfigRecord]
    ) -> Message:
        """Address a site, and count the bytes; what it is to leave out goes with every message."""
        content = RecordDict({**records, **self.left_out(site)})
        for name, size in wire.bytes_by_kind(content).items():
            self.bytes_in[site][wire.TEACHER if wire.is_teacher(name) else name] += size
        return Message(content, node, message_type, ttl=self._config.machine.stage_timeout_s)
