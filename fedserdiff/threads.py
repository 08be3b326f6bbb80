"""The use of a process's CPUs: independent tasks run concurrently, each on half of the CPUs or on one.

The networks are small. Two OpenMP threads reduce the time of a training step to 0.63, two independent tasks to 0.5, and
these do not wait for each other if other programs use the machine (our choice, measured:
docs/explanation/performance.md). One CPU runs the tasks in turn, with the same sums as on two, to the last bit. Work
that does not use OpenMP, such as scoring, runs as one task per CPU.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from threading import local
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")

_SIDES = 2


@dataclass(frozen=True)
class _Pools:
    """The pools of threads beside the calling one."""

    sides: ThreadPoolExecutor
    single: ThreadPoolExecutor


_pools: dict[int, _Pools | None] = {}
"""Pools by number of CPUs: one entry, which is None for one CPU; empty before `use_cpus` is called."""

_thread = local()


def use_cpus(cpus: float) -> None:
    """Let this process compute on `cpus` CPUs, rounded down, at least 1."""
    whole = max(1, int(cpus))
    threads = max(1, whole // _SIDES)
    torch.set_num_threads(threads)  # the setting is per thread, so each thread sets it
    if whole not in _pools:
        _pools.clear()
        _pools[whole] = None
        if whole >= _SIDES:
            sides = ThreadPoolExecutor(_SIDES, "beside", torch.set_num_threads, (threads,))
            _pools[whole] = _Pools(sides, ThreadPoolExecutor(whole, "single", _compute_alone))


def _compute_alone() -> None:
    """Let this thread compute on one CPU, and run by itself the work that it would give to other threads."""
    torch.set_num_threads(1)
    _thread.alone = True


def beside(device: torch.device, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> "Future[T]":
    """Start work concurrently with this thread; on one CPU or on a GPU, run it at once.

    Gradients and autocast have the defaults of a new thread, independent of their state in this one.
    """
    pools = _pools_of(device)
    if pools is not None:
        return pools.sides.submit(work, *args, **kwargs)
    done: Future[T] = Future()
    done.set_result(work(*args, **kwargs))
    return done


def each(device: torch.device, work: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """Apply `work` to every item, two at a time if there are CPUs for it; return the results in order.

    Items are taken from the iterable on demand: at most one waits while two are processed. The first error, in `work`
    or in the iterable, ends the whole call.
    """
    pools = _pools_of(device)
    if pools is None:
        return list(map(work, items))  # a loop would keep the last item while the next one is made
    return _spread(pools.sides, _SIDES + 1, work, items)


def one_a_cpu(work: Callable[[T], R], items: Iterable[T], most: int) -> list[R]:
    """Apply `work` to every item, one per CPU; return the results in order.

    At most `most` items exist at a time, of which at most one waits. Calls of `each` and `beside` inside `work` run in
    turn. This thread iterates over the items. The first error, in `work` or in the iterable, ends the whole call.
    """
    pools = _pools_of(torch.device("cpu"))
    if pools is None:
        return list(map(work, items))
    return _spread(pools.single, min(most, max(_pools) + 1), work, items)


def _spread(pool: ThreadPoolExecutor, most: int, work: Callable[[T], R], items: Iterable[T]) -> list[R]:
    # of this thread; inference tensors can only be modified in inference mode
    inference = torch.is_inference_mode_enabled()

    def in_mode(item: T) -> R:
        with torch.inference_mode(inference):
            return work(item)

    begun: list[Future[R]] = []
    under_way: set[Future[R]] = set()
    for item in items:
        begun.append(pool.submit(in_mode, item))
        del item  # the pool owns it
        under_way.add(begun[-1])
        if len(under_way) >= most:
            ended, under_way = wait(under_way, return_when=FIRST_COMPLETED)
            for future in ended:
                future.result()  # raises the error of the work
    return [future.result() for future in begun]


def _pools_of(device: torch.device) -> _Pools | None:
    """Return the pools beside this thread; None for a GPU, whose work is issued in order from one thread."""
    if device.type != "cpu" or getattr(_thread, "alone", False):
        return None
    return next(iter(_pools.values()), None)
