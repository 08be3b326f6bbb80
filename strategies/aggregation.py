"""Aggregation of a round's students by one of Flower's strategies."""

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
    """Aggregates a round's students with the Flower strategy that the settings name.

    Only `aggregate_train` of Flower's strategy is used: other parts decide who trains, what is sent and what is
    accepted. The strategy is created again for every round, with the student that was sent and the moments after the
    last round. It therefore has no hidden state, and a run that resumes in another process computes the same bits.

    Moments (the momentum of FedAvgM; first and second moments of FedAdagrad, FedAdam and FedYogi) start again with each
    stage (our choice). They contain the direction of the last stage's hospitals, and this stage has others. A stage may
    start from another student than the last one ended with (`local`), and FedAdam's bias correction counts rounds from
    the start of the stage. A run that continues from another run's stage 1 also has no moments.

    Parameters
    ----------
    config : Settings
        Settings with Flower's strategy and its arguments.
    """

    def __init__(self, config: Settings) -> None:
        self._strategy_name, self._arguments = config.strategy, config.aggregation
        self._moments: dict[str, _Values] = {}  # by name of Flower's attribute, then by name of the weights
        self._kept: tuple[float, ArrayRecord] | None = None

    def begin_stage(self, student: ArrayRecord, kept: float) -> None:
        """Record the student at the start of a stage, and the share of it that the stage's final student keeps."""
        self._kept = (kept, student) if kept else None

    def end_stage(self, arrays: ArrayRecord) -> ArrayRecord:
        """Return the final student of a stage: that of the last round, interpolated with the one at the start.

        Weights are interpolated as in WiSE-FT (Wortsman et al., CVPR 2022).
        """
        if self._kept is None:
            return arrays
        (share, before), self._kept = self._kept, None
        mixed = {n: Array(share * before[n].numpy() + (1 - share) * array.numpy()) for n, array in arrays.items()}
        return _of_types(arrays, ArrayRecord(mixed))

    def aggregate(
        self, server_round: int, standing: ArrayRecord, replies: Sequence[Message]
    ) -> tuple[ArrayRecord, dict[str, float]]:
        """Return a round's aggregated student and its mean losses, weighted by cases.

        Parameters
        ----------
        server_round : int
            The round of the stage, from 1.
        standing : ArrayRecord
            The student that was sent to the round's participants.
        replies : sequence of Message
            Their replies, at least one, each with a complete student, in an order that does not depend on arrival.
            Their contents are consumed; the records in them are not.

        Returns
        -------
        arrays : ArrayRecord
            Weights with the names, order and types of `standing`.
        losses : dict
            Losses by term; terms that not every participant reports are left out.
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
        """Return the moments after the last round and the student at the stage's start, in a form for `torch.save`."""
        moments = {
            name: {weights: torch.from_numpy(values.copy()) for weights, values in moments.items()}
            for name, moments in self._moments.items()
        }
        kept = None if self._kept is None else (self._kept[0], self._kept[1].to_torch_state_dict())
        return {"moments": moments, "kept": kept}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state from `state_dict`."""
        self._moments = {
            name: {weights: values.numpy() for weights, values in moments.items()}
            for name, moments in state["moments"].items()
        }
        kept = state["kept"]
        self._kept = None if kept is None else (kept[0], ArrayRecord(kept[1]))

    def _strategy(self, server_round: int, standing: ArrayRecord) -> FedAvg:
        """Return Flower's strategy in its state after a round's messages have been sent."""
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
    """Return the state that a Flower strategy needs from one round in the next, in addition to the student."""
    if isinstance(strategy, FedAvgM) and strategy.momentum_vector is not None:
        return {"momentum_vector": dict(zip(names, strategy.momentum_vector, strict=True))}
    if isinstance(strategy, FedAdagrad | FedAdam | FedYogi):
        return {"m_t": strategy.m_t or {}, "v_t": strategy.v_t or {}}
    return {}


def _of_types(standing: ArrayRecord, arrays: ArrayRecord) -> ArrayRecord:
    """Return weights in the student's types; NumPy turns FedAdam's weights into float64."""
    return ArrayRecord(
        {
            name: array if array.dtype == standing[name].dtype else Array(array.numpy().astype(standing[name].dtype))
            for name, array in arrays.items()
        }
    )


def _keep_common_losses(replies: Sequence[Message]) -> None:
    """Replace the replies' contents by copies whose metrics are the weight and the losses that all participants report.

    Flower only averages replies with the same metrics, and some of its strategies empty the records that they read.
    """
    told = [message.content.metric_records[wire.METRICS] for message in replies]
    for message, metrics in zip(replies, told, strict=True):
        losses = {name: value for name, value in metrics.items() if name == wire.WEIGHT or name.startswith("loss-")}
        common = {name: value for name, value in losses.items() if all(name in other for other in told)}
        arrays = ArrayRecord(dict(message.content.array_records[wire.ARRAYS]))
        message.content = RecordDict({wire.ARRAYS: arrays, wire.METRICS: MetricRecord(common)})
