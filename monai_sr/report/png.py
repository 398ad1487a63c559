"""PNG of 8-bit pictures, in the twenty lines we need: gray, or a palette with transparency.

Pillow would do, as a dependency for one call; and its bytes change with its version.
"""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np

_COLOR_GRAY, _COLOR_PALETTE = 0, 3
_LEVEL = 9


def png_bytes(pixels: np.ndarray, palette: np.ndarray | None = None, *, comment: bytes = b"") -> bytes:
    """A PNG file, without metadata but for a comment; equal pixels give equal bytes.

    Args:
        pixels: (height, width) uint8, gray levels or places in ``palette``.
        palette: (n, 4) uint8 red, green, blue, alpha, at most 256 of them.
        comment: Latin-1.
    """
    if pixels.ndim != 2 or pixels.dtype != np.uint8 or 0 in pixels.shape:
        raise ValueError(f"a picture is (height, width) uint8, not {pixels.shape} {pixels.dtype}")
    height, width = pixels.shape
    color = _COLOR_GRAY if palette is None else _COLOR_PALETTE
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, color, 0, 0, 0))]
    if comment:
        chunks.append((b"tEXt", b"Comment\0" + comment))
    if palette is not None:
        chunks += [(b"PLTE", palette[:, :3].tobytes()), (b"tRNS", palette[:, 3].tobytes())]
    chunks += [(b"IDAT", zlib.compress(_filtered(pixels, up=palette is None), _LEVEL)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, data) for name, data in chunks)


def data_url(pixels: np.ndarray, palette: np.ndarray | None = None) -> str:
    """The same as the source of an ``<img>``."""
    return "data:image/png;base64," + base64.b64encode(png_bytes(pixels, palette)).decode()


def _filtered(pixels: np.ndarray, *, up: bool) -> bytes:
    """Rows with their filter type before them: differences from the row above pack images better, not palettes."""
    if not up:
        return np.pad(pixels, ((0, 0), (1, 0))).tobytes()
    rows = pixels.copy()
    rows[1:] -= pixels[:-1]
    return np.pad(rows, ((0, 0), (1, 0)), constant_values=2).tobytes()


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
