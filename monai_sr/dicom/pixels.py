"""Stored values of a frame: decoded, masked, rescaled."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ImageError, SuperResolutionWarning, give
from .codestreams import check_codestreams
from .dataset import DEFLATED, PIXEL_DATA, pixel_element, pydicom_silent
from .decoder import ATTRIBUTES, DECODER, UndecodableError
from .late import pydicom
from .series import Frame

PLAIN_SYNTAXES = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", DEFLATED)
"""Little endian, pixels not compressed."""

BODY = (-900.0, 3071.0)
"""HU of lung to metal. A padding value among them, such as 0 HU, is that of scanned voxels too, so it marks none."""

_OVERLAY_BIT = 0x60000102
"""OverlayBitPosition, in any of the groups of overlays."""

_BITS = SuperResolutionWarning("W-DCM-BITS", "pixels have bits above those that BitsStored gives; they are not used")
_HIGH_BIT = SuperResolutionWarning("W-DCM-BITS", "HighBit contradicts BitsStored and the pixels; it is not used")
_SIGN = SuperResolutionWarning(
    "W-DCM-BITS",
    "pixels look like signed numbers (many near 65535, none near 32768), PixelRepresentation says unsigned",
)
MIDDLE, FEWEST_HIGH = (2**14, 3 * 2**14), 16
"""Unsigned images have values here; negative numbers of 16 bits give as many different ones above."""

JPEG_EXTENDED = "1.2.840.10008.1.2.4.51"
"""GDCM decodes 12 bits to wrong values, so pydicom requires pylibjpeg-libjpeg."""


def read_frame(frame: Frame) -> np.ndarray:
    """(rows, columns) integers of one frame, as stored, without overlay bits.

    Raises:
        ImageError: they cannot be decoded, or the file changed since its header was read.
    """
    return _frames(frame.header, frame)[frame.number]


def read_stored(head: Any, file: Path) -> np.ndarray:
    """(frames, rows, columns) integers of a whole file, as stored.

    Raises:
        ImageError: as :func:`read_frame`.
    """
    return _frames(head, Frame(file, 0, head, np.zeros(3), np.zeros(6), (1.0, 1.0)))


def read_values(frames: Sequence[Frame], into: Sequence[np.ndarray]) -> tuple[float, float]:
    """Write frames of one file into (rows, columns) float32: HU of CT, signal of MR, padding as it is.

    Returns:
        The minimum and the maximum.

    Raises:
        ImageError: as :func:`read_frame`.
    """
    decoded = _frames(frames[0].header, frames[0])
    for frame, values in zip(frames, into, strict=True):
        # slice by slice while it is in the processor's cache
        stored, slope, intercept = decoded[frame.number], _slope(frame), np.float32(frame.intercept or 0.0)
        if slope == 1:
            np.add(stored, intercept, out=values, dtype=np.float32)
        else:
            np.multiply(stored, np.float32(slope), out=values, dtype=np.float32)
            values += intercept
    return min(float(v.min()) for v in into), max(float(v.max()) for v in into)


def _slope(frame: Frame) -> float:
    return 1.0 if frame.slope is None else frame.slope


def padding_of(frame: Frame, modality: str) -> tuple[float, float] | None:
    """Minimum and maximum of the values that mark pixels outside the scanned field; None if a body has them.

    A body in MR has every value from 0 on.
    """
    head = frame.header
    if head.get("PixelPaddingValue") is None:
        return None
    limit = head.get("PixelPaddingRangeLimit")
    ends = [head.PixelPaddingValue, head.PixelPaddingValue if limit is None else limit]
    slope, intercept = np.float32(_slope(frame)), np.float32(frame.intercept or 0.0)
    low, high = sorted(float(slope * np.float32(_as_represented(end, head)) + intercept) for end in ends)
    if modality == "MR":
        return (low, high) if high < 0 else None
    return None if low <= BODY[1] and high >= BODY[0] else (low, high)


def _as_represented(value: Any, head: Any) -> int:
    """A padding value as the pixels store it: some writers give it unsigned where pixels are signed."""
    value = int.from_bytes(value[:2], "little") if isinstance(value, bytes) else int(value)
    bits = int(head.get("BitsAllocated") or 16)
    if int(head.get("PixelRepresentation") or 0) == 1 and value >= 1 << (bits - 1):
        return value - (1 << bits)
    if int(head.get("PixelRepresentation") or 0) == 0 and value < 0:
        return value + (1 << bits)
    return value


def _frames(head: Any, frame: Frame) -> np.ndarray:
    """(frames, rows, columns) of a whole file; the header does not keep the pixels."""
    element, is_whole = pixel_element(head), True
    try:
        decoded = _plain(head, frame.file)
        if decoded is None:
            with pydicom_silent():
                decoded, is_whole = _decoded(head)
    except Exception as error:
        # decoders raise many types
        raise (_changed(frame) or _undecodable(head, frame, error)) from error
    finally:
        head[PIXEL_DATA] = element  # unread again, or every slice would stay in memory
    changed = _changed(frame)
    if changed:
        raise changed
    decoded = decoded.reshape(-1, int(head.Rows), int(head.Columns))
    if decoded.dtype.kind == "u" and decoded.dtype.itemsize == 2 and decoded.max() >= MIDDLE[1]:
        _doubt_sign(decoded)
    return _masked(decoded, head) if is_whole else decoded


def _doubt_sign(stored: np.ndarray) -> None:
    """Warn of unsigned values at both ends of 16 bits and none between: negative numbers without a sign."""
    values = np.unique(stored)
    low, high = np.searchsorted(values, MIDDLE)
    if low == high and low > 0 and len(values) - high >= FEWEST_HIGH:
        give(_SIGN)


def _changed(frame: Frame) -> ImageError | None:
    """Error: the file is not the one whose header was read; None if it is."""
    try:
        if frame.file.stat().st_mtime == frame.header.timestamp:
            return None
    except OSError:  # gone
        pass
    return ImageError("E-IO-CHANGED", f"{frame.file.name} changed while it was read")


def _plain(head: Any, file: Path) -> np.ndarray | None:
    """Uncompressed pixels, straight from the file; None if they are compressed or the header is unusual.

    Several times as fast as pydicom, which clears the bits above BitsStored, also of padding and of pixels there.
    """
    element, bits, kind = pixel_element(head), int(head.get("BitsAllocated") or 0), head.get("PixelRepresentation")
    count = int(head.Rows) * int(head.Columns) * int(head.get("NumberOfFrames") or 1)
    syntax = head.file_meta.TransferSyntaxUID
    is_big = syntax == pydicom.uid.ExplicitVRBigEndian and bits == 16
    if (
        not (is_big or syntax in PLAIN_SYNTAXES)
        or bits not in (8, 16, 32)
        or kind not in (0, 1)
        or not 0 < int(head.get("BitsStored") or 0) <= bits
        or not isinstance(element, pydicom.dataelem.RawDataElement)
        or not count * bits // 8 <= element.length <= count * bits // 8 + 1  # of even length
    ):
        return None
    dtype = np.dtype(f"{'<>'[is_big]}{'ui'[kind]}{bits // 8}")
    if element.value is not None:
        return np.frombuffer(element.value, dtype, count)
    with open(file, "rb") as stream:
        stream.seek(element.value_tell)
        stored = np.fromfile(stream, dtype, count)
    if len(stored) < count:
        raise EOFError
    return stored


def _decoded(head: Any) -> tuple[np.ndarray, bool]:
    """Pixels as pydicom decodes them, and whether they have all bits that are allocated, those of overlays too."""
    syntax = head.file_meta.TransferSyntaxUID
    if syntax.is_encapsulated:
        rows, columns, allocated = int(head.Rows), int(head.Columns), int(head.BitsAllocated)
        given = {name: head[name].value for name in ATTRIBUTES if name in head}
        if syntax == pydicom.uid.RLELossless:
            bits, given = allocated, given | {"BitsStored": allocated, "HighBit": allocated - 1}
        else:
            bits = check_codestreams(head.PixelData, rows=rows, columns=columns, bits_allocated=allocated)
        return DECODER.decode(head.PixelData, str(syntax), given), bits == allocated
    try:
        from pydicom.pixels import pixel_array
    except ImportError:  # pydicom 2, which MONAI Label asks for
        return head.pixel_array, True
    return pixel_array(head), True


def _masked(stored: np.ndarray, head: Any) -> np.ndarray:
    """Only the bits of the pixels, sign-extended; older files keep overlays in the others."""
    bits, allocated = int(head.get("BitsStored") or 16), int(head.get("BitsAllocated") or 16)
    if bits >= allocated or not np.issubdtype(stored.dtype, np.integer):
        return stored
    high = head.get("HighBit")
    low = 0 if high is None else int(high) + 1 - bits
    signed = int(head.get("PixelRepresentation") or 0) == 1
    least, greatest = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
    if low == 0 and stored.min() >= least and stored.max() <= greatest:
        return stored
    padding = None
    if head.get("PixelPaddingValue") is not None:
        padding = _as_represented(head.PixelPaddingValue, head)
    outside = np.zeros(stored.shape, bool) if padding is None else stored == padding
    has_overlay = any(tag & 0xFF00FFFF == _OVERLAY_BIT for tag in head._dict)
    below = (1 << max(low, 0)) - 1  # bits below the pixels, which are 0 or an overlay
    if not 0 <= low <= allocated - bits or (not has_overlay and (stored[~outside] & below).any()):
        give(_HIGH_BIT)
        low = 0
    wide = stored.astype(np.int32) >> low
    pixels = wide & ((1 << bits) - 1)
    if signed:
        pixels = (pixels ^ -least) + least
    unused = (1 << (allocated - low - bits)) - 1
    above = (stored.astype(np.int64) >> (low + bits)) & unused
    strange = (above != ((pixels >> bits) & unused)) & ~outside  # than the sign of the pixels
    if strange.any() and len(np.unique(above[~outside])) > 1 and not has_overlay:
        give(_BITS)
    if padding is not None:  # often outside what BitsStored can hold
        pixels = np.where(outside, padding, pixels)
    return pixels


def _undecodable(head: Any, frame: Frame, error: Exception) -> ImageError:
    syntax = pydicom.uid.UID(head.file_meta.get("TransferSyntaxUID", ""))
    if syntax == JPEG_EXTENDED and int(head.get("BitsStored") or 0) > 8 and not find_spec("libjpeg"):
        problem = f"{frame.file.name} is compressed by lossy JPEG of 12 bits, whose only decoder is not installed"
        return ImageError("E-DCM-CODEC", problem, fix="export uncompressed, or pip install pylibjpeg-libjpeg (GPL)")
    try:
        from pydicom.pixels import get_decoder

        known = get_decoder(syntax).is_available
    except (ImportError, NotImplementedError):
        known = False
    if known:
        reason = str(error) if isinstance(error, UndecodableError) else type(error).__name__
        problem = f"the pixels of {frame.file.name} cannot be decoded ({syntax.name}; {reason})"
        return ImageError("E-DCM-PIXELS", problem)
    problem = f"{frame.file.name} is compressed by {syntax.name}, for which no decoder is installed"
    fix = "pip install python-gdcm pylibjpeg pylibjpeg-openjpeg, or export uncompressed"
    return ImageError("E-DCM-CODEC", problem, fix=fix)
