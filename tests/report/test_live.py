from pathlib import Path

from rich.console import Console

from fedserdiff.report.curves import Point
from fedserdiff.report.live import LiveView
from fedserdiff.report.retention import run_notes


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
        "validated at north: Dice % 60.0 at step 160, best 70.0 at step 100",
        "validated at west: Dice % 60.0 at step 50, best 60.0 at step 50",
    ]


OF_STAGE = {"stage": 3, "at": "west"}
RETENTION = [
    {**OF_STAGE, "site": "north", "region": "tc", "before": 0.81, "after": 0.29, "alarm": True},
    {**OF_STAGE, "site": "north", "region": "wt", "before": 0.9, "after": 0.9, "alarm": False},
    {**OF_STAGE, "site": "north", "region": "et", "before": 0.7, "after": 0.0, "alarm": True},
    {**OF_STAGE, "site": "east", "region": "tc", "before": 0.5, "after": 0.5, "alarm": False},
]
ALARM = (
    "stage 3 at west may have made the student forget north's patients: Dice % on their painted lesions "
    "TC 81 → 29, ET 70 → 0. Deploy student-of-stage-2.pt, or train again with more method.painted_share or "
    "aggregation.inertia"
)


def test_what_a_student_forgot_is_one_sentence_a_site_with_figures_and_what_to_do(tmp_path: Path) -> None:
    console = Console(record=True, width=120, file=(tmp_path / "said.txt").open("w"))
    LiveView(console, tmp_path).lesions_forgotten(RETENTION)
    assert [line.strip() for line in console.export_text().splitlines()] == [f"alarm: {ALARM}"]


def test_a_comparison_names_the_runs_whose_students_forgot_and_repeats_their_notes() -> None:
    calm = [row | {"alarm": False} for row in RETENTION]
    runs = {
        "seed 0": {"retention": RETENTION, "notes": []},
        "seed 1": {"retention": calm, "notes": ["north shares nothing"]},
        "seed 2": {"retention": [], "notes": []},
    }
    assert run_notes(runs) == [f"seed 0: {ALARM}.", "seed 1: north shares nothing."]


def test_a_note_is_a_line_of_its_own_and_not_markup(tmp_path: Path) -> None:
    console = Console(record=True, width=120, file=(tmp_path / "said.txt").open("w"))
    LiveView(console, tmp_path).noted("[north] shares nothing")
    assert console.export_text().strip() == "note: [north] shares nothing"
