"""A hospital's salted hashes of scans, among decoys: they reveal only who has the same scan."""

import os
from collections.abc import Callable
from typing import Any

import pytest
from flwr.app import ConfigRecord, MessageType, RecordDict
from guarded import assert_fault, entries
from scene import NORTH, WEST, Scene, salted, voxels
from traffic import SALT, SECRET, on_the_wire

from fedserdiff import wire
from fedserdiff.settings.experiment import Site
from fedserdiff.wire import Fault
from sites.egress import Door

MakeScene = Callable[..., Scene]


@pytest.fixture
def scene(make_scene: MakeScene) -> Scene:
    return make_scene({"north": NORTH, "west": WEST})


def test_each_scan_of_training_and_test_is_told_once_among_decoys_in_ascending_order(scene: Scene) -> None:
    for site, cases in (("north", NORTH), ("west", WEST)):
        reply = scene.query(site)
        counts = reply.content.metric_records[wire.SITE]
        rows = scene.told(site)
        assert {scene.hash_of(seed) for seed in cases.values()} <= set(rows)
        assert len(rows) == counts["training-cases"] + counts["test-cases"] + 5  # type: ignore[operator]
        assert len(rows) % 5 == 0
        assert rows == sorted(set(rows))


def test_the_hash_is_of_the_scans_brain_however_it_is_named_and_turned(
    scene: Scene, draw_volumes: Callable[..., Any], write_case: Callable[..., Any]
) -> None:
    """Seed 1 is a scan of NORTH's and of WEST's, whose labels differ; a third copy lies in another orientation."""
    before = set(scene.told("north"))
    assert before & set(scene.told("west")) == {scene.hash_of(seed) for seed in (1, 3)}
    write_case(scene.folder / "scans" / "other", draw_volumes(seed=1), name="BraTS2021_00077", axes="RAS")
    write_case(scene.folder / "scans" / "other", draw_volumes(seed=77), name="BraTS2021_00078", axes="PIR")
    assert scene.hash_of(77) == salted(voxels(draw_volumes(seed=77)))
    moved = Site("north", "brats2021", str(scene.folder / "scans" / "other"))
    scene.config = scene.config.replace(sites=(moved, scene.config.sites[1]))
    assert {scene.hash_of(1), scene.hash_of(77)} <= set(scene.told("north"))


def test_no_hash_is_of_a_name_or_an_id_which_could_be_guessed(scene: Scene) -> None:
    for site, cases in (("north", NORTH), ("west", WEST)):
        hospital, rows = scene.open(site), set(scene.told(site))
        words = {site, hospital.site.path, *cases}
        for cached in hospital.cases:
            words |= {cached.case.patient, cached.prepared.voxel_hash}
            words |= {str(file) for file in cached.case.images} | {file.name for file in cached.case.images}
        assert len(words) > 5 * len(cases)
        assert not {salted(word.encode()) for word in words} & rows
        left = on_the_wire(scene.query(site).content)
        assert not [word for word in words if word.encode() in left and word != site]
        assert not [c.case.name for c in hospital.cases if bytes.fromhex(c.prepared.voxel_hash) in left]


def test_asking_again_does_not_tell_decoys_from_scans(scene: Scene) -> None:
    """By the same salt the answer is the same, after a restart too; by another one no row comes again."""
    scans = {scene.hash_of(seed) for seed in NORTH.values()}
    first = scene.told("north")
    assert scene.told("north") == first
    assert scans < set(first)
    other = scene.told("north", salt=SALT[::-1])
    assert len(other) == len(first)
    assert not set(other) & set(first)
    assert {scene.hash_of(seed, SALT[::-1]) for seed in NORTH.values()} <= set(other)


def test_decoys_are_secrets_of_each_hospital(make_scene: MakeScene) -> None:
    """Two hospitals with the same scans have no decoy in common, and its key is the account's alone."""
    scene = make_scene({"north": NORTH, "west": NORTH})
    north, west = set(scene.told("north")), set(scene.told("west"))
    assert north & west == {scene.hash_of(seed) for seed in NORTH.values()}
    key = scene.records("north") / "decoys.key"
    assert key.stat().st_mode & 0o777 == 0o600
    assert key.read_bytes() != (scene.records("west") / "decoys.key").read_bytes()
    assert key.read_bytes() not in on_the_wire(scene.query("north").content)


def test_the_number_of_rows_tells_no_more_than_the_rounded_counts(make_scene: MakeScene) -> None:
    """From 2 to 8 scans: 1 to 7 training cases and one test case, both told as 5."""
    scene = make_scene({"north": {f"BraTS2021_0000{n}": n for n in range(8)}})
    (site,) = scene.config.sites
    told = set()
    for number in range(2, 9):
        cases = tuple(f"BraTS2021_0000{n}" for n in range(number))
        scene.config = scene.config.replace(sites=(Site("north", site.release, site.path, cases, cases[:1]),))
        counts = scene.query("north").content.metric_records[wire.SITE]
        told.add((counts["training-cases"], counts["test-cases"], len(scene.told("north"))))
    assert told == {(5, 5, 15)}


def test_a_scan_under_two_names_is_not_to_be_seen_in_the_number_of_rows(make_scene: MakeScene) -> None:
    scene = make_scene({"north": NORTH, "west": dict.fromkeys(NORTH, 7) | {"BraTS2021_00000": 8}})
    assert len(scene.told("west")) == len(scene.told("north"))
    assert {scene.hash_of(7), scene.hash_of(8)} <= set(scene.told("west"))


@pytest.mark.parametrize(
    "salt",
    [None, b"", bytes(15), bytes(17), bytes(32), "0123456789abcdef", 7, [SALT], 1.5],
    ids=lambda salt: f"{type(salt).__name__} {len(salt) if hasattr(salt, '__len__') else ''}",
)
def test_without_a_proper_salt_nothing_is_told(scene: Scene, salt: object) -> None:
    assert_fault(scene.query("north", salt), Fault.PROTOCOL)
    assert "sent no salt of 16 bytes" in scene.log("north")


def test_a_query_of_another_experiment_is_told_no_hash(scene: Scene) -> None:
    mine = scene.config.fingerprint
    scene.config = scene.config.replace(seed=1)
    assert scene.config.fingerprint != mine
    asked = ConfigRecord({"experiment": mine, "salt": SALT})
    reply = scene.ask("north", MessageType.QUERY, RecordDict({wire.CONFIG: asked}))
    assert_fault(reply, Fault.EXPERIMENT)
    assert not (scene.records("north") / "decoys.key").exists()


@pytest.mark.parametrize("salt", [None, SALT])
def test_where_overlap_is_allowed_nothing_is_told_of_scans_though_it_is_asked(scene: Scene, salt: bytes | None) -> None:
    reply = scene.query("west", salt, **{"data.allow_overlap": True})
    assert set(reply.content) == {wire.SITE}
    assert not (scene.records("west") / "decoys.key").exists()


def test_hashes_are_entered_in_the_ledger(scene: Scene) -> None:
    reply = scene.query("west")
    (entry,) = entries(Door(scene.records("west"), scene.config, 1))
    by_name = {record.name: record for record in entry.records}
    assert dict(by_name[wire.SCANS].arrays) == {"hashes": "uint8[15, 32]"}
    assert by_name[wire.SCANS].bytes == len("hashes") + 128 + 15 * 32
    assert by_name[wire.SCANS].sha256 == reply.content[wire.SCANS].object_id


def test_a_damaged_key_is_said_in_the_hospitals_log_and_nothing_is_told(scene: Scene) -> None:
    scene.told("north")
    key = scene.records("north") / "decoys.key"
    key.write_bytes(key.read_bytes()[:31])
    assert_fault(scene.query("north"), Fault.DATA)
    assert f"{key}: damaged: it does not have 32 bytes" in scene.log("north")


def test_a_hospital_that_cannot_keep_its_key_tells_nothing(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a key that is lost at the next start, decoys would give themselves away."""
    replace = os.replace

    def full(source: Any, target: Any) -> None:
        if "decoys" in str(source):
            raise OSError(SECRET)
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    reply = scene.query("north")
    assert_fault(reply, Fault.INTERNAL)
    assert SECRET.encode() not in on_the_wire(reply)
