"""A hospital's training set, and its batches, which are prepared ahead of the steps."""

import math
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from fedserdiff.augmentation.batch import Parameters, apply
from fedserdiff.augmentation.movement import Movement, follow
from fedserdiff.data.cache import CachedCase
from fedserdiff.device import room_on, to_device
from fedserdiff.settings.experiment import Settings
from sites.patches import Patches, shared

_AHEAD = 2
"""Number of batches prepared ahead."""

_KEEPING = {"cuda"}
"""Device types that keep a training set in memory; a CPU has it in the system's file cache."""

_MOST_KEPT = 0.2
"""Largest share of a GPU's free memory that a training set may occupy permanently (our choice)."""


@dataclass(frozen=True)
class Batch:
    """Training items: `image` (B, 4, *grid) and `truth` (B, 3, *grid), float32, and their `index` in the set.

    The grid is that of a slice, a volume, or a patch of either with the requested margin.

    `mirrored` says whether the items were flipped left to right, and `movement` how samples were moved after that.
    """

    image: torch.Tensor
    truth: torch.Tensor
    index: torch.Tensor
    mirrored: bool = False
    movement: Movement | None = None

    def mirror(self) -> "Batch":
        """Return the batch flipped left to right; its samples must not have been moved yet."""
        return Batch(self.image.flip(2), self.truth.flip(2), self.index, not self.mirrored)

    def augment(self, parameters: Parameters, shape: Sequence[int]) -> "Batch":
        """Return the batch augmented by `parameters`, in `shape` without margin; samples must not be moved yet."""
        image, truth = apply(self.image, self.truth, parameters, shape)
        return Batch(image, truth, self.index, self.mirrored, parameters.movement)

    def follow(self, values: torch.Tensor) -> torch.Tensor:
        """Return values (B, C, *grid) of the items' voxels, mirrored and moved like the batch."""
        flipped = values.flip(2) if self.mirrored else values
        return flipped if self.movement is None else follow(flipped, self.movement)


class TrainingSet:
    """A hospital's training set: every axial slice that shows brain (2D), every volume (3D), or patches of them.

    The index of an item is its number. The index of a patch is its item's number plus the number of items times the
    number of its place in the item.

    Parameters
    ----------
    cases : sequence of CachedCase
        Training cases, at least one.
    config : Settings
        Settings with the number of spatial dimensions, the patch size and the share that shows tumour.
    device : torch.device
        Device of the batches. A GPU keeps the whole set as float16 if that is a small part of its free memory.

    Attributes
    ----------
    cases : sequence of CachedCase
    device : torch.device
    """

    def __init__(self, cases: Sequence[CachedCase], config: Settings, device: torch.device) -> None:
        self.cases = cases
        self.device = device
        self._slices = config.data.spatial_dims == 2
        self._grid, self._channels = config.data.grid, (len(config.data.modalities), len(config.data.regions))
        self._in_patches, self._shape = bool(config.training.patch), config.sample_shape
        self._tumour_share = config.training.tumour_share
        items: list[tuple[int, int]] = []
        shows_tumour: list[bool] = []
        for number, case in enumerate(cases):
            brain, tumour = case.prepared.slices()  # from the index: no round reads voxels to find tumour
            if self._slices:
                items.extend((number, int(z)) for z in brain)
                shows_tumour.extend(np.isin(brain, tumour).tolist())
            else:
                items.append((number, 0))
                shows_tumour.append(len(tumour) > 0)
        self._items = items
        self._shows_tumour = torch.tensor(shows_tumour, dtype=torch.bool)
        self._tumour = torch.from_numpy(np.flatnonzero(shows_tumour))
        self._patches = Patches(cases, items, self._grid, self._shape)

    @cached_property
    def copying(self) -> torch.cuda.Stream:
        """The CUDA stream in which batches are copied."""
        return torch.cuda.Stream(self.device)

    def __len__(self) -> int:
        return len(self._items)

    def draw(self, size: int, generator: torch.Generator) -> torch.Tensor:
        """Draw indices, shape (size,); the first ones are from items that show tumour, with patches centred on it.

        Their share is `training.tumour_share`. Half of a batch is our choice; nnU-Net uses a third of the patches.
        """
        of_tumour = self._of_tumour(size, generator) if len(self._tumour) else 0
        anywhere = torch.randint(0, len(self), (size - of_tumour,), generator=generator)
        if of_tumour:
            chosen = self._tumour[torch.randint(0, len(self._tumour), (of_tumour,), generator=generator)]
            anywhere = torch.cat([chosen, anywhere])
        return self.placed(anywhere, of_tumour, generator)

    def placed(self, items: torch.Tensor, about_tumour: int, generator: torch.Generator) -> torch.Tensor:
        """Draw a patch for each item and return the patches' indices; without patches, return the items.

        The first `about_tumour` patches are centred, as far as the grid allows, on a tumour voxel of their item, if it
        has any. The others lie anywhere in the brain's box.
        """
        if not self._in_patches:
            return items
        shows_tumour = self._shows_tumour[items].tolist()
        places = [
            self._patches.draw(item, number < about_tumour and shows_tumour[number], generator)
            for number, item in enumerate(items.tolist())
        ]
        return items + len(self) * torch.tensor(places, dtype=torch.long)

    def _of_tumour(self, size: int, generator: torch.Generator) -> int:
        """Return how many samples of a batch are drawn to show tumour; for patches, fractions are rounded by chance.

        Otherwise a batch of a single patch would never show tumour.
        """
        chance = float(torch.rand(1, generator=generator)) if self._in_patches else 0.0
        return math.floor(self._tumour_share * size + chance)

    def items_an_epoch(self, balanced: bool) -> int:
        """Return the total number of items in all batches of `epoch`."""
        return len(self) + self._repeats(balanced)

    def epoch(self, size: int, generator: torch.Generator, balanced: bool) -> tuple[torch.Tensor, ...]:
        """Return one pass over all items in random order, in batches of `size` indices; the last may be smaller.

        Each item, or one patch of it, comes once. If `balanced`, items that show tumour are repeated until they make up
        their share of the epoch. Within a batch they come first.
        """
        extra, order = self._repeats(balanced), [torch.randperm(len(self), generator=generator)]
        while extra > 0:
            again = self._tumour[torch.randperm(len(self._tumour), generator=generator)][:extra]
            order.append(again)
            extra -= len(again)
        whole = torch.cat(order)
        if balanced:
            whole = whole[torch.randperm(len(whole), generator=generator)]
        batches = (
            batch[(~self._shows_tumour[batch]).to(torch.uint8).argsort(stable=True)] for batch in whole.split(size)
        )
        return tuple(self.placed(batch, self._of_tumour(len(batch), generator), generator) for batch in batches)

    def _repeats(self, balanced: bool) -> int:
        """Return the total number of repetitions of items that show tumour in an epoch."""
        tumour, share = len(self._tumour), self._tumour_share
        return max(0, math.floor((share * len(self) - tumour) / (1 - share))) if balanced and tumour else 0

    def batch(self, index: torch.Tensor, mirrored: bool = False, margin: Sequence[int] | None = None) -> Batch:
        """Return the items at `index` (B,), a tensor on the host, optionally flipped left to right.

        Patches have a `margin` in voxels at both ends of each axis, filled with 0 beyond the grid; none by default.
        """
        kept = self._kept_items
        around = [0] * len(self._shape) if margin is None else margin
        shape = [own + 2 * more for own, more in zip(self._shape, around, strict=True)]
        windows = [self._window(one, around) for one in index.tolist()]
        if kept is None:
            image, truth = (to_device(part, self.device).float() for part in self._loaded(windows, shape))
        elif self._in_patches:
            image, truth = (_cut(part, windows, shape).float() for part in kept)
        else:
            rows = to_device(index, self.device)
            image, truth = (part[rows].float() for part in kept)
        batch = Batch(image, truth, index)
        return batch.mirror() if mirrored else batch

    def _window(self, index: int, margin: Sequence[int]) -> tuple[int, list[int]]:
        """Return the item of an index, and the first voxel of its patch including the margin."""
        place, item = divmod(index, len(self))
        return item, [at - more for at, more in zip(self._patches.corner(place), margin, strict=True)]

    @cached_property
    def _kept_items(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        """All items on the device, float16 and uint8, if there is room for them; otherwise None."""
        voxels = math.prod(self._grid) // (self._grid[2] if self._slices else 1)
        images, masks = self._channels
        size = len(self) * voxels * (2 * images + masks)
        if self.device.type not in _KEEPING or size > _MOST_KEPT * room_on(self.device):
            return None
        whole = self._grid[: len(self._shape)]
        everything = [(item, [0] * len(whole)) for item in range(len(self))]
        kept = [to_device(part, self.device) for part in self._loaded(everything, whole)]
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()  # other streams read them too
        return kept[0], kept[1]

    def _loaded(
        self, windows: Sequence[tuple[int, Sequence[int]]], shape: Sequence[int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Load windows of a shape, each given by an item and a first voxel, on the host.

        They are float32 for the CPU. For a GPU they keep the stored types, so that less is copied.
        """
        x, y, z = (*shape, 1) if self._slices else shape
        kinds = (np.float32, np.float32) if self.device.type == "cpu" else (np.float16, np.uint8)
        # Channels last in memory, as in the store; NumPy's zeros cost nothing where nothing is written.
        shapes = [(len(windows), z, y, x, channels) for channels in self._channels]
        image, truth = (
            torch.from_numpy(np.zeros(shape, kind)).permute(0, 4, 3, 2, 1)
            for shape, kind in zip(shapes, kinds, strict=True)
        )
        for number, (item, start) in enumerate(windows):
            case, at = self._items[item]
            first = (*start, at) if self._slices else tuple(start)
            axial = slice(max(first[2], 0), max(first[2] + z, 0))
            box, of_image, of_mask = self.cases[case].prepared.boxed(axial)
            to, source = shared(box, first, (x, y, z))
            image[number][(slice(None), *to)] = torch.from_numpy(of_image[(slice(None), *source)])
            truth[number][(slice(None), *to)] = torch.from_numpy(of_mask[(slice(None), *source)])
        return (image[..., 0], truth[..., 0]) if self._slices else (image, truth)


def _cut(items: torch.Tensor, windows: Sequence[tuple[int, Sequence[int]]], shape: Sequence[int]) -> torch.Tensor:
    """Cut windows of a shape from items (N, C, *grid), each given by an item and a first voxel; 0 beyond the grid."""
    found = items.new_zeros(len(windows), items.shape[1], *shape)
    whole = [slice(0, n) for n in items.shape[2:]]
    for number, (item, start) in enumerate(windows):
        to, source = shared(whole, start, shape)
        found[number][(slice(None), *to)] = items[item][(slice(None), *source)]
    return found


def ahead(
    training_set: TrainingSet,
    wanted: Iterable[tuple[torch.Tensor, bool]],
    margin: Sequence[int] | None = None,
) -> Generator[Batch, None, None]:
    """Yield batches in order, prepared by a separate thread during the steps on earlier batches.

    Parameters
    ----------
    training_set : TrainingSet
    wanted : iterable of (Tensor, bool)
        Arguments of `TrainingSet.batch`; they are drawn in the iterating thread, in order, a few steps ahead.
    margin : sequence of int, optional
        As in `TrainingSet.batch`.
    """
    waiting: deque[Future[tuple[Batch, torch.cuda.Event | None]]] = deque()
    pool = ThreadPoolExecutor(1, "loading", torch.set_num_threads, (1,))
    try:
        for index, mirrored in wanted:
            waiting.append(pool.submit(_load, training_set, index, mirrored, margin))
            if len(waiting) > _AHEAD:
                yield _arrived(*waiting.popleft().result())
        while waiting:
            yield _arrived(*waiting.popleft().result())
    finally:
        pool.shutdown(cancel_futures=True)


def _load(
    training_set: TrainingSet, index: torch.Tensor, mirrored: bool, margin: Sequence[int] | None
) -> tuple[Batch, torch.cuda.Event | None]:
    """Make a batch; a GPU copies it in parallel with its computations, and the event marks the end of the copy."""
    if training_set.device.type != "cuda":
        return training_set.batch(index, mirrored, margin), None
    copying = training_set.copying
    with torch.cuda.stream(copying):
        batch = training_set.batch(index, mirrored, margin)
    return batch, copying.record_event()


def _arrived(batch: Batch, there: torch.cuda.Event | None) -> Batch:
    """Let the GPU's next computations wait for a batch, and keep its memory until then."""
    if there is not None:
        now = torch.cuda.current_stream(batch.image.device)
        now.wait_event(there)
        for tensor in (batch.image, batch.truth):
            tensor.record_stream(now)
    return batch
