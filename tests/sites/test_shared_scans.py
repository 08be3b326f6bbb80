"""A hospital works without the scans that an earlier one has, and no coordinator can vary which ones."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MessageType, RecordDict
from guarded import assert_fault, context
from scene import EAST, NORTH, ORDER, WEST, Orders, Scene
from traffic import SALT, on_the_wire, request

from fedserdiff import wire
from fedserdiff.diffusion.refiner import new_student
from fedserdiff.experiments.opened_federation import open_federation
from fedserdiff.reply_schema import admit, reply_rules
from fedserdiff.settings.experiment import Site
from fedserdiff.wire import Fault
from sites.client_app import Premises, make_client_app
from strategies.overlap import SharedScans

MakeScene = Callable[..., Scene]
TRAIN, EVALUATE = MessageType.TRAIN, MessageType.EVALUATE
ORDERS = (TRAIN, wire.CONSOLIDATE, EVALUATE)
SITES = {"north": NORTH, "west": WEST, "east": EAST}


@pytest.fixture
def scene(make_scene: MakeScene) -> Scene:
    return make_scene(SITES)


def left_out(scene: Scene, *seeds: int, salt: bytes = SALT) -> Orders:
    """What tells a hospital to leave out these scans."""
    rows = sorted(scene.hash_of(seed, salt) for seed in seeds)
    return record(np.frombuffer(b"".join(rows), np.uint8).reshape(-1, 32), np.frombuffer(salt, np.uint8))


def record(hashes: Any, salt: Any, **more: Any) -> dict[str, ArrayRecord]:
    arrays = {"hashes": hashes, "salt": salt, **more}
    return {wire.LEFT_OUT: ArrayRecord({name: Array(array) for name, array in arrays.items()})}


def settle(scene: Scene, salt: bytes = SALT) -> SharedScans:
    """Let every hospital introduce itself to a coordinator, the last one first."""
    scans = SharedScans(scene.config)
    scans.salt = salt
    for number, site in reversed(list(enumerate(s.name for s in scene.config.sites))):
        reply = scene.query(site, salt)
        about = admit(reply.content, reply_rules(MessageType.QUERY, scene.config, number, None))
        scans.add(site, about.array_records[wire.SCANS]["hashes"].numpy())
    return scans


def scored(scene: Scene, site: str) -> list[str]:
    lines = (scene.records(site) / "scores.csv").read_text().splitlines()[1:]
    return list(dict.fromkeys(line.split(",")[1] for line in lines))


def settled(scene: Scene, site: str) -> Any:
    return json.loads((scene.records(site) / "left-out.json").read_text())


WITHOUT = {
    "north": [],
    "west": ["BraTS-GLI-00010-000", "BraTS-GLI-00010-001", "BraTS-GLI-00014-000", "BraTS-GLI-00015-000"],
    "east": ["BraTS2021_00090", "BraTS2021_00091"],
}
"""WEST's first patient for one of two scans, its fifth for the only one, its sixth for having a name too many."""


def test_each_hospital_trains_and_scores_as_in_a_simulation_that_sees_all_of_them(scene: Scene) -> None:
    """Weights and scores are identical, with a new split of the remaining patients into training and test."""
    federation = open_federation(scene.config, scene.config.sites, scene.folder / "cache")
    assert {h.site.name for h in federation.hospitals} == set(SITES)
    scans = settle(scene)
    for number, hospital in enumerate(federation.hospitals):
        site = hospital.site.name
        assert sorted({*SITES[site]} - {c.case.name for c in hospital.cases}) == WITHOUT[site]
        ours = {kind: scene.order(site, kind, scans.record_for(site)) for kind in ORDERS}
        premises = Premises(scene.folder / "cache", scene.folder / "simulated")
        app = make_client_app(federation.config, premises, number)
        for kind, reply in ours.items():
            content = RecordDict(
                {wire.ARRAYS: wire.weights_to_record(new_student(scene.config)), wire.CONFIG: ConfigRecord({**ORDER})}
            )
            theirs = app(request(kind, content), context())
            assert reply.content == theirs.content, (site, kind)
        assert scored(scene, site) == [cached.case.name for cached in hospital.test]
        assert settled(scene, site) == {str(scene.config.fingerprint): WITHOUT[site]}


def test_a_patient_who_is_anothers_by_a_second_name_alone_is_left_out_too(make_scene: MakeScene) -> None:
    """NORTH has a scan of patient 11, who has a scan in common with patient 10: they are one."""
    chained = {"00010-000": 20, "00010-001": 21, "00011-000": 21, "00011-001": 4, "00012-000": 22, "00013-000": 23}
    scene = make_scene({"north": NORTH, "west": {f"BraTS-GLI-{name}": seed for name, seed in chained.items()}})
    assert scene.order("west", EVALUATE, settle(scene).record_for("west")).has_content()
    (gone,) = settled(scene, "west").values()
    assert gone == [f"BraTS-GLI-{name}" for name in chained][:4]
    federation = open_federation(scene.config, scene.config.sites, scene.folder / "cache")
    assert {c.case.name for c in federation.hospitals[1].cases} == {"BraTS-GLI-00012-000", "BraTS-GLI-00013-000"}


def test_what_is_left_out_changes_what_is_learnt(make_scene: MakeScene) -> None:
    """The test above would not notice a hospital that ignores the order."""
    scene = make_scene({"north": NORTH})
    everything = scene.order("north", TRAIN).content
    (scene.records("north") / "left-out.json").unlink()
    assert scene.order("north", TRAIN, left_out(scene, 0)).content != everything


def test_a_hospital_knows_what_it_leaves_out_and_says_so_to_itself_alone(scene: Scene) -> None:
    scans = settle(scene)
    replies = [scene.order("west", kind, scans.record_for("west")) for kind in ORDERS]
    log = scene.log("west")
    assert f"4 of 7 cases are left out: {', '.join(WITHOUT['west'])}" in log
    assert "west: BraTS-GLI-00010-000 is BraTS-GLI-00010-000, which an earlier hospital brought first" in log
    assert "west: BraTS-GLI-00015-000 is BraTS-GLI-00012-000, which west brought first" in log
    assert log.count("cases are left out") == 1, "said once, not at every order"
    for case in WEST:
        assert not any(case.encode() in on_the_wire(reply) for reply in replies)


def test_named_test_cases_are_held_out_of_who_is_left(make_scene: MakeScene) -> None:
    scene = make_scene(SITES)
    held_out = ("BraTS-GLI-00010-000", "BraTS-GLI-00010-001", "BraTS-GLI-00013-000")
    north, west, east = scene.config.sites
    west = Site("west", west.release, west.path, (), held_out)
    scene.config = scene.config.replace(sites=(north, west, east))
    scans = settle(scene)
    assert scene.order("west", EVALUATE, scans.record_for("west")).has_content()
    assert scored(scene, "west") == ["BraTS-GLI-00013-000"]
    federation = open_federation(scene.config, scene.config.sites, scene.folder / "cache")
    assert [c.case.name for c in federation.hospitals[1].test] == ["BraTS-GLI-00013-000"]


def test_a_hospital_of_which_nothing_is_left_says_why_to_itself(make_scene: MakeScene) -> None:
    scene = make_scene({"north": NORTH, "west": {f"BraTS-GLI-0002{n}-000": n for n in range(3)}})
    everything = settle(scene).record_for("west")
    assert_fault(scene.order("west", TRAIN, everything), Fault.DATA)
    assert "site west: an earlier site brought all of its patients, so nothing is left" in scene.log("west")


def test_a_hospital_whose_test_cases_are_all_anothers_says_so(make_scene: MakeScene) -> None:
    scene = make_scene({"north": NORTH, "west": WEST})
    north, west = scene.config.sites
    west = Site("west", west.release, west.path, (), ("BraTS-GLI-00014-000",))
    scene.config = scene.config.replace(sites=(north, west))
    assert_fault(scene.order("west", EVALUATE, settle(scene).record_for("west")), Fault.DATA)
    assert "an earlier site brought every patient of its test_cases" in scene.log("west")


def test_who_is_left_alone_cannot_be_split(make_scene: MakeScene) -> None:
    scene = make_scene({"north": NORTH, "west": {"BraTS-GLI-00020-000": 0, "BraTS-GLI-00021-000": 21}})
    assert_fault(scene.order("west", TRAIN, settle(scene).record_for("west")), Fault.DATA)
    assert "1 patient cannot be split" in scene.log("west")


VARIED: list[tuple[Sequence[int], Sequence[int]]] = [
    ((), (0,)),
    ((0,), ()),
    ((0,), (1,)),
    ((0,), (0, 1)),
    ((0, 1), (0,)),
]


@pytest.mark.parametrize("kinds", [(TRAIN, TRAIN), (EVALUATE, EVALUATE), (TRAIN, EVALUATE), (wire.CONSOLIDATE, TRAIN)])
@pytest.mark.parametrize(("first", "then"), VARIED)
def test_a_coordinator_does_not_vary_what_is_left_out(
    make_scene: MakeScene, first: Sequence[int], then: Sequence[int], kinds: tuple[str, str]
) -> None:
    """With and without one patient: the difference of the answers would be that patient's. By another salt neither."""
    scene = make_scene({"north": NORTH})
    settling, varying = (left_out(scene, *seeds) if seeds else {} for seeds in (first, then))
    assert scene.order("north", kinds[0], settling).has_content()
    assert_fault(scene.order("north", kinds[1], varying), Fault.PROTOCOL)
    if then:
        assert_fault(scene.order("north", kinds[1], left_out(scene, *then, salt=SALT[::-1])), Fault.PROTOCOL)
    names = [[f"BraTS2021_0000{n}" for n in seeds] for seeds in (first, then)]
    before, now = (", ".join(cases) or "no case" for cases in names)
    assert f"the coordinator leaves out {now}, but left out {before} before" in scene.log("north")
    assert settled(scene, "north") == {str(scene.config.fingerprint): names[0]}
    if not (scene.records("north") / "scores.csv").exists():
        assert scene.order("north", kinds[0], settling).has_content(), "who does not vary it goes on"


def test_the_same_set_is_taken_by_any_salt(scene: Scene) -> None:
    """A coordinator that restarted may have drawn another salt; any scan of a patient identifies the patient."""
    assert scene.order("west", EVALUATE, left_out(scene, 1, 3)).has_content()
    assert scene.order("west", EVALUATE, left_out(scene, 1, 3, salt=SALT[::-1])).has_content()
    assert scene.order("west", EVALUATE, left_out(scene, 10, 3)).has_content()
    assert_fault(scene.order("west", EVALUATE, left_out(scene, 10)), Fault.PROTOCOL)


def test_every_experiment_has_a_set_of_its_own_for_good(make_scene: MakeScene) -> None:
    """A coordinator cannot vary the set by going to another experiment and back."""
    scene = make_scene({"north": NORTH})
    one, other = scene.config, scene.config.replace(seed=1)
    assert scene.order("north", EVALUATE, left_out(scene, 0)).has_content()
    scene.config = other
    assert scene.order("north", EVALUATE, left_out(scene, 1)).has_content()
    scene.config = one
    assert_fault(scene.order("north", EVALUATE, left_out(scene, 1)), Fault.PROTOCOL)
    assert scene.order("north", EVALUATE, left_out(scene, 0)).has_content()


def test_no_order_tells_a_decoy_from_a_scan(make_scene: MakeScene) -> None:
    """Who tries rows one by one learns of the first at most, as any order settles what the experiment leaves out."""
    scene = make_scene({"north": NORTH})
    rows = scene.told("north")
    scans = {scene.hash_of(seed) for seed in NORTH.values()}
    tried = sorted(rows, key=lambda row: row in scans)
    assert tried[0] not in scans
    codes = set()
    for row in tried:
        hashes = np.frombuffer(row, np.uint8).reshape(1, 32)
        reply = scene.order("north", EVALUATE, record(hashes, np.frombuffer(SALT, np.uint8)))
        codes.add(reply.error.code if reply.has_error() else None)
    assert codes == {Fault.PROTOCOL}
    assert "leaves out scans that this hospital does not have" in scene.log("north")


def test_a_decoy_among_scans_is_refused_and_is_not_left_aside(make_scene: MakeScene) -> None:
    scene = make_scene({"north": NORTH})
    decoy = next(row for row in scene.told("north") if row not in {scene.hash_of(n) for n in range(5)})
    both = np.frombuffer(b"".join(sorted([scene.hash_of(0), decoy])), np.uint8).reshape(2, 32)
    assert_fault(scene.order("north", TRAIN, record(both, np.frombuffer(SALT, np.uint8))), Fault.PROTOCOL)


HASH, SALTED = np.ones((1, 32), np.uint8), np.frombuffer(SALT, np.uint8)
MALFORMED: dict[str, dict[str, Any]] = {
    "a hash by another salt": record(HASH, SALTED[::-1].copy()),
    "no salt": {wire.LEFT_OUT: ArrayRecord({"hashes": Array(HASH)})},
    "no hashes": {wire.LEFT_OUT: ArrayRecord({"salt": Array(SALTED)})},
    "none": record(HASH[:0], SALTED),
    "an empty record": {wire.LEFT_OUT: ArrayRecord()},
    "another kind of record": {wire.LEFT_OUT: ConfigRecord({"hashes": bytes(32), "salt": SALT})},
    "a short salt": record(HASH, SALTED[:15].copy()),
    "a salt of another type": record(HASH, SALTED.astype(np.int64)),
    "short hashes": record(HASH[:, :8].copy(), SALTED),
    "hashes of one axis": record(HASH[0], SALTED),
    "float hashes": record(HASH.astype(np.float32), SALTED),
    "a hash twice": record(np.repeat(HASH, 2, 0), SALTED),
    "hashes without end": record(np.repeat(HASH, 100_001, 0), SALTED),
    "an array besides": record(HASH, SALTED, names=HASH),
    "another encoding": {
        wire.LEFT_OUT: ArrayRecord({"hashes": Array("uint8", (1, 32), "pickle", b"\x80"), "salt": Array(SALTED)})
    },
}


@pytest.mark.parametrize("more", MALFORMED.values(), ids=MALFORMED)
def test_an_order_that_names_scans_out_of_protocol_is_refused(
    make_scene: MakeScene, more: dict[str, ArrayRecord]
) -> None:
    scene = make_scene({"north": NORTH})
    for kind in ORDERS:
        assert_fault(scene.order("north", kind, more), Fault.PROTOCOL)


def test_where_overlap_is_allowed_nothing_is_left_out(scene: Scene) -> None:
    """Not even the scan that has two names in one hospital; and a coordinator that wants it is refused."""
    reply = scene.order("west", EVALUATE, **{"data.allow_overlap": True})
    assert reply.has_content()
    (held_out,) = {cached.case.name for cached in scene.open("west").test}
    assert scored(scene, "west") == [held_out]
    assert not (scene.records("west") / "left-out.json").exists()
    assert_fault(scene.order("west", EVALUATE, left_out(scene, 11), **{"data.allow_overlap": True}), Fault.PROTOCOL)


def test_a_record_of_what_is_settled_that_is_damaged_stops_the_hospital(make_scene: MakeScene) -> None:
    scene = make_scene({"north": NORTH})
    assert scene.order("north", EVALUATE).has_content()
    file = scene.records("north") / "left-out.json"
    for text in ("", "{", "[]", '{"1": "BraTS2021_00000"}'):
        file.write_text(text)
        assert_fault(scene.order("north", EVALUATE), Fault.DATA)
    assert f"{file}: damaged" in scene.log("north")
