"""The inbox: what may come back from sites, and how many bytes came."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping

from flwr.app import ArrayRecord, Message, RecordDict

from fedserdiff import wire
from fedserdiff.errors import ReplyError
from fedserdiff.reply_schema import admit, check_update, reply_rules
from fedserdiff.settings.experiment import Settings
from strategies.faults import faults_of


class Inbox:
    """Takes replies that hold what was agreed, and says what was wrong with the others.

    Parameters
    ----------
    config : Settings
        The experiment, with its sites.

    Attributes
    ----------
    bytes_out : dict
        By site and kind of record, the payload bytes that left the site.
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
        """Return, by site, the contents of the replies that hold what was agreed, and what was wrong elsewhere.

        A student of theirs is whole: the change that came is added to what was `sent`. Of a stage that has ended they
        hand over the records `asked` for, by name; of a round's last they tell of the earlier hospitals `watched`, by
        place.

        The bytes of every reply that came are counted; what a site called a record that was not agreed may hold
        anything, so all such are ``other``.
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
                if wire.ARRAYS in content:  # from here on a trained student is what it is to Flower: whole weights
                    content[wire.ARRAYS] = wire.changed(sent, content.array_records[wire.ARRAYS])
                accepted[site] = content
        return accepted, faults_of(replies, nodes, self._config) | dropped

    def count(self, site: str, content: RecordDict) -> None:
        """Count the bytes of a message that was taken elsewhere, by kind of record."""
        for kind, size in wire.bytes_by_kind(content).items():
            self.bytes_out[site][kind] += size
