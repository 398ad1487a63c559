"""Operators for the MONAI Deploy App SDK: super-resolve selected DICOM series, write derived ones."""

from .operators import DerivedSeriesWriterOperator, SuperResolutionOperator, SuperResolved

__all__ = ["DerivedSeriesWriterOperator", "SuperResolutionOperator", "SuperResolved"]
