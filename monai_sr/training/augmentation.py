"""Random thick slices to train on: another factor, axis, thickness, profile and noise each time."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Randomizable
from torch import Tensor

from ..grid import Grid, grid_of, on_grid
from ..slices import Profile, SliceModel, apply_along, profile_matrix
from ..transforms import _averages, _floating


class RandSimulateThickSlicesd(Randomizable, MapTransform):
    """A training pair from a volume of thin slices: thick ones are drawn, the thin ones are the truth.

    Draws the slice axis among those whose spacing is near the finest, the factor, the ratio of
    thickness to spacing, the profile, the noise, and what the network is told of all that, from
    ``self.R``. Now and then it is told a Gaussian for a box, or a wrong thickness, so that it learns
    not to trust either blindly. Of a key ``image`` it makes

    - ``image``: what the network sees, normalized like the input: the consistent spline on the thin
      grid (``works_on="thin"``), or the acquired slices as a standard profile would have given them
      (``works_on="thick"``), see :meth:`monai_sr.slices.SliceModel.standard_slices`;
    - ``label``: the truth, through-plane axis last;
    - ``acquired``, ``acquisition``, ``spline``: y, and A and B as told, for
      :func:`monai_sr.slices.enforce_consistency` around the network.

    Args:
        keys: the volumes of thin slices, (1, X, Y, Z).
        factors: thin slices per thick one; one is drawn.
        works_on: "thin" or "thick", as the network says.
        thickness_ratios: the range that thickness/spacing is drawn from.
        usual: how often thickness equals spacing instead.
        gaps: how often slices are as thin as those wanted instead: plain subsampling.
        box: how often the profile is in truth a box.
        recognized: how often the network is told so; else a Gaussian of that width.
        mistaken: how often the thickness told is not the true one.
        mistake: by what share of it at most.
        noise: the largest standard deviation of noise on the thick slices, in units of the input.
        noisy: how often there is noise.
        isotropy: an axis may be the slice axis if its spacing is at most this many times the finest.
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
        recognized: float = 0.7,
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
        self.box, self.recognized = box, recognized
        self.mistaken, self.mistake = mistaken, mistake
        self.noise, self.noisy, self.isotropy = noise, noisy, isotropy

    def randomize(self, spacing: Sequence[float]) -> None:  # type: ignore[override]
        """Draw everything; ``spacing`` of the volume decides which axes may be the slice axis."""
        near = [a for a in range(3) if spacing[a] <= self.isotropy * min(spacing)]
        self.axis = int(self.R.choice(near))
        self.factor = float(self.R.choice(self.factors))
        ratio, kind = float(self.R.uniform(*self.thickness_ratios)), self.R.random()
        self.ratio = 1.0 if kind < self.usual else 1 / self.factor if kind < self.usual + self.gaps else ratio
        self.profile: Profile = "box" if self.R.random() < self.box else "gaussian"
        self.told_profile: Profile = self.profile if self.R.random() < self.recognized else "gaussian"
        mistake = float(self.R.uniform(-self.mistake, self.mistake))
        self.told_ratio = self.ratio * (1 + mistake if self.R.random() < self.mistaken else 1.0)
        sigma = float(self.R.uniform(0, self.noise))
        self.sigma = sigma if self.R.random() < self.noisy else 0.0

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        for key in self.key_iterator(result):
            result.update(self._pair(key, result[key]))
        return result

    def _pair(self, key: Hashable, volume: Tensor) -> dict[Hashable, Any]:
        self.randomize(grid_of(volume).spacing)
        voxels = volume.as_tensor() if isinstance(volume, MetaTensor) else volume
        hr = torch.movedim(voxels, self.axis + 1, -1).float().contiguous()
        n = hr.shape[-1]
        m = max(2, round(n / self.factor))
        if self.works_on == "thick" and m * self.factor != n:
            raise ValueError(f"{n} thin slices do not divide by the factor {self.factor:g}")
        thin, thick = np.arange(n) - (n - 1) / 2, (np.arange(m) - (m - 1) / 2) * self.factor
        true = profile_matrix(thin, thick, slice_thickness=self.ratio * self.factor, profile=self.profile)
        lr = apply_along(true, hr)
        if self.sigma:
            lr = lr + torch.from_numpy(self.R.normal(0, self.sigma, lr.shape)).to(lr)
        model = SliceModel.between(
            thick, thin, slice_thickness=self.told_ratio * self.factor, profile=self.told_profile
        )
        seen = model.spline if self.works_on == "thin" else model.standard_slices()
        return {
            key: apply_along(seen, lr),
            "label": hr,
            "acquired": lr,
            "acquisition": model.acquisition.float(),
            "spline": model.spline.float(),
        }


class RandCoarseCropd(Randomizable, MapTransform):
    """A random crop, now and then of a coarser copy of the volume.

    More voxel sizes than the training data have, and truths that are sharp and quiet for theirs:
    averaging neighbors takes noise and blur away.

    Args:
        keys: volumes (C, X, Y, Z) with affine, at least ``size`` along every axis.
        size: voxels of the crop.
        coarsest: the largest growth of the voxels, drawn from 1 to this or to what the volume allows.
        coarse: how often they grow at all.
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
        """Draw the growth of the voxels and where the crop lies in a volume of that shape."""
        most = min(self.coarsest, *(n / size for n, size in zip(shape, self.size, strict=True)))
        if most < 1:
            raise ValueError(f"a crop of {self.size} voxels was asked of a volume of {tuple(shape)}")
        growth = float(self.R.uniform(1, most))
        self.growth = growth if self.R.random() < self.coarse else 1.0
        self.taken = [int(np.ceil(size * self.growth - 1e-9)) for size in self.size]
        self.first = [int(self.R.randint(0, n - taken + 1)) for n, taken in zip(shape, self.taken, strict=True)]

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        for key in self.key_iterator(result):
            self.randomize(result[key].shape[1:])
            result[key] = self._crop(result[key])
        return result

    def _crop(self, volume: Tensor) -> MetaTensor:
        grid = grid_of(volume)
        voxels = _floating(volume)
        affine = grid.affine.copy()
        affine[:3, 3] += affine[:3, :3] @ (np.array(self.first) + (self.growth - 1) / 2)
        affine[:3, :3] *= self.growth
        for axis, (first, taken, size) in enumerate(zip(self.first, self.taken, self.size, strict=True)):
            voxels = voxels.narrow(axis + 1, first, taken)
            if self.growth != 1:
                voxels = apply_along(_averages(taken, size, self.growth), voxels, axis + 1)
        shape = (self.size[0], self.size[1], self.size[2])
        return on_grid(voxels.contiguous(), Grid(shape, affine), volume)
