"""The coordinator's half."""

from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, RecordDict
from numpy.typing import NDArray

from fedserdiff.settings.experiment import Settings
from fedserdiff_example.method import SHARES
from strategies.stream import ArrivalStream


class SizePrior(ArrivalStream):
    """Keep every hospital's shares and send their mean with each later round."""

    def __init__(self, config: Settings) -> None:
        super().__init__(config)
        self._shares: dict[str, NDArray[np.float32]] = {}

    def consolidates(self) -> bool:
        return True

    def keep(self, site: str, content: RecordDict) -> None:
        self._shares[site] = content.array_records[SHARES]["shares"].numpy()

    def records_for(self, site: str, server_round: int) -> dict[str, ArrayRecord]:
        if not self._shares:
            return {}
        mean = np.mean(list(self._shares.values()), axis=0, dtype=np.float32)
        return {SHARES: ArrayRecord({"shares": Array(mean)})}

    def state_dict(self) -> dict[str, Any]:
        return {"shares": {site: torch.from_numpy(shares.copy()) for site, shares in self._shares.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._shares = {site: shares.numpy() for site, shares in state["shares"].items()}
