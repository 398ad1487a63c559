"""pydicom, imported at its first use: with its decoders that takes longer than to find and check an image."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import Later

if TYPE_CHECKING:
    import pydicom as pydicom
else:
    pydicom = Later("pydicom")
