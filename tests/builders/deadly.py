"""A network that kills its process, as the kernel does when memory is short; for tests of workers."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import torch

from monai_sr.networks import ResidualNet


class DeadlyNet(ResidualNet):
    """Dies at volumes of certain widths (voxels along their first axis).

    Args:
        always: the width of those that kill every process.
        once: the width of those that kill only the first one.
        mark: a file that is made at that first death.
    """

    def __init__(self, always: int, once: int, mark: str) -> None:
        super().__init__(layers=4, features=4)
        self.always, self.once, self.mark = always, once, Path(mark)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        width = image.shape[2]
        first = width == self.once and not self.mark.exists()
        if first:
            self.mark.touch()
        if first or width == self.always:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(image)
