import threading
import time
from collections.abc import Iterator

import pytest
import torch

from fedserdiff.threads import beside, each, one_a_cpu, use_cpus

CPU = torch.device("cpu")

pytestmark = pytest.mark.usefixtures("one_cpu_afterwards")


@pytest.mark.parametrize(("cpus", "threads"), [(1, 1), (2, 1), (3, 1), (4, 2), (2.5, 1), (0.5, 1)])
def test_each_side_has_half_of_the_cpus(cpus: float, threads: int) -> None:
    use_cpus(cpus)
    assert torch.get_num_threads() == threads
    assert beside(CPU, torch.get_num_threads).result() == threads


def test_two_cpus_do_two_things_at_once_and_one_does_them_in_turn() -> None:
    use_cpus(2)
    both = threading.Barrier(2)
    waiting = beside(CPU, both.wait, 10)
    both.wait(300)
    assert waiting.result(10) in (0, 1)
    each(CPU, lambda number: both.wait(300), [1, 2])
    use_cpus(1)
    assert beside(CPU, threading.get_ident).result() == threading.get_ident()


@pytest.mark.parametrize("cpus", [1, 2])
def test_every_item_is_done_once_and_an_error_is_raised(cpus: int) -> None:
    use_cpus(cpus)
    done: list[int] = []
    assert each(CPU, lambda number: (done.append(number), number**2)[1], range(20)) == [n**2 for n in range(20)]
    assert sorted(done) == list(range(20))
    with pytest.raises(ZeroDivisionError):
        each(CPU, lambda number: 1 // number, [1, 0, 2])
    with pytest.raises(ZeroDivisionError):
        beside(CPU, divmod, 1, 0).result()


@pytest.mark.parametrize("cpus", [1, 2])
def test_work_is_done_in_the_inference_mode_of_whoever_asks(cpus: int) -> None:
    use_cpus(cpus)
    with torch.inference_mode():
        squares = torch.zeros(5)

        def square(number: int) -> None:
            squares[number] = torch.tensor(float(number)) ** 2

        each(CPU, square, range(5))
    assert squares.tolist() == [0, 1, 4, 9, 16]


def test_three_cpus_do_three_things_at_once_each_on_one_of_them() -> None:
    use_cpus(3)
    all_three = threading.Barrier(3)

    def work(number: int) -> tuple[int, int, set[int], int]:
        all_three.wait(300)
        here = threading.get_ident()
        within = {beside(CPU, threading.get_ident).result(), *each(CPU, lambda _: threading.get_ident(), range(3))}
        return number, here, within, torch.get_num_threads()

    done = one_a_cpu(work, range(3), most=10)
    assert [number for number, *_ in done] == [0, 1, 2]
    assert len({here for _, here, *_ in done}) == 3
    assert all(within == {here} and threads == 1 for _, here, within, threads in done)


@pytest.mark.parametrize(("cpus", "most", "at_most"), [(1, 5, 1), (2, 9, 3), (4, 2, 2), (4, 1, 1)])
def test_no_more_items_are_there_than_there_may_be(cpus: int, most: int, at_most: int) -> None:
    use_cpus(cpus)
    there, seen, lock = 0, [], threading.Lock()

    def items() -> Iterator[int]:
        nonlocal there
        for number in range(12):
            with lock:
                there += 1
                seen.append(there)
            yield number

    def work(number: int) -> int:
        nonlocal there
        time.sleep(0.02)
        with lock:
            there -= 1
        return number

    assert one_a_cpu(work, items(), most) == list(range(12))
    assert min(at_most, 2) <= max(seen) <= at_most
    with pytest.raises(ZeroDivisionError):
        one_a_cpu(lambda number: 1 // number, [1, 0, 2], most)
