"""The limits of a device (bandwidth, matrix products, kernel launches), and the kernel time of some work."""

from collections.abc import Callable, Iterator

import torch
from torch.profiler import ProfilerActivity, profile

from fedserdiff.device import finish

from benchmarks.gpu.bench import Bench, Part, Row

_LAUNCHES, _COPIES = 1000, 10
_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def kernel_seconds(device: torch.device, work: Callable[[], object], repeats: int) -> tuple[float, ...]:
    """Return the total kernel time of each run of `work`; on a CPU, that of this thread's operations."""
    return tuple(_kernels(device, work) for _ in range(repeats))


def _kernels(device: torch.device, work: Callable[[], object]) -> float:
    on_gpu = device.type == "cuda"
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    finish(device)
    with profile(activities=kinds) as profiled:
        work()
        finish(device)
    events = [event for event in profiled.key_averages() if not event.is_user_annotation]
    if on_gpu:  # a kernel's time is in its own event and again in the operation that launched it
        microseconds = [event.self_device_time_total for event in events if event.device_type.name == "CUDA"]
    else:
        microseconds = [event.self_cpu_time_total for event in events]
    return 1e-6 * float(sum(microseconds))


def _floor(bench: Bench) -> Iterator[Row]:
    yield _bandwidth(bench)
    for name in _TYPES:
        yield _product(bench, name)
    yield _launch(bench)


def _bandwidth(bench: Bench) -> Row:
    count = bench.size.copied
    source = torch.ones(count // 4, device=bench.device)
    target = torch.empty_like(source)

    def copy() -> None:
        for _ in range(_COPIES):
            target.copy_(source)

    rates = tuple(2e-9 * count / seconds for seconds in bench.timed(copy, _COPIES))
    return Row("memory bandwidth", "GB/s", rates, f"a copy of {count / 2**20:.0f} MiB, counting read and write")


def _product(bench: Bench, name: str) -> Row:
    edge = bench.size.square
    a = torch.ones(edge, edge, device=bench.device, dtype=_TYPES[name])
    product = torch.empty_like(a)
    rates = tuple(2e-12 * edge**3 / seconds for seconds in bench.timed(lambda: torch.mm(a, a, out=product)))
    tf32 = "" if name != "fp32" else ", TF32" if torch.backends.cuda.matmul.allow_tf32 else ", no TF32"
    return Row(f"matrix product, {name}", "TFLOP/s", rates, f"matrices of {edge} × {edge}{tf32}")


def _launch(bench: Bench) -> Row:
    number = torch.zeros(1, device=bench.device)

    def launch() -> None:
        for _ in range(_LAUNCHES):
            number.add_(1)

    timed = tuple(1e6 * seconds for seconds in bench.timed(launch, _LAUNCHES))
    return Row("launch of a kernel", "µs", timed, "adding 1 to one number, from Python")


FLOOR = Part("floor", 8, _floor)
