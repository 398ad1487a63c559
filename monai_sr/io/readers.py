"""Reader and writer of volumes for MONAI's LoadImage and SaveImage, so that bundles check files as the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from monai.data import ImageReader, ImageWriter, MetaTensor

from ..options import RunOptions
from .images import read_image, write_image


class VolumeReader(ImageReader):
    """:func:`read_image` for MONAI's LoadImage, so that bundles check files as the command line does.

    MONAI's own NIfTI reader reads gzip files with flipped bits silently, and its DICOM readers mix series
    and do not report missing slices (MONAI 1.6.1).

    Args:
        reading: ``series``, ``volume`` and others, see :class:`monai_sr.options.Reading`.
    """

    def __init__(self, **reading: object) -> None:
        self._reading = RunOptions.from_dict({"reading": reading}).reading

    def verify_suffix(self, filename: Sequence[Any] | Any) -> bool:
        """Accept every path."""
        return True

    def read(self, data: Sequence[Any] | Any, **kwargs: Any) -> MetaTensor:
        """Read the first of the paths."""
        return read_image(data[0] if isinstance(data, list | tuple) else str(data), **asdict(self._reading))

    def get_data(self, img: Any) -> tuple[np.ndarray, dict]:
        """(X, Y, Z) float32 and its metadata; (C, X, Y, Z) of several volumes."""
        several = len(img) > 1
        meta = dict(img.meta) | {"original_channel_dim": 0 if several else "no_channel"}
        meta["spatial_shape"] = np.array(img.shape[1:])
        return (img if several else img[0]).numpy(), meta


class VolumeWriter(ImageWriter):
    """:func:`write_image` for MONAI's SaveImage: same voxel type, same bytes, never resampled."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(image=None, meta={})

    def set_data_array(self, data_array: Any, **kwargs: Any) -> None:
        """Args: ``data_array`` (1, X, Y, Z)."""
        self.image = torch.as_tensor(data_array)

    def set_metadata(self, meta_dict: Mapping | None, **options: Any) -> None:
        """Keep the affine and the stored type; ``options`` for resampling are ignored."""
        self.meta = dict(meta_dict or {})

    def write(self, filename: Any, verbose: bool = True, **kwargs: Any) -> None:
        """Write, atomically."""
        super().write(filename, verbose)
        affine = torch.as_tensor(self.meta.pop("affine"))
        write_image(MetaTensor(self.image, affine=affine, meta=self.meta), filename)
