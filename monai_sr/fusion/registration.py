"""Rigid registration of stacks by SimpleITK: every stack to the first, then to the mean of the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..errors import ImageError, warn
from ..grid import Grid
from ..io.fields import LPS_TO_RAS
from ..io.itk import angle_of, rigid_matrix, simple_itk, to_itk
from .operators import is_known, resample
from .scaling import mean_over_cubes
from .stacks import no_overlap

Image = tuple[Tensor, Tensor, Grid]
"""(X, Y, Z) voxels, mask of known ones, and their grid."""

WORKING_SPACING = 1.2
"""mm; finer images are registered at this spacing, which is finer than what thick slices resolve."""

LEVELS = ((4, 2.0), (2, 1.0), (1, 0.0))
"""Of the pyramid: shrink factor, and standard deviation of the Gaussian before, in voxels."""

SAMPLES = 100_000
"""Voxels of a level that the metric is measured on, at most."""

SMALL_MOTION = 0.25
"""Voxels of the common grid; less is not corrected, because resampling costs more than it gains."""

MIN_OVERLAP = 0.02
"""Of the smaller stack: with less in common, stacks are not registered."""

MIN_OVERLAP_VOXELS = 2000
"""At the working spacing."""

UNLIKE, DOUBTFUL = 0.3, 0.6
"""Correlation of stacks below which they show another contrast or patient, and below which that is possible."""

MAX_MM, MAX_DEGREES = 50.0, 25.0
"""Larger motions within a session are not plausible; a registration that ends there went astray."""


@dataclass(frozen=True)
class Motion:
    """A rigid motion and how it was found.

    Attributes:
        matrix: (4, 4) RAS+ mm of the moved image to RAS+ mm of the fixed one.
        before, after: correlation of the images where they overlap; NaN without overlap.
        mm: mean distance that it moves the first stack by.
        degrees: angle of the rotation.
        is_used: whether the stack is moved by it; a motion too small to matter, or not plausible, is not used.
    """

    matrix: np.ndarray
    before: float
    after: float
    mm: float = 0.0
    degrees: float = 0.0
    is_used: bool = False

    @property
    def used(self) -> np.ndarray:
        """The motion that is used: the identity, or the matrix."""
        return self.matrix if self.is_used else np.eye(4)

    @property
    def is_plausible(self) -> bool:
        """Whether it improves the agreement and is no larger than patients move."""
        return self.after > self.before and self.mm < MAX_MM and self.degrees < MAX_DEGREES


def correlation(fixed: Tensor, moved: Tensor, mask: Tensor) -> float:
    """Pearson's, of the voxels of a mask; NaN for too few."""
    if int(mask.sum()) < MIN_OVERLAP_VOXELS:
        return float("nan")
    a, b = (v[mask].double() - v[mask].double().mean() for v in (fixed, moved))
    return float((a @ b) / (a.norm() * b.norm()).clamp(min=1e-12))


def coarse(voxels: Tensor, known: Tensor, grid: Grid) -> Image:
    """A volume and its mask at the working spacing, by the mean of whole voxels, so that nothing folds back."""
    (volume,), mask, there = mean_over_cubes([voxels], known, grid, WORKING_SPACING)
    return volume, mask, there


def align(images: Sequence[Image], names: Sequence[str], *, shortest: float, register: bool) -> list[Motion]:
    """The motion of each stack to the first: to the first alone, then to the mean of all others.

    Args:
        images: of every stack, in one frame of reference.
        names: of the stacks, for messages.
        shortest: mm; smaller motions are not used.
        register: whether to move them; else only their agreement is measured.

    Raises:
        ImageError: a stack has nothing in common with the first (E-FUSE-OVERLAP), or shows another contrast or
            patient (E-FUSE-UNLIKE).
    """
    motions = [Motion(np.eye(4), 1.0, 1.0)]
    for image, name in zip(images[1:], names[1:], strict=True):
        before, overlap = _agreement(images[0], image, np.eye(4))
        if not bool(overlap.any()):
            raise no_overlap("it has no region in common with the first stack").at(name)
        known = before, overlap
        motions.append(
            find_motion(images[0], image, agreement=known) if register else Motion(np.eye(4), before, before)
        )
    if register and len(images) > 2:
        motions = [motions[0], *(_refined(images, motions, number) for number in range(1, len(images)))]
    return [motions[0], *(_judged(m, name, shortest, register) for m, name in zip(motions[1:], names[1:], strict=True))]


def _refined(images: Sequence[Image], motions: Sequence[Motion], number: int) -> Motion:
    """The motion of a stack to the mean of the others, which cover more of it than the first alone."""
    mine = motions[number]
    if not mine.is_plausible:
        return mine
    _, _, grid = images[0]
    total, count = torch.zeros(grid.shape), torch.zeros(grid.shape)
    for other, (image, motion) in enumerate(zip(images, motions, strict=True)):
        if other == number or not (other == 0 or motion.is_plausible):
            continue
        moved = Grid(image[2].shape, motion.matrix @ image[2].affine)
        values, inside = resample(image[0], moved, grid)
        known = inside & is_known(image[1], moved, grid)
        total += torch.where(known, values, 0.0)
        count += known
    again = find_motion((total / count.clamp(min=1), count > 0, grid), images[number], start=mine.matrix)
    if not again.after > again.before:
        return mine
    after, _ = _agreement(images[0], images[number], again.matrix)
    return replace(again, before=mine.before, after=after, mm=_distance(again.matrix, images[0]))


def _judged(motion: Motion, name: str, shortest: float, register: bool) -> Motion:
    """A motion that is used if it is plausible, with a warning if it is not."""
    if register and not motion.is_plausible and motion.mm >= shortest:
        problem = "no plausible rigid motion was found ({mm:.3g} mm, {degrees:.3g} degrees); the header is used"
        warn("W-FUSE-REGISTER", problem, path=name, facts={"mm": motion.mm, "degrees": motion.degrees})
    if register and np.isnan(motion.after):
        problem = "it overlaps the first stack too little to be registered; its header is used"
        warn("W-FUSE-REGISTER", problem, path=name)
    used = register and motion.is_plausible and motion.mm >= shortest
    agreement = motion.after if used else motion.before
    facts = {"correlation": agreement, "minimum": UNLIKE}
    problem = "it does not look like the first stack (correlation {correlation:.2f})"
    if agreement < UNLIKE:
        fix = "fuse stacks of one contrast and one patient"
        raise ImageError("E-FUSE-UNLIKE", problem, fix=fix, path=name, facts=facts)
    if agreement < DOUBTFUL:
        warn("W-FUSE-UNLIKE", problem, path=name, facts=facts)
    return replace(motion, is_used=used)


def find_motion(
    fixed: Image, moving: Image, *, start: np.ndarray | None = None, agreement: tuple[float, Tensor] | None = None
) -> Motion:
    """The rigid motion of ``moving`` that makes it correlate best with ``fixed``.

    Args:
        fixed, moving: (X, Y, Z) voxels, mask of known ones, and grid, in one frame of reference.
        start: (4, 4) motion to begin with. Default: identity.
        agreement: correlation and common region at the start. Default: measured.

    Returns:
        The motion; where the overlap is too small it is the start, and ``after`` is NaN.

    Source: Lowekamp 2013, "The design of SimpleITK"; Mattes 2003 for the metric.
    """
    sitk = simple_itk()
    start = np.eye(4) if start is None else start
    before, overlap = agreement or _agreement(fixed, moving, start)
    smaller = min(_volume(*fixed[1:]), _volume(*moving[1:]))
    size = overlap.sum().item() * abs(np.linalg.det(fixed[2].affine[:3, :3]))
    if np.isnan(before) or size < MIN_OVERLAP * smaller:
        return Motion(start, before, float("nan"))
    places = torch.nonzero(overlap).double().numpy()
    points = places @ fixed[2].affine[:3, :3].T + fixed[2].affine[:3, 3]
    images = [to_itk(_scaled(v, m).numpy(), g) for v, m, g in (fixed, moving)]
    masks = [to_itk(m.numpy().astype(np.uint8), g) for _, m, g in (fixed, moving)]
    # SimpleITK moves points of the fixed image to the moving one, in LPS
    inverse = LPS_TO_RAS @ np.linalg.inv(start) @ LPS_TO_RAS
    transform = sitk.Euler3DTransform()
    transform.SetCenter((LPS_TO_RAS[:3, :3] @ points.mean(axis=0)).tolist())
    transform.SetMatrix(inverse[:3, :3].ravel().tolist(), 1e-6)
    center = np.array(transform.GetCenter())
    transform.SetTranslation((inverse[:3, 3] + inverse[:3, :3] @ center - center).tolist())
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(48)
    method.SetMetricFixedMask(masks[0])
    method.SetMetricMovingMask(masks[1])
    method.SetInterpolator(sitk.sitkLinear)
    method.SetMetricSamplingStrategy(method.REGULAR)
    voxels = overlap.numel()
    method.SetMetricSamplingPercentagePerLevel(
        [float(min(1.0, SAMPLES / (voxels / shrink**3))) for shrink, _ in LEVELS], 1
    )
    method.SetShrinkFactorsPerLevel([shrink for shrink, _ in LEVELS])
    method.SetSmoothingSigmasPerLevel([sigma for _, sigma in LEVELS])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOff()
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=1.0, minStep=1e-4, numberOfIterations=200, relaxationFactor=0.7, gradientMagnitudeTolerance=1e-6
    )
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetInitialTransform(transform, inPlace=True)
    try:
        method.Execute(*images)
    except RuntimeError:  # no sample is in both images any more
        return Motion(start, before, float("nan"))
    matrix = np.linalg.inv(LPS_TO_RAS @ rigid_matrix(transform) @ LPS_TO_RAS)
    after = _agreement(fixed, moving, matrix)[0]
    return Motion(matrix, before, after, _distance(matrix, fixed), angle_of(matrix))


def _distance(matrix: np.ndarray, fixed: Image) -> float:
    """mm that a motion moves the fixed image by, on average over its corners and middle."""
    ends = [(0, (n - 1) / 2, n - 1) for n in fixed[2].shape]
    index = np.array([(x, y, z, 1) for x in ends[0] for y in ends[1] for z in ends[2]])
    points = index @ fixed[2].affine.T
    return float(np.linalg.norm((points @ matrix.T - points)[:, :3], axis=1).mean())


def _agreement(fixed: Image, moving: Image, matrix: np.ndarray) -> tuple[float, Tensor]:
    """Correlation of the images where both are known, and that region of the fixed one."""
    grid = Grid(moving[2].shape, matrix @ moving[2].affine)
    moved, inside = resample(moving[0], grid, fixed[2])
    mask = fixed[1] & inside & is_known(moving[1], grid, fixed[2])
    return correlation(fixed[0], moved, mask), mask


def _scaled(voxels: Tensor, mask: Tensor) -> Tensor:
    """Voxels from 0 to 1, bright and dark outliers held: they would take most bins of the histogram."""
    low, high = np.percentile(voxels[mask].numpy(), (0.5, 99.5))
    return ((voxels - low) / max(high - low, 1e-6)).clamp_(0, 1)


def _volume(mask: Tensor, grid: Grid) -> float:
    """mm³ that are known."""
    return int(mask.sum()) * abs(float(np.linalg.det(grid.affine[:3, :3])))
