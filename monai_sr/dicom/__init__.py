"""DICOM in and out: find series, gate and read them, write derived ones."""

from .dataset import is_dicom
from .derive import MadeBy, write_derived_series
from .enhanced import DERIVED_FORMATS, check_size, format_of
from .phases import TOGETHER
from .planes import MaskObject, read_mask_object
from .scan import Found, LeftOut, find_series, is_dicom_source, regular_files, short_name
from .segmentation import read_mask_labels
from .series import Frame, Series
from .sidecar import acquisition, protocol_of, series_description
from .stack import SLICE_AXIS, Stack, read_series, stack_of
