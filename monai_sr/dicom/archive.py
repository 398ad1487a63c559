"""A zip of DICOM files, unpacked without trusting it.

Entries get generated names, so nothing in the archive decides where or under which name a file is
written. Limits hold before a byte is unpacked.
"""

from __future__ import annotations

import re
import stat
import tempfile
import zipfile
from pathlib import Path

from ..errors import ImageError, no_room_by, write_error

MOST_ENTRIES = 100_000
MOST_BYTES = 64 * 2**30
MOST_RATIO = 100
"""Unpacked to packed size. CT and MR shrink by 2 to 4, blank slices by some tens."""

SMALL = 64 * 2**20
"""Below this many unpacked bytes the ratio does not matter."""

_ENCRYPTED = 0x1


def unpack(archive: Path) -> tempfile.TemporaryDirectory[str]:
    """The files of a zip in a temporary folder, which is removed with the object.

    Raises:
        ImageError: it is damaged or encrypted, leads out of its folder, holds links, or is a bomb.
    """
    folder = tempfile.TemporaryDirectory(prefix="monai-sr-", ignore_cleanup_errors=True)
    try:
        with zipfile.ZipFile(archive) as packed:
            entries = [entry for entry in packed.infolist() if not entry.is_dir()]
            _check(entries)
            for count, entry in enumerate(entries):
                target = Path(folder.name, f"{count:06d}")
                with packed.open(entry) as source, open(target, "wb") as file:
                    while block := source.read(2**20):
                        file.write(block)
    except BaseException as error:
        folder.cleanup()
        if isinstance(error, ImageError):
            raise error.at(archive) from None
        if isinstance(error, OSError) and no_room_by(error):
            raise write_error(Path(folder.name), error) from error
        if not isinstance(error, Exception):
            raise
        # zipfile and its decoders raise many types on damaged archives
        reason = "uses a compression that is not read" if isinstance(error, NotImplementedError) else "is damaged"
        raise ImageError("E-IO-CRC", f"the archive {reason}", path=archive) from error
    return folder


def _check(entries: list[zipfile.ZipInfo]) -> None:
    for entry in entries:
        parts = re.split(r"[/\\]", entry.filename)
        outside = ".." in parts or parts[0] == "" or ":" in parts[0]
        link = stat.S_ISLNK(entry.external_attr >> 16)
        if outside or link:
            raise ImageError(
                "E-SEC-PATH", "the archive holds a link" if link else "an entry of the archive leads out of its folder"
            )
        if entry.flag_bits & _ENCRYPTED:
            raise ImageError("E-ZIP-CRYPT", "the archive is encrypted")
    unpacked, packed = (sum(getattr(e, size) for e in entries) for size in ("file_size", "compress_size"))
    bomb = unpacked > SMALL and unpacked > MOST_RATIO * packed
    if len(entries) > MOST_ENTRIES or unpacked > MOST_BYTES or bomb:
        problem = f"{len(entries)} files of {unpacked / 2**20:.0f} MiB in an archive of {packed / 2**20:.0f} MiB"
        raise ImageError("E-SEC-BOMB", problem)
