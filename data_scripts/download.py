"""Fetch archives so that what lies under its final name is complete and checked: shared by the fetch scripts.

A download grows in ``NAME.part`` and is resumed from there by an HTTP range request. It gets its name only
after its checksum was right; a file whose checksum is wrong is kept aside as ``NAME.bad``. The SHA-256 of
every finished file is written to ``SHA256SUMS`` (readable by ``sha256sum -c``) and holds from then on, also
for files whose publisher names no checksum. Archives are unpacked member by member into a temporary folder
that is renamed at the end. Proxies are those of the environment (``https_proxy``), as urllib reads them.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import os
import shutil
import stat
import sys
import tarfile
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import BinaryIO

from tqdm import tqdm

SUMS = "SHA256SUMS"
_CHUNK = 1 << 20
_TRY_AGAIN = {408, 425, 429, 500, 502, 503, 504}


class DownloadError(Exception):
    """This file could not be fetched or unpacked; the message says which, why, and what to do."""


@dataclass(frozen=True)
class RemoteFile:
    """One archive of a data set.

    Args:
        key: what the user calls it, and the folder it is unpacked to.
        name: its file name below the base URL.
        md5: as published, or None where the publisher names none.
    """

    key: str
    name: str
    md5: str | None = None


@dataclass(frozen=True)
class DataSet:
    """A public data set: who made it, on which terms, and where its archives are."""

    title: str
    license: str
    cite: str
    base_url: str
    files: tuple[RemoteFile, ...]
    default: tuple[str, ...]


@dataclass(frozen=True)
class Patience:
    """How long to go on: tries without a single new byte, the first pause in s (doubling), the timeout in s."""

    tries: int = 6
    pause: float = 2.0
    timeout: float = 60.0


def fetch(file: RemoteFile, base_url: str, folder: Path, *, patience: Patience = Patience(), room: float = 1.0) -> Path:
    """Download one file into ``folder``, or find it there already, and return its path.

    Args:
        room: free space needed before the start, in sizes of the file (2 if it is to be unpacked).

    Raises:
        DownloadError: the server has no such file or does not answer, the disk is too small, or the
            checksum is wrong.
    """
    target, part = folder / file.name, folder / f"{file.name}.part"
    url = urllib.parse.urljoin(base_url.rstrip("/") + "/", file.name)
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise DownloadError(f"{url}: neither http nor https; give such a --base-url")
    if target.exists():
        fault, sha256 = _check(target, file, folder)
        if fault is None:
            _record(folder, file.name, sha256)
            return target
        print(f"{target} is damaged, it is fetched again", file=sys.stderr)
        os.replace(target, folder / f"{file.name}.bad")
    resumed = part.exists() and part.stat().st_size > 0
    _complete(url, part, patience, room)
    fault, sha256 = _check(part, file, folder)
    if fault and resumed:
        # the beginning may stem from another version of the file, or from a crash: once more from zero
        part.unlink()
        _complete(url, part, patience, room)
        fault, sha256 = _check(part, file, folder)
    if fault:
        aside = folder / f"{file.name}.bad"
        os.replace(part, aside)
        raise DownloadError(f"{url}: {fault}; what came is kept as {aside}. Try later, or another --base-url.")
    os.replace(part, target)
    _record(folder, file.name, sha256)
    return target


def size_of(url: str, *, timeout: float = 20.0) -> int | None:
    """Bytes of a remote file as its server says, None if it does not say or does not answer."""
    try:
        with open_url(url, timeout, method="HEAD") as answer:
            length = answer.headers.get("Content-Length")
    except (OSError, http.client.HTTPException, ValueError):
        return None
    return int(length) if length and length.isdigit() else None


def unpacks(name: str) -> bool:
    """Whether a file name is that of an archive that :func:`unpack` reads."""
    return name.endswith((".tar", ".tar.gz", ".tgz", ".zip"))


def unpack(archive: Path, target: Path) -> None:
    """Unpack a tar or zip archive into the folder ``target``, which appears whole or not at all.

    An archive whose members all lie in one folder called like ``target`` becomes that folder.

    Raises:
        DownloadError: it is no such archive or is damaged, a member would land outside, is a link or a
            device, or the disk is too small.
    """
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        (_unpack_zip if archive.name.endswith(".zip") else _unpack_tar)(archive, temporary)
        inner = temporary / target.name
        whole = inner if [p.name for p in temporary.iterdir()] == [target.name] and inner.is_dir() else temporary
        os.replace(whole, target)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError) as error:
        raise DownloadError(f"{archive}: cannot be unpacked ({error}); delete it and run this again") from error
    except OSError as error:
        raise DownloadError(f"{target}: cannot be written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _unpack_tar(archive: Path, folder: Path) -> None:
    with tarfile.open(archive) as tar:
        members = [m for m in tar if not PurePosixPath(m.name).name.startswith("._")]
        for member in members:
            _refuse_outsiders(archive, member.name, is_plain=member.isfile() or member.isdir())
        _need_room(folder.parent, sum(m.size for m in members), f"unpacking {archive.name}")
        folder.mkdir(parents=True)
        for member in members:
            tar.extract(member, folder, filter="data")


def _unpack_zip(archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive) as packed:
        members = [
            m
            for m in packed.infolist()
            if not PurePosixPath(m.filename).name.startswith("._") and "__MACOSX" not in PurePosixPath(m.filename).parts
        ]
        for member in members:
            mode = member.external_attr >> 16  # of Unix; 0 from other systems
            plain = stat.S_IFMT(mode) in (0, stat.S_IFREG, stat.S_IFDIR)
            _refuse_outsiders(archive, member.filename, is_plain=plain)
        _need_room(folder.parent, sum(m.file_size for m in members), f"unpacking {archive.name}")
        folder.mkdir(parents=True)
        for member in members:
            packed.extract(member, folder)  # checks the CRC


def run(data: DataSet, argv: Sequence[str] | None = None, *, patience: Patience = Patience()) -> int:
    """The command line of a fetch script. Returns the exit code: 0 all there, 4 some failed, 5 all failed."""
    keys = [f.key for f in data.files]
    parser = argparse.ArgumentParser(
        description=f"Fetch {data.title}, resuming where it stopped, check and unpack it. License: {data.license}",
        epilog=f"Please cite: {data.cite} Exit codes: 0 all there, 2 wrong usage, 4 some failed, 5 all failed.",
    )
    parts = f"{', '.join(keys)} (default: {' '.join(data.default)})"
    parser.add_argument("parts", nargs="*", metavar="PART", help=parts)
    parser.add_argument("--output", type=Path, help="folder for archives and unpacked images (made if missing)")
    parser.add_argument("--base-url", default=data.base_url, help="where the archives are (default: %(default)s)")
    parser.add_argument("--list", action="store_true", help="print the archives with size and checksum, fetch nothing")
    parser.add_argument("--no-unpack", action="store_true", help="leave the archives as they are")
    options = parser.parse_args(argv)
    unknown = sorted(set(options.parts) - set(keys))
    if unknown:
        parser.error(f"there is no part {', '.join(unknown)}; choose from {', '.join(keys)}")
    if options.list:
        _list(data, options.base_url)
        return 0
    if options.output is None:
        parser.error("--output is needed")
    wanted = [f for f in data.files if f.key in (options.parts or data.default)]
    print(f"{data.title}. License: {data.license}. Please cite: {data.cite}")
    unpacked = not options.no_unpack
    return get_each(
        wanted, lambda file: _get(file, options.base_url, options.output, unpacked=unpacked, patience=patience)
    )


def get_each(files: Sequence[RemoteFile], get: Callable[[RemoteFile], None]) -> int:
    """Get one file after another; 4 if some failed, 5 if all did, 130 if it was interrupted."""
    failed = 0
    for file in files:
        try:
            get(file)
        except DownloadError as error:
            failed += 1
            print(f"failed: {error}", file=sys.stderr)
        except KeyboardInterrupt:
            print("stopped; the same command goes on from here", file=sys.stderr)
            return 130
    return 0 if not failed else 5 if failed == len(files) else 4


def _get(file: RemoteFile, base_url: str, output: Path, *, unpacked: bool, patience: Patience) -> None:
    """Fetch one archive and unpack it, each unless it is there."""
    folder = output / file.key
    if unpacked and folder.is_dir():
        # a folder appears only when it is whole, so its archive may have been deleted to save space
        print(f"{file.key}: {folder} is there already")
        return
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DownloadError(f"{output}: cannot be made ({error.strerror})") from error
    archive = fetch(file, base_url, output, patience=patience, room=2 if unpacked else 1)
    if unpacked:
        unpack(archive, folder)
    print(f"{file.key}: {folder if unpacked else archive}")


def _list(data: DataSet, base_url: str) -> None:
    """Every archive with the size that its server gives."""
    print(f"{data.title}. License: {data.license}")
    for file in data.files:
        size = size_of(urllib.parse.urljoin(base_url.rstrip("/") + "/", file.name))
        shown = "size unknown" if size is None else f"{size:,} bytes"
        print(f"{file.key:24} {file.name:28} {shown:>22}  md5 {file.md5 or 'not published'}")


# ---------------------------------------------------------------- transfer


def open_url(url: str, timeout: float, *, method: str = "GET", start: int = 0) -> http.client.HTTPResponse:
    """Ask for a URL, from byte ``start`` on; the caller closes the answer."""
    headers = {"User-Agent": "monai-sr", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    return urllib.request.urlopen(urllib.request.Request(url, headers=headers, method=method), timeout=timeout)


def _complete(url: str, part: Path, patience: Patience, room: float) -> None:
    """Let ``part`` grow to the whole file, going on after every interruption that may pass."""
    pause, failures = patience.pause, 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            if _transfer(url, part, patience.timeout, room):
                return
            reason = "the connection ended early"
        except urllib.error.HTTPError as error:
            if error.code == 416:
                # nothing is left to send: the part is whole, or longer than the file and of no use
                whole = (error.headers.get("Content-Range") or "").rpartition("/")[2]
                if whole == str(before):
                    return
                part.unlink(missing_ok=True)
            elif error.code not in _TRY_AGAIN:
                raise DownloadError(f"{url}: the server says {error.code} {error.reason}; check --base-url") from error
            reason = f"{error.code} {error.reason}"
        except (OSError, http.client.HTTPException) as error:
            reason = str(getattr(error, "reason", error)) or type(error).__name__
        now = part.stat().st_size if part.exists() else 0
        if now > before:
            pause, failures = patience.pause, 0
        else:
            failures += 1
        if failures >= patience.tries:
            raise DownloadError(
                f"{url}: no answer after {failures} tries ({reason}). {now:,} bytes are kept in {part}; "
                "run the same command again to go on."
            )
        time.sleep(pause)
        pause = min(pause * 2, 60)


def _transfer(url: str, part: Path, timeout: float, room: float) -> bool:
    """One request, appended to ``part``; whether the file is whole afterwards."""
    start = part.stat().st_size if part.exists() else 0
    with open_url(url, timeout, start=start) as answer:
        if answer.status != 206:
            start = 0  # the server ignores ranges and begins at the beginning
        elif not answer.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            part.unlink()
            raise OSError(f"asked from byte {start}, the server sent {answer.headers.get('Content-Range')}")
        length = answer.headers.get("Content-Length")
        total = start + int(length) if length else None
        if total is not None:
            _need_room(part.parent, int(total * room) - start, url)
        with (
            _open_part(part, start) as file,
            tqdm(total=total, initial=start, unit="B", unit_scale=True, desc=part.stem, disable=None) as bar,
        ):
            while chunk := answer.read(_CHUNK):
                try:
                    file.write(chunk)
                except OSError as error:
                    raise DownloadError(f"{part}: cannot be written ({error.strerror})") from error
                bar.update(len(chunk))
    return total is None or part.stat().st_size == total


def _open_part(part: Path, start: int) -> BinaryIO:
    """The growing file, to be gone on with or begun anew."""
    try:
        return open(part, "ab" if start else "wb")
    except OSError as error:
        raise DownloadError(f"{part}: cannot be written ({error.strerror})") from error


def _need_room(folder: Path, needed: int, what: str) -> None:
    """Stop before the start rather than half-way."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DownloadError(f"{what}: needs {needed:,} bytes in {folder}, {free:,} are free; choose another --output")


# ---------------------------------------------------------------- checks


def _check(path: Path, file: RemoteFile, folder: Path) -> tuple[str | None, str]:
    """Why a file is not the one wanted, or None, and its SHA-256.

    Against the published MD5 (good against accidents) and the SHA-256 recorded here before.
    """
    md5, sha256 = hashlib.md5(usedforsecurity=False), hashlib.sha256()
    with open(path, "rb") as content:
        while chunk := content.read(_CHUNK):
            md5.update(chunk)
            sha256.update(chunk)
    recorded = _recorded(folder).get(file.name, sha256.hexdigest())
    fault = None
    if file.md5 and md5.hexdigest() != file.md5:
        fault = f"its MD5 is {md5.hexdigest()}, published is {file.md5}"
    elif sha256.hexdigest() != recorded:
        fault = f"its SHA-256 is {sha256.hexdigest()}, {folder / SUMS} says {recorded}"
    return fault, sha256.hexdigest()


def _recorded(folder: Path) -> dict[str, str]:
    """SHA-256 by file name, as written by :func:`_record` or by sha256sum."""
    try:
        lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return {}
    return {name.lstrip(" *"): digest for digest, _, name in (line.partition(" ") for line in lines) if name}


def _record(folder: Path, name: str, sha256: str) -> None:
    """Write down the SHA-256 of a file seen for the first time."""
    sums = _recorded(folder)
    if name in sums:
        return
    sums[name] = sha256
    temporary = folder / f".{SUMS}.{os.getpid()}.tmp"
    temporary.write_text("".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items())), encoding="utf-8")
    os.replace(temporary, folder / SUMS)


def _refuse_outsiders(archive: Path, name: str, *, is_plain: bool) -> None:
    """Data sets need files and folders; anything else, or anything elsewhere, is an attack or a mistake.

    tarfile's own "data" filter takes a leading slash off silently and admits links that stay inside, and zipfile
    takes ".." out of names.
    """
    posix, windows = PurePosixPath(name), PureWindowsPath(name)
    if posix.is_absolute() or windows.drive or windows.root or ".." in (*posix.parts, *windows.parts):
        raise DownloadError(f"{archive}: the member {name!r} would land outside; the archive is not unpacked")
    if not is_plain:
        raise DownloadError(f"{archive}: the member {name!r} is a link or device; the archive is not unpacked")
