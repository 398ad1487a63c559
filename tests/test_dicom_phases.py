"""Volumes of one series kept together: found by the tags of each vendor, made alike, written as one series."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import catalogue
import dicom_tools as tools
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_phantoms import Stack, anatomy_at, enhanced, even, slices, update, write
from pydicom import Dataset
from pydicom import Sequence as Items

from monai_sr.acquired import Acquired
from monai_sr.dicom import find_series, read_series
from monai_sr.errors import UsageError
from monai_sr.intensities import USUAL
from monai_sr.io.images import read_image, write_image

SMALL = Stack(even(6, 4.0), rows=20, columns=22)
SPLINE = ("--bundle", "none", "--factor", "2")
B_VALUES = (0, 500, 1000, 1000)
DIRECTIONS = (None, (1.0, 0.0, 0.0), (0.0, 0.6, 0.8), (0.0, 1.0, 0.0))
STEP = 1 / 8
"""Of the stored values."""


def drawn(volume: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda points: anatomy_at(points) + 60 * volume


def siemens_diffusion(one: Dataset, t: int, k: int) -> None:
    update(one, Manufacturer="SIEMENS", InstanceNumber=6 * t + k + 1)
    one.add_new(0x00190010, "LO", "SIEMENS MR HEADER")
    one.add_new(0x0019100C, "IS", B_VALUES[t])
    if DIRECTIONS[t]:
        one.add_new(0x0019100E, "FD", list(DIRECTIONS[t]))


def ge_diffusion(one: Dataset, t: int, k: int) -> None:
    """Unweighted images are of another type than weighted ones."""
    update(one, Manufacturer="GE MEDICAL SYSTEMS", ImageType=["ORIGINAL", "PRIMARY", "OTHER"])
    one.add_new(0x00430010, "LO", "GEMS_PARM_01")
    one.add_new(0x00431039, "IS", [1000000000 + 400 * t, 8, 0, 0])
    if t:
        update(one, ImageType=["DERIVED", "PRIMARY", "DIFFUSION", "COMBINED"])


def philips_diffusion(one: Dataset, t: int, k: int) -> None:
    update(one, Manufacturer="Philips Medical Systems", DiffusionBValue=400.0 * t)
    one.add_new(0x20010010, "LO", "Philips Imaging DD 001")
    one.add_new(0x20011003, "FL", 400.0 * t)


def by(**values: Callable[[int, int], object]) -> Callable[[Dataset, int, int], None]:
    """Attributes by numbers of the volume and the slice."""
    return lambda one, t, k: update(one, **{name: value(t, k) for name, value in values.items()})


SCANS: dict[str, tuple[str, Callable[[Dataset, int, int], None], dict[str, list[object]]]] = {
    "GE, contrast": (
        "MR",
        by(
            Manufacturer=lambda t, k: "GE MEDICAL SYSTEMS",
            TemporalPositionIdentifier=lambda t, k: t + 1,
            NumberOfTemporalPositions=lambda t, k: 4,
            TriggerTime=lambda t, k: 5000.0 * t,
            AcquisitionTime=lambda t, k: "120000",
        ),
        {"TemporalPositionIdentifier": [1, 2, 3, 4], "TriggerTime": [0, 5000, 10000, 15000]},
    ),
    "Siemens, contrast": (
        "MR",
        by(
            Manufacturer=lambda t, k: "SIEMENS",
            AcquisitionNumber=lambda t, k: t + 1,
            AcquisitionTime=lambda t, k: f"1200{5 * t:02d}.5",
            InstanceNumber=lambda t, k: 6 * t + k + 1,
        ),
        {"AcquisitionNumber": [1, 2, 3, 4], "AcquisitionTime": ["120000.5", "120005.5", "120010.5", "120015.5"]},
    ),
    "Philips, slice after slice": (
        "MR",
        by(
            Manufacturer=lambda t, k: "Philips Medical Systems",
            TemporalPositionIdentifier=lambda t, k: t + 1,
            AcquisitionTime=lambda t, k: f"1200{5 * t:02d}",
            InstanceNumber=lambda t, k: 4 * k + t + 1,
        ),
        {"TemporalPositionIdentifier": [1, 2, 3, 4], "AcquisitionTime": ["120000", "120005", "120010", "120015"]},
    ),
    "cine, another heart rate for each slice": (
        "MR",
        by(TriggerTime=lambda t, k: t * (30.0 + 5 * k), InstanceNumber=lambda t, k: 4 * k + t + 1),
        {"TriggerTime": [0, 30, 60, 90]},  # of the first slice
    ),
    "Siemens, diffusion": ("MR", siemens_diffusion, {"DiffusionBValue": list(B_VALUES)}),
    "GE, diffusion": ("MR", ge_diffusion, {"DiffusionBValue": [0, 400, 800, 1200]}),
    "Philips, diffusion": ("MR", philips_diffusion, {"DiffusionBValue": [0, 400, 800, 1200]}),
    "echoes": (
        "MR",
        by(EchoNumbers=lambda t, k: t + 1, EchoTime=lambda t, k: 2.5 * (t + 1)),
        {"EchoTime": [2.5, 5, 7.5, 10]},
    ),
    "tube voltages": ("CT", by(KVP=lambda t, k: (80, 100, 120, 140)[t]), {"KVP": [80, 100, 120, 140]}),
    "CT perfusion": (
        "CT",
        by(AcquisitionNumber=lambda t, k: t + 1, AcquisitionTime=lambda t, k: f"1200{2 * t:02d}.{k}"),
        {"AcquisitionNumber": [1, 2, 3, 4], "AcquisitionTime": ["120000.0", "120002.0", "120004.0", "120006.0"]},
    ),
    "by the time of each slice": (
        "MR",
        by(AcquisitionTime=lambda t, k: f"1200{10 * t + k:02d}"),
        {"AcquisitionTime": ["120000", "120010", "120020", "120030"], "TemporalPositionIdentifier": [1, 2, 3, 4]},
    ),
    "by InstanceNumber alone": (
        "MR",
        by(InstanceNumber=lambda t, k: 6 * t + k + 1),
        {"TemporalPositionIdentifier": [1, 2, 3, 4]},
    ),
}
"""Modality, attributes by numbers of volume and slice, and what the slices of each volume of the result must say."""


def make(scan: str, t: int, **attributes: object) -> list[Dataset]:
    """One volume of a scan."""
    modality, edit, _ = SCANS[scan]
    own = {"RepetitionTime": 500, "EchoTime": 3, "ScanningSequence": "GR", "SequenceVariant": "SP"}
    own["ScanOptions"] = "CG" if "TriggerTime" in SCANS[scan][2] else ""
    own = own | {"MRAcquisitionType": "2D", "EchoTrainLength": 1} if modality == "MR" else {}
    own |= {"PatientPosition": "HFS", "AcquisitionDate": "20010203", **attributes}
    made = slices(SMALL, drawn(t), modality=modality, rescale=(STEP, -1200.0), **own)
    for k, one in enumerate(made):
        one.InstanceNumber = 1
        edit(one, t, k)
    return made


def write_scan(folder: Path, scan: str, *, volumes: int = 4, last: int = 6) -> Path:
    """A series, the last volume of which has ``last`` slices."""
    for t in range(volumes):
        write(folder, make(scan, t)[: last if t == volumes - 1 else None])
    return folder


def instances_of(folder: Path) -> list[Dataset]:
    return [pydicom.dcmread(path) for path in sorted(folder.iterdir())]


def as_texts(values: list[object]) -> list[str]:
    return [f"{float(value):g}" for value in values]


@catalogue.fault("D36")
@pytest.mark.parametrize("scan", SCANS)
def test_volumes_of_a_series_become_one_series_in_their_order(tmp_path, call, scan):
    source = write_scan(tmp_path / "in", scan)
    assert call("run", source, f"{tmp_path}/out/", "--volume", "all", *SPLINE)[0] == 0
    (folder,) = (path for path in (tmp_path / "out").iterdir() if path.is_dir())
    made = instances_of(folder)
    assert [one.InstanceNumber for one in made] == list(range(1, 49))
    for name in ("SeriesInstanceUID", "SeriesNumber", "SeriesDescription", "RescaleSlope", "RescaleIntercept"):
        assert len({str(one[name].value) for one in made}) == 1
    assert len({one.SOPInstanceUID for one in made}) == 48
    pixels = {one.PixelData: t for t in range(4) for one in make(scan, t)}
    sources = {one.SOPInstanceUID: pixels[one.PixelData] for one in instances_of(source)}
    acquired = read_image(source, series=find_series(source).series[0].uid, volume="all")
    for t in range(4):
        of_volume = made[12 * t : 12 * t + 12]
        positions = [[float(x) for x in one.ImagePositionPatient] for one in of_volume]
        assert positions == [[float(x) for x in one.ImagePositionPatient] for one in made[:12]]
        named = {sources[item.ReferencedSOPInstanceUID] for one in of_volume for item in one.SourceImageSequence}
        assert named == {t}, "slices of this volume"
        for name, values in SCANS[scan][2].items():
            assert as_texts([of_volume[0][name].value]) == as_texts([values[t]])
        # the spline gives the same voxels whatever the intensity range is
        assert np.abs(tools.values(of_volume).mean() - float(acquired[t].mean())) < 15, "volumes are 60 apart"


@pytest.mark.parametrize("scan", ["GE, contrast", "Siemens, diffusion", "CT perfusion", "tube voltages"])
def test_each_volume_has_the_voxels_of_its_own_result(tmp_path, call, scan):
    source = write_scan(tmp_path / "in", scan)
    assert call("run", source, tmp_path / "all.nii.gz", "--volume", "all", *SPLINE)[0] == 0
    together = read_image(tmp_path / "all.nii.gz", volume="all")
    labels = [series.label for series in find_series(source).series]
    assert len(labels) == len(together) == 4
    apart = []
    for label in labels:
        assert call("run", source, tmp_path / "one.nii.gz", "--series", label, *SPLINE)[0] == 0
        apart.append(read_image(tmp_path / "one.nii.gz")[0])
    apart.sort(key=lambda voxels: float(voxels.mean()))
    for t in range(4):
        np.testing.assert_allclose(together[t], apart[t], atol=1 if scan in ("CT perfusion", "tube voltages") else 0.01)
    record = json.loads((tmp_path / "all.json").read_text())
    assert len(record["Volumes"]) == 4 and record["monai_sr"]["options"]["reading"] == {"volume": "all"}


@catalogue.fault("D36", "E-DCM-INCOMPLETE", "W-DCM-INCOMPLETE")
@pytest.mark.parametrize("last", [1, 2, 4])
@pytest.mark.parametrize("scan", ["GE, contrast", "Siemens, contrast", "by the time of each slice"])
def test_an_aborted_last_volume_is_refused_or_left_out(tmp_path, call, scan, last):
    source = write_scan(tmp_path / "in", scan, last=last)
    code, _, err = call("run", source, tmp_path / "thin.nii.gz", "--volume", "all", *SPLINE)
    assert code == 5 and "E-DCM-INCOMPLETE" in err and f"volume 4 of 4 ({last} slices)" in err
    assert not (tmp_path / "thin.nii.gz").exists()
    code, _, err = call("run", source, tmp_path / "thin.nii.gz", "--volume", "complete", *SPLINE)
    assert code == 0 and "W-DCM-INCOMPLETE" in err and f"volume 4 of 4 ({last} slices)" in err
    assert len(read_image(tmp_path / "thin.nii.gz", volume="all")) == 3


def test_a_batch_keeps_contrasts_and_grids_apart_and_single_volumes_as_they_are(tmp_path, call):
    for word in ("W", "F"):
        for t in range(2):
            made = make("Philips, slice after slice", t, ImageType=["ORIGINAL", "PRIMARY", "DIXON", word])
            write(tmp_path / "in", made)
    write(tmp_path / "in", slices(SMALL, series=2))
    listed = find_series(tmp_path / "in", volume="all").series
    sizes = {series.label: len(series.volumes) for series in listed}
    assert sizes == {"1#type=F": 2, "1#type=W": 2, "2": 1} and listed[2].phases == ()
    code, out, _ = call("check", tmp_path / "in")
    assert code == 0 and "series 1 holds 4 volumes; --volume all" in out and "series 2 holds" not in out
    code, out, _ = call("check", tmp_path / "in", "--volume", "all")
    assert code == 0 and out.count("2 volumes of 6 slices") == 2 and "--volume all" not in out
    options = ("--volume", "all", *SPLINE)
    assert call("run", tmp_path / "in", f"{tmp_path}/out/", "--dry-run", *options)[0] == 0
    assert not (tmp_path / "out").exists()
    assert call("run", tmp_path / "in", f"{tmp_path}/out/", *options)[0] == 0
    folders = sorted(path for path in (tmp_path / "out").iterdir() if path.is_dir() and path.name[0] != ".")
    assert sorted(len(list(folder.iterdir())) for folder in folders) == [12, 24, 24]
    assert "already done" in call("run", tmp_path / "in", f"{tmp_path}/out/", *options)[1]


def test_the_volumes_of_an_enhanced_file_are_kept_together(tmp_path, call):
    groups = [slices(SMALL, drawn(t), modality="MR") for t in range(3)]
    one = enhanced(*groups, dimension="TemporalPositionIndex")
    for group in one.PerFrameFunctionalGroupsSequence:
        content = group.FrameContentSequence[0]
        number = int(content.TemporalPositionIndex)
        content.FrameAcquisitionDateTime = f"2001020312000{2 * number}.5"
        group.MREchoSequence = Items([Dataset()])
        group.MREchoSequence[0].EffectiveEchoTime = 7.0
    write(tmp_path / "in", one)
    for how in ("classic", "enhanced"):
        words = ("--volume", "all", "--format", how, *SPLINE)
        assert call("run", tmp_path / "in", f"{tmp_path}/{how}/", *words)[0] == 0
    (folder,) = (path for path in (tmp_path / "enhanced").iterdir() if path.is_dir())
    (image,) = instances_of(folder)
    assert image.SharedFunctionalGroupsSequence[0].MREchoSequence[0].EffectiveEchoTime == 7
    contents = [groups.FrameContentSequence[0] for groups in image.PerFrameFunctionalGroupsSequence]
    assert [one.TemporalPositionIndex for one in contents[::12]] == [1, 2, 3]
    assert [one.FrameAcquisitionDateTime for one in contents[::12]] == [f"2001020312000{t}.5" for t in (2, 4, 6)]
    (folder,) = (path for path in (tmp_path / "classic").iterdir() if path.is_dir())
    made = instances_of(folder)
    assert len(made) == 36
    assert [one.TemporalPositionIdentifier for one in made[::12]] == [1, 2, 3]
    assert [one.AcquisitionTime for one in made[::12]] == ["120002.5", "120004.5", "120006.5"]
    assert {float(one.EchoTime) for one in made} == {7.0}


def test_all_volumes_have_one_intensity_range_and_one_profile(tmp_path):
    source = write_scan(tmp_path, "echoes")
    (series,) = find_series(source, volume="all").series
    image = read_image(source, volume="all")
    acquired = Acquired.of(image)
    ranges = [acquired.normalized(t, acquired.normalization(USUAL)).intensities for t in range(4)]
    low, high = np.percentile(image.numpy(), USUAL.mr_percentiles)
    assert {(one.low, one.high) for one in ranges} == {(float(low), float(high))}
    assert series.size == "4 volumes of 6 slices"
    np.testing.assert_array_equal(read_series(series)[0][..., 2], image[2])


def test_times_of_volumes_become_the_step_of_the_fourth_axis(tmp_path):
    for scan, step in (("GE, contrast", 5.0), ("CT perfusion", 2.0), ("echoes", None)):
        (series,) = find_series(write_scan(tmp_path / scan, scan), volume="all").series
        assert read_series(series)[2].get("time_step", (None, 8)) == (step, 8)


def test_volumes_of_one_echo_are_kept_together_by_their_name(tmp_path, call):
    for echo in (1, 2):
        for t in range(3):
            made = slices(SMALL, drawn(t + 3 * echo), modality="MR", EchoNumbers=echo, EchoTime=5.0 * echo)
            for one in made:
                one.TemporalPositionIdentifier, one.AcquisitionTime = t + 1, f"1200{5 * t:02d}"
            write(tmp_path / "in", made)
    found = find_series(tmp_path / "in", volume="all")
    assert len(found.only().phases) == 6
    (second,) = found.choose("1#echo=2")
    assert second.part == (("echo", "2"),) and len(second.phases) == 3
    assert {float(frame.header.EchoTime) for frame in second.all_frames} == {10.0}
    (single,) = found.choose("1#echo=2,time=3")
    assert not single.phases and single.part == (("echo", "2"), ("time", "3"))
    with pytest.raises(UsageError, match="E-DCM-SERIES"):
        found.choose("1#echo=3")
    words = ("--volume", "all", "--series", "1#echo=2", *SPLINE)
    assert call("run", tmp_path / "in", f"{tmp_path}/out/", *words)[0] == 0
    (folder,) = (path for path in (tmp_path / "out").iterdir() if path.is_dir())
    made = instances_of(folder)
    assert len(made) == 36 and {float(one.EchoTime) for one in made} == {10.0} and folder.name.endswith("-echo-2")
    assert [one.TemporalPositionIdentifier for one in made[::12]] == [1, 2, 3]
    assert call("run", tmp_path / "in", tmp_path / "thin.nii.gz", *words)[0] == 0
    assert read_image(tmp_path / "thin.nii.gz", volume="all").shape == (3, 22, 20, 12)


def test_masks_and_maps_go_with_the_volumes(tmp_path, call):
    source = write_scan(tmp_path / "in", "CT perfusion", volumes=2)
    image = read_image(source, volume="all")
    write_image((image[:1] > 0).float(), tmp_path / "mask.nii.gz", dtype=np.uint8)
    words = ("--volume", "all", "--consistency-map", "--mask", tmp_path / "mask.nii.gz", *SPLINE)
    assert call("run", source, tmp_path / "thin.nii.gz", *words)[0] == 0
    assert read_image(tmp_path / "thin_consistency.nii.gz", volume="all").shape == (2, 22, 20, 6)
    assert sitk.ReadImage(str(tmp_path / "thin_mask.nii.gz")).GetSize() == (22, 20, 12)
    assert call("verify", source, tmp_path / "thin.nii.gz", "--volume", "all")[0] == 0


@pytest.mark.parametrize("scan", ["GE, contrast", "Siemens, diffusion", "cine, another heart rate for each slice"])
def test_independent_readers_find_one_volume_after_the_other(tmp_path, call, scan):
    source = write_scan(tmp_path / "in", scan)
    assert call("run", source, f"{tmp_path}/out/", "--volume", "all", *SPLINE)[0] == 0
    (folder,) = (path for path in (tmp_path / "out").iterdir() if path.is_dir())
    uids = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
    assert len(uids) == 1
    volume = sitk.ReadImage([str(path) for path in sorted(folder.iterdir())[24:36]])
    expected = read_image(source, volume="all")[2]
    assert abs(sitk.GetArrayFromImage(volume).mean() - float(expected.mean())) < 15
    if shutil.which("dciodvfy"):
        assert not {line for line in tools.complaints("dciodvfy", folder / "0048.dcm") if "Error" in line}
    pytest.importorskip("dcm2niix", reason="dcm2niix is not installed")
    (tmp_path / "nii").mkdir()
    words = ["-f", "out", "-b", "n", "-o", str(tmp_path / "nii"), str(folder)]
    subprocess.run([sys.executable, "-m", "dcm2niix", *words], capture_output=True, check=True)
    (path,) = (tmp_path / "nii").glob("*.nii*")
    converted = read_image(path, volume="all")
    means = converted.mean(dim=(1, 2, 3))
    assert converted.shape == (4, 22, 20, 12) and bool((means[1:] > means[:-1] + 30).all())
    if "diffusion" in scan:
        assert (tmp_path / "nii" / "out.bval").read_text().split() == [str(b) for b in B_VALUES]
