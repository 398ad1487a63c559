"""Results as enhanced multi-frame images: as their sources are, or as asked for, and read alike by every reader."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import dicom_phantoms
import dicom_tools as tools
import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
import test_dicom_masks as masks
import test_dicom_phases as phases
import test_dicom_structures as regions
from catalogue import fault
from monai.data import MetaTensor
from pydicom import Dataset
from pydicom.datadict import keyword_for_tag

from monai_sr.dicom import enhanced, find_series, read_series
from monai_sr.dicom.derive import MadeBy, write_derived_series
from monai_sr.dicom.groups import GROUPS
from monai_sr.errors import OutputError, UsageError, collect_notices
from monai_sr.options import RunOptions

MADE_BY = MadeBy("b", "0.1.0", "ab" * 32, RunOptions.from_dict({"factor": 2}))
CLASSES = {"CT": "1.2.840.10008.5.1.4.1.1.2.1", "MR": "1.2.840.10008.5.1.4.1.1.4.1"}
SPLINE = ("--bundle", "none", "--factor", "2")
REAL = ("ct_chest_8mm", "ct_head_phantom_gantry_tilt", "mr_brain_fse_pd_oblique_5mm", "mr_enhanced_philips_8frames")

needs_dciodvfy = pytest.mark.skipif(not shutil.which("dciodvfy"), reason="dciodvfy is not installed")


def derive(series, folder: Path, how: str | None = "enhanced", volume: MetaTensor | None = None) -> Dataset:
    """The one file of a derived series."""
    sr = tools.volume(series) if volume is None else volume
    (made,) = tools.read(write_derived_series(sr, series, folder, made_by=MADE_BY, format=how))
    return made


def errors_of(path: Path) -> list[str]:
    return [line for line in tools.complaints("dciodvfy", path) if "Error" in line and "Illegal root" not in line]


def result_in(folder: Path) -> Path:
    (unpacked,) = (path for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")
    return unpacked


def dimensions_of(made: Dataset) -> list[str]:
    return [keyword_for_tag(item.DimensionIndexPointer) for item in made.DimensionIndexSequence]


# ---------------------------------------------------------------- as the source is


@pytest.mark.parametrize("modality", ["CT", "MR"])
@pytest.mark.parametrize("wanted", [None, "dicom", "classic", "enhanced"])
def test_images_are_as_those_of_the_source_unless_asked_for(tmp_path, modality, wanted):
    for name, source in (("classic", tools.acquired(modality)), ("enhanced", tools.enhanced(modality))):
        sr = tools.volume(source)
        made = tools.read(write_derived_series(sr, source, tmp_path / name, made_by=MADE_BY, format=wanted))
        is_enhanced = wanted == "enhanced" or (wanted != "classic" and name == "enhanced")
        assert len(made) == (1 if is_enhanced else 8)
        assert (made[0].SOPClassUID == CLASSES[modality]) == is_enhanced
        assert made[0].file_meta.MediaStorageSOPClassUID == made[0].SOPClassUID
        assert made[0].file_meta.MediaStorageSOPInstanceUID == made[0].SOPInstanceUID


def test_the_same_source_gives_the_same_bytes_and_other_uids_than_classic_images(tmp_path):
    source = tools.acquired()
    first, again, classic = (
        write_derived_series(tools.volume(source), source, tmp_path / name, made_by=MADE_BY, format=name.strip("2"))
        for name in ("enhanced", "enhanced2", "classic")
    )
    assert (first / "0001.dcm").read_bytes() == (again / "0001.dcm").read_bytes()
    ours, theirs = tools.read(first)[0], tools.read(classic)[0]
    assert ours.SeriesInstanceUID != theirs.SeriesInstanceUID and ours.SOPInstanceUID != theirs.SOPInstanceUID
    assert (ours.StudyInstanceUID, ours.FrameOfReferenceUID) == (theirs.StudyInstanceUID, theirs.FrameOfReferenceUID)


# ---------------------------------------------------------------- frames


def test_each_frame_says_where_it_lies_and_what_it_comes_from(tmp_path):
    source = tools.acquired()
    sr = tools.volume(source)
    sr.meta["filled_slices"] = [3]
    made = derive(source, tmp_path / "derived", volume=sr)
    assert made.NumberOfFrames == len(made.PerFrameFunctionalGroupsSequence) == 8
    assert dimensions_of(made) == ["StackID", "InStackPositionNumber"] and made.DimensionOrganizationType == "3D"
    shared = made.SharedFunctionalGroupsSequence[0]
    assert shared.PixelMeasuresSequence[0].PixelSpacing == [0.9, 0.8]
    assert shared.PixelMeasuresSequence[0].SliceThickness == shared.PixelMeasuresSequence[0].SpacingBetweenSlices == 2
    assert shared.FrameVOILUTSequence[0].WindowWidth == 400
    assert shared.PixelValueTransformationSequence[0].RescaleType == "HU"
    assert shared.FrameAnatomySequence[0].AnatomicRegionSequence[0].CodeValue == "816094009"  # chest
    frame_type = shared.CTImageFrameTypeSequence[0].FrameType
    assert list(frame_type) == list(made.ImageType) == ["DERIVED", "PRIMARY", "VOLUME", "RESAMPLED"]
    named = []
    for number, groups in enumerate(made.PerFrameFunctionalGroupsSequence):
        content = groups.FrameContentSequence[0]
        assert content.StackID == "1" and content.InStackPositionNumber == number + 1
        assert list(content.DimensionIndexValues) == [1, number + 1]
        assert content.get("FrameComments") == ("no slice was acquired here" if number == 3 else None)
        assert groups.PlanePositionSequence[0].ImagePositionPatient == [-31, 17.5, 8.25 + 2 * number]
        assert groups.PlaneOrientationSequence[0].ImageOrientationPatient == [1, 0, 0, 0, 1, 0]
        (derivation,) = groups.DerivationImageSequence
        assert derivation.DerivationCodeSequence[0].CodeValue == "113085"
        named.append([int(item.ReferencedSOPInstanceUID[-1]) for item in derivation.SourceImageSequence])
    assert named == [[1], [1, 2], [2], [2, 3], [3], [3, 4], [4], [4]]
    (series,) = made.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == "1.2.3.4" and len(series.ReferencedInstanceSequence) == 4
    (evidence,) = made.SourceImageEvidenceSequence
    assert evidence.StudyInstanceUID == made.StudyInstanceUID
    assert len(evidence.ReferencedSeriesSequence[0].ReferencedSOPSequence) == 4
    assert made.ContentQualification == "RESEARCH"


@fault("D48", "E-OUT-FORMAT")
def test_more_pixels_than_one_file_holds_are_refused(tmp_path, call, monkeypatch):
    monkeypatch.setattr(enhanced, "MOST_BYTES", 8 * 60 - 1)
    source = tools.acquired()
    with pytest.raises(OutputError, match="E-OUT-FORMAT") as refused:
        derive(source, tmp_path / "derived")
    assert "classic" in refused.value.remedy and not list(tmp_path.iterdir())
    dicom_phantoms.write(tmp_path / "in", dicom_phantoms.slices())
    for more in ((), ("--dry-run",)):
        code, out, err = call("run", tmp_path / "in", f"{tmp_path}/out/", *SPLINE, "--format", "enhanced", *more)
        assert code == 6 and "E-OUT-FORMAT" in out + err
    assert call("run", tmp_path / "in", f"{tmp_path}/out/", *SPLINE, "--format", "classic")[0] == 0


# ---------------------------------------------------------------- groups of the source

EXPOSURE = {"ExposureTimeInms": 500.0, "XRayTubeCurrentInmA": 200.0, "ExposureInmAs": 100.0}
EXPOSURE |= {"ExposureModulationType": "NONE", "CTDIvol": 12.5}


def test_groups_equal_in_all_frames_are_kept_and_others_rewritten(tmp_path):
    source = tools.enhanced(
        "CT",
        shared={
            "CTExposureSequence": EXPOSURE,
            "CTGeometrySequence": {"DistanceSourceToDetector": 1000.0},  # lacks the other distance
            "PixelMeasuresSequence": {"PixelSpacing": [0.9, 0.8], "SliceThickness": 5},
            "ReferencedImageSequence": {"ReferencedSOPInstanceUID": "1.2"},
            "CTImageFrameTypeSequence": {"FrameType": ["ORIGINAL", "PRIMARY", "AXIAL", "NONE"]},
            "FrameVOILUTSequence": {"WindowCenter": 50, "WindowWidth": 350},
        },
        AcquisitionDuration=2.5,
    )
    header = source.frames[0].header
    header.SharedFunctionalGroupsSequence[0].CTExposureSequence[0].add_new(0x00290010, "LO", "ACME")
    for number, group in enumerate(header.PerFrameFunctionalGroupsSequence):
        group.CTTableDynamicsSequence = [Dataset()]
        group.CTTableDynamicsSequence[0].TableSpeed = 10.0 + number
        group.CTTableDynamicsSequence[0].SpiralPitchFactor = 0.9
        group.CTPositionSequence = [Dataset()]
        group.CTPositionSequence[0].TablePosition = 7.0
    made = derive(source, tmp_path / "derived")
    shared = made.SharedFunctionalGroupsSequence[0]
    assert {element.keyword: element.value for element in shared.CTExposureSequence[0]} == EXPOSURE
    assert [element.keyword for element in shared.CTTableDynamicsSequence[0]] == ["SpiralPitchFactor"]
    assert shared.PixelMeasuresSequence[0].SliceThickness == 2
    assert shared.CTImageFrameTypeSequence[0].FrameType == ["DERIVED", "PRIMARY", "AXIAL", "RESAMPLED"]
    assert shared.FrameVOILUTSequence[0].WindowCenter == 50
    assert made.AcquisitionDuration == 2.5
    for groups in (shared, *made.PerFrameFunctionalGroupsSequence):
        assert not {"CTGeometrySequence", "CTPositionSequence", "ReferencedImageSequence"} & {*groups.dir()}
    frames = [group.DerivationImageSequence[0].SourceImageSequence for group in made.PerFrameFunctionalGroupsSequence]
    assert [np.atleast_1d(one[0].ReferencedFrameNumber).tolist() for one in frames][:4] == [[1], [1, 2], [2], [2, 3]]


def test_attributes_of_a_classic_source_go_to_whole_groups_and_others_stay_outside(tmp_path):
    details = {"FocalSpots": 1.2, "FilterType": "FLAT", "FilterMaterial": "ALUMINUM"}
    whole = derive(tools.acquired(**details), tmp_path / "whole")
    (group,) = whole.SharedFunctionalGroupsSequence[0].CTXRayDetailsSequence
    assert {*group.dir()} == {"KVP", *details} and group.KVP == 120 and "KVP" not in whole
    part = derive(tools.acquired(), tmp_path / "part")
    assert part.KVP == 120 and "CTXRayDetailsSequence" not in part.SharedFunctionalGroupsSequence[0]
    magnetic = derive(tools.acquired("MR", ImagedNucleus="1H"), tmp_path / "mr")
    assert magnetic.SharedFunctionalGroupsSequence[0].MREchoSequence[0].EffectiveEchoTime == 93
    assert magnetic.RepetitionTime == 1500 and "EchoTime" not in magnetic and magnetic.ResonantNucleus == "1H"


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_that_lacks_what_it_needs_is_left_out(group, tmp_path):
    modality = "MR" if group.startswith("MR") else "CT"
    names = [text.partition("=")[0] for text in GROUPS[group].split() if "InversionTimes" not in text]
    values = {name: [Dataset()] if name.endswith("Sequence") else 1 for name in names}
    values |= {name: "YES" for name in names if pydicom.datadict.dictionary_VR(name) in ("CS", "SH", "LO")}
    values |= {name: "1.2.3" for name in names if name.endswith("UID")} | {"GantryDetectorTilt": 0.0}
    for missing in (None, names[0]):
        content = {name: values[name] for name in names if name != missing} | {"FilterMaterial": "X"}
        made = derive(tools.enhanced(modality, shared={group: content}), tmp_path / str(missing))
        value = made.SharedFunctionalGroupsSequence[0].get(group)
        if missing is None or group == "IrradiationEventIdentificationSequence":  # which has a UID in any case
            assert value and names[0] in value[0]
        else:
            assert not value


# ---------------------------------------------------------------- independent readers


@pytest.mark.data
@pytest.mark.parametrize("name", [pytest.param(REAL[0], marks=pytest.mark.slow), *REAL[1:]])
def test_every_reader_reads_the_same_voxels_at_the_same_places(name, shared_data, tmp_path):
    source = tools.load(shared_data / "dicom" / name)
    sr = tools.upsampled(source, crop=32)
    read = {}
    for how in ("classic", "enhanced"):
        folder = write_derived_series(sr, source, tmp_path / how, made_by=MADE_BY, format=how)
        (series,) = find_series(folder, own_results=True).series
        read[how] = read_series(series)[:2]
    voxels, affine = read["enhanced"]
    assert np.array_equal(voxels, read["classic"][0]) and np.allclose(affine, read["classic"][1], atol=1e-9)
    image = sitk.ReadImage(str(folder / "0001.dcm"))
    assert np.abs(sitk.GetArrayFromImage(image).transpose(2, 1, 0) - voxels).max() < 1e-3
    lps = np.eye(4)
    lps[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    lps[:3, 3] = image.GetOrigin()
    assert np.allclose(tools.LPS_FROM_RAS @ lps, affine, atol=1e-6)
    if shutil.which("dciodvfy"):
        wanting = "PatientPosition" if name == "mr_enhanced_philips_8frames" else "-"  # as in the source
        assert not [line for line in errors_of(folder / "0001.dcm") if wanting not in line]
    pytest.importorskip("dcm2niix", reason="dcm2niix is not installed")
    converted = nib.load(convert(folder, tmp_path / "nii")[0])
    to_ours = np.linalg.inv(affine) @ converted.affine
    ours = np.rint(to_ours[:3, :3] @ np.indices(converted.shape).reshape(3, -1) + to_ours[:3, 3:]).astype(int)
    assert np.abs(voxels[tuple(ours)] - converted.get_fdata().ravel()).max() < 1e-3


def convert(folder: Path, output: Path) -> list[Path]:
    """What dcm2niix makes of a folder."""
    output.mkdir()
    words = ["-f", "out", "-b", "n", "-m", "n", "-o", str(output), str(folder)]
    subprocess.run([sys.executable, "-m", "dcm2niix", *words], capture_output=True, check=True)
    return sorted(output.glob("*.nii*"))


# ---------------------------------------------------------------- volumes kept together

TIME = ["StackID", "InStackPositionNumber", "TemporalPositionIndex"]
SCANS = {
    "GE, contrast": TIME,
    "Siemens, contrast": TIME,
    "cine, another heart rate for each slice": TIME,
    "Siemens, diffusion": [*TIME[:2], "DiffusionBValue", "DiffusionGradientOrientation"],
    "echoes": [*TIME[:2], "EffectiveEchoTime"],
    "tube voltages": [*TIME[:2], "KVP"],
    "CT perfusion": TIME,
    "by InstanceNumber alone": TIME,
}

QUICK = ("GE, contrast", "Siemens, diffusion", "echoes")


@pytest.mark.parametrize(
    "scan", [scan if scan in QUICK else pytest.param(scan, marks=pytest.mark.slow) for scan in SCANS]
)
def test_volumes_kept_together_become_one_image_with_their_dimensions(tmp_path, call, scan):
    source = phases.write_scan(tmp_path / "in", scan)
    read = {}
    for how in ("classic", "enhanced"):
        words = ("--volume", "all", "--format", how, *SPLINE)
        assert call("run", source, f"{tmp_path}/{how}/", *words)[0] == 0
        series = find_series(result_in(tmp_path / how), own_results=True, volume="all").only()
        assert len(series.phases) == 4
        read[how] = read_series(series)
    assert np.array_equal(read["classic"][0], read["enhanced"][0])
    assert read["classic"][2].get("time_step") == read["enhanced"][2].get("time_step")
    (made,) = tools.read(result_in(tmp_path / "enhanced"))
    assert dimensions_of(made) == SCANS[scan]
    indices = [tuple(g.FrameContentSequence[0].DimensionIndexValues) for g in made.PerFrameFunctionalGroupsSequence]
    assert len(set(indices)) == made.NumberOfFrames == 48 and np.min(indices) == 1
    assert call("verify", source, result_in(tmp_path / "enhanced"), "--volume", "all")[0] == 0
    if shutil.which("dciodvfy") and scan != "tube voltages":  # filters are not known, and asked for
        assert not errors_of(result_in(tmp_path / "enhanced") / "0001.dcm")
    if scan != "echoes":
        pytest.importorskip("dcm2niix", reason="dcm2niix is not installed")
        (path,) = convert(result_in(tmp_path / "enhanced"), tmp_path / "nii")
        means = nib.load(path).get_fdata().mean(axis=(0, 1, 2))
        assert means.shape == (4,) and np.all(np.diff(means) > 30)
    if scan == "Siemens, diffusion":
        assert (tmp_path / "nii" / "out.bval").read_text().split() == ["0", "500", "1000", "1000"]


# ---------------------------------------------------------------- runs


def source_of(folder: Path) -> Path:
    dicom_phantoms.write(folder, dicom_phantoms.enhanced(dicom_phantoms.slices(), shared=("PlaneOrientationSequence",)))
    return folder


def test_a_run_resumes_its_result_and_remakes_one_of_another_type(tmp_path, call):
    source, out = source_of(tmp_path / "in"), f"{tmp_path}/out/"
    assert call("run", source, out, *SPLINE)[0] == 0
    folder = result_in(tmp_path / "out")
    assert [path.name for path in folder.iterdir()] == ["0001.dcm"]
    record = json.loads(folder.with_suffix(".json").read_text())["monai_sr"]
    assert record["options"]["wanted"]["format"] == "enhanced"
    assert call("verify", source, folder)[0] == 0
    assert "already done" in call("run", source, out, *SPLINE)[1]
    assert "already done" in call("run", source, out, *SPLINE, "--format", "enhanced")[1]
    assert call("run", source, out, *SPLINE, "--format", "classic")[0] == 0
    assert len(list(folder.iterdir())) == 16
    assert "already done" in call("run", source, out, *SPLINE, "--format", "classic")[1]
    assert call("run", source, out, *SPLINE)[0] == 0 and len(list(folder.iterdir())) == 1
    assert "E-DCM-OWN" in call("check", folder)[2] + call("check", folder)[1]


@fault("D48", "E-OUT-FORMAT")
def test_only_a_dicom_series_into_a_folder_becomes_an_enhanced_image(tmp_path, call):
    nib.save(nib.Nifti1Image(np.zeros((8, 8, 8), np.int16), np.diag([1, 1, 4, 1])), tmp_path / "one.nii.gz")
    code, _, err = call("run", tmp_path / "one.nii.gz", f"{tmp_path}/out/", *SPLINE, "--format", "enhanced")
    assert code == 2 and "E-OUT-FORMAT" in err
    source = source_of(tmp_path / "in")
    code, _, err = call("run", source, tmp_path / "thin.nii.gz", *SPLINE, "--format", "enhanced")
    assert code == 2 and "E-OUT-FORMAT" in err and not (tmp_path / "thin.nii.gz").exists()


@fault("D48", "E-OUT-FORMAT")
def test_an_archive_takes_no_image_files(tmp_path):
    pytest.importorskip("dicomweb_client", reason="monai-sr[pacs] is not installed")
    from monai_sr.clients.pacs import Watcher

    options = RunOptions.from_dict({"bundle": "none", "format": "nifti"})
    with pytest.raises(UsageError, match="E-OUT-FORMAT"):
        Watcher(None, tmp_path, options)  # type: ignore[arg-type]
    folders = set()
    for how in (None, "dicom", "classic", "enhanced"):
        watcher = Watcher(None, tmp_path, RunOptions.from_dict({"bundle": "none", "format": how}))  # type: ignore[arg-type]
        folders.add(watcher._state.place("1.2.3"))
    assert len(folders) == 3


@fault("D24", "W-DCM-GROUPS")
@pytest.mark.parametrize("differ", [True, False])
def test_shared_and_per_frame_groups_that_differ_give_a_warning(tmp_path, differ):
    one = dicom_phantoms.enhanced(dicom_phantoms.slices())
    measures = Dataset()
    measures.PixelSpacing = [2.0, 2.0] if differ else [1.5, 1.25]
    one.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence = [measures]
    dicom_phantoms.write(tmp_path, one)
    volume = dicom_phantoms.read(tmp_path)
    assert volume.warnings == ["W-DCM-GROUPS"] * differ
    assert volume.error().max() < 0.1  # by the frames


def test_segmentations_structures_and_maps_are_about_the_frames_of_the_image(tmp_path, call):
    slices = dicom_phantoms.slices()
    dicom_phantoms.write(tmp_path / "in", slices)
    dicom_phantoms.save(regions.structure_set(slices), tmp_path / "in" / "rt.dcm")
    words = ["--format", "enhanced", "--mask", tmp_path / "in", *SPLINE]
    assert call("run", tmp_path / "in", f"{tmp_path}/out/", *words)[0] == 0
    (path,) = (tmp_path / "out").glob("*.dcm")
    series = find_series(result_in(tmp_path / "out"), own_results=True).only()
    image, made = series.frames[0].header, pydicom.dcmread(path)
    for region in made.ROIContourSequence:
        for contour in region.get("ContourSequence", ()):
            (about,) = contour.ContourImageSequence
            assert about.ReferencedSOPInstanceUID == image.SOPInstanceUID
            frame = series.frames[int(about.ReferencedFrameNumber) - 1]
            assert abs(float(contour.ContourData[2]) - frame.position[2]) < 1e-3
    if shutil.which("dciodvfy"):
        assert not errors_of(path)


def test_a_segmentation_and_maps_are_about_the_frames_of_the_image(tmp_path, call):
    pytest.importorskip("highdicom", reason="highdicom (monai-sr[seg]) is not installed")
    slices = dicom_phantoms.slices()
    drawn = masks.shapes(dicom_phantoms.Stack().points())
    dicom_phantoms.write(tmp_path / "in", slices)
    seg = masks.segmentation(slices, {1: drawn == 1, 2: drawn == 2})
    dicom_phantoms.save(seg, tmp_path / "in" / "seg.dcm")
    words = ["--format", "enhanced", "--mask", tmp_path / "in", "--consistency-map", "--uncertainty", "--factor", "2"]
    assert call("run", tmp_path / "in", f"{tmp_path}/out/", *words, "--device", "cpu")[0] == 0
    (image,) = tools.read(result_in(tmp_path / "out"))
    paths = list((tmp_path / "out").glob("*.dcm"))
    assert len(paths) == 3
    for path in paths:
        made = pydicom.dcmread(path)
        (about,) = made.ReferencedSeriesSequence
        assert made.FrameOfReferenceUID == image.FrameOfReferenceUID
        if "consistency" not in path.name:  # which is about the acquired slices
            assert about.SeriesInstanceUID == image.SeriesInstanceUID
            assert about.ReferencedInstanceSequence[0].ReferencedSOPInstanceUID == image.SOPInstanceUID
        if shutil.which("dciodvfy"):
            assert not errors_of(path), path.name


@needs_dciodvfy
def test_fused_series_of_enhanced_files_become_an_enhanced_image(tmp_path, call):
    for number, orientation in enumerate(("axial ++", "coronal ++"), start=1):
        stack = dicom_phantoms.Stack(orientation=orientation, rows=26, pixel_spacing=(1.5, 1.5))
        slices = dicom_phantoms.slices(stack, series=number, modality="MR", rescale=(1 / 8, -1200.0))
        dicom_phantoms.write(tmp_path / "in", dicom_phantoms.enhanced(slices))
    with collect_notices():
        code, out, err = call("fuse", tmp_path / "in", f"{tmp_path}/out/", "--bundle", "none")
    assert code == 0, out + err
    (made,) = tools.read(result_in(tmp_path / "out"))
    assert made.SOPClassUID == CLASSES["MR"]
    referenced = {one.SeriesInstanceUID for one in made.ReferencedSeriesSequence}
    assert len(referenced) == 2


def test_an_enhanced_image_without_identity_holds_no_text_of_the_header(tmp_path, call, monkeypatch):
    monkeypatch.setenv("MONAI_SR_SECRET", str(tmp_path / "secret"))
    source = phases.write_scan(tmp_path / "in", "Siemens, contrast", volumes=2)
    words = ("--volume", "all", "--format", "enhanced", "--deidentify", *SPLINE)
    assert call("run", source, f"{tmp_path}/out/", *words)[0] == 0
    path = result_in(tmp_path / "out") / "0001.dcm"
    assert b"CANARY" not in path.read_bytes() and dicom_phantoms.uid_of("study").encode() not in path.read_bytes()
    assert pydicom.dcmread(path).PatientIdentityRemoved == "YES"
    if shutil.which("dciodvfy"):
        assert not errors_of(path)
