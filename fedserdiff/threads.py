"""How a process uses its CPUs: independent pieces of work side by side, each on its own half of them.

The networks are small: two OpenMP threads bring a training step from 1 to 0.63 of its time, two independent pieces from
1 to 0.5, and they do not wait for each other wherever something else runs on the machine (our choice, measured:
docs/explanation/performance.md). One CPU does the pieces in turn: the same sums as on two, to the last bit.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")

_SIDES = 2

_pools: dict[int, ThreadPoolExecutor | None] = {}
"""The threads beside the one that asks them, by the CPUs of this process: one entry, or none before it is told them."""


def use_cpus(cpus: float) -> None:
    """Let this process compute on so many CPUs, at least 1."""
    whole = max(1, int(cpus))
    threads = max(1, whole // _SIDES)
    torch.set_num_threads(threads)  # counts in the thread that says it, hence in each
    if whole not in _pools:
        _pools.clear()
        _pools[whole] = (
            ThreadPoolExecutor(_SIDES, "beside", torch.set_num_threads, (threads,)) if whole >= _SIDES else None
        )


def beside(device: torch.device, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> "Future[T]":
    """Begin work beside what this thread does next; or, on one CPU or on a GPU, do it at once.

    Gradients and autocast are on or off as in a new thread, whatever they are in this one.
    """
    pool = _pool_for(device)
    if pool is not None:
        return pool.submit(work, *args, **kwargs)
    done: Future[T] = Future()
    done.set_result(work(*args, **kwargs))
    return done


def each(device: torch.device, work: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """Do the same work on every item, two of them at a time where there are CPUs for it; return what comes of each.

    Items are taken as there is room for them: no more than one waits for the two that are worked on, however long the
    making of one takes or the work on it. The first error of either ends all.
    """
    pool = _pool_for(device)
    if pool is None:
        return list(map(work, items))  # a loop would hold the last item while the next one is made
    inference = torch.is_inference_mode_enabled()  # of this thread; tensors made in it are only written in it

    def in_mode(item: T) -> R:
        with torch.inference_mode(inference):
            return work(item)

    begun: list[Future[R]] = []
    under_way: set[Future[R]] = set()
    for item in items:
        begun.append(pool.submit(in_mode, item))
        del item  # it is the pool's
        under_way.add(begun[-1])
        if len(under_way) > _SIDES:
            ended, under_way = wait(under_way, return_when=FIRST_COMPLETED)
            for future in ended:
                future.result()  # raises what the work did
    return [future.result() for future in begun]


def _pool_for(device: torch.device) -> ThreadPoolExecutor | None:
    """Return the threads beside this one; a GPU's work is issued from one thread, in order."""
    return next(iter(_pools.values()), None) if device.type == "cpu" else None
