"""The inbox: checks of replies from sites, and counts of their bytes."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping

from flwr.app import ArrayRecord, Message, RecordDict

from fedserdiff import wire
from fedserdiff.errors import ReplyError
from fedserdiff.reply_schema import admit, check_update, reply_rules
from fedserdiff.settings.experiment import Settings
from strategies.faults import faults_of


class Inbox:
    """Accepts replies with the agreed content, and reports what is wrong with the others.

    Parameters
    ----------
    config : Settings
        Settings of the experiment, with its sites.

    Attributes
    ----------
    bytes_out : dict
        Payload bytes that left each site, by site and kind of record.
    """

    def __init__(self, config: Settings) -> None:
        self._config = config
        self._places = {site.name: place for place, site in enumerate(config.sites)}
        self.bytes_out: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))

    def accept(
        self,
        replies: Iterable[Message],
        message_type: str,
        sent: ArrayRecord,
        nodes: Mapping[int, str],
        asked: Collection[str] | None = None,
        watched: Collection[int] = (),
    ) -> tuple[dict[str, RecordDict], dict[str, str]]:
        """Return, by site, the contents of valid replies, and what was wrong with the others.

        Returned students are complete: the received change is added to what was `sent`. After a stage, sites hand over
        the records `asked` for, by name. After the last round, they report on the earlier hospitals `watched`, by
        number.

        The bytes of every reply are counted. The name of a record that was not agreed may be anything, so all such
        records count as ``other``.
        """
        replies = list(replies)
        accepted, dropped = {}, {}
        for message in replies:
            if message.has_error():
                continue
            site = nodes[message.metadata.src_node_id]
            rules = reply_rules(message_type, self._config, self._places[site], sent, asked, watched)
            for kind, size in wire.bytes_by_kind(message.content).items():
                self.bytes_out[site][kind if kind in rules else "other"] += size
            try:
                content = admit(message.content, rules, arrived=True)
                check_update(content, self._config)
            except ReplyError as error:
                dropped[site] = f"sent what was not agreed, dropped ({error})"
            else:
                if wire.ARRAYS in content:  # from here on a trained student has complete weights, as Flower expects
                    content[wire.ARRAYS] = wire.changed(sent, content.array_records[wire.ARRAYS])
                accepted[site] = content
        return accepted, faults_of(replies, nodes, self._config) | dropped

    def count(self, site: str, content: RecordDict) -> None:
        """Count the bytes of a message that was accepted elsewhere, by kind of record."""
        for kind, size in wire.bytes_by_kind(content).items():
            self.bytes_out[site][kind] += size
