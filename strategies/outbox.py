"""The outbox: messages to sites, and counts of their bytes."""

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
        Settings of the experiment; messages expire after its stage time-out.

    Attributes
    ----------
    bytes_in : dict
        Payload bytes sent to each site, by site and kind of record.
    left_out : callable
        Returns, for a site, the record of its scans that an earlier site brought, or nothing if there are none.
    """

    def __init__(self, config: Settings) -> None:
        self._config = config
        self.bytes_in: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
        self.left_out: Callable[[str], Mapping[str, ArrayRecord]] = lambda site: {}

    def message_to(
        self, site: str, node: int, message_type: str, records: Mapping[str, ArrayRecord | ConfigRecord]
    ) -> Message:
        """Create a message to a site and count its bytes; every message says which scans the site leaves out."""
        content = RecordDict({**records, **self.left_out(site)})
        for name, size in wire.bytes_by_kind(content).items():
            self.bytes_in[site][wire.TEACHER if wire.is_teacher(name) else name] += size
        return Message(content, node, message_type, ttl=self._config.machine.stage_timeout_s)
