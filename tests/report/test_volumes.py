import base64
import gzip
import hashlib
import itertools
import json
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from browser import CHROMIUM, Browser, chromium
from example_cases import GRID, ORDER, REGIONS, example, masks
from numpy.typing import NDArray

from fedserdiff.report import volumes
from fedserdiff.report.colours import REGION_COLOURS
from fedserdiff.report.volumes import render_volumes

ASSETS = Path(__file__).parents[2] / "fedserdiff" / "report" / "assets"
FACTS = "phantom data, seed 3, final student after stage 2 of 2"


class Page(HTMLParser):
    """The page as a browser reads it."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.scripts = "", []
        self._inside = ""
        self.feed(source)
        (data,) = [text for attributes, text in self.scripts if attributes.get("type") == "application/json"]
        self.data = json.loads(data)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag
        if tag == "script":
            self.scripts.append([dict(attrs), ""])

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1][1] += data
        elif self._inside != "style":
            self.text += data

    def volume(self, place: int) -> Any:
        return nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(self.data["volumes"][place])))

    def values(self, place: int) -> NDArray[np.float64]:
        return self.volume(place).get_fdata()

    def layer(self, method: str, case: int, name: str) -> dict[str, Any]:
        (found,) = [layer for layer in self.data["methods"][method][case] if layer["name"] == name]
        return found


@pytest.fixture(scope="module")
def source() -> str:
    methods = {
        "ser-diff": [example("north", 0), example("west", 1, shift=2)],
        "fine-tune": [example("north", 0, taught=False, shift=1), example("west", 1, taught=False)],
    }
    return render_volumes(methods, FACTS, True, None)


@pytest.fixture(scope="module")
def page(source: str) -> Page:
    return Page(source)


def test_volumes_in_the_page_are_the_arrays_given(page: Page) -> None:
    for case, (site, seed) in enumerate((("north", 0), ("west", 1))):
        given = example(site, seed, shift=2 * seed)
        about = page.data["cases"][case]
        scan = page.volume(about["scan"])
        assert np.allclose(scan.affine, np.diag([2, 2, 3.5, 1]))
        assert (about["site"], about["case"], about["shape"]) == (site, f"case-{seed}", list(GRID))
        inside = given.image != 0
        greys = scan.get_fdata()
        assert np.abs(greys - given.image)[inside].max() <= np.ptp(given.image[inside].astype(float)) / 255 * 0.51
        assert (greys[~inside] == given.image[inside].min()).all(), "black around the brain"
        for name, expected in (("Truth", given.truth), ("Coarse mask", given.coarse), ("Refined mask", given.refined)):
            (place,) = page.layer("ser-diff", case, name)["volumes"]
            bits = page.values(place).astype(int)
            assert np.array_equal(np.stack([bits >> region & 1 for region in range(8)]).astype(bool), expected)
        for name, maps in (("Student's", given.error_map), ("Teacher's", given.teacher_error_map)):
            places = page.layer("ser-diff", case, f"{name} error map")["volumes"]
            shown = np.stack([page.values(place) for place in places])
            assert np.abs(shown - maps).max() <= 0.5 / 127 + 1e-6


def test_page_says_data_seed_stage_case_and_dice_and_opens_where_most_is_true(page: Page) -> None:
    assert f"{FACTS}." in page.text
    assert "Phantom scores are not BraTS scores" in page.text
    assert "north: case-0" in page.text
    assert page.layer("ser-diff", 0, "Coarse mask")["note"] == "Dice 50.0 %"
    assert page.layer("ser-diff", 0, "Refined mask")["note"] == "Dice 87.3 %"
    assert page.data["cases"][0]["grid"] == "12 × 16 × 10 voxels of 2 × 2 × 3.5 mm"
    truth = masks(0).any(0)
    for axis, place in enumerate(page.data["cases"][0]["centre"]):
        assert np.take(truth, place, axis).sum() == max(np.take(truth, at, axis).sum() for at in range(GRID[axis]))


def test_large_regions_are_painted_before_those_inside_them(page: Page) -> None:
    assert tuple(page.data["order"]) == ORDER
    assert [region["name"] for region in page.data["regions"]] == list(REGIONS)


def test_what_methods_share_is_in_the_page_once(page: Page) -> None:
    places = [page.layer(method, 0, "Truth")["volumes"] for method in page.data["methods"]]
    assert places[0] == places[1]
    assert len(set(page.data["volumes"])) == len(page.data["volumes"])


def test_method_without_teacher_says_so_beside_one_that_has_one_and_alone_has_no_such_layer(page: Page) -> None:
    layer = page.layer("fine-tune", 0, "Teacher's error map")
    assert (layer["volumes"], layer["note"]) == ([], "no teacher")
    alone = Page(render_volumes({"fine-tune": [example(taught=False)]}, FACTS, True, None))
    assert "Teacher's error map" not in [layer["name"] for layer in alone.data["methods"]["fine-tune"][0]]
    assert "Teacher" not in alone.text


def test_teacher_that_is_the_student_is_not_shown_twice() -> None:
    same = example(teacher_error_map=example().error_map)
    alone = Page(render_volumes({"plus": [same]}, FACTS, True, None))
    assert [layer["name"] for layer in alone.data["methods"]["plus"][0]][3:] == ["Student's error map"]
    beside = Page(render_volumes({"plus": [same], "ser-diff": [example()]}, FACTS, True, None))
    layer = beside.layer("plus", 0, "Teacher's error map")
    assert (layer["volumes"], layer["note"]) == ([], "the teacher is this student")


def test_page_loads_nothing_and_forbids_to(page: Page, source: str) -> None:
    for tag, attributes in page.tags:
        assert tag not in ("link", "iframe", "object", "embed", "base", "img")
        assert not {"src", "href", "srcset", "action", "data", "poster"} & set(attributes)
    assert "@import" not in source.partition("</style>")[0]
    assert "url(" not in source.partition("</style>")[0]
    (policy,) = [a["content"] for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    assert policy.startswith("default-src 'none';")
    assert "http" not in policy


def test_names_from_outside_are_text_and_never_tags() -> None:
    evil = '"></script><script>alert(1)</script><b>{{ 7 }}'
    given = [example(evil, case=evil, modality=evil, regions=(evil, *REGIONS[1:]))]
    plain = Page(render_volumes({"m": [example()]}, FACTS, False, None))
    shown = Page(render_volumes({evil: given}, evil, False, evil))
    extra = len(shown.tags) - len(plain.tags)
    assert extra == 1, "the leak's warning"
    assert [tag for tag, _ in shown.tags].count("script") == 3
    assert shown.data["cases"][0]["site"] == shown.data["regions"][0]["name"] == evil
    assert shown.text.count(evil) >= 4
    assert "Phantom scores" not in shown.text


def test_fine_grid_is_thinned_and_the_page_says_the_size_of_its_voxels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(volumes, "_MOST_VOXELS", 300)  # 12 × 16 × 10 voxels are more, even every second of each axis
    shown = Page(render_volumes({"m": [example()]}, FACTS, True, None))
    (place,) = shown.layer("m", 0, "Truth")["volumes"]
    volume = shown.volume(place)
    assert np.array_equal(volume.get_fdata().astype(int) >> 1 & 1, masks(0)[1, ::2, ::2, ::2])
    assert np.allclose(volume.affine, np.diag([4, 4, 7, 1]))
    about = shown.data["cases"][0]
    assert about["grid"] == "6 × 8 × 5 voxels of 4 × 4 × 7 mm"
    assert about["shape"] == [6, 8, 5]
    assert all(at < size for at, size in zip(about["centre"], about["shape"], strict=True))


def test_scan_of_one_grey_and_truth_of_nothing_are_shown_as_such() -> None:
    nothing = np.zeros((8, *GRID), bool)
    blank = example(image=np.zeros(GRID, np.float16), truth=nothing)
    shown = Page(render_volumes({"m": [blank]}, FACTS, True, None))
    about = shown.data["cases"][0]
    assert about["centre"] == [6, 8, 5]
    assert about["window"][0] < about["window"][1]
    assert not shown.values(about["scan"]).any()


def test_more_regions_than_colours_are_refused() -> None:
    many = len(REGION_COLOURS) + 1
    fields = ("truth", "coarse", "refined", "error_map", "teacher_error_map")
    given = example(regions=("r",) * many, **{name: np.zeros((many, *GRID), bool) for name in fields})
    with pytest.raises(ValueError, match="9 regions, but only 8"):
        render_volumes({"m": [given]}, FACTS, True, None)


def test_page_without_cases_says_so() -> None:
    assert "There are no cases to show." in render_volumes({"m": []}, FACTS, True, None)


def test_the_same_input_gives_the_same_page(source: str) -> None:
    assert render_volumes({"m": [example()]}, FACTS, True, None) == render_volumes(
        {"m": [example()]}, FACTS, True, None
    )
    assert source.startswith("<!DOCTYPE html>")


def test_niivue_is_the_file_that_its_licence_names_and_can_stand_in_a_page(source: str) -> None:
    code, licence = (ASSETS / "niivue.umd.js").read_bytes(), (ASSETS / "niivue.LICENSE.txt").read_text()
    version = licence.split()[1].rstrip(",")
    assert hashlib.sha256(code).hexdigest() in licence
    assert b"</script" not in code
    assert b"<!--" not in code
    assert f'"{version}"'.encode() in code, "its version"
    assert f"NiiVue {version} " in source
    assert "Copyright (c) 2021, Niivue" in source


def test_colours_of_regions_are_told_apart_with_any_colour_vision() -> None:
    """Distances in CIELAB after Machado, Oliveira and Fernandes (2009), each deficiency at its full severity."""
    sights = {
        "normal": np.eye(3),
        "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
        "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
    }
    to_xyz = np.array([[0.4125, 0.3576, 0.1804], [0.2127, 0.7152, 0.0722], [0.0193, 0.1192, 0.9503]])

    def lab(colour: str, sight: Any) -> NDArray[np.float64]:
        rgb = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        xyz = to_xyz @ np.clip(np.array(sight) @ linear, 0, 1) / [0.9505, 1, 1.0888]
        x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
        return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])

    for sight in sights.values():
        for one, other in itertools.combinations(REGION_COLOURS, 2):
            assert np.linalg.norm(lab(one, sight) - lab(other, sight)) > 29


needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH: the page is not opened")


@pytest.fixture(scope="module")
def opened(source: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    folder = tmp_path_factory.mktemp("browser")
    (folder / "volumes.html").write_text(source)
    with chromium(folder / "profile") as browser:
        browser.open(folder / "volumes.html")
        yield browser


def canvas(layer: str) -> str:
    return f'figure[data-layer="{layer}"] canvas'


def axial(browser: Browser, layer: str) -> NDArray[np.int64]:
    """What is seen of the middle of each voxel of an axial slice, (X, Y, 3)."""
    seen = browser.picture(canvas(layer)).astype(int)
    rows = ((1 - (np.arange(GRID[1]) + 0.5) / GRID[1]) * seen.shape[0]).astype(int)
    columns = ((np.arange(GRID[0]) + 0.5) / GRID[0] * seen.shape[1]).astype(int)
    return seen[rows][:, columns].transpose(1, 0, 2)


def painted(bits: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The colour of each voxel of a slice (R, X, Y) by its regions; −1 where there is none."""
    colours = np.full((*bits.shape[1:], 3), -1)
    for region in ORDER:
        colour = REGION_COLOURS[region]
        colours[bits[region]] = [int(colour[at : at + 2], 16) for at in (1, 3, 5)]
    return colours


def check_painted(seen: NDArray[np.int64], expected: NDArray[np.int64]) -> None:
    coloured = (expected >= 0).all(-1)
    assert np.abs(seen - expected)[coloured].max(initial=0) <= 3
    assert np.ptp(seen[~coloured], axis=-1).max() <= 3, "grey where there is no region"


@needs_chromium
def test_the_page_opened_in_a_browser_shows_scrolls_and_chooses(opened: Browser) -> None:
    state = "document.documentElement.dataset.state"
    assert opened.value(state) == "ready", opened.value("document.getElementById('failure').textContent")
    opened.value("document.getElementById('opacity').value = 1")
    opened.choose("#region", "2")  # which draws all anew
    z = opened.value("Number(document.getElementById('slice').value)")
    assert z == example().centre[2]
    layers = ("Truth", "Coarse mask", "Refined mask", "Student's error map", "Teacher's error map")
    for layer in layers:
        assert opened.picture(canvas(layer)).std() > 10, "not a blank canvas"

    def check(site: int, at: int, refined: int) -> None:
        given = example(("north", "west")[site], site)
        for layer, moved in (("Truth", 0), ("Coarse mask", 1), ("Refined mask", refined)):
            check_painted(axial(opened, layer), painted(masks(moved)[..., at]))
        brain = given.image[..., at] != 0
        greys = axial(opened, "Truth")[~masks(0).any(0)[..., at] & ~brain]
        assert greys.size == 0 or np.percentile(greys, 75) <= 3, "black around, except for letters"

    check(0, z, refined=0)
    errors = example().error_map[2, ..., z].astype(float)
    red_less_blue = np.subtract(*axial(opened, "Student's error map")[..., [0, 2]].transpose(2, 0, 1))
    assert (red_less_blue[errors > 0.4] > 40).all(), "orange where it adds"
    assert (red_less_blue[errors < -0.4] < -40).all(), "blue where it takes away"

    opened.wheel(canvas("Refined mask"), 120)
    opened.wheel(canvas("Refined mask"), 120)
    opened.wait(f"document.getElementById('place').textContent === '{z + 3} of 10'")
    check(0, z + 2, refined=0)
    opened.press("ArrowDown")
    opened.press("Home")
    opened.wait("document.getElementById('slice').value === '0'")
    opened.value("document.getElementById('slice').focus()")
    for _ in range(3):
        opened.press("ArrowUp")
    opened.wait("document.getElementById('place').textContent === '4 of 10'")
    check(0, 3, refined=0)
    label = opened.value(f"document.querySelector({canvas('Coarse mask')!r}).getAttribute('aria-label')")
    assert label == "Coarse mask Dice 50.0 % over CT, north, axial slice 4 of 10"

    opened.choose("#regions", "0")
    without = masks(0)[..., 3]
    without[0] = False
    check_painted(axial(opened, "Truth"), painted(without))
    opened.choose("#regions", "0")

    opened.choose("#site", "1")
    check(1, z, refined=2)
    opened.choose("#method", "fine-tune")
    check(1, z, refined=0)
    assert "fine-tune. west, case case-1; scan: CT" in opened.value("document.getElementById('case').textContent")
    assert opened.value("document.querySelector('figure:last-child').textContent") == "Teacher's error map no teacher"

    opened.choose("#show", "Coarse mask")
    shown = opened.value(
        "[...document.querySelectorAll('figure')].filter((f) => !f.hidden).map((f) => f.dataset.layer)"
    )
    assert shown == ["Coarse mask"]
    check_painted(axial(opened, "Coarse mask"), painted(masks(1)[..., z]))
    before = opened.picture(canvas("Coarse mask"))
    opened.choose("#plane", "All three planes")
    after = opened.picture(canvas("Coarse mask"))
    assert before.shape != after.shape
    assert after.std() > 10
    opened.choose("#plane", "Coronal")
    assert opened.value("document.getElementById('axis').textContent") == "Coronal"
    assert opened.value("document.getElementById('slice').max") == "15"

    assert opened.errors == []
    assert [url for url in opened.requests if not url.startswith(("data:", "file:"))] == []
    assert sum(url.startswith("file:") for url in opened.requests) == 1


@needs_chromium
def test_browser_without_webgl_is_told_so(source: str, tmp_path: Path) -> None:
    (tmp_path / "volumes.html").write_text(source)
    with chromium(tmp_path / "profile", "--disable-3d-apis") as browser:
        browser.open(tmp_path / "volumes.html")
        assert browser.value("document.documentElement.dataset.state") == "failed"
        shown = browser.value("document.body.innerText")
    assert "this browser has no WebGL 2, or it is switched off" in shown
    assert "Opacity" not in shown
