"""The allowed content of the method's record."""

from flwr.app import ArrayRecord

from fedserdiff.reply_schema import ArrayRule
from fedserdiff.settings.experiment import Settings


def region_shares(config: Settings, student: ArrayRecord) -> dict[str, ArrayRule]:
    """Return the rules: one number from 0 to 1 a region."""
    return {"shares": ArrayRule("float32", (len(config.data.regions),), least=0, greatest=1)}
