"""Fetch RPLHR-CT: 250 real pairs of chest CT, 5 mm and 1 mm slices of one scan, and list the pairs.

    python data_scripts/fetch_rplhr.py                                          # show the license, fetch nothing
    python data_scripts/fetch_rplhr.py --accept-license LICENSE --output data/rplhr
    python data_scripts/fetch_rplhr.py --output data/rplhr --pairs-only         # list the pairs of what is there

The record on Zenodo (17239183) says title, license, files, sizes and MD5 sums. They are shown before anything is
fetched, and nothing is fetched unless --accept-license repeats the license that the record names now. Archives are
fetched, resumed, checked and unpacked as by the other scripts. pairs.tsv then lists thick and thin file of each case
(train|val|test/5mm and /1mm, by their name), with the spacings in their headers, for `monai-sr evaluate --pair`.
"""

from __future__ import annotations

import argparse
import json
import sys
import urllib.error
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from download import DownloadError, Patience, RemoteFile, fetch, get_each, open_url, unpack, unpacks

RECORD = "17239183"
SERVER = "https://zenodo.org/"
CITE = (
    "Yu et al. 2022, RPLHR-CT Dataset and Transformer Baseline for Volumetric Super-Resolution from CT Scans, MICCAI, "
    "https://doi.org/10.1007/978-3-031-16446-0_33"
)
THICK, THIN = "5mm", "1mm"


@dataclass(frozen=True)
class Record:
    """What a record on Zenodo says of itself."""

    title: str
    license: str
    doi: str
    files: tuple[tuple[RemoteFile, int], ...]

    def text(self) -> str:
        """License, citation and files."""
        lines = [f"{self.title} ({self.doi})", f"License: {self.license or 'not named'}", f"Please cite: {CITE}"]
        return "\n".join([*lines, *(f"{file.name:32} {size:>16,} bytes  md5 {file.md5}" for file, size in self.files)])


def read_record(server: str, *, timeout: float = 60.0) -> Record:
    """Ask a server for the record.

    Raises:
        DownloadError: it does not answer, or not with a record.
    """
    url = f"{server.rstrip('/')}/api/records/{RECORD}"
    try:
        with open_url(url, timeout) as answer:
            content: dict[str, Any] = json.load(answer)
        about = content["metadata"]
        license_of = about.get("license") or {}
        files = tuple(
            (RemoteFile(Path(f["key"]).name.split(".")[0], Path(f["key"]).name, _md5(f)), int(f["size"]))
            for f in content["files"]
        )
        return Record(str(about["title"]), str(license_of.get("id") or ""), str(content.get("doi") or url), files)
    except urllib.error.HTTPError as error:
        raise DownloadError(f"{url}: the server says {error.code} {error.reason}; check --server") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DownloadError(f"{url}: no record of Zenodo ({type(error).__name__}: {error}); check --server") from error


def _md5(file: dict[str, Any]) -> str | None:
    kind, _, digest = str(file.get("checksum") or "").partition(":")
    return digest if kind == "md5" else None


def list_pairs(folder: Path) -> tuple[list[list[str]], list[str]]:
    """The pairs below a folder, and why files are in none.

    Returns:
        Rows of thick and thin path (below the folder), split, and the slice spacings in the headers, mm.
    """
    import nibabel as nib

    rows, left = [], []
    for thick in sorted(folder.rglob(f"{THICK}/*.nii*")):
        thin = thick.parent.parent / THIN / thick.name
        name = thick.relative_to(folder).as_posix()
        if not thin.is_file():
            left.append(f"{name}: no {THIN} file of this name")
            continue
        try:
            first, second = (nib.load(path) for path in (thick, thin))
        except (OSError, nib.filebasedimages.ImageFileError) as error:
            left.append(f"{name}: {error}")
            continue
        spacings = [float(image.header.get_zooms()[2]) for image in (first, second)]
        if first.shape[:2] != second.shape[:2] or spacings[1] >= spacings[0]:
            left.append(f"{name}: {first.shape}, {spacings[0]:g} mm and {second.shape}, {spacings[1]:g} mm are no pair")
            continue
        split = thick.parent.parent.name
        rows.append([name, thin.relative_to(folder).as_posix(), split, *(f"{spacing:.4g}" for spacing in spacings)])
    return rows, left


def write_pairs(folder: Path) -> int:
    """Write ``pairs.tsv`` of a folder, say what is in none, and return the number of pairs."""
    rows, left = list_pairs(folder)
    lines = [["thick", "thin", "split", "thick_spacing", "thin_spacing"], *rows]
    (folder / "pairs.tsv").write_text("".join("\t".join(line) + "\n" for line in lines), encoding="utf-8")
    for line in left:
        print(f"left out: {line}", file=sys.stderr)
    print(f"{len(rows)} pairs in {folder / 'pairs.tsv'}")
    return len(rows)


def main(argv: Sequence[str] | None = None, *, patience: Patience | None = None) -> int:
    """The command line: 0 all there, 2 wrong usage, 3 license not accepted, 4 some failed, 5 all failed."""
    patience = patience or Patience()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help="files to fetch, by name without ending [all]")
    parser.add_argument("--output", type=Path, help="folder for archives and images (made if missing)")
    parser.add_argument("--accept-license", metavar="LICENSE", help="repeat the license that is shown")
    parser.add_argument("--pairs-only", action="store_true", help="fetch nothing, list the pairs below --output")
    parser.add_argument("--server", default=SERVER, help="instead of %(default)s")
    options = parser.parse_args(argv)
    if options.pairs_only:
        if options.output is None or not options.output.is_dir():
            parser.error("--pairs-only needs the --output folder of an earlier call")
        return 0 if write_pairs(options.output) else 5
    try:
        record = read_record(options.server, timeout=patience.timeout)
    except DownloadError as error:
        print(f"failed: {error}", file=sys.stderr)
        return 5
    print(record.text())
    if not record.license or options.accept_license != record.license:
        wanted = record.license or "none, so nothing can be accepted; ask the authors"
        print(f"nothing was fetched: read the license, then give --accept-license {wanted}", file=sys.stderr)
        return 3
    if options.output is None:
        parser.error("--output is needed")
    unknown = sorted(set(options.parts) - {file.key for file, _ in record.files})
    if unknown:
        parser.error(f"there is no part {', '.join(unknown)}; choose from {' '.join(f.key for f, _ in record.files)}")
    files = [file for file, _ in record.files if not options.parts or file.key in options.parts]
    code = get_each(files, lambda file: _get(file, options.server, options.output, patience))
    if code in (5, 130):
        return code
    return code if write_pairs(options.output) else 4


def _get(file: RemoteFile, server: str, output: Path, patience: Patience) -> None:
    """Fetch one file and unpack it if it is an archive, each unless it is there."""
    folder = output / file.key
    if folder.is_dir():
        print(f"{file.key}: {folder} is there already")
        return
    output.mkdir(parents=True, exist_ok=True)
    is_archive = unpacks(file.name)
    path = fetch(
        file, f"{server.rstrip('/')}/records/{RECORD}/files/", output, patience=patience, room=2 - (not is_archive)
    )
    if is_archive:
        unpack(path, folder)
    print(f"{file.key}: {folder if is_archive else path}")


if __name__ == "__main__":
    sys.exit(main())
