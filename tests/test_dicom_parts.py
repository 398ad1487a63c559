"""One SeriesInstanceUID that holds several volumes, or headers that contradict themselves by little."""

from __future__ import annotations

import re
import struct
import tracemalloc
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import catalogue
import numpy as np
import pydicom
import pytest
from dicom_phantoms import (
    Stack,
    anatomy_at,
    decimals,
    enhanced,
    even,
    read,
    read_one,
    slices,
    tells_nothing,
    uid_of,
    update,
    write,
)
from pydicom import Dataset
from pydicom import Sequence as Items
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from monai_sr.cli.main import main
from monai_sr.dicom import Found, acquisition, find_series, read_series, short_name, stack_of
from monai_sr.errors import ImageError, UsageError

ROUNDING = 0.02
"""HU, see test_dicom_scan."""

SMALL = Stack(even(6, 4.0), rows=12, columns=14)


def drawn(part: int) -> Callable[[np.ndarray], np.ndarray]:
    """What the phantom shows in one of several volumes."""
    return lambda points: anatomy_at(points) / (part + 1)


def write_parts(folder: Path, edits: list[Callable[[Dataset, int], None]], **options: object) -> None:
    """A series of several volumes that lie on one another; ``edits`` change slice ``k`` of each."""
    options = {"stack": SMALL, "modality": "MR"} | options
    for part, edit in enumerate(edits):
        stack = slices(value=drawn(part), **options)
        for k, one in enumerate(stack):
            one.InstanceNumber = 1
            edit(one, k)
        write(folder, stack)


def settings(*rows: dict[str, object]) -> list[Callable[[Dataset, int], None]]:
    """Edits that give every slice of a volume the same attributes."""
    return [lambda one, k, row=row: update(one, **row) for row in rows]


def check_parts(found: Found, count: int) -> list[str]:
    """Every volume is one of those drawn, whole; the labels under which it can be chosen."""
    assert found.broken == ()
    assert len(found.series) == count
    seen = set()
    for series in found.series:
        volume = read_one(series)
        errors = [volume.error(drawn(part)).max() for part in range(count)]
        assert min(errors) < ROUNDING
        seen.add(int(np.argmin(errors)))
        assert found.choose(series.label) == (series,)
    assert len(seen) == count
    assert len({short_name(series) for series in found.series}) == count
    return [series.label for series in sorted(found.series, key=lambda series: series.label)]


# ------------------------------------------------------------- repeats


def private(tag: tuple[int, int], vr: str, value: object) -> Callable[[Dataset, int], None]:
    return lambda one, k: one.add_new(tag, vr, value)


@catalogue.fault("D07")
@catalogue.fault("D36")
@pytest.mark.parametrize(
    ("edits", "labels"),
    [
        (settings(*({"ImageType": ["ORIGINAL", "PRIMARY", "DIXON", x]} for x in ("W", "F", "IN", "OPP"))), "type=F"),
        (settings({"EchoTime": 2.46}, {"EchoTime": 7.38}), "echo=1"),
        (settings({"EchoNumbers": 1, "EchoTime": 2.46}, {"EchoNumbers": 2, "EchoTime": 7.38}), "echo=1"),
        (settings({"KVP": 80}, {"KVP": 140}), "kvp=140"),
        (settings({"ConvolutionKernel": "B30f"}, {"ConvolutionKernel": "B70f"}), "kernel=B30f"),
        (settings({"ConvolutionKernel": "smooth, of J. Doe"}, {"ConvolutionKernel": "sharp"}), "kernel=1"),
        (settings({"DiffusionBValue": 0.0}, {"DiffusionBValue": 1000.0}), "b=0"),
        ([private((0x19, 0x100C), "IS", b) for b in (50, 400, 800)], "b=400"),
        ([private((0x43, 0x1039), "IS", [1000000000 + b, 8, 0, 0]) for b in (0, 700)], "b=0"),
        ([private((0x2001, 0x1003), "UN", struct.pack("<f", b)) for b in (0, 700)], "b=0"),
        ([private((0x19, 0x10BB), "DS", x) for x in (1, 0.5, -0.7)], "direction=1"),
        ([private((0x19, 0x100E), "UN", struct.pack("<3d", *x)) for x in np.eye(3)], "direction=1"),
        (settings({"NominalPercentageOfCardiacPhase": 40}, {"NominalPercentageOfCardiacPhase": 70}), "cardiac=40"),
        (settings({"TriggerTime": 10}, {"TriggerTime": 60}), "trigger=10"),
        (settings({"FlipAngle": 5}, {"FlipAngle": 20}), "flip=20"),
        (settings({"AcquisitionTime": "120000"}, {"AcquisitionTime": "115930.5"}), "phase=1"),
        ([private((0x0021, 0x1234), "LO", x) for x in ("one", "two")], "repeat=1"),
        (settings({"SliceThickness": 3.5}, {"SliceThickness": 7.0}), "thickness=3.5"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("syntax", [None, ImplicitVRLittleEndian], ids=["explicit", "implicit"])
def test_repeats_are_split_by_what_distinguishes_them_and_can_be_chosen(tmp_path, edits, labels, syntax):
    for part, edit in enumerate(edits):
        stack = slices(SMALL, drawn(part), modality="MR")
        for k, one in enumerate(stack):
            one.InstanceNumber = 1
            edit(one, k)
        write(tmp_path, stack, **({"syntax": syntax} if syntax else {}))
    assert f"1#{labels}" in check_parts(find_series(tmp_path), len(edits))


@catalogue.fault("D36")
@pytest.mark.parametrize("texts", [("CANARY", "b"), ("x\\y", "y\\x")])
@pytest.mark.parametrize("tag", [(0x19, 0x100C), (0x43, 0x1039)])
def test_a_private_b_value_that_is_no_number_is_a_text(tmp_path, tag, texts):
    write_parts(tmp_path, [private(tag, "LO", text) for text in texts])
    check_parts(find_series(tmp_path), 2)


@catalogue.fault("D36")
def test_diffusion_is_split_by_b_value_and_direction(tmp_path):
    rows = [{"DiffusionBValue": 0.0}] + [
        {"DiffusionBValue": 1000.0, "DiffusionGradientOrientation": list(row)} for row in np.eye(3)
    ]
    write_parts(tmp_path, settings(*rows))
    found = find_series(tmp_path)
    labels = check_parts(found, 4)
    assert labels == ["1#b=0", *(f"1#b=1000,direction={n}" for n in (1, 2, 3))]
    assert len(found.choose("1#b=1000")) == 3
    with pytest.raises(UsageError, match="E-DCM-SERIES") as caught:
        found.choose("1#b=7")
    assert "1#b=1000,direction=2 (6 slices" in str(caught.value)
    with pytest.raises(ImageError, match="E-DCM-SERIES") as caught:
        found.only(uid_of(1))
    assert all(label in str(caught.value) for label in labels)


ORDERS = {
    "GE: a volume after the other": lambda t, k: {"InstanceNumber": 1 + 6 * t + k},
    "all volumes of a slice, then the next": lambda t, k: {"InstanceNumber": 1 + 4 * k + t},
    "interleaved slices": lambda t, k: {"InstanceNumber": 1 + 6 * t + [0, 3, 1, 4, 2, 5][k]},
    "time of each slice": lambda t, k: {"AcquisitionTime": f"1200{10 * t + k:02d}.5"},
    "time across the hour": lambda t, k: {"AcquisitionTime": ["115950", "115959.9", "120000", "120010"][t]},
    "time of reconstruction": lambda t, k: {"ContentTime": f"1200{10 * t + k:02d}"},
    "cine with a jittering trigger": lambda t, k: {"TriggerTime": 40.0 * t + 7 * np.sin(9 * t + 5 * k)},
    "cine with another heart rate for each slice": lambda t, k: {"TriggerTime": t * (30.0 + 5 * k)},
    "an acquisition for each slice": lambda t, k: {"AcquisitionNumber": 6 * t + k + 1},
}


@catalogue.fault("D36", "W-DCM-ORDER")
@pytest.mark.parametrize("order", ORDERS)
def test_volumes_are_separated_by_their_order_in_time(tmp_path, order):
    edits = [lambda one, k, t=t: update(one, **ORDERS[order](t, k)) for t in range(4)]
    write_parts(tmp_path, edits)
    found = find_series(tmp_path)
    labels = check_parts(found, 4)
    by_number = "InstanceNumber" in ORDERS[order](0, 0)
    assert labels == [f"1#{'repeat' if by_number else 'phase'}={n}" for n in (1, 2, 3, 4)]
    for part, series in enumerate(sorted(found.series, key=lambda series: series.label)):
        assert read_one(series).error(drawn(part)).max() < ROUNDING, "the order in time"
        assert [warning.code for warning in series.warnings] == ["W-DCM-ORDER"] * by_number


def test_numbers_in_no_order_are_not_used(tmp_path):
    numbers = np.random.default_rng(1).permutation(24).reshape(4, 6) + 1
    write_parts(tmp_path, [lambda one, k, t=t: update(one, InstanceNumber=int(numbers[t, k])) for t in range(4)])
    ((_, error),) = find_series(tmp_path).broken
    assert error.code == "E-DCM-AMBIG"
    assert "dcm2niix" in error.fix


def test_the_last_volume_of_an_aborted_scan_is_a_volume_of_its_own(tmp_path):
    for t in range(3):
        stack = slices(SMALL, drawn(t), modality="MR")[: 4 if t == 2 else 6]
        for k, one in enumerate(stack):
            update(one, AcquisitionTime=f"1200{20 * t + k:02d}")
        write(tmp_path, stack)
    assert [len(series.frames) for series in sorted(find_series(tmp_path).series, key=lambda s: s.label)] == [6, 6, 4]


@catalogue.fault("D36", "W-DCM-ORDER")
def test_a_volume_that_lacks_a_slice_is_separated_by_instance_number(tmp_path):
    edits = [lambda one, k, t=t: update(one, InstanceNumber=1 + 6 * t + k) for t in range(3)]
    write_parts(tmp_path, edits)
    lost = next(path for path in sorted(tmp_path.iterdir()) if pydicom.dcmread(path).InstanceNumber == 9)
    lost.unlink()
    found = find_series(tmp_path)
    assert [len(series.frames) for series in found.series] == [6, 5, 6]
    assert all("W-DCM-ORDER" in [warning.code for warning in series.warnings] for series in found.series)


@catalogue.fault("D41")
@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"AcquisitionNumber": 1}, {"AcquisitionNumber": 2}),
        ({"EchoTime": 3.0}, {"EchoTime": 9.0}),
        ({"ConvolutionKernel": "B30f"}, {"ConvolutionKernel": "B70f"}),
    ],
    ids=["acquisition", "echo", "kernel"],
)
@pytest.mark.parametrize("offset", [1.5, 2.0, 9.0])
def test_acquisitions_that_lie_between_one_another_are_two_volumes(tmp_path, first, second, offset):
    """Each is even; together the steps are 1.5, 2.5, 1.5, ... mm, or 2 mm."""
    other = Stack(tuple(np.array(even(6, 4.0)) + offset), rows=12, columns=14)
    write(tmp_path, slices(SMALL, modality="MR", **first))
    write(tmp_path, slices(other, modality="MR", **second))
    found = find_series(tmp_path)
    assert found.broken == () and len({series.label for series in found.series}) == 2
    for series in found.series:
        volume = read_one(series)
        assert volume.voxels.shape[2] == 6 and "slice_positions" not in volume.meta
        assert volume.error().max() < ROUNDING


def test_packages_of_one_acquisition_are_one_volume(tmp_path):
    stack = slices(Stack(even(12, 2.0), rows=12, columns=14), modality="MR", SliceThickness=2)
    for k, one in enumerate(stack):
        one.AcquisitionNumber = 1 + k % 2
    write(tmp_path, stack)
    assert [len(series.frames) for series in find_series(tmp_path).series] == [12]


@pytest.mark.parametrize("attributes", [{}, {"AcquisitionNumber": 1}])
def test_an_uneven_acquisition_stays_one(tmp_path, attributes):
    write(tmp_path, slices(Stack((0.0, 4.0, 8.0, 9.5, 13.5, 17.5), rows=12, columns=14), **attributes))
    assert [len(series.frames) for series in find_series(tmp_path).series] == [6]


@catalogue.fault("I20", "E-IMG-FEW")
def test_two_slices_of_another_grid_beside_a_volume_are_left_out(tmp_path):
    write(tmp_path, slices(SMALL))
    write(tmp_path, slices(Stack(even(2, 4.0), rows=16, columns=16)))
    found = find_series(tmp_path)
    assert [len(series.frames) for series in found.series] == [6]
    assert [(left.code, left.files) for left in found.left_out] == [("E-IMG-FEW", 2)]


def test_echoes_of_a_dynamic_series_are_split_by_echo_and_time(tmp_path):
    edits = [
        lambda one, k, t=t, e=e: update(one, EchoTime=[5.0, 9.0][e] + 1e-4 * k, AcquisitionTime=f"1200{10 * t + k:02d}")
        for t in range(3)
        for e in range(2)
    ]
    write_parts(tmp_path, edits)
    labels = check_parts(find_series(tmp_path), 6)
    assert labels == [f"1#echo={e},phase={t}" for e in (1, 2) for t in (1, 2, 3)]


def test_a_copied_dynamic_series_is_read_once(tmp_path):
    edits = [lambda one, k, t=t: update(one, InstanceNumber=1 + 6 * t + k) for t in range(2)]
    write_parts(tmp_path, edits)
    for path in list(tmp_path.iterdir()):
        (tmp_path / f"copy {path.name}").write_bytes(path.read_bytes())
    found = find_series(tmp_path)
    check_parts(found, 2)
    assert all(series.warnings[0].code == "W-DCM-DUP" for series in found.series)


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        ({"EffectiveEchoTime": [5.0, 9.0]}, ["1#echo=1", "1#echo=2"]),
        ({"DiffusionBValue": [0.0, 800.0]}, ["1#b=0", "1#b=800"]),
        ({"FrameType": [["ORIGINAL", "PRIMARY", "W"], ["ORIGINAL", "PRIMARY", "F"]]}, ["1#type=F", "1#type=W"]),
        ({"FrameAcquisitionDateTime": ["20200101120000", "20200101120007"]}, ["1#phase=1", "1#phase=2"]),
        ({"DimensionIndexValues": [[1, 1], [1, 2]]}, ["1#repeat=1", "1#repeat=2"]),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_repeats_in_one_enhanced_file_are_split_too(tmp_path, names, labels):
    (name,) = names
    places = {
        "EffectiveEchoTime": "MREchoSequence",
        "DiffusionBValue": "MRDiffusionSequence",
        "FrameType": "MRImageFrameTypeSequence",
        "FrameAcquisitionDateTime": "FrameContentSequence",
        "DimensionIndexValues": "FrameContentSequence",
    }
    groups = [slices(SMALL, drawn(part), modality="MR") for part in range(2)]
    one = enhanced(*groups)
    for group in one.PerFrameFunctionalGroupsSequence:
        content = group.FrameContentSequence[0]
        part = int(content.StackID) - 1
        content.StackID = "1"
        if places[name] not in group:
            setattr(group, places[name], Items([Dataset()]))
        setattr(group[places[name]][0], name, names[name][part])
    (path,) = write(tmp_path, one)
    assert check_parts(find_series(path), 2) == labels


@catalogue.fault("D14", "E-DCM-NOGEOM")
@pytest.mark.parametrize("many_frames", [False, True], ids=["classic", "enhanced"])
def test_slices_that_all_have_one_position_are_refused_for_it(tmp_path, many_frames):
    stack = slices(SMALL, modality="MR")
    for k, one in enumerate(stack):
        update(one, ImagePositionPatient=stack[0].ImagePositionPatient, SliceLocation=4.0 * k, AcquisitionNumber=k)
    write(tmp_path, enhanced(stack) if many_frames else stack)
    ((_, error),) = find_series(tmp_path).broken
    assert error.code == "E-DCM-NOGEOM"


# ------------------------------------------------------------- patients, studies, acquisitions


@catalogue.fault("D30", "W-DCM-PATIENT")
@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"PatientID": "A"}, {"PatientID": "B"}),
        ({"StudyInstanceUID": uid_of("study 1")}, {"StudyInstanceUID": uid_of("study 2")}),
        ({"PatientID": None, "PatientName": "A^B"}, {"PatientID": None, "PatientName": "C^D"}),
        ({"PatientID": "", "PatientBirthDate": "19010203"}, {"PatientID": "", "PatientBirthDate": "19020304"}),
    ],
    ids=["patient", "study", "name", "birth date"],
)
@pytest.mark.parametrize("shift", [0.0, 2.0], ids=["same place", "between"])
def test_two_patients_or_studies_under_one_uid_are_two_volumes(tmp_path, first, second, shift):
    write(tmp_path, slices(SMALL, **first))
    write(tmp_path, slices(Stack(tuple(np.array(SMALL.offsets) + shift), rows=12, columns=14), drawn(1), **second))
    found = find_series(tmp_path)
    assert check_parts(found, 2) == ["1#patient=1", "1#patient=2"]
    for series in found.series:
        assert [warning.code for warning in series.warnings] == ["W-DCM-PATIENT"]
        assert tells_nothing(series.label, series.warnings)


def test_slices_without_the_patient_s_number_are_those_of_the_patient_of_that_name(tmp_path):
    stack = slices(SMALL, PatientID="A")
    update(stack[2], PatientID="")
    write(tmp_path, stack)
    assert [(len(series.frames), series.warnings) for series in find_series(tmp_path).series] == [(6, ())]


def test_a_patient_that_some_slices_do_not_name_is_one(tmp_path):
    stack = slices(SMALL)
    for one in stack[::2]:
        update(one, PatientID=None, PatientName="", PatientBirthDate="", StudyInstanceUID=None, FrameOfReferenceUID="")
    write(tmp_path, stack)
    volume = read(tmp_path)
    assert volume.voxels.shape[2] == 6
    assert volume.warnings == []


@catalogue.fault("D31", "W-DCM-UID")
@pytest.mark.parametrize("name", ["FrameOfReferenceUID", "StudyInstanceUID", "PatientID"])
def test_a_uid_that_an_anonymizer_gave_to_every_slice_splits_nothing(tmp_path, name):
    stack = slices(SMALL)
    for k, one in enumerate(stack):
        update(one, **{name: uid_of(f"slice {k}")})
    write(tmp_path, stack)
    volume = read(tmp_path)
    assert volume.voxels.shape[2] == 6
    assert volume.warnings == ["W-DCM-UID"]
    assert volume.error().max() < ROUNDING


APART = Stack(tuple(np.array(even(6, 4.0)) + 150), rows=12, columns=14)
"""As :data:`SMALL`, but away from it."""


@catalogue.fault("D37", "W-DCM-MIXED")
@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"AcquisitionNumber": 1}, {"AcquisitionNumber": 2}),
        ({"SeriesDescription": "CANARY a"}, {"SeriesDescription": "CANARY b"}),
        ({"AcquisitionTime": "120000"}, {"AcquisitionTime": "120010"}),
        ({}, {}),
    ],
    ids=["acquisition", "description", "time", "instance numbers start again"],
)
@pytest.mark.parametrize("thickness", [3.5, None])
def test_acquisitions_far_apart_are_two_volumes(tmp_path, first, second, thickness):
    write(tmp_path, slices(SMALL, SliceThickness=thickness, **first))
    write(tmp_path, slices(APART, SliceThickness=thickness, **second))
    found = find_series(tmp_path)
    assert [series.label for series in found.series if not found.broken] in (
        ["1#block=1", "1#block=2"],
        ["1#block=2", "1#block=1"],
    )
    for series in found.series:
        assert [warning.code for warning in series.warnings] == ["W-DCM-MIXED"]
        assert tells_nothing(series.label, series.warnings)
        assert read_one(series).voxels.shape[2] == 6


@catalogue.fault("D37", "E-DCM-GAP")
@pytest.mark.parametrize("fill_gaps", [False, True])
@pytest.mark.parametrize("step", [4.0, 3.0], ids=["even", "of another spacing"])
def test_filling_is_neither_offered_nor_done_over_a_wide_gap(tmp_path, fill_gaps, step):
    offsets = (*even(6, 4.0), *(np.array(even(6, step)) + 150))
    stack = slices(Stack(offsets, rows=12, columns=14))
    for k, one in enumerate(stack):
        one.InstanceNumber = k + 1
    write(tmp_path, stack)
    (series,) = find_series(tmp_path).series
    with pytest.raises(ImageError) as caught:
        read_series(series, fill_gaps=fill_gaps)
    assert caught.value.code == "E-DCM-GAP"
    assert "--fill-gaps" not in str(caught.value)


# ------------------------------------------------------------- tolerances


@catalogue.fault("D33")
@pytest.mark.parametrize(
    ("one", "other"), [(0.78125, 0.781250005), (0.48828, 0.488281), (0.97656, 0.9765625), (0.5, 0.500001)]
)
def test_a_pixel_spacing_of_more_digits_is_the_same(tmp_path, one, other):
    stack = slices(SMALL)
    for k, slice_ in enumerate(stack):
        slice_.PixelSpacing = decimals([one, other][k % 2 :][:1] * 2)
    write(tmp_path, stack)
    volume = read(tmp_path)
    assert volume.voxels.shape[2] == 6
    assert volume.warnings == []


def turned(angles: np.ndarray, axis: int) -> list[Dataset]:
    """Slices turned about their centers by some degrees each."""
    from scipy.spatial.transform import Rotation

    stack = Stack(even(len(angles), 4.0), rows=30, columns=30, pixel_spacing=(1.5, 1.5))
    made = slices(stack)
    for one, angle in zip(made, angles, strict=True):
        turn = Rotation.from_euler("xyz"[axis], angle, degrees=True)
        row, column = turn.apply(stack.directions)
        center = np.array(one.ImagePositionPatient, float) + stack.directions.sum(axis=0) * 1.5 * 29 / 2
        one.ImageOrientationPatient = decimals([*row, *column])
        one.ImagePositionPatient = decimals(center - (row + column) * 1.5 * 29 / 2)
    return made


@catalogue.fault("D32", "W-DCM-ORIENT")
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(
    "angles",
    [
        np.arange(12) * 0.02,
        np.arange(12) * 0.06,
        np.arange(12) % 2 * 0.12,
        np.random.default_rng(0).normal(0, 0.06, 12),
    ],
    ids=["drifting slowly", "drifting", "alternating", "jittering"],
)
def test_directions_that_drift_by_hundredths_of_a_degree_make_one_volume(tmp_path, axis, angles):
    write(tmp_path, turned(angles, axis))
    volume = read(tmp_path)
    assert volume.voxels.shape[2] == 12
    assert set(volume.warnings) - {"W-DCM-TILT"} == {"W-DCM-ORIENT"}  # the mean direction leans from the stack's
    center = volume.error()[13:17, 13:17]
    assert center.max() < 3.0  # HU, of values that change by 30 a mm
    assert np.linalg.norm(volume.affine[:3, :3], axis=0) == pytest.approx([1.5, 1.5, 4], rel=1e-4)


@catalogue.fault("D32", "E-DCM-ORIENT")
@pytest.mark.parametrize("step", [0.2, 0.5, 10.0])
def test_slices_that_turn_on_and_on_are_refused(tmp_path, step):
    write(tmp_path, turned(np.arange(20) * step, 0))
    ((_, error),) = find_series(tmp_path).broken
    assert error.code == "E-DCM-ORIENT"


def test_volumes_of_prospective_motion_correction_are_separated_by_time(tmp_path):
    from scipy.spatial.transform import Rotation

    for t in range(3):
        stack = slices(SMALL, drawn(t), modality="MR", TemporalPositionIdentifier=t + 1)
        for one in stack:
            turn = Rotation.from_euler("z", 0.03 * t, degrees=True)
            one.ImageOrientationPatient = decimals(turn.apply(SMALL.directions).ravel())
        write(tmp_path, stack)
    assert [series.label for series in find_series(tmp_path).series] == [f"1#time={t}" for t in (1, 2, 3)]


def test_repeats_whose_positions_differ_in_the_last_digits_are_repeats(tmp_path):
    for t in range(2):
        stack = slices(SMALL, drawn(t), modality="MR", TemporalPositionIdentifier=t + 1)
        for one in stack:
            position = np.array(one.ImagePositionPatient, float)
            one.ImagePositionPatient = decimals(position + 0.004 * t)
        write(tmp_path, stack)
    assert [len(series.frames) for series in find_series(tmp_path).series] == [6, 6]


# ------------------------------------------------------------- rescale, quantities, kinds


@catalogue.fault("D34")
@pytest.mark.parametrize("modality", ["CT", "MR"])
@pytest.mark.parametrize("at_top", ["both", "slope", "intercept"])
def test_a_rescale_at_the_top_of_an_enhanced_file_counts(tmp_path, modality, at_top):
    one = enhanced(slices(SMALL, modality=modality))
    for group in one.PerFrameFunctionalGroupsSequence:
        item = group.PixelValueTransformationSequence[0]
        for name, short in (("RescaleSlope", "slope"), ("RescaleIntercept", "intercept")):
            if at_top in ("both", short):
                setattr(one, name, item[name].value)
                del item[name]
        if at_top == "both":
            del group.PixelValueTransformationSequence
    volume = read(write(tmp_path, one)[0])
    assert volume.error().max() < ROUNDING
    assert volume.warnings == []


QUANTITIES = {
    "Siemens phase": ("E-DCM-PHASE", {"ImageType": ["ORIGINAL", "PRIMARY", "P", "ND"]}),
    "Philips phase": ("E-DCM-PHASE", {"ImageType": ["ORIGINAL", "PRIMARY", "PHASE MAP", "P", "FFE"]}),
    "Philips velocity": ("E-DCM-PHASE", {"ImageType": ["ORIGINAL", "PRIMARY", "VELOCITY MAP", "P", "PCA"]}),
    "component": ("E-DCM-PHASE", {"ComplexImageComponent": "PHASE"}),
    "radians": ("E-DCM-PHASE", {"RescaleType": "milliradials"}),
    "field map": ("E-DCM-MAP", {"ImageType": ["ORIGINAL", "PRIMARY", "B0 MAP", "B0", "UNSPECIFIED"]}),
    "Hz": ("E-DCM-MAP", {"RescaleType": "Hz"}),
    "ADC": ("E-DCM-MAP", {"ImageType": ["DERIVED", "PRIMARY", "DIFFUSION", "ADC", "ND"]}),
    "GE ADC": ("E-DCM-MAP", {"ImageType": ["DERIVED", "SECONDARY", "COMBINED", "ADC_10_6_MM2_S"]}),
    "FA": ("E-DCM-MAP", {"ImageType": ["DERIVED", "PRIMARY", "DIFFUSION", "FA"]}),
    "T1 map": ("E-DCM-MAP", {"ImageType": ["DERIVED", "PRIMARY", "T1 MAP", "ND"]}),
    "T2 map": ("E-DCM-MAP", {"ImageType": ["ORIGINAL", "PRIMARY", "T2_MAP", "NONE"]}),
    "T2* contrast": ("E-DCM-MAP", {"ImageType": ["DERIVED", "PRIMARY", "VOLUME", "T2_STAR"]}),
    "R2s": ("E-DCM-MAP", {"ImageType": ["DERIVED", "PRIMARY", "R2S"]}),
    "B1": ("E-DCM-MAP", {"ImageType": ["ORIGINAL", "PRIMARY", "B1"]}),
    "R2*": ("E-DCM-MAP", {"ImageType": ["DERIVED", "PRIMARY", "R2_STAR", "R2_STAR", "DERIVED"]}),
    "perfusion": ("E-DCM-MAP", {"ImageType": ["DERIVED", "PRIMARY", "PERFUSION", "relCBF"]}),
    "fat fraction": ("E-DCM-MAP", {"ImageType": ["ORIGINAL", "PRIMARY", "FAT_FRACTION"]}),
    "MP2RAGE UNI": ("E-DCM-MAP", {"ImageType": ["ORIGINAL", "PRIMARY", "M", "ND", "UNI"]}),
    "mm2/s": ("E-DCM-MAP", {"RescaleType": "10^-6 mm^2/s"}),
}
IMAGES = {
    "magnitude": {"ImageType": ["ORIGINAL", "PRIMARY", "M", "ND", "NORM"], "ComplexImageComponent": "MAGNITUDE"},
    "Philips": {"ImageType": ["ORIGINAL", "PRIMARY", "M_FFE", "M", "FFE"], "RescaleType": "normalized"},
    "real": {"ImageType": ["ORIGINAL", "PRIMARY", "R_IR", "R", "IR"]},
    "weighted": {"ImageType": ["ORIGINAL", "PRIMARY", "T1", "NONE"]},
    "trace": {"ImageType": ["DERIVED", "PRIMARY", "DIFFUSION", "TRACEW", "ND"]},
    "water": {"ImageType": ["DERIVED", "PRIMARY", "DIXON", "WATER"]},
    "reformatted": {"ImageType": ["DERIVED", "SECONDARY", "MPR"]},
    "no unit": {"RescaleType": "US"},
    "b0": {"ImageType": ["ORIGINAL", "PRIMARY", "DIFFUSION", "B0"]},
    "phase cycled": {"ImageType": ["ORIGINAL", "PRIMARY", "M", "PHASE CONTRAST M"]},
}


@catalogue.fault("D29", "E-DCM-PHASE", "E-DCM-MAP")
@pytest.mark.parametrize("name", QUANTITIES)
@pytest.mark.parametrize("many_frames", [False, True], ids=["classic", "enhanced"])
def test_phase_and_maps_are_left_out_as_of_bids(tmp_path, name, many_frames):
    code, attributes = QUANTITIES[name]
    stack = slices(SMALL, modality="MR", **attributes)
    write(tmp_path, slices(SMALL, modality="MR", series=2))
    write(tmp_path, enhanced(stack) if many_frames else stack)
    found = find_series(tmp_path)
    assert [series.number for series in found.series] == [2]
    assert [(left.code, left.files) for left in found.left_out] == [(code, 1 if many_frames else 6)]
    assert found.broken == ()


@catalogue.fault("D29", "W-DCM-PROJECTION")
@pytest.mark.parametrize("word", ["MIP", "CSA MIP", "MINIP", "MIN_IP", "PROJECTION IMAGE"])
def test_projections_are_read_with_a_warning(tmp_path, word):
    write(tmp_path, slices(SMALL, modality="MR", ImageType=["DERIVED", "SECONDARY", word]))
    assert read(tmp_path).warnings == ["W-DCM-PROJECTION"]


@pytest.mark.parametrize("name", IMAGES)
def test_images_are_no_quantities(tmp_path, name):
    write(tmp_path, slices(SMALL, modality="MR", **IMAGES[name]))
    volume = read(tmp_path)
    assert volume.voxels.shape[2] == 6 and volume.warnings == []


@catalogue.fault("D29", "E-DCM-PHASE")
def test_magnitude_and_phase_in_one_series_leave_the_magnitude(tmp_path):
    write_parts(tmp_path, settings(*({"ImageType": ["ORIGINAL", "PRIMARY", x, "ND"]} for x in "MP")))
    found = find_series(tmp_path)
    check_parts(found, 1)
    assert [(left.code, left.files) for left in found.left_out] == [("E-DCM-PHASE", 6)]


@catalogue.fault("D29", "E-DCM-PHASE")
def test_phase_frames_beside_magnitude_in_one_enhanced_file_are_left_out(tmp_path):
    one = enhanced(*(slices(SMALL, drawn(part), modality="MR") for part in range(2)))
    for group in one.PerFrameFunctionalGroupsSequence:
        content, item = group.FrameContentSequence[0], Dataset()
        item.ComplexImageComponent = ["MAGNITUDE", "PHASE"][int(content.StackID) - 1]
        content.StackID = "1"
        group.MRImageFrameTypeSequence = Items([item])
    found = find_series(write(tmp_path, one)[0])
    check_parts(found, 1)
    assert [(left.code, left.files) for left in found.left_out] == [("E-DCM-PHASE", 1)]


@catalogue.fault("D29", "E-DCM-MAP")
def test_the_unit_of_a_real_world_value_map_marks_a_quantity(tmp_path):
    stack = slices(SMALL, modality="MR")
    for one in stack:
        unit, item = Dataset(), Dataset()
        unit.CodeValue, unit.CodingSchemeDesignator, unit.CodeMeaning = "um2/s", "UCUM", "um2/s"
        item.MeasurementUnitsCodeSequence = Items([unit])
        one.RealWorldValueMappingSequence = Items([item])
    write(tmp_path, stack)
    assert [left.code for left in find_series(tmp_path).left_out] == ["E-DCM-MAP"]


@catalogue.fault("D29", "E-DCM-PHASE")
def test_the_private_image_type_of_ge_marks_phase(tmp_path):
    stack = slices(SMALL, modality="MR")
    for one in stack:
        one.add_new((0x0043, 0x0010), "LO", "GEMS_PARM_01")
        one.add_new((0x0043, 0x102F), "SS", 1)
    write(tmp_path, stack)
    assert [left.code for left in find_series(tmp_path).left_out] == ["E-DCM-PHASE"]


@catalogue.fault("D35", "W-DCM-CLASS")
def test_a_sop_class_against_the_modality_is_warned_of(tmp_path):
    stack = slices(SMALL)
    for dataset in stack:
        dataset.Modality = "MR"
    write(tmp_path, stack)
    volume = read(tmp_path)
    assert (volume.warnings, volume.meta["modality"]) == (["W-DCM-CLASS"], "CT")


@catalogue.fault("D35", "W-DCM-CLASS")
@pytest.mark.parametrize("many_frames", [False, True], ids=["classic", "enhanced"])
def test_a_scrambled_sop_class_is_read_by_its_modality(tmp_path, many_frames):
    stack = slices(SMALL)
    one = [enhanced(stack)] if many_frames else stack
    for dataset in one:
        dataset.SOPClassUID = "1.2.111.10008.2.1.4.1.1.2"
    write(tmp_path, one)
    volume = read(tmp_path)
    assert volume.error().max() < ROUNDING
    assert volume.warnings == ["W-DCM-CLASS"]
    assert volume.meta["modality"] == "CT"


@pytest.mark.parametrize(
    "attributes",
    [
        {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.128"},
        {"SOPClassUID": "1.2.111.10008.2.1.4.1.1.2", "Modality": "PT"},
        {"SOPClassUID": "1.2.111.10008.2.1.4.1.1.2", "ImagePositionPatient": None},
    ],
    ids=["of PET", "with another modality", "without geometry"],
)
def test_another_class_is_still_left_out(tmp_path, attributes):
    write(tmp_path, slices(SMALL, **attributes))
    found = find_series(tmp_path)
    assert [(left.code, left.files) for left in found.left_out] == [("E-DCM-MODALITY", 6)]
    assert found.series == () == found.broken


# ------------------------------------------------------------- sizes


def many_frames_of_nothing(folder: Path, **attributes: object) -> Path:
    """A file of about a kilobyte that claims more, compressed by RLE."""
    one = enhanced(slices(Stack(even(3, 4.0), rows=4, columns=4), modality="MR"))
    one.PixelData = encapsulate([bytes(66)])
    one["PixelData"].VR, one["PixelData"].is_undefined_length = "OB", True
    update(one, **attributes)
    one.file_meta = FileMetaDataset()
    one.file_meta.TransferSyntaxUID = RLELossless
    one.file_meta.MediaStorageSOPClassUID, one.file_meta.MediaStorageSOPInstanceUID = one.SOPClassUID, "1.2.3"
    folder.mkdir(exist_ok=True)
    one.save_as(folder / "claims.dcm", enforce_file_format=True)
    return folder / "claims.dcm"


def deflated_bomb(folder: Path) -> Path:
    """A deflated file of 200 kB that grows to 200 MiB."""
    path = write(folder, slices(SMALL)[0], syntax=DeflatedExplicitVRLittleEndian)[0]
    content = path.read_bytes()
    start = 132 + 12 + struct.unpack("<I", content[140:144])[0]
    packer = zlib.compressobj(9, wbits=-15)
    plain = zlib.decompress(content[start:], -15) + struct.pack("<HH2sHI", 0x7FE1, 0x1001, b"OB", 0, 200 << 20)
    parts = [packer.compress(plain), *(packer.compress(bytes(1 << 20)) for _ in range(200)), packer.flush()]
    path.write_bytes(content[:start] + b"".join(parts))
    return path


def uid_of_gigabytes(folder: Path) -> Path:
    """A file whose SeriesInstanceUID claims to be 2 GiB long."""
    path = write(folder, slices(SMALL)[0])[0]
    content = path.read_bytes()
    at = content.index(b"\x20\x00\x0e\x00UI")
    path.write_bytes(content[:at] + b"\x20\x00\x0e\x00UN\0\0" + struct.pack("<I", 2**31 - 2) + content[at + 8 :])
    return path


@catalogue.fault("D38", "E-DCM-TRUNC", "E-SEC-BOMB")
@pytest.mark.parametrize(
    ("build", "code"),
    [
        (uid_of_gigabytes, "E-DCM-HEADER"),
        (lambda folder: many_frames_of_nothing(folder, NumberOfFrames=2_000_000_000), "E-DCM-TRUNC"),
        (lambda folder: many_frames_of_nothing(folder, Rows=65535, Columns=65535), "E-SEC-BOMB"),
        (lambda folder: many_frames_of_nothing(folder, NumberOfFrames=4), "E-DCM-NOGEOM"),
        (lambda folder: many_frames_of_nothing(folder, NumberOfFrames=-4), "E-DCM-NOGEOM"),
        (deflated_bomb, "E-SEC-BOMB"),
    ],
    ids=["UID", "frames", "pixels", "a frame without position", "negative", "deflated"],
)
def test_what_a_header_claims_is_checked_before_anything_is_unpacked(tmp_path, build, code):
    path = build(tmp_path)
    tracemalloc.start()
    try:
        ((_, error),) = find_series(path).broken
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert error.code == code
    assert path.name in str(error)
    assert peak < 150 * 2**20


@pytest.mark.parametrize(
    ("build", "code"),
    [
        (lambda folder: many_frames_of_nothing(folder, NumberOfFrames=4), "E-DCM-NOGEOM"),
        (lambda folder: many_frames_of_nothing(folder, NumberOfFrames=2_000_000_000), "E-DCM-TRUNC"),
        (deflated_bomb, "E-SEC-BOMB"),
    ],
)
def test_every_command_says_what_is_wrong_with_a_faulty_file(tmp_path, capsys, build, code):
    path, target = str(build(tmp_path)), str(tmp_path / "thin.nii.gz")
    for words in (["check", path], ["run", path, target, "--dry-run"], ["run", path, target]):
        assert main(words) == 5, words
        assert code in capsys.readouterr().err, words


# ------------------------------------------------------------- what is said


@catalogue.fault("D39")
def test_control_characters_of_a_uid_are_escaped(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number in (1, 2):
            uid = f"1.2.3\n\x1b[31m{number}"
            write(tmp_path, slices(SMALL, series=number, SeriesInstanceUID=uid, SeriesNumber=None))
    found = find_series(tmp_path)
    for text in (found.choices(), *(series.label for series in found.series)):
        assert text.isprintable()
    assert [found.choose(series.label) for series in found.series] == [(series,) for series in found.series]


# ------------------------------------------------------------- what stands beside a result


@catalogue.fault("P01")
def test_the_json_beside_a_result_holds_numbers_and_known_codes_only(tmp_path):
    words = ("Manufacturer", "ConvolutionKernel", "BodyPartExamined", "ScanningSequence", "SequenceVariant")
    typed = slices(SMALL, modality="MR", MRAcquisitionType="2D", **dict.fromkeys(words, "CANARY"), series=1)
    known = {"Manufacturer": "SIEMENS", "ConvolutionKernel": "Br40d", "BodyPartExamined": "BRAIN"}
    known |= {"ScanningSequence": ["SE", "IR"], "SequenceVariant": "SK"}
    write(tmp_path, typed)
    write(tmp_path, slices(SMALL, modality="MR", **known, series=2))
    first, second = (acquisition(series) for series in find_series(tmp_path).series)
    assert tells_nothing(first)
    assert not set(words) & set(first) and first["MRAcquisitionType"] == "2D"
    assert {name: second[name] for name in known} == known


def test_the_json_beside_a_result_says_which_part_of_a_series_it_is_of(tmp_path):
    write_parts(tmp_path, settings({"EchoNumbers": 1}, {"EchoNumbers": 2}))
    parts = [acquisition(series)["SeriesPart"] for series in find_series(tmp_path).series]
    assert sorted(parts, key=str) == [{"echo": "1"}, {"echo": "2"}]


@catalogue.fault("Z04")
@pytest.mark.parametrize(
    ("edits", "ends"),
    [
        (settings({"EchoNumbers": 1}, {"EchoNumbers": 2}), ["-echo-1", "-echo-2"]),
        (settings({"SliceThickness": 3.5}, {"SliceThickness": 7.0}), ["-thickness-3_5", "-thickness-7"]),
        (
            settings(*({"ImageType": ["ORIGINAL", "PRIMARY", "M", x]} for x in ("W", "IN_PHASE"))),
            ["-type-IN_PHASE", "-type-W"],
        ),
        (settings({"ConvolutionKernel": "of_Jane_Doe"}, {"ConvolutionKernel": "of_Joan_Doe"}), ["", ""]),
        (settings(*({"ImageType": ["ORIGINAL", "PRIMARY", "M", x]} for x in ("JANE", "JOAN"))), ["", ""]),
    ],
)
def test_names_of_results_say_which_volume_of_a_series_they_are_of(tmp_path, edits, ends):
    """In numbers and known terms; a text that somebody may have typed is in the hash only."""
    write_parts(tmp_path, edits)
    names = [short_name(series) for series in find_series(tmp_path).series]
    assert sorted(re.sub("^series-[0-9a-f]{12}", "", name) for name in names) == ends
    assert len(set(names)) == 2


@catalogue.fault("I20", "E-IMG-FEW")
def test_two_slices_are_refused_by_their_headers_alone(tmp_path):
    write(tmp_path, slices(Stack(even(2, 4.0))))
    (series,) = find_series(tmp_path).series
    with pytest.raises(ImageError) as caught:
        stack_of(series)
    assert caught.value.code == "E-IMG-FEW"
