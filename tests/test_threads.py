import threading

import pytest
import torch

from fedserdiff.threads import beside, each, use_cpus

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
    both.wait(10)
    assert waiting.result(10) in (0, 1)
    each(CPU, lambda number: both.wait(10), [1, 2])
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
