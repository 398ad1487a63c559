"""How cases are processed: what a user chose for all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from monai.data import MetaTensor

from ..acquired import Acquired
from ..bundles import Model, load_bundle
from ..dicom import MadeBy
from ..errors import UsageError
from ..grid import Grid
from ..options import RunOptions
from ..report import niivue_script


@dataclass(frozen=True)
class Settings:
    """How cases are processed.

    Attributes:
        bundle: name or folder, see :func:`monai_sr.bundles.load_bundle`.
        device: "auto", "cpu", "cuda", ...
        engine, precision: as of :func:`monai_sr.bundles.load_bundle`.
        options: spacing, factor, slice_thickness, profile, axis and modality as of
            :func:`monai_sr.inference.super_resolve`.
        fill_gaps, merge_by_geometry: as of :func:`monai_sr.io.images.read_image`.
        reading: volume, nan and geometry as of :func:`monai_sr.io.images.read_image`.
        strict: as of :func:`monai_sr.inference.super_resolve`.
        trust_bundle: as of :func:`monai_sr.bundles.load_bundle`.
        overwrite: replace results that are not ours or were changed.
        maps: of :data:`monai_sr.batch.companions.MAPS`, to be written beside each result.
        report: write a page with pictures beside each result, or in its place where a case fails.
        viewer: write a page with the volumes themselves beside each result, see :func:`monai_sr.report.write_viewer`.
        memory: bytes that a process may take; None to find out where it runs.
    """

    bundle: str = "residual"
    device: str = "auto"
    engine: str | None = None
    precision: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    fill_gaps: bool = False
    merge_by_geometry: bool = False
    reading: Mapping[str, Any] = field(default_factory=dict)
    strict: bool = False
    trust_bundle: bool = False
    overwrite: bool = False
    maps: tuple[str, ...] = ()
    report: bool = False
    viewer: bool = False
    memory: int | None = None

    @classmethod
    def of(cls, options: RunOptions) -> Settings:
        """As a user chose them."""
        outputs, compute = options.outputs, options.compute
        maps = {"consistency": outputs.consistency_map, "uncertainty": outputs.uncertainty}
        return cls(
            bundle=options.wanted.bundle,
            device=compute.device,
            engine=compute.engine,
            precision=compute.precision,
            options={"spacing": options.wanted.spacing, "factor": options.wanted.factor, **vars(options.acquisition)},
            fill_gaps=options.reading.fill_gaps,
            merge_by_geometry=options.reading.merge_by_geometry,
            reading={name: getattr(options.reading, name) for name in ("volume", "nan", "geometry")},
            strict=options.wanted.strict,
            trust_bundle=compute.trust_bundle,
            overwrite=outputs.overwrite,
            maps=tuple(name for name, wanted in maps.items() if wanted),
            report=outputs.report,
            viewer=outputs.viewer,
        )

    def load(self, *, device: str | None = None) -> Model:
        """The bundle, on this or another device.

        Raises:
            SuperResolutionError: bundle or device cannot be used.
        """
        if self.viewer:
            niivue_script()  # so that it is missed before the work
        model = load_bundle(
            self.bundle,
            device=device or self.device,
            engine=self.engine,
            precision=self.precision,
            trust_bundle=self.trust_bundle,
        )
        if "uncertainty" in self.maps and not model.calibration.get("uncertainty"):
            raise UsageError(
                "E-USE",
                f"{self.bundle} does not know how uncertain its results are",
                fix="choose another bundle, or run monai-sr calibrate",
            )
        return model

    def made_by(self, model: Model, *, slice_thickness: float | None = None) -> MadeBy:
        """What is written into results, and decides whether they are done.

        Args:
            model: the bundle.
            slice_thickness: mm, if something beside the image tells it.
        """
        flags = {name: True for name in ("fill_gaps", "merge_by_geometry") if getattr(self, name)}
        chosen = {**self.options, **self.reading, **flags}
        if chosen.get("nan") == "fill":  # which is no choice
            del chosen["nan"]
        if chosen.get("slice_thickness") is None:
            chosen["slice_thickness"] = slice_thickness
        if model.engine.name:
            chosen |= {"engine": model.engine.name, "precision": model.engine.precision}
        options = {name: str(value) for name, value in chosen.items() if value is not None}
        return MadeBy(model.name, model.version, model.weights_sha256, options)

    def acquired(self, image: MetaTensor) -> Acquired:
        """An image with what the options say of its acquisition."""
        names = ("slice_thickness", "profile", "axis", "modality")
        return Acquired.of(image, **{name: self.options.get(name) for name in names})

    def wanted_grid(self, acquired: Acquired) -> Grid:
        """The grid that the result of a volume is to have."""
        return acquired.wanted_grid(spacing=self.options.get("spacing"), factor=self.options.get("factor"))
