"""Two operators for an application of the MONAI Deploy App SDK (4.0).

They stand behind the SDK's own loader and selector of series. Its bundle operator casts images to uint8,
and it has no writer of image series (found by running it), so both are ours: our gate reads the files that
were selected, and our writer makes the derived series.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from monai.data import MetaTensor
from monai.deploy.core import ConditionType, Fragment, Operator, OperatorSpec

from ...batch import (
    assess,
    describe_result,
    load_model,
    made_by,
    resolve_options,
    sha256_of,
    super_resolve_within,
    write_record,
)
from ...dicom import MadeBy, Series, find_series, short_name, write_derived_series
from ...errors import ImageError, SuperResolutionError, SuperResolutionWarning, collect_notices
from ...inference import acquire
from ...io.images import read_dicom
from ...options import RunOptions

SELECTED, SUPER_RESOLVED = "study_selected_series_list", "super_resolved"
"""Names of the ports; the first is that of the SDK's selector."""


@dataclass(frozen=True)
class SuperResolved:
    """A result on its way to a writer.

    Attributes:
        image: (1, X, Y, Z) float32 in HU or signal.
        series: the source.
        made_by: what made it.
        record: what is written beside it, without the hash of the written series.
        notices: the warnings about it.
        seconds: that it took.
    """

    image: MetaTensor
    series: Series
    made_by: MadeBy
    record: dict[str, Any]
    notices: list[SuperResolutionWarning]
    seconds: float


class SuperResolutionOperator(Operator):
    """Super-resolves the DICOM series that were selected.

    Named input: ``study_selected_series_list``, of the SDK's DICOMSeriesSelectorOperator over files.
    Named output: ``super_resolved``, a list of :class:`SuperResolved`. A series that cannot be used is
    logged by its code and left out; if none can be, its error ends the application.

    Args:
        fragment: the application.
        options: bundle, device, what is wanted, and how volumes were acquired.

    Raises:
        SuperResolutionError: the bundle or device cannot be used.
    """

    def __init__(self, fragment: Fragment, *args: Any, options: RunOptions | None = None, **kwargs: Any) -> None:
        self._options = options or RunOptions()
        self._model = load_model(self._options)
        self._log = logging.getLogger(__name__)
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        spec.input(SELECTED)
        spec.output(SUPER_RESOLVED).condition(ConditionType.NONE)

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        done: list[SuperResolved] = []
        fault: SuperResolutionError | None = None
        for files in files_of(op_input.receive(SELECTED)):
            try:
                done += self.super_resolve(files)
            except SuperResolutionError as error:
                self._log.error("%s: %s", error.code, error.problem)
                fault = error
        if not done:
            raise fault or ImageError("E-DCM-NONE", "no series was selected", fix="check the rules of selection")
        op_output.emit(done, SUPER_RESOLVED)

    def super_resolve(self, files: Iterable[Path]) -> list[SuperResolved]:
        """Every volume of the files of a series.

        Raises:
            ImageError: they make none that can be used.
        """
        linked = tempfile.TemporaryDirectory(prefix="monai-sr-")
        for number, file in enumerate(files, start=1):
            Path(linked.name, f"{number:05d}.dcm").symlink_to(file)
        found = find_series(linked.name)
        if not found.series:
            found.only()
        # the links live as long as what was found by them
        return [self._result_of(replace(series, unpacked=linked)) for series in found.series]

    def _result_of(self, series: Series) -> SuperResolved:
        started, options = time.monotonic(), resolve_options(self._options, self._model)
        with collect_notices() as notices:
            image = read_dicom(series, path=Path(short_name(series)), fill_gaps=options.reading.fill_gaps).to_tensor()
            acquired, made = acquire(image, options.acquisition, options.wanted), made_by(options, self._model)
            sr, how = super_resolve_within(self._model, acquired, options.wanted)
            trust, _ = assess(acquired, sr, self._model, options)
        assert isinstance(sr, MetaTensor)  # as its image
        record = describe_result(sr, acquired, made, options, series=series)
        record["monai_sr"] |= how | trust
        for notice in notices:
            self._log.warning("%s: %s", notice.code, notice.problem)
        return SuperResolved(sr, series, made, record, notices, time.monotonic() - started)


class DerivedSeriesWriterOperator(Operator):
    """Writes each result as a DICOM series of its source's study, into a folder ``series-<hash>``, and its record.

    Named input: ``super_resolved``, of :class:`SuperResolutionOperator`.

    Args:
        fragment: the application.
        output_folder: where to.
    """

    def __init__(self, fragment: Fragment, *args: Any, output_folder: Path, **kwargs: Any) -> None:
        self._folder = Path(output_folder)
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        spec.input(SUPER_RESOLVED)

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        for result in op_input.receive(SUPER_RESOLVED):
            folder = self._folder / short_name(result.series)
            write_derived_series(result.image, result.series, folder, made_by=result.made_by)
            digest = sha256_of(result.series.files)
            write_record(folder, result.record, input_sha256=digest, notices=result.notices, seconds=result.seconds)


def files_of(selected: Iterable[Any]) -> Iterator[list[Path]]:
    """The files of each series that the SDK's selector chose, each series once."""
    seen: set[str] = set()
    for study in selected:
        for chosen in study.selected_series:
            uid = str(chosen.series.SeriesInstanceUID)
            if uid not in seen:
                seen.add(uid)
                instances = (one.get_native_sop_instance() for one in chosen.series.get_sop_instances())
                yield [Path(one.filename).absolute() for one in instances]
