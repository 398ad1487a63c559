"""Find a bundle by name or path and load it as a Model, by the bundle's own inference.json."""

from __future__ import annotations

import copy
import pickle
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from .acquired import Acquired
from .engine import Engine, Progress
from .engine.devices import may_use_gpu
from .engine.selection import as_engine, make_engine
from .engine.weights import Weights, read_weights
from .errors import BundleError, Later, UsageError, warn
from .grid import Image
from .inference import super_resolve_acquired
from .io import shelf
from .io.adapters import as_volume
from .io.shelf import NAMES as NAMES
from .io.shelf import SPLINE, bundle_path, damaged_weights
from .io.shelf import check_weights as check_weights
from .io.shelf import read_calibration as read_calibration
from .io.shelf import shipped_bundles as shipped_bundles
from .options import Wanted
from .trust.preparation import Settings, Trained, VolumeOptions, acquire, read_trained, refuse_unknown

if TYPE_CHECKING:
    import torch
    from monai import bundle
    from torch import nn

    from . import networks
else:
    bundle, networks, torch = Later("monai.bundle"), Later("monai_sr.networks"), Later("torch")

_NETWORKS = {f"monai_sr.{name}": name for name in ("PyramidNet", "ResidualNet")}
"""Networks that are made without MONAI, by their names in a configuration."""

_ENGINE_OPTIONS = ("engine", "precision", "quality", "int8")
"""Of an inferer in a configuration, see :func:`monai_sr.engine.selection.make_engine`; the default engine is torch."""


class Model(Trained):
    """A bundle ready to run: ``model(image) -> image``. ``engine`` is that of its network, or the consistent spline."""

    def __init__(
        self,
        name: str,
        version: str,
        network: nn.Module | Engine | None,
        defaults: Settings | None = None,
        *,
        weights_sha256: str = "",
        calibration: Mapping[str, Any] | None = None,
        revision: str = "",
    ) -> None:
        super().__init__(name, version, weights_sha256, dict(calibration or {}), defaults or Settings(), revision)
        self.engine = as_engine(network)

    def __repr__(self) -> str:
        computed = f", {self.engine.name} {self.engine.precision} on {self.engine.device}" if self.engine.name else ""
        weights = f", weights {self.weights_sha256[:12]}" if self.weights_sha256 else ""
        return f"<monai-sr {' '.join(filter(None, (self.name, self.version)))}{computed}{weights}>"

    @property
    def network(self) -> nn.Module | None:
        """In eval mode on its device; None for the consistent spline."""
        return self.engine.network

    @property
    def device(self) -> torch.device:
        """The device of the network; the CPU without one."""
        return torch.device(self.engine.device)

    def on(self, device: str | torch.device) -> Model:
        """This model on a device; itself if it is there already, else a copy, by torch in float32."""
        if str(device) == self.engine.device or self.network is None:
            return self
        # straight to the device: a card that ran out of memory cannot hold the weights twice
        moved: dict[int, Any] = {
            id(weight): torch.nn.Parameter(weight.detach().to(device), weight.requires_grad)
            for weight in self.network.parameters()
        }
        moved |= {id(buffer): buffer.to(device) for buffer in self.network.buffers()}
        return self.computed_by(as_engine(copy.deepcopy(self.network, moved)))

    def computed_by(self, engine: Engine) -> Model:
        """This model with another engine."""
        model = copy.copy(self)
        model.engine = engine
        return model

    def __call__(self, image: Any, *, progress: Progress | None = None, **options: Unpack[VolumeOptions]) -> Any:
        """Super-resolve one volume; images and options as of :func:`monai_sr.inference.super_resolve`."""
        refuse_unknown(options, VolumeOptions.__optional_keys__)
        given = Settings.of(**options)
        volume, give_back = (image, None) if isinstance(image, torch.Tensor) else as_volume(image)
        wanted = given.wanted.or_else(self.defaults.wanted)
        acquired = acquire(volume, given.acquisition.or_else(self.defaults.acquisition), wanted)
        sr = self.super_resolve(acquired, wanted, tile_voxels=given.tile_voxels, progress=progress)
        return sr if give_back is None else give_back(sr)

    def super_resolve(
        self, acquired: Acquired, wanted: Wanted, *, tile_voxels: int | None = None, progress: Progress | None = None
    ) -> Image:
        """Super-resolve a volume whose facts are decided, and warn where it is unlike the training data."""
        grid = acquired.wanted_grid(spacing=wanted.spacing, factor=wanted.factor)
        outside = self.check_ranges(acquired, grid, strict=wanted.strict)
        settings = replace(self.defaults, wanted=wanted, tile_voxels=tile_voxels or self.defaults.tile_voxels)
        sr = super_resolve_acquired(acquired, self.engine, settings, progress=progress)
        if outside:
            sr.meta["outside_ranges"] = outside
        return sr


def bundle_file(root: str, name: str) -> str:
    """A file of the bundle whose config calls this, independent of the current folder.

    The ``bundle_root`` of a config is ".", as in the model zoo. In MONAI 1.6.1 that is the current folder.
    Here it is the folder of the evaluated config, which only the workflow knows (``config_root_path``).
    """
    frame = sys._getframe() if root == "." else None
    while frame is not None:
        workflow = frame.f_locals.get("self")
        if isinstance(workflow, bundle.ConfigWorkflow):
            configs = workflow.config_root_path.resolve()
            return str((configs.parent if configs.name == "configs" else configs) / name)
        frame = frame.f_back
    return str(Path(root) / name)


def load_bundle(
    name_or_path: str | Path,
    *,
    device: str | torch.device = "auto",
    engine: str | None = None,
    precision: str | None = None,
    quality: str | None = None,
    trust_bundle: bool = False,
) -> Model:
    """Load a bundle by its ``inference.json``, to run as with ``python -m monai.bundle run``.

    The configuration of a bundle may run any code. Bundles that ship with the package are trusted; any
    other is read only if ``trust_bundle`` is set.

    Args:
        name_or_path: "residual", "pyramid", "none" for the consistent spline, or a bundle folder, such as a snapshot of
            the Hugging Face hub or its folder in the hub's cache.
        device: "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1", …
        engine: "auto" for the fastest that is installed, "torch" or "openvino". Default: as the bundle says.
        precision: "auto", "float32", "int8" (CPU), "float16" (GPU) or "bfloat16" (GPU; a CPU that has it). Default:
            as the bundle says ("auto": int8 on the CPU if it is calibrated, otherwise float32).
        quality: "usual", or "best" for the mean over mirror images. Default: as the bundle says.
        trust_bundle: let a bundle that does not ship with monai-sr run its code.

    Raises:
        BundleError: no such bundle, it is not trusted, or its weights are missing, damaged or of
            another shape.
        UsageError: there is no such device, or engine, precision and device do not fit together.
    """
    where = pick_device(device)
    if str(name_or_path) == SPLINE:
        return Model(SPLINE, "", None, calibration=read_calibration(SPLINE))
    folder = bundle_path(name_or_path)
    if not (trust_bundle or shelf.ships(folder)):
        problem = "this bundle does not ship with monai-sr, and its configuration may run any code"
        raise BundleError("E-W-TRUST", problem, path=folder)
    try:
        network, how, defaults, weights = _read_plain(folder, where) or _evaluate(folder, where)
    except Exception as error:
        # a configuration may raise any exception
        raise BundleError("E-W-CONFIG", f"its configuration cannot be read ({error})", path=folder) from error
    if not isinstance(defaults, Settings):
        problem = "it is not a super-resolution bundle"
        raise BundleError("E-W-CONFIG", problem, fix="give a bundle made by monai-sr", path=folder)
    if not isinstance(network, Weights):
        load_weights(network, weights)
        network = network.to(where, memory_format=torch.channels_last_3d).eval()  # type: ignore[call-overload]
    given = {"engine": engine, "precision": precision, "quality": quality}
    computed = make_engine(network, **how | {name: value for name, value in given.items() if value})
    return bundle_model(folder, weights, computed, defaults)


def _read_plain(folder: Path, device: str) -> tuple[nn.Module | Weights, dict[str, Any], Settings, Path] | None:
    """Network, options of its engine, settings and weights of a bundle, without MONAI, whose import takes a second.

    On the CPU without torch, too: then the network is its weights, which are read already. None if the configuration
    needs MONAI's parser, see :func:`monai_sr.io.shelf.plain_config`.
    """
    config = shelf.plain_config(folder)
    if config is None:
        return None
    network, inferer = config["network_def"], config["inferer"]
    name, weights = _NETWORKS.get(network.pop("_target_", "")), Path(str(config["checkpoint"]))
    if name is None or inferer.pop("_target_", "") != "monai_sr.SuperResolutionInferer":
        return None
    how = {"engine": "torch"} | {name: inferer.pop(name) for name in _ENGINE_OPTIONS if name in inferer}
    defaults = Settings.of(**inferer)
    read = read_weights(name, network, weights) if device == "cpu" else None
    return read or getattr(networks, name)(**network), how, defaults, weights


def _evaluate(folder: Path, device: str) -> tuple[nn.Module, dict[str, Any], Settings | None, Path]:
    """:func:`_read_plain` by MONAI's parser, which runs the code of a configuration; no settings of another inferer."""
    parser = bundle.ConfigParser()
    parser.read_config(str(folder / "configs" / "inference.json"))
    parser["bundle_root"], parser["device"] = str(folder), torch.device(device)
    network, inferer, weights = (parser.get_parsed_content(name) for name in ("network_def", "inferer", "checkpoint"))
    return network, getattr(inferer, "engine", {}), getattr(inferer, "defaults", None), Path(weights)


def bundle_model(folder: Path, weights: Path, engine: Engine, defaults: Settings) -> Model:
    """The model of a bundle whose weights an engine holds.

    Raises:
        BundleError: its metadata or calibration cannot be read.
    """
    known = read_trained(folder, weights, defaults)
    return Model(
        *(known.name, known.version, engine, defaults),
        weights_sha256=known.weights_sha256,
        calibration=known.calibration,
        revision=known.revision,
    )


def load_weights(network: nn.Module, path: str | Path) -> None:
    """Fill ``network`` from a plain state dict, strictly.

    Raises:
        BundleError: the file is missing (E-W-MISSING), damaged (E-W-HASH) or of another network (E-W-SHAPE).
    """
    path = check_weights(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, OSError) as error:
        raise damaged_weights(path) from error
    try:
        network.load_state_dict(state.get("network", state) if isinstance(state, dict) else state)
    except (RuntimeError, TypeError, AttributeError) as error:
        problem = f"the weights do not fit {type(network).__name__} as inference.json describes it"
        raise BundleError("E-W-SHAPE", problem, path=path) from error


def pick_device(device: str | torch.device) -> str:
    """ "auto" is a GPU that works, otherwise the CPU; any other device must work. torch is asked only about a GPU.

    Raises:
        UsageError: the device cannot be used.
    """
    if str(device) == "cpu" or (device == "auto" and not (may_use_gpu() and torch.cuda.is_available())):
        return "cpu"
    try:
        chosen = torch.device("cuda" if device == "auto" else device)
        torch.zeros(8, device=chosen).sum().item()  # an unsuitable driver or card fails only when it computes
    except (RuntimeError, AssertionError) as error:
        if device == "auto":
            first = (str(error).splitlines() or [""])[0]
            facts = {"torch": torch.__version__, "reason": first}
            warn("W-DEV", "the GPU cannot be used (torch {torch}: {reason}); the CPU is", facts=facts)
            return "cpu"
        raise UsageError("E-DEV", f"device {str(device)!r} cannot be used here (torch {torch.__version__})") from error
    return str(chosen)
