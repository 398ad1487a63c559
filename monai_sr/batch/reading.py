"""The volume of a case, its acquisition and the hash of its files; without torch, so that ``check`` answers soon."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ..acquired import acquisition_meta, protocol_in
from ..dicom import TOGETHER, Series, format_of, protocol_of
from ..engine import Progress
from ..errors import ImageError, collect_notices
from ..grid import ArrayImage
from ..io.images import read_array, read_dicom, read_header, refuse_file_options
from ..io.sidecar import protocol_in_json
from ..options import Acquisition, RunOptions
from ..profiles import known_profile, read_protocols
from .bids import BidsImage
from .chosen import Case
from .companions import MAPS
from .record import sha256_of


def read_case(case: Case, options: RunOptions, *, progress: Progress | None = None) -> ArrayImage:
    """The volume of a case; ``progress`` is called with the fraction of a DICOM series that is read.

    Raises:
        ImageError: it cannot be read, or is no volume that can be processed.
        UsageError: options for image files were given for a DICOM series.
    """
    reading = options.reading
    if case.series is not None:
        volume = None if reading.volume in TOGETHER else reading.volume
        refuse_file_options(volume=volume, geometry=reading.geometry)
        return read_dicom(case.series, path=case.source, fill_gaps=reading.fill_gaps, progress=progress)
    image = read_array(case.source, replace(reading, series=None, fill_gaps=False, merge_by_geometry=False))
    if case.bids is not None:
        image.meta.update(_bids_meta(case.bids, with_protocol=options.acquisition.protocols is not None))
    return image


def decide_options(case: Case, options: RunOptions) -> RunOptions:
    """The options with what the case decides: its acquisition, and the kind of DICOM images."""
    series = (case.series,) if case.series is not None and case.is_derived_dicom else ()
    return replace(decide_format(options, series), acquisition=_decide_acquisition(case, options))


def decide_format(options: RunOptions, sources: Sequence[Series]) -> RunOptions:
    """The options with "enhanced" as format where DICOM results of these sources are enhanced images."""
    if not sources or format_of(options.wanted.format, sources) != "enhanced":
        return options
    return replace(options, wanted=replace(options.wanted, format="enhanced"))


def _decide_acquisition(case: Case, options: RunOptions) -> Acquisition:
    """The acquisition of a case by the options, the JSON of a BIDS dataset and the table of protocols."""
    said = options.acquisition
    by_metadata = said if case.bids is None else said.or_else(Acquisition(slice_thickness=case.bids.slice_thickness))
    if not said.protocols:
        return by_metadata
    if case.bids is not None:
        meta = _bids_meta(case.bids, with_protocol=True)
    elif case.series is None:
        with collect_notices():  # they are given when the image is read
            meta = read_header(case.source, geometry=options.reading.geometry).meta
    else:
        protocol = protocol_of(case.series)
        meta = acquisition_meta(slice_thickness=case.series.slice_thickness, protocol=protocol)
    stated, typical = protocol_in(meta)
    known = known_profile(stated, thickness=typical, table=read_protocols(said.protocols))
    if known is None or known.source != "protocol" or typical is None:
        return by_metadata
    return said.or_else(Acquisition(slice_thickness=round(known.ratio * typical, 6), profile=known.profile))


def _bids_meta(image: BidsImage, *, with_protocol: bool) -> dict[str, Any]:
    """The metadata of an image of a BIDS dataset, with those that it inherits; its protocol for a table of them."""
    protocol = protocol_in_json(image.metadata, image.modality) if with_protocol else None
    return acquisition_meta(
        modality=image.modality, slice_thickness=image.slice_thickness, protocol=protocol, source="sidecar"
    )


def maps_wanted(options: RunOptions) -> list[str]:
    """Kinds of the requested maps."""
    wanted = {"consistency": options.outputs.consistency_map, "uncertainty": options.outputs.uncertainty}
    return [kind for kind in MAPS if wanted[kind]]


def input_sha256(case: Case) -> str:
    """Hash of the files of a case.

    Raises:
        ImageError: a file cannot be read, or is a pipe or device (reading it could last forever).
    """
    if any(path.exists() and not path.is_file() for path in case.files):
        raise ImageError("E-IO-TYPE", "not a regular file")
    try:
        return sha256_of(case.files)
    except OSError as error:
        code = "E-IO-PERM" if isinstance(error, PermissionError) else "E-IO-READ"
        problem = f"cannot be read ({error.strerror})"
        raise ImageError(code, problem, fix="check the file and its permissions") from error
