"""A hospital's statistics before training, for patients whose volumes and intensities are made by hand."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from guarded import assert_fault
from scene import Scene
from traffic import SALT

from fedserdiff import wire
from fedserdiff.data.preprocess import CaseArrays, Geometry
from fedserdiff.settings.sources import make_settings
from fedserdiff.wire import Fault
from sites.ledger import LEDGER_FILE, read_ledger
from sites.statistics import statistics_of

CONFIG = make_settings("smoke")
GRID = (10, 10, 5)
MakeScene = Callable[..., Scene]


def patient(
    number: int,
    volumes: tuple[int, int, int] = (0, 0, 0),
    value: float = 0.25,
    in_tumour: float = 1.75,
    spacing: tuple[float, float, float] = (10.0, 10.0, 10.0),
    name: str = "",
) -> Any:
    """A brain of 500 voxels of one intensity, of regions so many voxels large, each of 1 ml; modalities rise by 1."""
    truth = np.zeros((3, 500), np.uint8)
    for region, voxels in enumerate(volumes):
        truth[region, :voxels] = 1
    image = np.full((4, 500), value, np.float16)
    image[:, truth.any(0)] = in_tumour
    image += np.arange(4, dtype=np.float16)[:, None]
    geometry = Geometry(GRID, spacing, (0, 0, 0), GRID, GRID, (0, 0, 0))
    arrays = CaseArrays(image.reshape(4, *GRID), truth.reshape(3, *GRID), truth.reshape(3, *GRID), geometry, "")
    return SimpleNamespace(case=SimpleNamespace(patient=name or f"p{number}", name=f"c{number}"), prepared=arrays)


def told(cases: list[Any]) -> dict[str, Any]:
    return {name: values.tolist() for name, values in statistics_of(cases, CONFIG).items()}


def test_volumes_fall_into_their_cells_at_the_ends_too() -> None:
    """TC: 5 patients without and 5 with 1 ml. WT: 5 with 5 ml and 5 with 201 ml. ET: cells of fewer than 5."""
    cases = [patient(n, (0, 5, n)) for n in range(4)] + [patient(4, (0, 5, 60))]
    cases += [patient(n, (1, 201, 150)) for n in range(5, 9)] + [patient(9, (1, 201, 201))]
    found = told(cases)
    assert found["patients"] == [2]
    tc, wt, et = found["volumes"]
    assert tc == [1, 1, 0, 0, 0, 0, 0, 0]
    assert wt == [0, 0, 1, 0, 0, 0, 0, 1]
    assert et == [0] * 8, "1, 1, 2, 1, 4 and 1 patients"


def test_sides_of_voxels_are_those_of_the_scans_as_they_came() -> None:
    cases = [patient(n, spacing=(0.9, 0.9375, 5.0)) for n in range(5)]
    cases += [patient(n, spacing=(6.5, 0.5, 0.5)) for n in range(5, 10)]
    in_plane, thickness = told(cases)["spacing"]
    assert in_plane == [1, 0, 1, 0, 0, 0, 0, 0]
    assert thickness == [0, 0, 0, 0, 0, 0, 1, 1]


def test_what_single_precision_adds_to_a_millimetre_changes_no_cell() -> None:
    almost = float(np.float32(1.0000001))
    assert almost > 1
    in_plane, thickness = told([patient(n, spacing=(almost, 1.0, almost)) for n in range(5)])["spacing"]
    assert in_plane == thickness == [0, 0, 1, 0, 0, 0, 0, 0]


def cell(intensity: float) -> int:
    """The number of the cell, by looking for it."""
    return next(n for n in range(24) if -6 + n / 2 <= intensity < -6 + (n + 1) / 2)


def test_each_patient_counts_once_in_intensities_however_large_the_tumour() -> None:
    """Five have a tumour of a fifth of the brain, five of two fifths, each voxel of it 1.5 above the rest."""
    cases = [patient(n, (0, 100, 0)) for n in range(5)] + [patient(n, (0, 200, 0)) for n in range(5, 10)]
    found = told(cases)
    for modality in range(4):
        brain, tumour = [0] * 24, [0] * 24
        brain[cell(0.25 + modality)], brain[cell(1.75 + modality)] = 700, 300
        tumour[cell(1.75 + modality)] = 1000
        assert found["intensities"][modality] == brain
        assert found["tumour-intensities"][modality] == tumour


def test_intensities_at_both_ends_are_counted() -> None:
    lowest, highest = ([patient(n, value=value) for n in range(5)] for value in (-6.0, 3.0))
    assert told(lowest)["intensities"][0] == [1000] + [0] * 23
    assert told(highest)["intensities"][3] == [0] * 23 + [1000], "3 more is 6, the greatest"


def test_an_intensity_that_fewer_than_five_patients_have_is_not_told() -> None:
    cases = [patient(n, (0, 250, 0)) for n in range(4)] + [patient(n) for n in range(4, 20)]
    found = told(cases)
    assert found["intensities"][0][cell(0.25)] == 1000
    assert found["tumour-intensities"] == [[0] * 24] * 4, "four patients have a tumour"
    assert found["volumes"][1] == [4, 0, 0, 0, 0, 0, 0, 0]


def test_four_patients_tell_nothing_but_that_they_are_too_few() -> None:
    found = told([patient(n, (1, 201, 30)) for n in range(4)])
    assert found.keys() == {"patients", "volumes", "spacing", "intensities", "tumour-intensities"}
    assert all(not np.any(values) for values in found.values())


def test_a_patient_of_many_scans_is_one_patient_whose_first_scan_counts() -> None:
    follow_ups = [patient(10 + n, (0, 201, 0), name="p0") for n in range(20)]
    assert told([patient(n) for n in range(4)] + follow_ups)["patients"] == [0]
    found = told(follow_ups + [patient(n) for n in range(5)])
    assert (found["patients"], found["volumes"][1][7]) == ([1], 0)


@pytest.fixture
def scene(make_scene: MakeScene) -> Scene:
    """A hospital of nine patients, of whom at least five are trained on, and one of three."""
    north = {f"BraTS2021_0000{n}": n for n in range(9)}
    return make_scene({"north": north, "west": {f"BraTS2021_0010{n}": 100 + n for n in range(3)}})


def asked(scene: Scene, site: str, **changes: Any) -> Message:
    question = ConfigRecord({"experiment": scene.own(site).fingerprint})
    return scene.ask(site, wire.STATISTICS, RecordDict({wire.CONFIG: question}), **changes)


def test_a_hospital_answers_by_its_guard_and_the_ledger_has_what_left(scene: Scene) -> None:
    record = asked(scene, "north").content.array_records[wire.HISTOGRAMS]
    own = statistics_of(scene.open("north").training, scene.config)
    assert {name: array.numpy().tolist() for name, array in record.items()} == {
        name: values.tolist() for name, values in own.items()
    }
    assert record["patients"].numpy().tolist() == [1]
    (entry,) = read_ledger(scene.records("north") / LEDGER_FILE)
    assert (entry.verdict, entry.message, entry.stage) == ("sent", "query.statistics", None)
    (released,) = entry.records
    assert released.arrays == {
        "patients": "int32[1]", "volumes": "int32[3, 8]", "spacing": "int32[2, 8]",
        "intensities": "int32[4, 24]", "tumour-intensities": "int32[4, 24]",
    }  # fmt: skip
    assert released.bytes == record.count_bytes() == entry.bytes


def test_the_same_leaves_whatever_a_coordinator_would_have_left_out(scene: Scene) -> None:
    """Nobody can take the difference of two answers, one of them with a patient left out."""
    first = asked(scene, "north").content
    hashes = np.frombuffer(scene.hash_of(0), np.uint8).reshape(1, -1)
    left_out = ArrayRecord({"hashes": Array(hashes), "salt": Array(np.frombuffer(SALT, np.uint8))})
    question = ConfigRecord({"experiment": scene.own("north").fingerprint})
    without = RecordDict({wire.CONFIG: question, wire.LEFT_OUT: left_out})
    assert scene.ask("north", wire.STATISTICS, without).content == first


def test_a_small_hospital_tells_zeros(scene: Scene) -> None:
    record = asked(scene, "west").content.array_records[wire.HISTOGRAMS]
    assert all(not array.numpy().any() for array in record.values())


def test_nothing_is_told_to_a_coordinator_of_another_experiment(scene: Scene) -> None:
    assert_fault(asked(scene, "north", seed=1), Fault.EXPERIMENT)


def test_what_is_told_counts_for_the_quota(scene: Scene) -> None:
    changes = {"privacy.egress_quota_mb": 0.0001}
    question = ConfigRecord({"experiment": scene.own("north", **changes).fingerprint})
    reply = scene.ask("north", wire.STATISTICS, RecordDict({wire.CONFIG: question}), **changes)
    assert_fault(reply, Fault.BLOCKED)
    (entry,) = read_ledger(scene.records("north") / LEDGER_FILE)
    assert (entry.verdict, entry.bytes) == ("refused", 0)
    assert "egress_quota_mb" in entry.reason


def test_a_hospital_that_wants_to_tell_none_refuses_and_reads_no_case(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sites.client_app.statistics_of", lambda *_: pytest.fail("read cases all the same"))
    assert_fault(asked(scene, "north", **{"privacy.statistics": False}), Fault.BLOCKED)
    (entry,) = read_ledger(scene.records("north") / LEDGER_FILE)
    assert (entry.bytes, entry.records) == (0, ())
