"""Methods that bundles are compared with: interpolation, and other programs.

Every method is called like the Model of a bundle: ``method(image, factor=, slice_thickness=, axis=)`` with
(1, X, Y, Z) thick slices and the FWHM of their profile in mm. It returns (1, X', Y', Z') with an affine.
"""

from __future__ import annotations

import os
import shlex
import string
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import cast

import numpy as np
import torch
from monai.data import MetaTensor
from scipy import ndimage
from torch import Tensor

from ..acquired import Acquired
from ..errors import SuperResolutionError, UsageError
from ..grid import Grid, grid_of, on_grid, target_grid
from ..io.images import read_image, write_image
from ..io.itk import simple_itk
from ..slices import apply_along
from ..transforms import interpolate_slices

SuperResolution = Callable[..., Tensor]

SPLINE = "consistent"
"""The consistent spline, the reference of all gains."""

FIELDS = ("lr", "out", "factor", "axis", "modality", "thickness", "spacing")
"""Fields of an external command, see :class:`ExternalMethod`."""

PATIENCE = 3600.0
"""An external command is stopped after so many seconds."""

_SAME_PLACE = 1e-3
"""Voxels; grids that differ by less are equal."""

_SINC_REACH = 8
"""Copies of the last slice at each end; SimpleITK's windowed sincs reach five samples."""


class PeerError(SuperResolutionError):
    """Another program gave no result; only its own rows are missing."""

    exit_code = 4


def windowed_sinc(image: MetaTensor, *, factor: float, slice_thickness: float, axis: int) -> Tensor:
    """SimpleITK's Lanczos-windowed sinc along the slice axis; the last slices are repeated at the ends."""
    grid = grid_of(image)
    wanted, _ = target_grid(grid, factor=factor, axis=axis)
    matrix = sinc_matrix(grid.shape[axis], wanted.positions(axis) / grid.spacing[axis])
    return on_grid(apply_along(matrix, image.as_tensor().float(), axis + 1), wanted, image)


def sinc_matrix(count: int, positions: np.ndarray) -> Tensor:
    """(n, count) weights of SimpleITK's Lanczos-windowed sinc, measured by resampling unit slices.

    Args:
        count: number of acquired slices.
        positions: (n,) positions of the output slices, in slice spacings from the middle.
    """
    sitk = simple_itk()
    units = np.pad(np.eye(count), ((_SINC_REACH, _SINC_REACH), (0, 0)), mode="edge")
    first = positions[0] + (count - 1) / 2 + _SINC_REACH
    step = positions[1] - positions[0] if len(positions) > 1 else 1.0
    resampled = sitk.Resample(
        sitk.GetImageFromArray(units),  # its second axis is numpy's first
        (count, len(positions)),
        sitk.Transform(2, sitk.sitkIdentity),
        sitk.sitkLanczosWindowedSinc,
        (0.0, float(first)),
        (1.0, float(step)),
    )
    return torch.from_numpy(sitk.GetArrayFromImage(resampled))


BASELINES: Mapping[str, SuperResolution] = MappingProxyType(
    {
        "linear": partial(interpolate_slices, method="linear"),
        "cubic": partial(interpolate_slices, method="cubic"),
        "sinc": windowed_sinc,
        SPLINE: partial(interpolate_slices, method="consistent"),
    }
)
"""Interpolation without a network."""


class ExternalMethod:
    """A program that super-resolves one NIfTI file, as a method.

    Args:
        name: its name in tables.
        command: split into words as by a shell, then filled in; no shell runs it. ``{lr}`` is the
            thick volume with its affine, ``{out}`` the NIfTI file to write, with the affine that the
            program assigns. More fields: ``{factor}``, ``{axis}`` (0, 1 or 2), ``{modality}`` ("ct"
            or "mr"), ``{thickness}`` of the slices and wanted ``{spacing}`` in mm. ``$NAMES`` are
            environment variables.

    Raises:
        UsageError: a field is unknown, or ``{lr}`` or ``{out}`` is missing.
    """

    def __init__(self, name: str, command: str) -> None:
        self.name, self.command = name, command
        try:
            self._words = shlex.split(command)
            used = {field for word in self._words for _, field, _, _ in string.Formatter().parse(word)} - {None}
        except ValueError as error:
            raise UsageError("E-USE", f"peer {name!r}: {error}", fix="check quotes and braces") from error
        if used - set(FIELDS) or not {"lr", "out"} <= used:
            problem = f"peer {name!r} uses the fields {', '.join(sorted(map(str, used))) or '(none)'}"
            fix = f"it needs {{lr}} and {{out}}, and may use {', '.join(f'{{{field}}}' for field in FIELDS[2:])}"
            raise UsageError("E-USE", problem, fix=fix)

    def __call__(self, image: MetaTensor, *, factor: float, slice_thickness: float, axis: int) -> Tensor:
        """Run the program; returns its result on the grid that it wrote.

        Raises:
            PeerError: it failed, took more than an hour, or wrote no valid volume.
        """
        with tempfile.TemporaryDirectory(prefix="monai-sr-peer-") as folder:
            lr, out = Path(folder, "lr.nii.gz"), Path(folder, "out.nii.gz")
            write_image(image, lr, dtype=np.float32)
            values = {
                "lr": str(lr),
                "out": str(out),
                "factor": f"{factor:g}",
                "axis": str(axis),
                "modality": Acquired.of(image).modality.lower(),
                "thickness": f"{slice_thickness:.6g}",
                "spacing": f"{grid_of(image).spacing[axis] / factor:.6g}",
            }
            words = [os.path.expandvars(word).format(**values) for word in self._words]
            try:
                done = subprocess.run(
                    words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=PATIENCE, check=False
                )
            except subprocess.TimeoutExpired as error:
                raise self._failure(f"no result after {PATIENCE:g} s") from error
            except OSError as error:
                raise self._failure(f"cannot be started: {error}") from error
            lines = done.stdout.decode(errors="replace").strip().splitlines()
            if done.returncode or not out.is_file():
                last = lines[-1][:200] if lines else "no message"
                raise self._failure(f"exit code {done.returncode}, {'' if out.is_file() else 'no output, '}{last}")
            try:
                return read_image(out)
            except SuperResolutionError as error:
                raise self._failure(f"its output: {error.problem}") from error

    def _failure(self, what: str) -> PeerError:
        return PeerError("E-PEER", f"{self.name}: {what}")


def resample_to(image: Tensor, grid: Grid, *, order: int = 3) -> np.ndarray:
    """A (1, X, Y, Z) result as (X, Y, Z) voxels on ``grid``, by the two affines.

    Equal grids are not resampled, grids that differ by whole voxels are shifted, others are resampled by
    splines of an order (0 takes the nearest voxel). The outermost voxels are repeated at the ends.
    """
    voxels = image[0].detach().cpu().numpy()
    index = np.linalg.inv(grid_of(image).affine) @ grid.affine
    turn, shift = index[:3, :3], index[:3, 3]
    off = np.abs(turn - np.eye(3)) @ np.array(grid.shape)
    if off.max() < 0.1 and np.allclose(shift, np.round(shift), atol=_SAME_PLACE):
        places = [
            np.clip(np.arange(n) + round(float(o)), 0, size - 1)
            for n, o, size in zip(grid.shape, shift, voxels.shape, strict=True)
        ]
        return voxels[np.ix_(*places)]
    return ndimage.affine_transform(voxels, turn, shift, output_shape=grid.shape, order=order, mode="nearest")


def peer(text: str) -> tuple[str, SuperResolution]:
    """``name=command`` as a name and its method.

    Raises:
        UsageError: there is no name, or see :class:`ExternalMethod`.
    """
    name, _, command = text.partition("=")
    if not name.strip() or not command.strip():
        raise UsageError("E-USE", f"{text!r} was given as a peer", fix="give --peer 'name=command {lr} {out}'")
    return name.strip(), cast(SuperResolution, ExternalMethod(name.strip(), command))
