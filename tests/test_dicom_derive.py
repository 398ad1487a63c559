"""A result as DICOM: found beside its source by viewers, archives and converters, and known for what it is."""

from __future__ import annotations

import errno
import itertools
import json
import logging
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
import warnings
from dataclasses import replace
from pathlib import Path

import catalogue
import dicom_tools as tools
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from monai.data import MetaTensor
from phantoms import known_value_at
from pydicom.dataelem import RawDataElement
from pydicom.sr.codedict import codes
from pydicom.tag import Tag
from scipy.spatial.transform import Rotation

from monai_sr.dicom import derive
from monai_sr.dicom.derive import MadeBy, write_derived_series
from monai_sr.dicom.kept import SOP_CLASS
from monai_sr.errors import OutputError
from monai_sr.options import RunOptions

MADE_BY = MadeBy("ct_through_plane", "0.1.0", "ab" * 32, RunOptions.from_dict({"factor": 2}))

REAL = [
    "ct_chest_8mm",
    "ct_head_phantom_gantry_tilt",
    "mr_brain_fse_pd_oblique_5mm",
    "mr_enhanced_philips_8frames",
    "mr_enhanced_siemens_8frames",
    "mr_liver_haste_coronal_7mm",
    "mr_mprage_missing_slice",
]

needs = {
    name: pytest.mark.skipif(not shutil.which(name), reason=f"{name} is not installed")
    for name in ("dciodvfy", "dcentvfy", "storescu", "Orthanc")
}


def derive_from(series, tmp_path: Path, volume: MetaTensor | None = None, made_by: MadeBy = MADE_BY):
    """What is read of a derived series of classic images, a file after the other."""
    sr = tools.volume(series) if volume is None else volume
    return tools.read(write_derived_series(sr, series, tmp_path / "derived", made_by=made_by, format="classic"))


def test_the_description_says_which_volume_of_a_series_it_is_of(tmp_path):
    parts = (("type", "W"), ("b", "1000"), ("direction", "12"), ("kernel", "sixteen_letters_"))
    series = replace(tools.acquired(folder=tmp_path / "in"), part=parts)
    (description,) = {one.SeriesDescription for one in derive_from(series, tmp_path)}
    assert description.startswith("SR research - not for diagnosis, type=W, b=1000, direction=12")
    assert len(description) == 64  # as many as the standard allows


# ---------------------------------------------------------------- geometry


def directions() -> dict[str, np.ndarray]:
    """Directions of row, column and slices, LPS, as rows; left-handed ones stack against the normal."""
    values = {}
    for order in itertools.permutations(range(3)):
        for signs in ((1, 1, 1), (-1, 1, 1), (1, -1, -1), (-1, -1, 1)):
            name = "".join("LPS"[a] if s > 0 else "RAI"[a] for a, s in zip(order, signs, strict=True))
            values[name] = np.eye(3)[list(order)] * np.array(signs)[:, None]
    oblique = Rotation.from_euler("xyz", [20, -15, 30], degrees=True).as_matrix()
    return values | {"oblique": oblique, "oblique against the normal": oblique * [[1], [1], [-1]]}


@pytest.mark.parametrize("name", directions())
def test_every_reader_finds_each_voxel_where_it_is(name, tmp_path):
    source = tools.acquired("MR", directions=directions()[name], slices=3, slice_spacing=5.3)
    sr = tools.volume(source, 3, value=known_value_at)
    if "against" in name:  # slices may count either way along the normal
        sr = MetaTensor(sr.flip(-1), affine=sr.affine @ np.array(shifted(sr.shape[-1] - 1)))
    instances = derive_from(source, tmp_path, sr)

    corners = np.array(list(itertools.product(*((0, n - 1) for n in sr.shape[1:]))))
    ours = corners @ sr.affine[:3, :3].numpy().T + sr.affine[:3, 3].numpy()
    read = tools.affine(instances)
    assert np.abs(corners @ read[:3, :3].T + read[:3, 3] - ours).max() < 1e-4
    assert np.abs(tools.values(instances) - sr[0].numpy()).max() <= step_of(instances) / 2 * 1.001

    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path / "derived")))
    image = reader.Execute()
    for index in itertools.product(*((0, n - 1) for n in image.GetSize())):
        point = tools.LPS_FROM_RAS[:3, :3] @ image.TransformIndexToPhysicalPoint(index)
        assert np.linalg.norm(ours - point, axis=1).min() < 0.01
        assert image[index] == pytest.approx(known_value_at(point), abs=0.2 + step_of(instances))  # 0.01 mm


def shifted(last: int) -> np.ndarray:
    """The change of an affine that counts the slices from the other end."""
    flip = np.diag([1.0, 1, -1, 1])
    flip[2, 3] = last
    return flip


def step_of(instances) -> float:
    return float(instances[0].get("RescaleSlope", 1))


def test_positions_do_not_drift_over_a_long_series(tmp_path):
    source = tools.acquired(directions=directions()["oblique"])
    sr = MetaTensor(np.zeros((1, 2, 2, 150), np.float32), affine=tools.volume(source).affine)
    sr.affine[:3, 2] *= 0.123456789
    for index, instance in enumerate(derive_from(source, tmp_path, sr)):
        exact = tools.LPS_FROM_RAS @ sr.affine.numpy() @ [0, 0, index, 1]
        assert np.abs(np.array(instance.ImagePositionPatient, dtype=float) - exact[:3]).max() < 1e-4
        assert all(len(str(value)) <= 16 for value in instance.ImagePositionPatient)


def test_a_slice_has_its_thickness_spacing_and_place_in_the_stack(tmp_path):
    instances = derive_from(tools.acquired(slice_spacing=4.0), tmp_path)
    assert [i.InstanceNumber for i in instances] == list(range(1, 9))
    assert [float(i.SliceLocation) for i in instances] == pytest.approx(8.25 + 2.0 * np.arange(8))
    for instance in instances:
        assert instance.SliceThickness == instance.SpacingBetweenSlices == 2.0
        assert instance.PixelSpacing == [0.9, 0.8]
        assert (instance.Rows, instance.Columns) == (6, 5)


@pytest.mark.parametrize("fault", ["sheared", "NaN"])
def test_what_cannot_be_stored_is_refused(fault, tmp_path):
    source = tools.acquired()
    sr = tools.volume(source)
    if fault == "NaN":
        sr[0, 0, 0, 0] = np.nan
    else:
        sr.affine[1, 2] += 0.5
    with pytest.raises(ValueError):
        write_derived_series(sr, source, tmp_path / "derived", made_by=MADE_BY)
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- values

RANGES = {
    "CT within 12 bits": ("CT", {}, (-1024, 3071), 1.0),
    "CT beyond 12 bits": ("CT", {}, (-1024, 60000), 1.0),
    "CT below air": ("CT", {}, (-1500, 3071), 1.0),
    "CT without rescale": ("CT", {"RescaleSlope": None, "RescaleIntercept": None}, (-1024, 3071), 1.0),
    "CT too wide for 16 bits": ("CT", {}, (-1024, 200000), None),
    "CT of signed pixels": ("CT", {"RescaleIntercept": 0, "PixelRepresentation": 1}, (-2000, 3071), 1.0),
    "MR of integers": ("MR", {}, (0, 900), 1.0),
    "MR with negative overshoot": ("MR", {}, (-37, 900), 1.0),
    "MR of decimals": ("MR", {}, (0, 1), None),
    "MR of tiny decimals": ("MR", {}, (0, 3e-7), None),
    "MR far from zero": ("MR", {}, (1e6, 1e6 + 4), None),
    "MR with a slope of its own": ("MR", {"RescaleSlope": 4.25885225885225, "RescaleIntercept": 0}, (0, 4300), None),
    "MR with a slope for each slice": ("MR", {"RescaleSlope": (1, 2, 3, 4), "RescaleIntercept": 0}, (0, 4300), 1.0),
    "MR with a slope of zero": ("MR", {"RescaleSlope": 0, "RescaleIntercept": 0}, (0, 4300), None),
}


@pytest.mark.parametrize("name", RANGES)
def test_values_are_kept_within_half_a_step_and_never_wrap(name, tmp_path):
    modality, attributes, (lowest, highest), slope = RANGES[name]
    source = tools.acquired(modality, **attributes)
    sr = tools.volume(source)
    sr[:] = lowest + (highest - lowest) * (sr - sr.min()) / (sr.max() - sr.min())
    instances = derive_from(source, tmp_path, sr)
    step = step_of(instances)
    if slope:
        assert step == slope
    rounding = np.abs(np.float32(highest) * np.finfo(np.float32).eps)
    assert np.abs(tools.values(instances) - sr[0].numpy()).max() <= step / 2 + rounding
    assert step <= (highest - lowest) / 100  # nothing is crushed to a few integers
    for instance in instances:
        assert (instance.BitsAllocated, instance.BitsStored, instance.HighBit) == (16, 16, 15)
        assert instance["PixelData"].VR == "OW"


def test_the_rescale_of_the_source_is_kept_where_it_fits(tmp_path):
    rescale = {"RescaleSlope": 4.25885225885225, "RescaleIntercept": -3.5, "RescaleType": "US"}
    source = tools.acquired("MR", **rescale)
    first = derive_from(source, tmp_path, tools.volume(source) * 20)[0]
    assert {name: first[name].value for name in rescale} == rescale


@pytest.mark.parametrize("interpretation", ["MONOCHROME1", "MONOCHROME2"])
def test_low_values_stay_white_or_black(interpretation, tmp_path):
    for instance in derive_from(tools.acquired(PhotometricInterpretation=interpretation), tmp_path):
        assert instance.PhotometricInterpretation == interpretation


def test_zero_signal_stays_exactly_zero(tmp_path):
    source = tools.acquired("MR")
    sr = tools.volume(source) / 300 - 0.1
    sr[0, 0] = 0
    assert not tools.values(derive_from(source, tmp_path, sr))[0].any()


def test_mr_without_rescale_gets_none(tmp_path):
    source = tools.acquired("MR")
    assert "RescaleSlope" not in derive_from(source, tmp_path, tools.volume(source) * 9)[0]


@pytest.mark.parametrize(("intercept", "vr", "stored"), [(-1024, "SS", -976), (-3000, "US", 1000), (0, "SS", -2000)])
def test_padding_is_written_and_reads_as_it_was(intercept, vr, stored, tmp_path):
    source = tools.acquired(RescaleIntercept=intercept)
    sr = tools.volume(source)
    sr[0, 0] = -2000
    sr.meta["padding_value"] = -2000.0
    instances = derive_from(source, tmp_path, sr)
    element = instances[0]["PixelPaddingValue"]
    assert (element.VR, element.value) == (vr, stored)
    assert ((tools.values(instances) == -2000) == (sr[0].numpy() == -2000)).all()
    assert all((instance.pixel_array[:, 0] == stored).all() for instance in instances)


# ---------------------------------------------------------------- identity


def test_the_same_run_gives_the_same_bytes_and_another_run_other_uids(tmp_path, monkeypatch):
    source = tools.acquired()

    def run(name: str, **changes) -> tuple[str, list[bytes]]:
        made_by = MadeBy(**({"bundle": "b", "bundle_version": "1", "weights_sha256": "ab"} | changes))
        folder = write_derived_series(tools.volume(source), source, tmp_path / name, made_by=made_by)
        files = sorted(folder.iterdir())
        return str(pydicom.dcmread(files[0]).SeriesInstanceUID), [file.read_bytes() for file in files]

    first = run("first")
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert run("again") == first
    others = [
        run("options", options=RunOptions.from_dict({"factor": 4}))[0],
        run("weights", weights_sha256="cd")[0],
        run("bundle", bundle="c")[0],
        run("bundle version", bundle_version="2")[0],
    ]
    monkeypatch.setattr(derive, "version", lambda package: "9.9.9")
    others.append(run("version")[0])
    source = tools.acquired(SOPInstanceUID=("1.7.1", "1.7.2", "1.7.3", "1.7.4"))
    others.append(run("other source")[0])
    assert len({first[0], *others}) == 7


def test_every_instance_has_a_uid_of_its_own_that_its_file_meta_repeats(tmp_path):
    instances = derive_from(tools.acquired(), tmp_path)
    assert len({i.SOPInstanceUID for i in instances}) == 8
    assert len({i.SeriesInstanceUID for i in instances}) == 1
    for instance in instances:
        assert instance.file_meta.MediaStorageSOPInstanceUID == instance.SOPInstanceUID
        assert instance.file_meta.MediaStorageSOPClassUID == instance.SOPClassUID == SOP_CLASS["CT"]
        assert instance.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"
        assert instance.SOPInstanceUID.is_valid and instance.SeriesInstanceUID.is_valid


def test_patient_study_and_frame_of_reference_stay(tmp_path):
    source = tools.acquired()
    head = source.frames[0].header
    for instance in derive_from(source, tmp_path):
        for name in ("StudyInstanceUID", "FrameOfReferenceUID", "PatientName", "PatientID", "PatientBirthDate"):
            assert instance[name] == head[name]
        assert instance.AccessionNumber == "A1" and instance.StudyDate == "20200102"
        assert instance.SeriesInstanceUID != head.SeriesInstanceUID
        assert instance.SeriesNumber == 9004
        assert instance.SeriesDescription == "SR research - not for diagnosis"


# ---------------------------------------------------------------- what is kept


def test_a_derived_image_says_so(tmp_path):
    for name, source, kind in (
        ("ct", tools.acquired(), ["DERIVED", "SECONDARY", "AXIAL", "RESAMPLED", "NORM"]),
        ("mr", tools.acquired("MR"), ["DERIVED", "SECONDARY", "M", "RESAMPLED", "NORM"]),
        ("short", tools.acquired(ImageType=["ORIGINAL", "PRIMARY"]), ["DERIVED", "SECONDARY", "AXIAL", "RESAMPLED"]),
        ("none", tools.acquired("MR", ImageType=None), ["DERIVED", "SECONDARY", "OTHER", "RESAMPLED"]),
        ("multi", tools.enhanced("CT"), ["DERIVED", "SECONDARY", "AXIAL", "RESAMPLED"]),
    ):
        folder = write_derived_series(tools.volume(source), source, tmp_path / name, made_by=MADE_BY, format="classic")
        assert all(list(instance.ImageType) == kind for instance in tools.read(folder)), name


def test_what_differs_between_slices_is_dropped_or_left_empty(tmp_path):
    differing = {
        "XRayTubeCurrent": (1, 2, 3, 4),
        "AcquisitionTime": ("01", "02", "03", "04"),
        "KVP": (100, 120, 120, 120),
        "ProtocolName": ("a", "a", "a", None),
    }
    first = derive_from(tools.acquired(ConvolutionKernel="B40f", **differing), tmp_path)[0]
    assert first.ConvolutionKernel == "B40f"
    assert "XRayTubeCurrent" not in first and "AcquisitionTime" not in first and "ProtocolName" not in first
    assert first["KVP"].is_empty  # of type 2


def hide(header: pydicom.Dataset) -> None:
    """Put in what may not come out; and one sequence that may, but for what is private in it."""
    header.private_block(0x0029, "ACME", create=True).add_new(1, "LO", "secret")
    header.add_new(0x60003000, "OW", b"\0\0")
    header.add_new(0x60000010, "US", 4)
    header.IconImageSequence = [pydicom.Dataset()]
    header.DigitalSignaturesSequence = [pydicom.Dataset()]
    header.SourceImageSequence = [pydicom.Dataset()]
    header.ReferencedImageSequence = [pydicom.Dataset()]
    header.InstanceCreationDate, header.InstanceCreationTime, header.ContentTime = "20200102", "01", "01"
    header.SmallestImagePixelValue, header.LargestImagePixelValue = 0, 1
    header.RealWorldValueMappingSequence = [pydicom.Dataset()]
    header.GantryDetectorTilt, header.ImageComments, header.DerivationDescription = -18, "secret", "secret"
    header.DataSetTrailingPadding, header.SeriesDescription = b"\0\0", "secret"
    header.add_new(0x00200030, "DS", ["1", "2", "3"])  # retired ImagePosition
    item = pydicom.Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = "1", "L", "kept"
    item.private_block(0x0029, "ACME", create=True).add_new(1, "LO", "secret")
    header.ProcedureCodeSequence = [item]


def test_private_and_per_instance_attributes_are_gone(tmp_path):
    source = tools.acquired()
    plain = {element.tag for element in source.frames[0].header}
    for frame in source.frames:
        hide(frame.header)
    hidden = {element.tag for element in source.frames[0].header} - plain
    renewed = {Tag(name) for name in ("SourceImageSequence", "DerivationDescription", "SeriesDescription")}
    for file in write_derived_series(tools.volume(source), source, tmp_path / "derived", made_by=MADE_BY).iterdir():
        instance = pydicom.dcmread(file)
        tags = [element.tag for element in instance.iterall()]
        assert not [tag for tag in tags if tag.is_private or (tag.group >= 0x5000 and tag != Tag("PixelData"))]
        assert hidden.intersection(tags) == renewed | {Tag("ProcedureCodeSequence")}
        assert instance.ProcedureCodeSequence[0].CodeMeaning == "kept"
        assert b"secret" not in file.read_bytes()


@pytest.mark.parametrize(
    ("center", "width", "kept"),
    [
        (40, 400, True),
        ([40, -600], [350, 1200], True),
        (0, 0, False),
        (40, [350, 1200], False),
        (40, None, False),
        ((40, 41, 42, 43), 400, False),
    ],
)
def test_a_window_is_kept_if_all_slices_agree_and_a_viewer_can_apply_it(center, width, kept, tmp_path):
    first = derive_from(tools.acquired(WindowCenter=center, WindowWidth=width), tmp_path)[0]
    assert ("WindowCenter" in first) == ("WindowWidth" in first) == kept
    if kept:
        assert first.WindowCenter == center and first.WindowWidth == width


@catalogue.fault("D23")
@pytest.mark.parametrize(
    ("attributes", "syntax", "history"),
    [
        ({}, "1.2.840.10008.1.2.1", (None, None, None)),
        ({"LossyImageCompression": "00"}, "1.2.840.10008.1.2.1", ("00", None, None)),
        ({"LossyImageCompression": ("00", "01", "00", "00")}, "1.2.840.10008.1.2.1", ("01", None, None)),
        (
            {
                "LossyImageCompression": "01",
                "LossyImageCompressionRatio": (5, 9, 7, 6),
                "LossyImageCompressionMethod": "ISO_10918_1",
            },
            "1.2.840.10008.1.2.1",
            ("01", 9, "ISO_10918_1"),
        ),
        ({}, "1.2.840.10008.1.2.4.51", ("01", None, None)),
        ({"LossyImageCompression": "00"}, "1.2.840.10008.1.2.4.91", ("00", None, None)),
    ],
)
def test_a_loss_in_compression_is_not_forgotten(attributes, syntax, history, tmp_path):
    source = tools.acquired(**attributes)
    for frame in source.frames:
        frame.header.file_meta.TransferSyntaxUID = syntax
    first = derive_from(source, tmp_path)[0]
    names = ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod")
    assert tuple(first.get(name) for name in names) == history


@pytest.mark.parametrize(
    ("sets", "name", "written"),
    [
        ("ISO_IR 100", "Müller^Zoë", "ISO_IR 100"),
        ("ISO_IR 192", "Müller^Zoë=山田", "ISO_IR 192"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎", ["", "ISO 2022 IR 87"]),
        (("ISO_IR 100", "ISO_IR 192", "ISO_IR 100", "ISO_IR 100"), "Müller^Zoë", "ISO_IR 192"),
        ("ISO_NONSENSE", "Muller^Zoe", "ISO_IR 192"),
    ],
)
def test_names_are_written_in_the_character_set_of_the_source(sets, name, written, tmp_path):
    source = tools.acquired(SpecificCharacterSet=sets, PatientName=name)
    first = derive_from(source, tmp_path)[0]
    assert first.SpecificCharacterSet == written
    assert str(first.PatientName) == name


ODD = {
    "a number that is none": {"KVP": b"abc "},
    "an integer that is none": {"ExposureTime": b"1.5.2 "},
    "an age that is none": {"PatientAge": b"0Y"},
    "a name too long": {"ProtocolName": b"x" * 80},
    "a control character": {"ProtocolName": b"a\nb\0"},
    "lower case code": {"BodyPartExamined": b"chest?"},
    "a truncated number": {"AcquisitionMatrix": b"\1"},
    "a sequence that is none": {"ProcedureCodeSequence": b"abcd"},
    "a window that is none": {"WindowWidth": b"wide"},
    "a date that is none": {"StudyDate": b"yesterday "},
    "no SOP class": {"SOPClassUID": None},
    "no SOP instance": {"SOPInstanceUID": None},
    "no patient": {"PatientName": None, "PatientID": None, "PatientBirthDate": None},
    "no frame of reference": {"FrameOfReferenceUID": None},
    "no study": {"StudyInstanceUID": None, "StudyDate": None},
    "no sequence terms": {"ScanningSequence": None, "SequenceVariant": None},
    "an undecodable name": {"PatientName": b"\xff\xfeM\xfcller"},
    "an unknown character set": {"SpecificCharacterSet": b"NONSENSE", "PatientName": b"Doe^Jane"},
}


EXCUSED = {"a date that is none": "Study Date", "an undecodable name": "Patient's Name"}
"""What names patient and study stays as it is, its faults too."""


@pytest.mark.parametrize("modality", ["CT", "MR"])
@pytest.mark.parametrize("name", ODD)
def test_odd_headers_give_sound_files_and_no_complaint_that_quotes_them(name, modality, tmp_path, caplog):
    source = tools.acquired(modality)
    for frame in source.frames:
        for keyword, content in ODD[name].items():
            frame.header.pop(keyword, None)
            if content is not None:
                vr = pydicom.datadict.dictionary_VR(keyword)
                raw = RawDataElement(Tag(keyword), vr, len(content), content, 0, False, True)
                frame.header._dict[Tag(keyword)] = raw
    with warnings.catch_warnings(record=True) as caught, caplog.at_level(logging.DEBUG):
        warnings.simplefilter("always")
        first = derive_from(source, tmp_path)[0]
    assert not [str(w.message) for w in caught if "pydicom" in w.filename]
    assert not [record for record in caplog.records if record.name.startswith("pydicom")]
    for keyword in ("StudyInstanceUID", "FrameOfReferenceUID", "SOPInstanceUID"):
        assert first[keyword].value
    for keyword in ("PatientName", "PatientID", "StudyDate", "ReferringPhysicianName", "Manufacturer"):
        assert keyword in first
    if shutil.which("dciodvfy"):
        lines = {line for line in errors_of(tmp_path / "derived" / "0001.dcm") if "invalid data values" not in line}
        assert not lines or all(EXCUSED[name] in line for line in lines)


# ---------------------------------------------------------------- enhanced sources


def test_functional_groups_become_the_classic_attributes(tmp_path):
    source = tools.enhanced(
        shared={
            "MRTimingAndRelatedParametersSequence": {"RepetitionTime": 6.77, "FlipAngle": 9, "EchoTrainLength": 240},
            "MREchoSequence": {"EffectiveEchoTime": 3.1329999999999996},
            "MRModifierSequence": {"InversionRecovery": "YES", "Spoiling": "RF"},
            "MRFOVGeometrySequence": {"InPlanePhaseEncodingDirection": "COLUMN", "PercentSampling": 100},
            "FrameVOILUTSequence": {"WindowCenter": 326, "WindowWidth": 567},
            "PixelMeasuresSequence": {"SliceThickness": 5},
            "ReferencedImageSequence": {"ReferencedSOPInstanceUID": "1.2"},
        },
        ScanningSequence=None,
        SequenceVariant=None,
        EchoPulseSequence="GRADIENT",
        EchoPlanarPulseSequence="NO",
        SteadyStatePulseSequence="NONE",
        SegmentedKSpaceTraversal="PARTIAL",
        ResonantNucleus="1H",
        AcquisitionContrast="T1",
    )
    for instance in derive_from(source, tmp_path):
        assert instance.SOPClassUID == SOP_CLASS["MR"]
        assert (instance.RepetitionTime, instance.FlipAngle, instance.EchoTrainLength) == (6.77, 9, 240)
        assert instance.EchoTime == pytest.approx(3.133) and len(str(instance.EchoTime)) <= 16
        assert list(instance.ScanningSequence) == ["GR", "IR"]
        assert list(instance.SequenceVariant) == ["SK", "SP"]
        assert instance.InPlanePhaseEncodingDirection == "COL"
        assert (instance.ImagedNucleus, instance.WindowCenter, instance.WindowWidth) == ("1H", 326, 567)
        assert instance.SliceThickness == 2.0
        assert "InversionTime" in instance and instance["InversionTime"].is_empty
        keywords = {element.keyword for element in instance}
        assert not keywords & {"NumberOfFrames", "SharedFunctionalGroupsSequence", "ReferencedSOPInstanceUID"}
        assert not keywords & {"AcquisitionContrast", "ResonantNucleus", "EchoPulseSequence", "Spoiling"}


def test_an_unknown_pulse_sequence_is_not_made_up(tmp_path):
    first = derive_from(tools.enhanced(ScanningSequence=None, SequenceVariant=None), tmp_path)[0]
    assert (first.ScanningSequence, first.SequenceVariant) == ("RM", "NONE")
    assert first["EchoTime"].is_empty and first["RepetitionTime"].is_empty


def test_values_of_single_frames_that_differ_are_not_kept(tmp_path):
    source = tools.enhanced()
    for number, group in enumerate(source.frames[0].header.PerFrameFunctionalGroupsSequence):
        group.MREchoSequence = [pydicom.Dataset()]
        group.MREchoSequence[0].EffectiveEchoTime = 3.0 + number
    assert derive_from(source, tmp_path)[0]["EchoTime"].is_empty


# ---------------------------------------------------------------- provenance


@pytest.mark.parametrize(
    ("thickness", "expected"),
    [
        # slices at 0, 4, 8, 12 mm; new ones every 2 mm; they overlap closer than (thickness + 2) / 2
        (4.0, [[1], [1, 2], [2], [2, 3], [3], [3, 4], [4], [4]]),
        (5.0, [[1], [1, 2], [2], [2, 3], [3], [3, 4], [4], [4]]),
        (7.0, [[1, 2], [1, 2], [1, 2, 3], [2, 3], [2, 3, 4], [3, 4], [3, 4], [4]]),
        (1.0, [[1], [1], [2], [2], [3], [3], [4], [4]]),  # none overlaps: the nearest
        (None, [[1], [1, 2], [2], [2, 3], [3], [3, 4], [4], [4]]),  # as thick as they are apart
    ],
)
def test_each_slice_names_the_acquired_slices_it_overlaps(thickness, expected, tmp_path):
    source = tools.acquired(slice_thickness=thickness)
    instances = derive_from(source, tmp_path)
    named = [[int(r.ReferencedSOPInstanceUID.split(".")[-1]) for r in i.SourceImageSequence] for i in instances]
    assert named == expected
    for item in instances[1].SourceImageSequence:
        assert item.ReferencedSOPClassUID == SOP_CLASS["CT"]
        assert "ReferencedFrameNumber" not in item
        assert code_of(item.PurposeOfReferenceCodeSequence) == codes.DCM.SourceImageForImageProcessingOperation


def code_of(sequence):
    (item,) = sequence
    return pydicom.sr.coding.Code(item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning)


def test_frames_of_a_multi_frame_source_are_named_by_number(tmp_path):
    references = [i.SourceImageSequence for i in derive_from(tools.enhanced(), tmp_path)]
    assert all(len(items) == 1 for items in references)
    assert [np.atleast_1d(items[0].ReferencedFrameNumber).tolist() for items in references] == [
        *([1], [1, 2], [2], [2, 3]),
        *([3], [3, 4], [4], [4]),
    ]


def test_an_instance_says_how_and_by_what_it_was_made(tmp_path):
    earlier = pydicom.Dataset()
    earlier.Manufacturer = "Acme"
    options = RunOptions.from_dict({"spacing": 1, "profile": "box"})
    made_by = MadeBy("ct_é\\", "0.3.0", "ab" * 32, options)
    for instance in derive_from(tools.acquired(ContributingEquipmentSequence=[earlier]), tmp_path, made_by=made_by):
        assert code_of(instance.DerivationCodeSequence) == codes.DCM.SpatialResampling
        text = instance.DerivationDescription
        for part in ("monai-sr", derive.version("monai-sr"), "ct_?? 0.3.0", "4 slices became 8", "2 mm"):
            assert part in text
        first, item = instance.ContributingEquipmentSequence
        assert first.Manufacturer == "Acme"
        assert code_of(item.PurposeOfReferenceCodeSequence) == codes.DCM.ModifyingEquipment
        assert (item.Manufacturer, item.ManufacturerModelName) == ("monai-sr", "ct_??")
        assert item.SoftwareVersions[1] == "ct_?? 0.3.0"
        assert "ab" * 32 in item.ContributionDescription
        assert "profile=box; spacing=1.0" in item.ContributionDescription


def test_slices_in_a_gap_say_that_they_were_not_acquired(tmp_path):
    source = tools.acquired()
    sr = tools.volume(source)
    sr.meta["filled_slices"] = [2, 3]
    instances = derive_from(source, tmp_path, sr)
    flagged = ["No slice was acquired here" in i.DerivationDescription for i in instances]
    assert flagged == [2 <= index <= 3 for index in range(8)]
    assert [i.get("ImageComments") == "no slice was acquired here" for i in instances] == flagged


# ---------------------------------------------------------------- privacy and failure


@catalogue.fault("Z04")
@catalogue.fault("P01")
def test_header_text_appears_only_in_the_fields_it_belongs_to(tmp_path, caplog, capfd):
    canary = "CANARY^../7f3a\nx"
    source = tools.acquired(PatientName=canary, StudyDescription=canary)
    for frame in source.frames:
        frame.header.private_block(0x0029, "ACME", create=True).add_new(1, "LO", canary)
        frame.header.file_meta.ImplementationVersionName = "CANARY"
        frame.header.file_meta.SourceApplicationEntityTitle = "CANARY"
        frame.header.SeriesDescription = frame.header.ProtocolName = "CANARY\n"
    with warnings.catch_warnings(record=True) as caught, caplog.at_level(logging.DEBUG):
        warnings.simplefilter("always")
        folder = write_derived_series(tools.volume(source), source, tmp_path / "derived", made_by=MADE_BY)
        with pytest.raises(OutputError) as refused:
            write_derived_series(tools.volume(source), source, folder, made_by=MADE_BY)
    said = " ".join([*map(str, caught), caplog.text, str(refused.value), *capfd.readouterr()])
    assert "CANARY" not in said
    assert sorted(p.name for p in tmp_path.rglob("*")) == sorted(["derived", *(f"{n:04d}.dcm" for n in range(1, 9))])
    for file in folder.iterdir():
        instance = pydicom.dcmread(file)
        holders = {element.keyword for element in instance.iterall() if "CANARY" in str(element.value)}
        assert holders == {"PatientName", "StudyDescription"}
        assert file.read_bytes().count(b"CANARY") == 2


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "E-OUT-SPACE"),
        (PermissionError(errno.EACCES, "Permission denied"), "E-OUT-PERM"),
        (RuntimeError("ours"), None),
    ],
)
def test_a_failure_leaves_nothing_behind(error, code, tmp_path, monkeypatch):
    written = []

    def fail(file, instance):
        written.append(instance)
        if len(written) == 3:
            raise error
        pydicom.dcmwrite(file, instance)

    monkeypatch.setattr(derive.pydicom, "dcmwrite", fail)
    source = tools.acquired()
    with pytest.raises(OutputError if code else RuntimeError) as raised:
        write_derived_series(tools.volume(source), source, tmp_path / "derived", made_by=MADE_BY)
    assert len(written) == 3 and not list(tmp_path.iterdir())
    if code:
        assert raised.value.code == code


def test_a_folder_that_exists_is_never_touched(tmp_path):
    (tmp_path / "derived").mkdir()
    source = tools.acquired()
    with pytest.raises(OutputError, match="E-OUT-EXISTS") as refused:
        write_derived_series(tools.volume(source), source, tmp_path / "derived", made_by=MADE_BY)
    assert refused.value.remedy
    assert not list((tmp_path / "derived").iterdir()) and len(list(tmp_path.iterdir())) == 1


def test_a_missing_parent_is_named(tmp_path):
    source = tools.acquired()
    with pytest.raises(OutputError, match="E-OUT-PERM"):
        write_derived_series(tools.volume(source), source, tmp_path / "no" / "derived", made_by=MADE_BY)


# ---------------------------------------------------------------- independent judges


def errors_of(file: Path) -> set[str]:
    return {line for line in tools.complaints("dciodvfy", file) if "Error" in line}


@needs["dciodvfy"]
@pytest.mark.parametrize("modality", ["CT", "MR", "enhanced MR", "enhanced CT"])
def test_the_validator_finds_no_error_in_instances_of_a_plain_source(modality, tmp_path):
    source = tools.enhanced(modality[-2:]) if "enhanced" in modality else tools.acquired(modality)
    sr = tools.volume(source)
    sr.meta |= {"filled_slices": [3], "padding_value": -2000.0}
    for how in ("classic", "enhanced"):
        folder = write_derived_series(sr, source, tmp_path / how, made_by=MADE_BY, format=how)
        assert not set().union(*map(errors_of, folder.iterdir()))


@pytest.fixture(scope="module", params=REAL)
def real(request, shared_data, tmp_path_factory):
    """A real series, what was written, and the folder it was written to."""
    source = tools.load(shared_data / "dicom" / request.param)
    sr = tools.upsampled(source, crop=32)
    return source, sr, write_derived_series(sr, source, tmp_path_factory.mktemp("real") / "derived", made_by=MADE_BY)


@pytest.mark.data
@needs["dciodvfy"]
def test_the_validator_finds_no_error_in_instances_of_a_real_source(real):
    source, _, folder = real
    uids = ("SOPInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID")
    illegal = {str(f.header.get(u)) for f in source.frames for u in uids if str(f.header.get(u)).startswith("0.0.0")}
    for file in sorted(folder.iterdir())[::7]:
        # one scanner's UIDs have an illegal root; study and sources cannot be named otherwise
        assert not [line for line in errors_of(file) if not any(f'"{uid}"' in line for uid in illegal)]


EXPLAINED = {
    r"not present in standard DICOM IOD - \(0x0028,0x105[234]\)": "MR signals that need a rescale; readers apply it",
    r"Non-identity Modality LUT Module": "the same",
    r"this is a Standard Extended SOP Class": "the same, and attributes of acquisition kept from the source",
    r"defined term <RESAMPLED> for value 4": "the term of enhanced images; classic CT leaves value 4 to us",
    r"<UNKNOWN> for value 1 of attribute <Applicable Safety Standard Agency>": "enhanced MR has it, the source not",
    r"attribute <Laterality>": "empty, because whether the body part is a paired one is not known",
}
"""What the validator warns of in our instances beyond what it says of their source, and why it stays."""


@pytest.mark.data
@needs["dciodvfy"]
def test_every_warning_of_the_validator_is_that_of_the_source_or_explained(real):
    source, _, folder = real
    of_source = {line for file in {source.frames[0].file, source.frames[-1].file} for line in warnings_of(file)}
    for file in sorted(folder.iterdir())[::7]:
        new = [line for line in warnings_of(file) - of_source if not any(re.search(e, line) for e in EXPLAINED)]
        assert not new


def warnings_of(file: Path) -> set[str]:
    return {line for line in tools.complaints("dciodvfy", file) if "Warning" in line}


@pytest.mark.data
@needs["dcentvfy"]
def test_source_and_result_agree_on_their_patient_and_study(real):
    source, _, folder = real
    files = sorted({frame.file for frame in source.frames})
    alone = {line for line in tools.complaints("dcentvfy", *files) if "Error" in line}
    both = {line for line in tools.complaints("dcentvfy", *files, *sorted(folder.iterdir())) if "Error" in line}
    assert both == alone


@pytest.mark.data
def test_a_converter_reads_one_volume_with_our_grid_and_values(real, tmp_path):
    pytest.importorskip("dcm2niix", reason="dcm2niix is not installed")
    nibabel = pytest.importorskip("nibabel")
    _, sr, folder = real
    ran = subprocess.run(
        [sys.executable, "-m", "dcm2niix", "-f", "out", "-b", "n", "-m", "n", "-o", str(tmp_path), str(folder)],
        capture_output=True,
        text=True,
    )
    (path,) = tmp_path.glob("*.nii*")
    image = nibabel.load(path)
    assert image.ndim == 3, ran.stdout
    to_ours = np.linalg.inv(sr.affine.numpy()) @ image.affine
    theirs = np.indices(image.shape).reshape(3, -1)
    ours = np.rint(to_ours[:3, :3] @ theirs + to_ours[:3, 3:]).astype(int)  # axes may be swapped and flipped
    apart = image.affine[:3, :3] @ theirs + image.affine[:3, 3:]
    apart -= sr.affine[:3, :3].numpy() @ ours + sr.affine[:3, 3:].numpy()
    assert np.abs(apart).max() < 0.01
    assert (
        np.abs(sr[0].numpy()[tuple(ours)] - image.get_fdata().ravel()).max() <= step_of(tools.read(folder)) / 2 * 1.001
    )


@pytest.fixture
def orthanc(tmp_path):
    """A PACS of its own on this machine: the address of its REST interface and its DICOM port."""

    def free_port() -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return probe.getsockname()[1]

    http, dicom = free_port(), free_port()
    configuration = {
        "Name": "test",
        "StorageDirectory": str(tmp_path / "storage"),
        "IndexDirectory": str(tmp_path / "storage"),
        "HttpPort": http,
        "HttpBindAddresses": ["127.0.0.1"],
        "DicomPort": dicom,
        "DicomAet": "ORTHANC",
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomAlwaysAllowStore": True,
        "Plugins": [],
    }
    (tmp_path / "orthanc.json").write_text(json.dumps(configuration))
    with open(tmp_path / "orthanc.log", "w") as log:
        server = subprocess.Popen(["Orthanc", str(tmp_path / "orthanc.json")], stdout=log, stderr=log)
    address = f"http://127.0.0.1:{http}"
    try:
        for _ in range(150):
            try:
                urllib.request.urlopen(f"{address}/system", timeout=1).read()
                break
            except OSError:
                assert server.poll() is None, (tmp_path / "orthanc.log").read_text()[-2000:]
                time.sleep(0.2)
        yield address, dicom
    finally:
        server.terminate()
        server.wait(20)


@pytest.mark.slow
@needs["Orthanc"]
@needs["storescu"]
@pytest.mark.parametrize(("modality", "how"), [("CT", "classic"), ("MR", "classic"), ("MR", "enhanced")])
def test_an_archive_takes_the_result_into_the_study_and_gives_it_back_unchanged(modality, how, orthanc, tmp_path):
    address, port = orthanc
    source = tools.acquired(modality, folder=tmp_path / "source")
    folder = write_derived_series(tools.volume(source), source, tmp_path / "derived", made_by=MADE_BY, format=how)
    for each in (tmp_path / "source", folder):
        files = [str(file) for file in sorted(each.iterdir())]
        subprocess.run(["storescu", "-aec", "ORTHANC", "127.0.0.1", str(port), *files], check=True)

    def get(path: str):
        return json.loads(urllib.request.urlopen(address + path).read())

    (study,) = get("/studies?expand")
    assert len(study["Series"]) == 2
    numbers = {get(f"/series/{series}")["MainDicomTags"]["SeriesNumber"] for series in study["Series"]}
    assert numbers == {"4", "9004"}
    returned = {}
    for instance in get("/instances"):
        with open(tmp_path / "returned.dcm", "wb") as file:
            file.write(urllib.request.urlopen(f"{address}/instances/{instance}/file").read())
        back = pydicom.dcmread(tmp_path / "returned.dcm")
        returned[back.SOPInstanceUID] = back
    assert len(returned) == 4 + (8 if how == "classic" else 1)
    for ours in tools.read(folder):
        assert returned[ours.SOPInstanceUID] == ours  # every element, the pixels included
