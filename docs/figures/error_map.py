"""The life of an error map: from noise at one hospital to a loss at a later one."""

import numpy as np
from canvas import COORDINATOR, HOSPITAL, RED, WIDTH, Canvas
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from fedserdiff.wire import LEVELS

_STEPS = (
    (
        HOSPITAL,
        "hospital",
        ("teacher samples a map\nfrom noise", "rounded to int8", "guard checks, packs", "ledger notes it"),
    ),
    (COORDINATOR, "coordinator", ("admission checks, unpacks", "error bank keeps it", "packed again")),
    (
        HOSPITAL,
        "later hospital",
        ("unpacked, noise added", "teacher and student\nsee the same map", "distillation loss"),
    ),
)
"""For each place its colour, its name and its steps in order."""

_BOX, _GAP, _TOP, _WIRE = 74, 28, 56, 74
"""Pixels: heights of a step, between two, of a place's name, and of the wire."""


def draw_life() -> Canvas:
    """Draw the steps from top to bottom, the two crossings of the wire, and a schematic map beside them."""
    heights = [_TOP + len(steps) * (_BOX + _GAP) for _, _, steps in _STEPS]
    page = Canvas(sum(heights) + _WIRE * (len(_STEPS) - 1))
    y, last = 0.0, None
    for (colour, name, steps), height in zip(_STEPS, heights, strict=True):
        page.area(0, y, WIDTH, height, colour)
        page.text(24, y + 30, name, align="left", weight="bold")
        if last is not None:
            page.boundary((0, WIDTH), (y - _WIRE / 2, y - _WIRE / 2))
            page.text(WIDTH - 24, y - _WIRE / 2 - 18, "wire", colour=RED, align="right")
        for number, step in enumerate(steps):
            top = y + _TOP + number * (_BOX + _GAP)
            page.box(24, top, 470, _BOX, step)
            if last is not None:
                page.arrow((259, last), (259, top))
            last = top + _BOX
        y += height + _WIRE
    _draw_pictures(page, [sum(heights[:place]) + _WIRE * place + _TOP for place in range(len(_STEPS))])
    return page


def _draw_pictures(page: Canvas, tops: list[float]) -> None:
    noise, sampled = _schematic()
    levels = np.round(sampled * LEVELS) / LEVELS
    noisy = np.clip(0.7 * sampled + 0.5 * noise, -1, 1)
    shown = ((0, 0, noise, 520), (0, 0, sampled, 660), (0, 1, levels, 660), (1, 1, levels, 660), (2, 0, noisy, 660))
    for place, step, picture, x in shown:
        top = tops[place] + step * (_BOX + _GAP) - 6
        page.picture(x, top, _BOX + 12, picture)
    page.arrow((612, tops[0] + _BOX / 2), (654, tops[0] + _BOX / 2))
    for behind, other in ((1, levels[::-1].T), (2, -levels[:, ::-1])):
        page.picture(660 - 18 * behind, tops[1] + _BOX + _GAP - 6 - 12 * behind, _BOX + 12, other, -behind)
    page.text(WIDTH - 24, page.height - 40, "schematic maps", align="right", size=24)


def _schematic() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return noise, and a made-up error map: values of both signs along a tumour's border."""
    draws = np.random.default_rng(3)
    noise = draws.uniform(-1, 1, (28, 28))
    rows, columns = np.mgrid[-1:1:28j, -1:1:28j]
    border = np.exp(-(((np.hypot(rows / 0.75, columns / 0.6) - 0.85) / 0.16) ** 2))
    sign = gaussian_filter(draws.normal(size=(28, 28)), 5)
    return noise, border * np.tanh(sign / sign.std() * 1.5)
