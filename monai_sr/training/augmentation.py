"""Random thick slices for training: factor, axis, thickness, profile and noise are drawn each time."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Randomizable
from torch import Tensor

from ..grid import Grid, as_floating, grid_of, on_grid, voxels_of
from ..slices import Profile, SliceModel, apply_along, interpolation_matrix, profile_matrix


class RandSimulateThickSlicesd(Randomizable, MapTransform):
    """A training pair from a volume of thin slices: simulated thick slices, and the thin slices as reference.

    It draws, from ``self.R``: the slice axis among those with a spacing near the finest, the factor, the ratio of
    thickness to spacing, the profile, the noise, and the thickness and profile that are given to the network.
    Sometimes a Gaussian is given instead of another profile, or a wrong thickness, so that the network learns to
    tolerate both. From a key ``image`` it makes

    - ``image``: input of the network, normalized like the volume: the consistent spline on the thin grid
      (``works_on="thin"``), or the acquired slices converted to a standard profile (``works_on="thick"``), see
      :meth:`monai_sr.slices.SliceModel.standard_slices`;
    - ``label``: the reference, through-plane axis last;
    - ``acquired``, ``acquisition``, ``spline``: y, and A and B for the given thickness and profile, for
      :func:`monai_sr.slices.enforce_consistency` after the network.

    Args:
        keys: volumes of thin slices, (1, X, Y, Z).
        factors: thin slices per thick slice; one value is drawn.
        works_on: "thin" or "thick", see the network.
        thickness_ratios: range of thickness divided by spacing.
        usual: probability that thickness equals spacing instead.
        gaps: probability that slices are as thin as the output slices instead: plain subsampling.
        box: probability of a box profile.
        triangle: probability of a triangle profile, as helical CT has it; all other slices have a Gaussian one.
        profile_given: probability that the network is given a box or triangle as such; otherwise it is given a
            Gaussian of that width.
        mistaken: probability that the given thickness is wrong.
        mistake: maximum relative error of the given thickness.
        noise: maximum standard deviation of noise on the thick slices, in units of the input.
        noisy: probability of noise.
        isotropy: an axis can be the slice axis if its spacing is at most this many times the finest.
    """

    def __init__(
        self,
        keys: KeysCollection,
        *,
        factors: Sequence[float] = (2, 3, 4),
        works_on: Literal["thin", "thick"] = "thin",
        thickness_ratios: tuple[float, float] = (0.25, 1.5),
        usual: float = 0.45,
        gaps: float = 0.15,
        box: float = 0.2,
        triangle: float = 0.0,
        profile_given: float = 0.7,
        mistaken: float = 0.15,
        mistake: float = 0.25,
        noise: float = 0.02,
        noisy: float = 0.25,
        isotropy: float = 1.3,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        if works_on not in ("thin", "thick"):
            raise ValueError(f"works_on is {works_on!r}, must be 'thin' or 'thick'")
        if works_on == "thick" and any(np.log2(f) % 1 for f in factors):
            raise ValueError(f"a pyramid is trained at powers of two, not at factors {tuple(factors)}")
        self.factors, self.works_on = tuple(factors), works_on
        self.thickness_ratios, self.usual, self.gaps = thickness_ratios, usual, gaps
        self.box, self.triangle, self.profile_given = box, triangle, profile_given
        self.mistaken, self.mistake = mistaken, mistake
        self.noise, self.noisy, self.isotropy = noise, noisy, isotropy

    def randomize(self, spacing: Sequence[float], *, factor: float | None = None) -> None:  # type: ignore[override]
        """Draw all random values; ``spacing`` decides which axes can be the slice axis, ``factor`` may be given."""
        near = [a for a in range(3) if spacing[a] <= self.isotropy * min(spacing)]
        self.axis = int(self.R.choice(near))
        self.factor = float(self.R.choice(self.factors)) if factor is None else factor
        ratio, draw = float(self.R.uniform(*self.thickness_ratios)), self.R.random()
        self.ratio = 1.0 if draw < self.usual else 1 / self.factor if draw < self.usual + self.gaps else ratio
        draw = self.R.random()
        self.profile: Profile = (
            "box" if draw < self.box else "triangle" if draw < self.box + self.triangle else "gaussian"
        )
        self.given_profile: Profile = self.profile if self.R.random() < self.profile_given else "gaussian"
        mistake = float(self.R.uniform(-self.mistake, self.mistake))
        self.given_ratio = self.ratio * (1 + mistake if self.R.random() < self.mistaken else 1.0)
        sigma = float(self.R.uniform(0, self.noise))
        self.sigma = sigma if self.R.random() < self.noisy else 0.0

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        for key in self.key_iterator(result):
            result.update(self._pair(key, result[key]))
        return result

    def _pair(self, key: Hashable, volume: Tensor) -> dict[Hashable, Any]:
        self.randomize(grid_of(volume).spacing)
        hr = torch.movedim(voxels_of(volume), self.axis + 1, -1).float().contiguous()
        true, to_input, acquisition, spline = self.matrices(hr.shape[-1])
        lr = apply_along(true, hr)
        if self.sigma:
            lr = lr + torch.from_numpy(self.R.normal(0, self.sigma, lr.shape)).to(lr)
        return {
            key: apply_along(to_input, lr),
            "label": hr,
            "acquired": lr,
            "acquisition": acquisition.float(),
            "spline": spline.float(),
        }

    def matrices(self, n: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The drawn acquisition of ``n`` thin slices: thin to thick, thick to the input, and A and B as given.

        Raises:
            ValueError: a pyramid needs a number of slices that is a multiple of the factor.
        """
        m = max(2, round(n / self.factor))
        if self.works_on == "thick" and m * self.factor != n:
            raise ValueError(f"{n} thin slices are not a multiple of the factor {self.factor:g}")
        thin, thick = np.arange(n) - (n - 1) / 2, (np.arange(m) - (m - 1) / 2) * self.factor
        true = profile_matrix(thin, thick, slice_thickness=self.ratio * self.factor, profile=self.profile)
        model = SliceModel.between(
            thick, thin, slice_thickness=self.given_ratio * self.factor, profile=self.given_profile
        )
        to_input = model.spline if self.works_on == "thin" else torch.from_numpy(model.standard_slices())
        return true, to_input, model.acquisition, model.spline


class RandCoarseCropd(Randomizable, MapTransform):
    """A random crop, sometimes of a coarser copy of the volume.

    This adds voxel sizes that the training data do not have, with sharp references of low noise, because averaging
    neighbors removes noise and blur.

    Args:
        keys: volumes (C, X, Y, Z) with affine, at least ``size`` along every axis.
        size: voxels of the crop.
        coarsest: maximum growth of the voxels, limited by the size of the volume.
        coarse: probability of a growth.
    """

    def __init__(
        self,
        keys: KeysCollection,
        size: Sequence[int],
        *,
        coarsest: float = 2.0,
        coarse: float = 0.3,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        if not coarsest >= 1:
            raise ValueError(f"coarsest is {coarsest}, must be at least 1")
        self.size, self.coarsest, self.coarse = tuple(size), coarsest, coarse

    def randomize(self, shape: Sequence[int]) -> None:  # type: ignore[override]
        """Draw the growth of the voxels and the position of the crop in a volume of this shape."""
        limit = min(self.coarsest, *(n / size for n, size in zip(shape, self.size, strict=True)))
        if limit < 1:
            raise ValueError(f"the volume {tuple(shape)} is smaller than the crop {self.size}")
        growth = float(self.R.uniform(1, limit))
        self.growth = growth if self.R.random() < self.coarse else 1.0
        self.lengths = [int(np.ceil(size * self.growth - 1e-9)) for size in self.size]
        self.first = [int(self.R.randint(0, n - length + 1)) for n, length in zip(shape, self.lengths, strict=True)]

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        for key in self.key_iterator(result):
            self.randomize(result[key].shape[1:])
            result[key] = self._crop(result[key])
        return result

    def _crop(self, volume: Tensor) -> MetaTensor:
        grid = grid_of(volume)
        voxels = as_floating(volume)
        affine = grid.affine.copy()
        affine[:3, 3] += affine[:3, :3] @ (np.array(self.first) + (self.growth - 1) / 2)
        affine[:3, :3] *= self.growth
        for axis, (first, length, size) in enumerate(zip(self.first, self.lengths, self.size, strict=True)):
            voxels = voxels.narrow(axis + 1, first, length)
            if self.growth != 1:
                voxels = apply_along(_averages(length, size, self.growth), voxels, axis + 1)
        shape = (self.size[0], self.size[1], self.size[2])
        return on_grid(voxels.contiguous(), Grid(shape, affine), volume)


def _averages(length: int, size: int, growth: float) -> Tensor:
    """(size, length): means over ``growth`` voxels each, of the cubic spline through the voxels.

    Means of the voxels as blocks would vary in position by a tenth of a voxel.
    """
    fine = (np.arange(length * 8) - 3.5) / 8
    centers = np.arange(size) * growth + (growth - 1) / 2
    means = profile_matrix(fine, centers, slice_thickness=growth, profile="box")
    return means @ interpolation_matrix(np.arange(length), fine)
