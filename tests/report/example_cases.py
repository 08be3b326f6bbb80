"""Example cases: small scans of noise, with boxes as regions."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedserdiff.report.examples import Example

GRID = (12, 16, 10)
REGIONS = ("ventricle", "heart", "scar", "3", "4", "5", "6", "7")
ORDER = (1, 0, 3, 4, 5, 6, 7, 2)  # from the largest to the smallest


def masks(shift: int) -> NDArray[np.bool_]:
    """Boxes, the first three one in another, the others so too; one voxel is in all. `shift` moves them along z."""
    boxes = np.zeros((8, *GRID), bool)
    boxes[1, 2:9, 3:12, 2:7] = boxes[0, 3:8, 4:10, 2:6] = boxes[2, 4:6, 5:8, 3:5] = True
    for region in range(3, 8):
        boxes[region, 9:11, 2 : 14 - 2 * (region - 3), 2:6] = True
    boxes[:, 5, 6, 4] = True
    return np.roll(boxes, shift, -1)


def example(site: str = "north", seed: int = 0, taught: bool = True, shift: int = 0, **more: Any) -> Example:
    rng = np.random.default_rng(seed)
    image = np.zeros(GRID, np.float16)
    image[1:-1, 1:-1, 1:-1] = rng.normal(size=(10, 14, 8))
    errors = rng.uniform(-1, 1, (2, len(REGIONS), *GRID)).astype(np.float16)
    values: dict[str, Any] = {
        "site": site,
        "case": f"case-{seed}",
        "modality": "CT",
        "regions": REGIONS,
        "spacing_mm": (2.0, 2.0, 3.5),
        "image": image,
        "truth": masks(0),
        "coarse": masks(1),
        "refined": masks(shift),
        "error_map": errors[0],
        "teacher_error_map": errors[1] if taught else None,
        "dice": {"coarse": 0.5, "refined": 0.873},
    }
    return Example(**values | more)
