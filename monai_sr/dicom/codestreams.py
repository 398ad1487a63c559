"""Compare the size that compressed pixels claim with the header, before they are decoded.

Decoders allocate what a codestream claims: gigabytes for a kilobyte.
"""

from __future__ import annotations

import struct
from math import ceil

from .decoder import UndecodableError

ITEM = b"\xfe\xff\x00\xe0"
MOST_TILES = 4096
"""Of a JPEG 2000 image. Tiles of 64 x 64 pixels are small; a decoder keeps some kilobytes for each."""

_J2K = b"\xff\x4f\xff\x51"
_START_OF_FRAME = {0xF7, *range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # of JPEG-LS and JPEG, without tables
_START_OF_SCAN = 0xDA
_ALONE = {0x01, *range(0xD0, 0xD9)}
"""Markers without a length."""


def check_codestreams(pixels: bytes, *, rows: int, columns: int, bits_allocated: int) -> int:
    """Check that every frame of encapsulated JPEG, JPEG-LS and JPEG 2000 pixels is as the header says.

    Returns:
        The most bits that a codestream has; 0 if none was found.

    Raises:
        UndecodableError: one has another size, several components, more bits, or absurdly many tiles.

    Source: PS3.5, A.4; ITU-T T.81, B.2.2; T.87, C.2.2; T.800, A.5.1.
    """
    at = most = 0
    while pixels[at : at + 4] == ITEM and at + 8 <= len(pixels):
        length = int.from_bytes(pixels[at + 4 : at + 8], "little")
        try:
            claim = _claim_of(pixels[at + 8 : at + 8 + min(length, 2**16)])
        except struct.error:
            raise UndecodableError("a codestream that ends within its header") from None
        if claim is not None and (claim[:3] != (rows, columns, 1) or not 0 < claim[3] <= bits_allocated):
            raise UndecodableError(
                "a codestream of {} x {} pixels, {} components and {} bits".format(*claim)
                + f", {rows} x {columns}, 1 and at most {bits_allocated} needed"
            )
        at, most = at + 8 + length, max(most, claim[3] if claim else 0)
    return most


def _claim_of(start: bytes) -> tuple[int, int, int, int] | None:
    """Rows, columns, components and bits that a codestream claims; None if the fragment does not start one."""
    at = start.find(_J2K, 0, 1024)  # a JP2 file has some boxes before it
    if at >= 0:
        right, bottom, left, top, width, height, first, above = struct.unpack_from(">8I", start, at + 8)
        components, bits = struct.unpack_from(">HB", start, at + 40)
        tiles = ceil((right - first) / width) * ceil((bottom - above) / height) if width and height else 0
        if not 0 < tiles <= MOST_TILES:
            raise UndecodableError(f"a codestream of {tiles} tiles, 1 to {MOST_TILES} needed")
        return bottom - top, right - left, components, (bits & 0x7F) + 1
    if start[:2] != b"\xff\xd8":
        return None
    at, claim = 2, None
    while start[at : at + 1] == b"\xff" and at + 4 <= len(start):
        marker = start[at + 1]
        if marker in _START_OF_FRAME:
            bits, rows, columns, components = struct.unpack_from(">BHHB", start, at + 4)
            claim = rows, columns, components, bits
        elif marker == _START_OF_SCAN and claim:
            return claim
        at += 1 if marker == 0xFF else 2 if marker in _ALONE else 2 + int.from_bytes(start[at + 2 : at + 4], "big")
    raise UndecodableError("a codestream whose header is damaged")
