from pathlib import Path

from rich.console import Console

from fedserdiff.report.curves import Point
from fedserdiff.report.live import LiveView


def test_a_stages_validations_are_a_line_a_site_with_the_last_and_the_first_best(tmp_path: Path) -> None:
    console = Console(record=True, width=120, file=(tmp_path / "said.txt").open("w"))
    dice = {50: (0.5, 0.7), 100: (0.8, 0.6), 150: (0.9, 0.5), 160: (0.6, 0.6)}
    points = [
        Point(2, 1, step, {"refined.dice.tc": tc, "refined.dice.wt": wt, "coarse.dice.tc": 0.99, "rate": 5.0})
        for step, (tc, wt) in dice.items()
    ]
    LiveView(console, tmp_path).stage_validated(2, {"north": points, "west": points[:1]})
    said = [line.strip() for line in console.export_text().splitlines()]
    assert said == [
        "validated at north: Dice % 60.0 at step 160, the best 70.0 at step 100",
        "validated at west: Dice % 60.0 at step 50, the best 60.0 at step 50",
    ]
