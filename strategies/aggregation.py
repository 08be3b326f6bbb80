"""The aggregation: one of Flower's own strategies makes one student of those that came back from a round."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import strategy as flower
from flwr.serverapp.strategy import FedAdagrad, FedAdam, FedAvg, FedAvgM, FedYogi
from numpy.typing import NDArray

from fedserdiff import wire
from fedserdiff.settings.experiment import Settings

_Values = dict[str, NDArray[Any]]


class Aggregator:
    """Aggregates a round's students by the strategy of Flower's that the settings name.

    Of Flower's strategy nothing but `aggregate_train` is used: who trains, what is sent and what is taken are other
    parts' concern. It is made anew for every round, and given the student that was sent and the moments that it had
    after the last one: so no state of it is hidden, and a run that goes on in another process computes the same bits.

    Moments (the momentum of FedAvgM, first and second moments of FedAdagrad, FedAdam and FedYogi) begin afresh with
    each stage (our choice). They tell in which direction the last stage's hospitals pulled, and those of this one are
    others; a stage may start from another student than the last one ended with (`local`), and FedAdam's correction for
    early rounds counts them from the stage's first. And a run that goes on from another's stage 1 has none.

    Parameters
    ----------
    config : Settings
        The experiment: Flower's strategy, and its arguments.
    """

    def __init__(self, config: Settings) -> None:
        self._strategy_name, self._arguments = config.strategy, config.aggregation
        self._moments: dict[str, _Values] = {}  # by the name of Flower's attribute, then of the weights
        self._kept: tuple[float, ArrayRecord] | None = None

    def begin_stage(self, student: ArrayRecord, kept: float) -> None:
        """Take the student that a stage begins with, and the share of it that the stage's last one keeps."""
        self._kept = (kept, student) if kept else None

    def end_stage(self, arrays: ArrayRecord) -> ArrayRecord:
        """Return the student that a stage ends with: the last round's, and a share of the one that it began with.

        Weights are interpolated, as in WiSE-FT (Wortsman et al., CVPR 2022).
        """
        if self._kept is None:
            return arrays
        (share, before), self._kept = self._kept, None
        mixed = {n: Array(share * before[n].numpy() + (1 - share) * array.numpy()) for n, array in arrays.items()}
        return _of_types(arrays, ArrayRecord(mixed))

    def aggregate(
        self, server_round: int, standing: ArrayRecord, replies: Sequence[Message]
    ) -> tuple[ArrayRecord, dict[str, float]]:
        """Return the student that a round ends with, and its mean losses, weighted by cases.

        Parameters
        ----------
        server_round : int
            The round of the stage, from 1.
        standing : ArrayRecord
            The student that the round's participants were sent.
        replies : sequence of Message
            What they answered, each with a whole student: at least one, in an order that does not depend on who was
            first. Their contents are used up, the records in them are not.

        Returns
        -------
        arrays : ArrayRecord
            Weights of the standing student's names, order and types.
        losses : dict
            By term; one that not every participant tells is left out.
        """
        _keep_common_losses(replies)
        strategy = self._strategy(server_round, standing)
        arrays, metrics = strategy.aggregate_train(server_round, replies)
        if arrays is None or metrics is None:
            raise ValueError("there is nothing to aggregate")
        self._moments = _moments_of(strategy, list(arrays))
        losses = {k.removeprefix("loss-"): float(v) for k, v in metrics.items() if not isinstance(v, list)}
        return _of_types(standing, arrays), losses

    def state_dict(self) -> dict[str, Any]:
        """Return the moments after the last round and what is kept of the stage's begin, as `torch.save` can write."""
        moments = {
            name: {weights: torch.from_numpy(values.copy()) for weights, values in moments.items()}
            for name, moments in self._moments.items()
        }
        kept = None if self._kept is None else (self._kept[0], self._kept[1].to_torch_state_dict())
        return {"moments": moments, "kept": kept}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with what `state_dict` returned in a process that has ended."""
        self._moments = {
            name: {weights: values.numpy() for weights, values in moments.items()}
            for name, moments in state["moments"].items()
        }
        kept = state["kept"]
        self._kept = None if kept is None else (kept[0], ArrayRecord(kept[1]))

    def _strategy(self, server_round: int, standing: ArrayRecord) -> FedAvg:
        """Return Flower's strategy as it is once a round's messages have left."""
        kind = getattr(flower, self._strategy_name)
        taken = inspect.signature(kind).parameters
        arguments = {name: value for name, value in self._arguments if name in taken}
        strategy: FedAvg = kind(weighted_by_key=wire.WEIGHT, **arguments)
        moments = self._moments if server_round > 1 else {}
        if isinstance(strategy, FedAvgM):
            strategy.current_arrays = ArrayRecord(dict(standing))
            if moments:
                strategy.momentum_vector = [moments["momentum_vector"][name] for name in standing]
        elif isinstance(strategy, FedAdagrad | FedAdam | FedYogi):
            strategy.current_arrays = {name: array.numpy() for name, array in standing.items()}
            strategy.m_t, strategy.v_t = moments.get("m_t"), moments.get("v_t")
        return strategy


def _moments_of(strategy: FedAvg, names: Sequence[str]) -> dict[str, _Values]:
    """Return what a strategy of Flower's needs of one round in the next, beside the student."""
    if isinstance(strategy, FedAvgM) and strategy.momentum_vector is not None:
        return {"momentum_vector": dict(zip(names, strategy.momentum_vector, strict=True))}
    if isinstance(strategy, FedAdagrad | FedAdam | FedYogi):
        return {"m_t": strategy.m_t or {}, "v_t": strategy.v_t or {}}
    return {}


def _of_types(standing: ArrayRecord, arrays: ArrayRecord) -> ArrayRecord:
    """Return weights in the types that the student has: NumPy makes FedAdam's float64, by the type of its step."""
    return ArrayRecord(
        {
            name: array if array.dtype == standing[name].dtype else Array(array.numpy().astype(standing[name].dtype))
            for name, array in arrays.items()
        }
    )


def _keep_common_losses(replies: Sequence[Message]) -> None:
    """Give replies contents of their own: of metrics the weight, and losses that every participant tells.

    Flower averages replies of the same metrics alone, and some of its strategies empty the records that they read.
    """
    told = [message.content.metric_records[wire.METRICS] for message in replies]
    for message, metrics in zip(replies, told, strict=True):
        losses = {name: value for name, value in metrics.items() if name == wire.WEIGHT or name.startswith("loss-")}
        common = {name: value for name, value in losses.items() if all(name in other for other in told)}
        arrays = ArrayRecord(dict(message.content.array_records[wire.ARRAYS]))
        message.content = RecordDict({wire.ARRAYS: arrays, wire.METRICS: MetricRecord(common)})
