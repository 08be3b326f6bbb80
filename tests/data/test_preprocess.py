from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fedserdiff.data.cases import find_cases
from fedserdiff.data.preprocess import Geometry, PreparedCase, prepare_case
from fedserdiff.data.releases import RELEASES

Volumes = dict[str, NDArray[Any]]
BRAIN = (slice(2, 10), slice(1, 12), slice(2, 8))  # of the tiny volumes
NATIVE = (16, 16, 16)  # a grid that holds the brain at its own 1 mm


def _prepare(
    folder: Path, grid: tuple[int, int, int] = NATIVE, spacing_mm: float = 1.0, release: str = "brats2021"
) -> PreparedCase:
    (case,) = find_cases(folder, RELEASES[release])
    return prepare_case(case, grid, spacing_mm)


def test_modalities_are_z_scored_inside_the_brain_and_0_outside(
    tmp_path: Path, draw_volumes: Callable[..., Volumes], write_case: Callable[..., Path]
) -> None:
    volumes = draw_volumes()
    volumes["t1"][3, 3, 3] = 0  # inside the brain by the other modalities: counts as any other value
    write_case(tmp_path, volumes)

    prepared = _prepare(tmp_path)

    assert prepared.image.dtype == np.float16
    assert prepared.image.shape == (4, *NATIVE)
    inner = prepared.image[:, 4:12, 2:13, 5:11].astype(np.float64)  # the box of 8 × 11 × 6, centred
    for channel, name in enumerate(("t1", "t1ce", "t2", "flair")):
        inside = volumes[name][BRAIN].astype(np.float64)
        expected = (inside - inside.mean()) / inside.std()
        np.testing.assert_allclose(inner[channel], expected, atol=2e-3)  # float16 within ±6
        assert abs(inner[channel].mean()) < 1e-3
        assert abs(inner[channel].std() - 1) < 1e-3
    outside = np.ones(NATIVE, bool)
    outside[4:12, 2:13, 5:11] = False
    assert not prepared.image[:, outside].any()


def test_hole_in_the_brain_stays_0_and_out_of_the_z_score(
    tmp_path: Path, draw_volumes: Callable[..., Volumes], write_case: Callable[..., Path]
) -> None:
    volumes = draw_volumes()
    for name in ("t1", "t1ce", "t2", "flair"):
        volumes[name][2:5, 1:4, 2:5] = 0
    write_case(tmp_path, volumes)

    inner = _prepare(tmp_path).image[:, 4:12, 2:13, 5:11]

    assert not inner[:, :3, :3, :3].any()
    inside = volumes["t2"][volumes["t2"] > 0].astype(np.float64)
    assert inner[2, 4, 4, 4] == pytest.approx((volumes["t2"][6, 5, 6] - inside.mean()) / inside.std(), abs=2e-3)


def test_z_scores_do_not_depend_on_a_scanners_scale(
    tmp_path: Path, draw_volumes: Callable[..., Volumes], write_case: Callable[..., Path]
) -> None:
    volumes = draw_volumes()
    write_case(tmp_path / "a", volumes)
    volumes["t2"] = volumes["t2"] * np.float32(0.037)
    write_case(tmp_path / "b", volumes)

    one, other = _prepare(tmp_path / "a"), _prepare(tmp_path / "b")

    np.testing.assert_allclose(one.image.astype(np.float32), other.image.astype(np.float32), atol=2e-3)


def test_artefact_is_clipped_at_six_sigma(
    tmp_path: Path, draw_volumes: Callable[..., Volumes], write_case: Callable[..., Path]
) -> None:
    volumes = draw_volumes()
    volumes["flair"][5, 5, 5] = 30000
    write_case(tmp_path, volumes)
    assert _prepare(tmp_path).image.max() == 6


def test_masks_are_the_segmentations_regions_in_the_brains_box(
    tmp_path: Path, draw_volumes: Callable[..., Volumes], write_case: Callable[..., Path]
) -> None:
    volumes = draw_volumes()
    write_case(tmp_path, volumes)

    prepared = _prepare(tmp_path)

    seg = volumes["seg"][BRAIN]
    np.testing.assert_array_equal(prepared.truth, np.stack([(seg == 1) | (seg == 4), seg > 0, seg == 4]))
    np.testing.assert_array_equal(prepared.mask[:, 4:12, 2:13, 5:11], prepared.truth)
    assert prepared.mask.sum() == prepared.truth.sum()


def test_labels_outside_the_brain_count_in_scores_and_change_no_input(
    tmp_path: Path, draw_volumes: Callable[..., Volumes], write_case: Callable[..., Path]
) -> None:
    volumes = draw_volumes()
    write_case(tmp_path / "inside", volumes)
    volumes["seg"][11, 13, 9] = 2
    volumes["seg"][2, 0, 3] = 2
    write_case(tmp_path / "outside", volumes)

    within, prepared = _prepare(tmp_path / "inside"), _prepare(tmp_path / "outside")

    np.testing.assert_array_equal(prepared.image, within.image)
    assert prepared.geometry.box_start == within.geometry.box_start == (2, 1, 2)
    assert prepared.geometry.box_shape == within.geometry.box_shape == (8, 11, 6)
    np.testing.assert_array_equal(prepared.truth[1], volumes["seg"][2:, :, 2:] > 0)
    scored = prepared.geometry.to_scored(torch.from_numpy(np.array(prepared.mask)).float()) >= 0.5
    seen = volumes["seg"][2:, :, 2:] > 0
    seen[-1, -1, -1] = seen[0, 0, 1] = False  # where no student looks
    np.testing.assert_array_equal(scored[1].numpy(), seen)


@pytest.mark.parametrize("axes", ["RAS", "LAS", "RPI", "PIR", "SAL"])
@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (1.0, 1.5, 2.0)])
def test_orientation_on_disk_changes_nothing(
    tmp_path: Path,
    draw_volumes: Callable[..., Volumes],
    write_case: Callable[..., Path],
    axes: str,
    spacing_mm: tuple[float, float, float],
) -> None:
    write_case(tmp_path / "lps", draw_volumes(), spacing_mm=spacing_mm)
    write_case(tmp_path / "turned", draw_volumes(), spacing_mm=spacing_mm, axes=axes)

    one, other = _prepare(tmp_path / "lps"), _prepare(tmp_path / "turned")

    np.testing.assert_array_equal(one.image, other.image)
    np.testing.assert_array_equal(one.mask, other.mask)
    np.testing.assert_array_equal(one.truth, other.truth)
    assert one.geometry == other.geometry
    assert one.geometry.spacing_mm == spacing_mm
    assert one.voxel_hash == other.voxel_hash


def test_modalities_of_one_case_may_be_stored_in_different_orientations(
    tmp_path: Path, draw_volumes: Callable[..., Volumes], write_case: Callable[..., Path]
) -> None:
    write_case(tmp_path / "mixed", draw_volumes())
    other = write_case(tmp_path / "ras", draw_volumes(), axes="RAS")
    (other / "BraTS2021_00000_seg.nii.gz").replace(
        tmp_path / "mixed" / "BraTS2021_00000" / "BraTS2021_00000_seg.nii.gz"
    )
    write_case(tmp_path / "whole", draw_volumes())

    np.testing.assert_array_equal(_prepare(tmp_path / "mixed").truth, _prepare(tmp_path / "whole").truth)


@pytest.mark.parametrize("axes", ["RAS", "LPS"])
def test_voxel_size_is_the_affines_where_the_header_disagrees(
    tmp_path: Path, draw_volumes: Callable[..., Volumes], write_case: Callable[..., Path], axes: str
) -> None:
    case = write_case(tmp_path, draw_volumes(), axes=axes, spacing_mm=(2.0, 2.0, 2.0))
    for path in case.iterdir():
        image = nib.load(path)
        voxels = np.asarray(image.dataobj)
        image.header.set_zooms((1.0, 1.0, 1.0))
        nib.save(nib.Nifti1Image(voxels, None, image.header), path)
        assert nib.load(path).header.get_zooms() == (1.0, 1.0, 1.0)
    assert _prepare(tmp_path).geometry.spacing_mm == (2.0, 2.0, 2.0)


def test_coarser_grid_averages_the_voxels_it_covers(
    tmp_path: Path, draw_volumes: Callable[..., Volumes], write_case: Callable[..., Path]
) -> None:
    volumes = {name: volume[:, :11] for name, volume in draw_volumes().items()}  # brain now 8 × 10 × 6
    write_case(tmp_path, volumes)

    prepared = _prepare(tmp_path, grid=(8, 8, 8), spacing_mm=2.0)

    assert prepared.geometry.inner_shape == (4, 5, 3)
    inside = volumes["t2"][2:10, 1:11, 2:8].astype(np.float64)
    scored = (inside - inside.mean()) / inside.std()
    expected = scored.reshape(4, 2, 5, 2, 3, 2).mean((1, 3, 5))
    np.testing.assert_allclose(prepared.image[2, 2:6, 1:6, 2:5], expected, atol=2e-3)
    seg = (volumes["seg"][2:10, 1:11, 2:8] > 0).reshape(4, 2, 5, 2, 3, 2).mean((1, 3, 5))
    np.testing.assert_array_equal(prepared.mask[1, 2:6, 1:6, 2:5], seg >= 0.5)


def test_way_to_the_grid_and_back_is_the_identity_where_the_brain_fits(
    tmp_path: Path, draw_volumes: Callable[..., Volumes], write_case: Callable[..., Path]
) -> None:
    write_case(tmp_path, draw_volumes())
    geometry = _prepare(tmp_path).geometry
    volume = torch.randn(3, *geometry.box_shape, generator=torch.Generator().manual_seed(0))

    on_grid = geometry.from_box(volume, NATIVE)

    assert geometry.inner_shape == geometry.box_shape == (8, 11, 6)
    assert torch.equal(geometry.to_scan(on_grid), volume)
    assert on_grid.count_nonzero() == volume.count_nonzero()


def test_finer_grid_and_back_keeps_position(
    tmp_path: Path, draw_volumes: Callable[..., Volumes], write_case: Callable[..., Path]
) -> None:
    write_case(tmp_path, draw_volumes())
    prepared = _prepare(tmp_path, grid=(24, 24, 24), spacing_mm=0.5)

    back = prepared.geometry.to_scan(torch.from_numpy(prepared.mask).float()) >= 0.5

    assert prepared.geometry.inner_shape == (16, 22, 12)
    np.testing.assert_array_equal(back[1].numpy(), prepared.truth[1])


def _geometry(box_shape: tuple[int, int, int], spacing_mm: tuple[float, ...], inner: tuple[int, int, int]) -> Geometry:
    x, y, z = spacing_mm
    return Geometry(box_shape, (x, y, z), (0, 0, 0), box_shape, inner, (0, 0, 0))


@pytest.mark.parametrize(
    ("spacing_mm", "box_shape"), [((0.6, 0.6, 3.0), (50, 60, 12)), ((0.6, 0.6, 4.0), (50, 60, 9)),
                                  ((1.0, 1.0, 5.0), (48, 60, 9)), ((5.0, 1.0, 1.0), (9, 48, 60))]
)  # fmt: skip
def test_noise_is_averaged_along_the_axes_that_shrink_whatever_the_others_do(
    spacing_mm: tuple[float, ...], box_shape: tuple[int, int, int]
) -> None:
    inner = tuple(round(n * mm / 3) for n, mm in zip(box_shape, spacing_mm, strict=True))
    noise = torch.randn(1, *box_shape, generator=torch.Generator().manual_seed(0))

    on_grid = _geometry(box_shape, spacing_mm, inner).from_box(noise, inner)  # type: ignore[arg-type]

    # the mean of n voxels has a deviation of 1/√n; along an axis that grows a value is a mean of two at most
    averaged = np.prod([b / n for b, n in zip(box_shape, inner, strict=True) if n < b])
    grows = any(n > b for b, n in zip(box_shape, inner, strict=True))
    assert averaged**-0.5 * (0.7 if grows else 0.95) < float(on_grid.std()) < 1.05 * averaged**-0.5


@pytest.mark.parametrize(
    ("box_shape", "inner"), [((12, 20, 9), (4, 4, 12)), ((50, 53, 20), (19, 11, 27)), ((9, 8, 20), (27, 8, 5)),
                             ((12, 12, 12), (3, 4, 6)), ((5, 7, 9), (7, 21, 13))]
)  # fmt: skip
def test_a_ramp_stays_where_it_is_both_ways(box_shape: tuple[int, int, int], inner: tuple[int, int, int]) -> None:
    def ramp(shape: tuple[int, int, int]) -> NDArray[np.float64]:
        """Return, at the centre of each voxel, x + 2 y + 4 z, each from 0 to 1 across the box."""
        x, y, z = ((np.arange(n) + 0.5) / n for n in shape)
        return np.asarray(x[:, None, None] + 2 * y[:, None] + 4 * z)

    def within(new: tuple[int, int, int], old: tuple[int, int, int]) -> tuple[slice, ...]:
        """Cut off what reaches beyond the outermost centres of the voxels that it is interpolated from."""
        edges = [-(-n // (2 * o)) if n > o else int(o % n > 0) for n, o in zip(new, old, strict=True)]
        return tuple(slice(edge, n - edge) for edge, n in zip(edges, new, strict=True))

    geometry = _geometry(box_shape, (1.0, 1.0, 1.0), inner)
    on_grid = geometry.from_box(torch.from_numpy(ramp(box_shape))[None], inner)[0].numpy()
    back = geometry.to_scan(torch.from_numpy(ramp(inner))[None])[0].numpy()

    there, here = within(inner, box_shape), within(box_shape, inner)
    np.testing.assert_allclose(on_grid[there], ramp(inner)[there], atol=1e-5)
    np.testing.assert_allclose(back[here], ramp(box_shape)[here], atol=1e-5)


def test_masks_of_thick_slices_are_the_majority_of_the_voxels_they_cover(
    tmp_path: Path, draw_volumes: Callable[..., Volumes], write_case: Callable[..., Path]
) -> None:
    write_case(tmp_path, draw_volumes(), spacing_mm=(1.0, 1.0, 4.0))

    prepared = _prepare(tmp_path, grid=(16, 16, 16), spacing_mm=3.0)

    assert prepared.geometry.inner_shape == (3, 4, 8)  # of a brain of 8 × 11 × 6 voxels
    seg = torch.from_numpy((draw_volumes()["seg"][BRAIN] > 0).astype(np.float64))
    share = torch.nn.functional.adaptive_avg_pool2d(seg.permute(2, 0, 1), (3, 4)).permute(1, 2, 0).numpy()
    heights = np.clip((np.arange(8) + 0.5) * 6 / 8 - 0.5, 0, 5)  # where the centres of the new slices lie among the old
    below = np.floor(heights).astype(int)
    above = np.minimum(below + 1, 5)
    expected = share[..., below] * (1 - (heights - below)) + share[..., above] * (heights - below)
    np.testing.assert_array_equal(prepared.mask[1, 6:9, 6:10, 4:12], expected >= 0.5)
    assert prepared.mask[1].any()


def test_hash_tells_scans_apart_but_not_their_padding(
    tmp_path: Path, draw_volumes: Callable[..., Volumes], write_case: Callable[..., Path]
) -> None:
    write_case(tmp_path / "a", draw_volumes())
    write_case(tmp_path / "padded", {n: np.pad(v, ((0, 3), (2, 0), (1, 1))) for n, v in draw_volumes().items()})
    changed = draw_volumes()
    changed["flair"][5, 5, 5] += 1
    write_case(tmp_path / "changed", changed)

    one = _prepare(tmp_path / "a").voxel_hash

    assert _prepare(tmp_path / "padded").voxel_hash == one
    assert _prepare(tmp_path / "changed").voxel_hash != one


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32, np.float64])
def test_segmentation_is_read_whatever_its_type_on_disk(
    tmp_path: Path, draw_volumes: Callable[..., Volumes], write_case: Callable[..., Path], dtype: type
) -> None:
    volumes = draw_volumes()
    volumes["seg"] = volumes["seg"].astype(dtype)
    write_case(tmp_path, volumes)
    seg = draw_volumes()["seg"]
    expected = [np.isin(seg, labels).sum() for labels in ((1, 4), (1, 2, 4), (4,))]
    assert _prepare(tmp_path).truth.sum((1, 2, 3)).tolist() == expected


def test_uncompressed_files_prepare_to_the_same_arrays(
    tmp_path: Path, draw_volumes: Callable[..., Volumes], write_case: Callable[..., Path]
) -> None:
    write_case(tmp_path / "gz", draw_volumes())
    write_case(tmp_path / "plain", draw_volumes(), extension=".nii")
    np.testing.assert_array_equal(_prepare(tmp_path / "gz").image, _prepare(tmp_path / "plain").image)
