"""De-identified results: no attribute of the profile survives, and what belongs together stays together."""

from __future__ import annotations

import copy
import gzip
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import dicom_phantoms
import nibabel as nib
import numpy as np
import pydicom
import pytest
from catalogue import fault
from dicom_phantoms import CANARY, Stack
from pydicom import Dataset
from pydicom.datadict import dictionary_VR, keyword_for_tag
from pydicom.tag import Tag
from runs import record_of
from test_dicom_masks import halves, segmentation
from test_dicom_structures import save, structure_set

from monai_sr.cli.main import main
from monai_sr.dicom import find_series
from monai_sr.dicom.deidentify import OWN_TEXTS, Pseudonyms, actions, deidentify
from monai_sr.errors import collect_notices

NUMBER = 54321
"""In attributes of binary numbers."""

UIDS = "1.2.3.987654321"
"""Every UID of a canary starts with this."""

DAY, TIME = "19870605", "070605.04"
VALUES: dict[str, object] = {
    "DA": DAY,
    "TM": TIME,
    "DT": f"{DAY}{TIME}",
    "UI": UIDS,
    "PN": CANARY,
    "AS": "087Y",
    "AE": "CANARY",
}
VALUES |= dict.fromkeys(("SH", "CS", "LO", "LT", "ST", "UC", "UR", "UT"), "CANARY")
VALUES |= dict.fromkeys(("OB", "OW", "UN"), b"CANARY") | {"DS": "987654321.4", "IS": "987654321"}
SURVIVORS = re.compile(rb"CANARY|1\.2\.3\.987654321|19870605|070605\.04|087Y|987654321|canary")

ATTRIBUTES = sorted(Tag(int(tag, 16)) for tag in actions() if "X" not in tag and tag[:4] > "0002")
"""Every attribute of the table that a dataset can hold."""

GEOMETRY = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "Rows", "Columns")


@pytest.fixture(autouse=True)
def secret(tmp_path, monkeypatch):
    """The file of a secret that is there already."""
    path = tmp_path / "secret" / "file"
    path.parent.mkdir()
    path.write_text("a secret of a test, long enough\n")
    path.chmod(0o600)
    monkeypatch.setenv("MONAI_SR_SECRET", str(path))
    return path


def canaries(depth: int = 0) -> Dataset:
    """Every attribute of the table, a private one, an overlay and an unknown one; also in items of sequences."""
    dataset = Dataset()
    items = [canaries(depth - 1)] if depth else [Dataset()]
    for tag in ATTRIBUTES:
        vr = dictionary_VR(tag).split()[0] if keyword_for_tag(tag) else "LO"
        dataset.add_new(tag, vr, items if vr == "SQ" else VALUES.get(vr, NUMBER))
    for tag in (0x00090010, 0x00091001, 0x60001500, 0x00081FFF):
        dataset.add_new(tag, "LO", "CANARY")
    return dataset


def add_canaries(dataset: Dataset) -> None:
    """The canaries that are not there yet."""
    dataset.update({element.tag: element for element in canaries() if element.tag not in dataset})


def canaries_in(folder: Path) -> dict[str, set[bytes]]:
    """What survives in the names and the content of files."""
    places = {}
    for path in folder.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        content = gzip.decompress(content) if path.suffix == ".gz" else content
        name = str(path.relative_to(folder))
        places[name] = set(SURVIVORS.findall(content + name.encode()))
    return {name: values for name, values in places.items() if values}


def spread_canaries(slices: list[Dataset]) -> None:
    """Canaries in every attribute of each slice, and in the items of sequences that are kept."""
    for one in slices:
        one.StudyDate = one.PatientBirthDate = one.SeriesDate = DAY
        one.StudyTime, one.PatientSex = TIME, "O"
        one.StudyInstanceUID, one.FrameOfReferenceUID = f"{UIDS}.1", f"{UIDS}.2"
        one.SeriesInstanceUID = f"{UIDS}.3.{one.SeriesNumber}"
        one.SOPInstanceUID = f"{one.SeriesInstanceUID}.{one.InstanceNumber}"
        add_canaries(one)
        equipment = canaries()
        equipment.Manufacturer, equipment.ManufacturerModelName = "Acme", "M1"
        one.ContributingEquipmentSequence = [equipment]


def run(source: Path, target: Path, *more: str) -> int:
    return main(["run", str(source), f"{target}/", "--bundle", "none", "--device", "cpu", "--deidentify", *more])


def errors_of(path: Path) -> list[str]:
    """What dciodvfy calls an error."""
    if not shutil.which("dciodvfy"):
        return []
    judged = subprocess.run(["dciodvfy", path], capture_output=True, text=True)
    return [line for line in judged.stderr.splitlines() if line.startswith("Error")]


def test_the_table_is_complete():
    counts = {action: list(actions().values()).count(action) for action in sorted(set(actions().values()))}
    assert counts == {"D": 93, "U": 55, "X": 415, "X/D": 23, "X/Z": 11, "X/Z/D": 8, "X/Z/U*": 2, "Z": 42, "Z/D": 6}
    assert {actions()[tag] for tag in ("00100010", "00080090", "00080050")} == {"Z"}


@pytest.mark.parametrize("must", [False, True])
def test_no_attribute_of_the_table_survives_at_any_depth(must, tmp_path):
    dataset, outer = canaries(depth=1), Dataset()
    for name in OWN_TEXTS:  # which would be those of monai-sr
        delattr(dataset, name)
    outer.AnatomicRegionModifierSequence = [canaries()]
    dataset.AnatomicRegionSequence = [outer]
    if must:
        dataset.NumberOfFrames = 3
    cleaned = deidentify(dataset, Pseudonyms.load())
    pydicom.dcmwrite(tmp_path / "file", cleaned, implicit_vr=True, little_endian=True)
    assert not SURVIVORS.findall((tmp_path / "file").read_bytes())
    assert not [element for element in cleaned.iterall() if element.value == NUMBER]
    again = copy.deepcopy(cleaned)
    assert deidentify(again, Pseudonyms.load()) == cleaned  # what is clean stays as it is


@pytest.mark.parametrize("source", ["classic", "enhanced"])
def test_no_canary_comes_into_any_file_name_page_log_or_message(source, tmp_path, capsys, monkeypatch):
    slices = dicom_phantoms.slices(Stack())
    spread_canaries(slices)
    rt = structure_set(slices)
    add_canaries(rt)
    for item in rt.StructureSetROISequence:
        item.ROIName = item.ROIDescription = "CANARY"
    folder = tmp_path / "CANARY^JOHN"
    dicom_phantoms.write(folder, slices if source == "classic" else dicom_phantoms.enhanced(slices))
    (tmp_path / "niivue.umd.js").write_text("// a stand-in")
    monkeypatch.setenv("MONAI_SR_NIIVUE", str(tmp_path / "niivue.umd.js"))
    more = ["--report", "--viewer", "--preview", "--verbose"]
    if source == "classic":
        more += ["--mask", str(save(rt, tmp_path / "CANARY_rt.dcm")), "--consistency-map"]
    assert run(folder, tmp_path / "out", *more) == 0
    out, err = capsys.readouterr()
    assert "W-DEID-PIXELS" in err and not SURVIVORS.search((out + err).replace(str(tmp_path), "").encode())
    assert not canaries_in(tmp_path / "out")
    (result,) = (path for path in (tmp_path / "out").iterdir() if path.is_dir())
    files = [pydicom.dcmread(path) for path in sorted(result.iterdir())]
    for one in files:
        assert one.PatientIdentityRemoved == "YES" and one.LongitudinalTemporalInformationModified == "REMOVED"
        assert [code.CodeValue for code in one.DeidentificationMethodCodeSequence] == ["113100"]
        assert "2026c" in one.DeidentificationMethod[1]
        assert one.PatientID == one.PatientName and re.fullmatch("SR-[0-9A-F]{12}", one.PatientID)
        assert one.SeriesDescription == "SR research - not for diagnosis"
        assert one.file_meta.MediaStorageSOPInstanceUID == one.SOPInstanceUID
        assert not [element for element in one.iterall() if element.tag.is_private]
    given = files[0] if source == "classic" else {element.keyword for element in files[0].iterall()}
    assert all(name in given for name in GEOMETRY)
    assert len({one.SOPInstanceUID for one in files}) == len(files)
    record = record_of(result.with_suffix(".json"))
    assert record["deidentified"] == {"profile": "Basic", "edition": "2026c", "secret": Pseudonyms.load().id}


def test_geometry_and_pixels_are_those_of_the_result_with_identity(tmp_path):
    slices = dicom_phantoms.slices(Stack(orientation="oblique"))
    dicom_phantoms.write(tmp_path / "in", slices)
    assert run(tmp_path / "in", tmp_path / "out") == 0
    assert main(["run", str(tmp_path / "in"), f"{tmp_path / 'usual'}/", "--bundle", "none", "--device", "cpu"]) == 0
    pairs = zip(sorted((tmp_path / "out").rglob("*.dcm")), sorted((tmp_path / "usual").rglob("*.dcm")), strict=True)
    for ours, usual in ((pydicom.dcmread(one), pydicom.dcmread(other)) for one, other in pairs):
        for name in (*GEOMETRY, "PixelData", "RescaleSlope", "RescaleIntercept", "InstanceNumber"):
            assert ours[name].value == usual[name].value


def test_masks_and_maps_refer_to_the_derived_series_by_its_pseudonyms(tmp_path):
    pytest.importorskip("highdicom", reason="highdicom (monai-sr[seg]) is not installed")
    slices = dicom_phantoms.slices(Stack())
    dicom_phantoms.write(tmp_path / "in", slices)
    rt = save(structure_set(slices), tmp_path / "rt.dcm")
    more = ["--bundle", "pyramid", "--factor", "4", "--uncertainty", "--consistency-map", "--mask", str(rt)]
    assert run(tmp_path / "in", tmp_path / "out", *more) == 0
    (folder,) = (path for path in (tmp_path / "out").iterdir() if path.is_dir())
    derived = pydicom.dcmread(folder / "0001.dcm")
    assert not errors_of(folder / "0001.dcm")
    objects = {path.stem.rpartition("_")[2]: path for path in (tmp_path / "out").glob("*.dcm")}
    assert set(objects) == {"mask-1", "uncertainty", "consistency"}
    for name, path in objects.items():
        made = pydicom.dcmread(path)
        for shared in ("StudyInstanceUID", "FrameOfReferenceUID", "PatientID", "PatientName"):
            assert made[shared].value == derived[shared].value
        assert made.PatientIdentityRemoved == "YES"
        assert not errors_of(path), name
    with collect_notices():
        series = find_series(folder, own_results=True).only()
    made = pydicom.dcmread(objects["uncertainty"])
    assert made.ReferencedSeriesSequence[0].SeriesInstanceUID == series.uid
    structures = pydicom.dcmread(objects["mask-1"])
    (of_series,) = (
        structures.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0].RTReferencedSeriesSequence
    )
    assert of_series.SeriesInstanceUID == series.uid
    assert [item.ROIName for item in structures.StructureSetROISequence] == ["ROI 1", "ROI 4", "ROI 9"]
    known = {pydicom.dcmread(path).SOPInstanceUID for path in folder.iterdir()}
    assert {item.ReferencedSOPInstanceUID for item in of_series.ContourImageSequence} == known
    assert not canaries_in(tmp_path / "out")


def test_a_segmentation_becomes_one_without_identity(tmp_path):
    pytest.importorskip("highdicom", reason="highdicom (monai-sr[seg]) is not installed")
    slices = dicom_phantoms.slices(Stack())
    seg = segmentation(slices, halves())
    add_canaries(seg)
    dicom_phantoms.write(tmp_path / "in", slices)
    dicom_phantoms.save(seg, tmp_path / "seg_CANARY.dcm")
    assert run(tmp_path / "in", tmp_path / "out", "--mask", str(tmp_path / "seg_CANARY.dcm")) == 0
    (made,) = (tmp_path / "out").glob("*_mask-1.dcm")
    assert pydicom.dcmread(made).Modality == "SEG" and not errors_of(made)
    assert not canaries_in(tmp_path / "out")


def test_a_secret_keeps_studies_and_patients_together_over_runs(tmp_path, secret):
    def made(number: int, out: str) -> Dataset:
        dicom_phantoms.write(tmp_path / f"in{number}", dicom_phantoms.slices(Stack(), series=number))
        assert run(tmp_path / f"in{number}", tmp_path / out) == 0
        return pydicom.dcmread(next((tmp_path / out).rglob("0001.dcm")))

    first, second = made(1, "a"), made(2, "b")
    for name in ("StudyInstanceUID", "FrameOfReferenceUID", "PatientID"):
        assert first[name].value == second[name].value
    assert first.SeriesInstanceUID != second.SeriesInstanceUID
    secret.write_text("another secret, of another study")
    third = made(3, "c")
    for name in ("StudyInstanceUID", "FrameOfReferenceUID", "PatientID"):
        assert first[name].value != third[name].value


def test_patients_without_an_id_stay_distinct():
    def of(**values: str) -> str:
        dataset = Dataset()
        dataset.update({})
        for name, value in values.items():
            setattr(dataset, name, value)
        return Pseudonyms.load().patient(dataset)

    known = [
        of(PatientID="1"),
        of(PatientID="1", IssuerOfPatientID="other"),
        of(PatientName="A^B"),
        of(PatientName="A^B", PatientBirthDate="19700101"),
        of(StudyInstanceUID="1.2"),
        of(StudyInstanceUID="1.3"),
    ]
    assert len(set(known)) == len(known)
    assert of(PatientID="1 ", PatientName="x") == known[0]


def test_pseudonyms_of_uids_are_valid_and_known_as_such():
    ours, other = Pseudonyms(b"0123456789abcdef"), Pseudonyms(b"another secret, long")
    made = {ours.uid(f"1.2.{n}") for n in range(2000)}
    assert len(made) == 2000 and all(pydicom.uid.UID(uid).is_valid and len(uid) <= 64 for uid in made)
    assert all(ours.is_pseudonym(uid) and ours.uid(uid) == uid and not other.is_pseudonym(uid) for uid in made)
    assert not any(ours.is_pseudonym(uid) for uid in (pydicom.uid.generate_uid(), "1.2.3", "", UIDS))
    assert ours.uid("1.2.840.10008.1.4.1.1") == "1.2.840.10008.1.4.1.1"  # a frame of reference of the standard


def test_times_of_day_that_distinguish_volumes_are_not_written(tmp_path):
    slices = [
        one for time in ("070605.04", "070705.04") for one in dicom_phantoms.slices(Stack(), AcquisitionTime=time)
    ]
    for number, one in enumerate(slices, start=1):
        one.InstanceNumber, one.AcquisitionDate = number, DAY
        one.SOPInstanceUID = f"{UIDS}.{number}"
    dicom_phantoms.write(tmp_path / "in", slices)
    assert run(tmp_path / "in", tmp_path / "out") == 0
    assert len([path for path in (tmp_path / "out").iterdir() if path.is_dir()]) == 2
    assert not canaries_in(tmp_path / "out")
    for path in (tmp_path / "out").rglob("0001.dcm"):
        assert pydicom.dcmread(path).SeriesDescription == "SR research - not for diagnosis"


def test_another_secret_remakes_a_result_and_the_same_one_does_not(tmp_path, secret, capsys):
    dicom_phantoms.write(tmp_path / "in", dicom_phantoms.slices(Stack()))
    named = ("--name", "{number}")
    assert run(tmp_path / "in", tmp_path / "out", *named) == 0
    first = (tmp_path / "out" / "1" / "0001.dcm").read_bytes()
    capsys.readouterr()
    assert run(tmp_path / "in", tmp_path / "out", *named) == 0
    assert (tmp_path / "out" / "1" / "0001.dcm").read_bytes() == first
    secret.write_text("another secret, of another study")
    assert run(tmp_path / "in", tmp_path / "out", *named) == 0
    assert (tmp_path / "out" / "1" / "0001.dcm").read_bytes() != first
    usual = ["run", str(tmp_path / "in"), f"{tmp_path / 'out'}/", "--bundle", "none", *named]
    assert main(usual) == 0
    assert pydicom.dcmread(tmp_path / "out" / "1" / "0001.dcm").PatientID == CANARY


@fault("P02", "W-DEID-SECRET")
def test_a_secret_is_made_once_and_for_its_owner_only(tmp_path, monkeypatch):
    path = tmp_path / "new" / "secret"
    monkeypatch.setenv("MONAI_SR_SECRET", str(path))
    with collect_notices() as notices:
        first = Pseudonyms.load().id
        assert Pseudonyms.load().id == first
    assert [notice.code for notice in notices] == ["W-DEID-SECRET"]
    assert len(path.read_text().strip()) == 64 and list(path.parent.iterdir()) == [path]
    if sys.platform != "win32":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.unlink()
    with collect_notices():
        assert Pseudonyms.load().id != first


@fault("P02", "E-DEID-SECRET")
@pytest.mark.parametrize("what", ["short", "empty", "open to everyone", "a folder"])
def test_an_invalid_secret_is_refused_before_the_work(what, tmp_path, secret, capsys):
    dicom_phantoms.write(tmp_path / "in", dicom_phantoms.slices(Stack()))
    if what == "a folder":
        secret.unlink()
        secret.mkdir()
    elif what == "open to everyone":
        secret.chmod(0o604)
    else:
        secret.write_text({"short": "0123456789\n", "empty": ""}[what])
    assert run(tmp_path / "in", tmp_path / "out") == 2
    assert "E-DEID-SECRET" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@fault("P02", "E-DEID-FORMAT")
@pytest.mark.parametrize("what", ["image file", "images in a folder", "to NIfTI", "to a file"])
def test_what_does_not_become_dicom_is_refused_before_the_work(what, tmp_path, capsys):
    dicom_phantoms.write(tmp_path / "in", dicom_phantoms.slices(Stack()))
    nib.save(nib.Nifti1Image(np.ones((8, 8, 8), np.int16), np.diag([1, 1, 4, 1])), tmp_path / "a.nii.gz")
    source, target, more = tmp_path / "in", f"{tmp_path / 'out'}/", []
    if what == "image file":
        source = tmp_path / "a.nii.gz"
    elif what == "images in a folder":
        shutil.move(tmp_path / "a.nii.gz", source)
    elif what == "to NIfTI":
        more = ["--format", "nifti"]
    else:
        target = str(tmp_path / "out.nii.gz")
    assert main(["run", str(source), target, "--bundle", "none", "--deidentify", *more]) == 2
    assert "E-DEID-FORMAT" in capsys.readouterr().err
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.nii.gz").exists()


@fault("P02", "W-DEID-PIXELS")
@pytest.mark.parametrize(
    ("text", "face", "warned"), [("YES", "NO", True), ("NO", None, True), ("NO", "NO", False), ("CANARY", "NO", True)]
)
def test_text_and_faces_in_the_pixels_are_warned_of(text, face, warned, tmp_path, capsys):
    attributes = {"BurnedInAnnotation": text, "RecognizableVisualFeatures": face}
    dicom_phantoms.write(tmp_path / "in", dicom_phantoms.slices(Stack(), **attributes))
    assert run(tmp_path / "in", tmp_path / "out") == 0
    said = capsys.readouterr().err
    assert ("W-DEID-PIXELS" in said) is warned and "CANARY" not in said


def test_the_result_of_a_watch_is_stored_in_a_study_of_its_own(tmp_path):
    pytest.importorskip("dicomweb_client", reason="monai-sr[pacs] is not installed")
    from fake_pacs import FakePacs

    slices = dicom_phantoms.slices(Stack())
    spread_canaries(slices)
    with FakePacs() as pacs:
        pacs.add(dicom_phantoms.write(tmp_path / "scanner", slices))
        words = ["--bundle", "none", "--settle", "0", "--days", "36500", "--once", "--deidentify"]
        assert main(["watch", "--dicomweb", pacs.url, "--state", str(tmp_path / "state"), *words]) == 0
        (derived,) = pacs.derived().values()
        stored = b"".join(pacs.instances[uid] for uid in pacs.stored)
    assert {Pseudonyms.load().uid(f"{UIDS}.1")} == {one.StudyInstanceUID for one in derived}
    assert not SURVIVORS.search(stored) and not canaries_in(tmp_path / "state")
