"""What was typed, as the values that the library takes."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..batch import Settings

MODEL_OPTIONS = ("spacing", "factor", "slice_thickness", "profile", "axis", "modality")


def settings_of(options: argparse.Namespace) -> Settings:
    """How cases are to be processed."""
    from ..batch import Settings

    return Settings(
        bundle=options.bundle,
        device=options.device,
        engine=options.engine,
        precision=options.precision,
        options={name: getattr(options, name) for name in MODEL_OPTIONS},
        fill_gaps=bool(options.fill_gaps),
        merge_by_geometry=bool(options.merge_by_geometry),
        reading=reading(options),
        strict=options.strict,
        trust_bundle=options.trust_bundle,
        overwrite=options.overwrite,
        maps=_maps(options),
        report=options.report,
        viewer=options.viewer,
    )


def _maps(options: argparse.Namespace) -> tuple[str, ...]:
    """The maps that are to be written."""
    chosen = {"consistency": options.consistency_map, "uncertainty": options.uncertainty}
    return tuple(name for name, wanted in chosen.items() if wanted)


def loading(options: argparse.Namespace) -> dict[str, Any]:
    """How a bundle is to be loaded."""
    return {name: getattr(options, name) for name in ("device", "engine", "precision", "trust_bundle")}


def reading(options: argparse.Namespace) -> dict[str, Any]:
    """How an image file is to be read."""
    return {name: getattr(options, name) for name in ("volume", "nan", "geometry")}
