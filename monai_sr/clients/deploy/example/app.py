"""An application of the MONAI Deploy App SDK: a folder of DICOM in, derived series of thin slices out.

    python app.py -i dicom_folder -o derived

``app.yaml`` beside it holds the options. Research only, not for diagnosis.
"""

from __future__ import annotations

import logging
from pathlib import Path

from monai.deploy.conditions import CountCondition
from monai.deploy.core import Application
from monai.deploy.operators.dicom_data_loader_operator import DICOMDataLoaderOperator
from monai.deploy.operators.dicom_series_selector_operator import DICOMSeriesSelectorOperator

from monai_sr.clients.deploy import DerivedSeriesWriterOperator, SuperResolutionOperator
from monai_sr.options import RunOptions

ACQUIRED = """{"selections": [
    {"name": "CT", "conditions": {"Modality": "CT", "ImageType": ["ORIGINAL"]}},
    {"name": "MR", "conditions": {"Modality": "MR", "ImageType": ["ORIGINAL"]}}
]}"""
"""Which series are taken, in the language of the SDK's selector."""


class SuperResolutionApp(Application):
    """Loader, selector, super-resolution, writer."""

    def compose(self) -> None:
        paths = Application.init_app_context(self.argv)
        chosen = {name: value for name, value in self.kwargs("super_resolution").items() if value != ""}
        options = RunOptions.from_dict(chosen)
        loader = DICOMDataLoaderOperator(
            self, CountCondition(self, 1), input_folder=Path(paths.input_path), name="loader"
        )
        selector = DICOMSeriesSelectorOperator(self, rules=ACQUIRED, all_matched=True, name="selector")
        super_resolution = SuperResolutionOperator(self, options=options, name="super_resolution")
        writer = DerivedSeriesWriterOperator(self, output_folder=Path(paths.output_path), name="writer")
        self.add_flow(loader, selector, {("dicom_study_list", "dicom_study_list")})
        self.add_flow(selector, super_resolution, {("study_selected_series_list", "study_selected_series_list")})
        self.add_flow(super_resolution, writer, {("super_resolved", "super_resolved")})


if __name__ == "__main__":
    logging.disable(logging.INFO)  # the SDK's selector writes descriptions of series at that level
    app = SuperResolutionApp()
    app.config(str(Path(__file__).with_name("app.yaml")))
    app.run()
