"""Names and folders of bundles; without torch, so that help and ``info`` are fast."""

from __future__ import annotations

import json
import logging
import re
import zipfile
import zlib
from pathlib import Path
from typing import Any

from ..errors import BundleError
from ..options import BUNDLES

NAMES = {name: f"{name}_super_resolution" for name in BUNDLES}
"""Folder names of the shipped bundles, by their short names on the command line."""

_DOS_FOLDER = 0x10
_BUNDLE_FILE = re.compile(r"\$bundle_file\(@bundle_root, '([^']+)'\)")

SPLINE = "none"
"""Name of the consistent spline, which is used instead of a bundle, without a network."""


def bundle_path(name_or_path: str | Path) -> Path:
    """The folder of a bundle: one of :data:`NAMES`, or any path that holds ``configs/inference.json``.

    Of a model in the cache of the Hugging Face hub (``models--OWNER--NAME``) it is the snapshot of its main branch.

    Raises:
        BundleError: there is no such bundle.
    """
    name = NAMES.get(str(name_or_path), str(name_or_path))
    for folder in (*(home / name for home in homes()), Path(name_or_path), _snapshot_in(Path(name_or_path))):
        if (folder / "configs" / "inference.json").is_file():
            return folder.resolve()
    raise BundleError("E-W-BUNDLE", f"unknown bundle {str(name_or_path)!r}")


def _snapshot_in(folder: Path) -> Path:
    """The snapshot that a folder of the hub's cache names; the folder itself if it names none."""
    try:
        return folder / "snapshots" / (folder / "refs" / "main").read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return folder


def revision_of(folder: Path) -> str:
    """The commit of a snapshot of the hub; empty for other folders."""
    return folder.name if folder.parent.name == "snapshots" else ""


def name_of(folder: Path) -> str:
    """The name of a bundle: that of its folder, or of the model that it is a snapshot of."""
    return folder.parents[1].name.rsplit("--", 1)[-1] if revision_of(folder) else folder.name


def shipped_bundles() -> dict[str, dict[str, Any]]:
    """The metadata of the bundles that ship, by their short names; needs no torch."""
    found = {}
    for short in NAMES:
        try:
            path = bundle_path(short) / "configs" / "metadata.json"
            found[short] = json.loads(path.read_text())
        except (BundleError, OSError, ValueError) as error:
            logging.getLogger(__name__).warning("%s: %s", short, error)
    return found


def read_calibration(name_or_path: str | Path) -> dict[str, Any]:
    """The calibration of a bundle: measured by ``monai-sr calibrate``, in ``configs/calibration.json``.

    ``consistency`` holds the ``limit`` on the NRMSE of a slice, ``uncertainty`` the constants of
    :mod:`monai_sr.trust.uncertainty`, ``trained_on`` the ranges of :mod:`monai_sr.trust.ranges`.
    The consistent spline uses the consistency of the residual bundle. It is empty for a bundle that was not
    calibrated.

    Raises:
        BundleError: there is no such bundle, or its calibration cannot be read.
    """
    if str(name_or_path) == SPLINE:
        return {"consistency": read_calibration("residual").get("consistency", {})}
    path = bundle_path(name_or_path) / "configs" / "calibration.json"
    try:
        calibration = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(calibration, dict):
            raise ValueError("an object is needed")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise BundleError("E-W-CONFIG", f"it cannot be read ({error})", path=path) from error
    return calibration


def plain_config(folder: Path) -> dict[str, dict[str, Any]] | None:
    """Network and inferer as the ``inference.json`` of a bundle describes them, and its checkpoint; without MONAI.

    References are replaced by what they refer to, and ``bundle_file`` by the path. None if something needs MONAI's
    parser: an expression, another reference or another option of it, or a fault, which the parser names.
    """

    def plain(value: Any) -> Any:
        if isinstance(value, dict) and not [key for key in value if key.startswith("_") and key != "_target_"]:
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, str) and value.startswith("@"):
            return plain(config[value[1:]])
        if isinstance(value, str) and (file := _BUNDLE_FILE.fullmatch(value)):
            return str(folder / file[1])
        if isinstance(value, dict) or (isinstance(value, str) and value.startswith(("$", "%"))):
            raise ValueError("MONAI has to evaluate it")
        return [plain(item) for item in value] if isinstance(value, list) else value

    try:
        config = json.loads((folder / "configs" / "inference.json").read_text(encoding="utf-8"))
        return {name: plain(config[name]) for name in ("network_def", "inferer", "checkpoint")}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def check_weights(path: str | Path) -> Path:
    """Verify the checksums of a file of weights, which torch 2.13 ignores.

    For an entry marked as a folder, torch reads nothing and returns uninitialized memory.

    Raises:
        BundleError: the file is missing (E-W-MISSING) or damaged (E-W-HASH).
    """
    path = Path(path)
    if not path.is_file():
        raise BundleError("E-W-MISSING", "the weights are missing", path=path)
    try:
        with zipfile.ZipFile(path) as packed:
            folders = any(entry.external_attr & _DOS_FOLDER for entry in packed.infolist())
            sound = not folders and packed.testzip() is None
    except (RuntimeError, EOFError, ValueError, OSError, zipfile.BadZipFile, zlib.error) as error:
        raise damaged_weights(path) from error
    if not sound:
        raise damaged_weights(path)
    return path


def damaged_weights(path: Path) -> BundleError:
    """The error of weights that are damaged or no plain state dict."""
    return BundleError("E-W-HASH", "the weights are damaged or no plain state dict", path=path)


def ships(folder: Path) -> bool:
    """Whether a bundle belongs to monai-sr."""
    return any(folder.is_relative_to(home.resolve()) for home in homes())


def homes() -> list[Path]:
    """Folders of bundles: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    return [package / "_bundles", package.parent / "bundles"]
