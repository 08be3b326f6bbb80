"""How a process uses its CPUs: independent pieces of work side by side, each on its own half of them or on one.

The networks are small: two OpenMP threads bring a training step from 1 to 0.63 of its time, two independent pieces from
1 to 0.5, and they do not wait for each other wherever something else runs on the machine (our choice, measured:
docs/explanation/performance.md). One CPU does the pieces in turn: the same sums as on two, to the last bit.
What OpenMP has no part in, such as scoring, goes one piece a CPU.
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
    """The threads beside the one that asks them."""

    sides: ThreadPoolExecutor
    single: ThreadPoolExecutor


_pools: dict[int, _Pools | None] = {}
"""By the CPUs of this process: one entry, which is None for one CPU, or no entry before it is told them."""

_thread = local()


def use_cpus(cpus: float) -> None:
    """Let this process compute on so many CPUs, at least 1."""
    whole = max(1, int(cpus))
    threads = max(1, whole // _SIDES)
    torch.set_num_threads(threads)  # counts in the thread that says it, hence in each
    if whole not in _pools:
        _pools.clear()
        _pools[whole] = None
        if whole >= _SIDES:
            sides = ThreadPoolExecutor(_SIDES, "beside", torch.set_num_threads, (threads,))
            _pools[whole] = _Pools(sides, ThreadPoolExecutor(whole, "single", _compute_alone))


def _compute_alone() -> None:
    """Let this thread compute on one CPU, and do itself whatever it would have others do."""
    torch.set_num_threads(1)
    _thread.alone = True


def beside(device: torch.device, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> "Future[T]":
    """Begin work beside what this thread does next; or, on one CPU or on a GPU, do it at once.

    Gradients and autocast are on or off as in a new thread, whatever they are in this one.
    """
    pools = _pools_of(device)
    if pools is not None:
        return pools.sides.submit(work, *args, **kwargs)
    done: Future[T] = Future()
    done.set_result(work(*args, **kwargs))
    return done


def each(device: torch.device, work: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """Do the same work on every item, two of them at a time where there are CPUs for it; return what comes of each.

    Items are taken as there is room for them: no more than one waits for the two that are worked on, however long the
    making of one takes or the work on it. The first error of either ends all.
    """
    pools = _pools_of(device)
    if pools is None:
        return list(map(work, items))  # a loop would hold the last item while the next one is made
    return _spread(pools.sides, _SIDES + 1, work, items)


def one_a_cpu(work: Callable[[T], R], items: Iterable[T], most: int) -> list[R]:
    """Do the same work on every item, one on each CPU; return what comes of each.

    No more than `most` items are there at a time, nor more than one that waits. What the work itself would do by `each`
    or `beside` it does in turn. This thread takes the items; the first error of either ends all.
    """
    pools = _pools_of(torch.device("cpu"))
    if pools is None:
        return list(map(work, items))
    return _spread(pools.single, min(most, max(_pools) + 1), work, items)


def _spread(pool: ThreadPoolExecutor, most: int, work: Callable[[T], R], items: Iterable[T]) -> list[R]:
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
        if len(under_way) >= most:
            ended, under_way = wait(under_way, return_when=FIRST_COMPLETED)
            for future in ended:
                future.result()  # raises what the work did
    return [future.result() for future in begun]


def _pools_of(device: torch.device) -> _Pools | None:
    """Return the threads beside this one; a GPU's work is issued from one thread, in order."""
    if device.type != "cpu" or getattr(_thread, "alone", False):
        return None
    return next(iter(_pools.values()), None)
