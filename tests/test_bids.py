"""BIDS: what is taken of a raw dataset and why the rest is not; results make a derivative that validators accept."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import phantoms
import pytest
from bids_datasets import dataset, put_json, validator, validator_errors
from catalogue import fault

from monai_sr.acquired import Acquired
from monai_sr.batch.bids import derivative as derivative_module
from monai_sr.batch.bids import derivative_sidecar, find_bids_images, is_bids, write_dataset_description
from monai_sr.batch.bids.ignore import ignored_by
from monai_sr.batch.bids.names import ANAT, COMMON, ENTITIES
from monai_sr.errors import ImageError, OutputError, SuperResolutionWarning, UsageError
from monai_sr.grid import grid_of
from monai_sr.inference import super_resolve
from monai_sr.io.images import read_image, write_image

THICK = phantoms.grid((20, 20, 6), (1.0, 1.0, 4.0))
THIN = phantoms.grid((20, 20, 24), (1.0, 1.0, 1.0))


def acquired(grid, **facts) -> Acquired:
    return Acquired.of(phantoms.known_value(grid), **facts)


def paths(images, root: Path) -> list[str]:
    return [image.path.relative_to(root).as_posix() for image in images.images]


def reasons(images, root: Path) -> dict[str, tuple[str, str]]:
    return {left.path.relative_to(root).as_posix(): (left.code, left.reason) for left in images.left_out}


def only(root: Path, **options):
    (image,) = find_bids_images(root, **options).images
    return image


# ---------------------------------------------------------------- which folder is a dataset


def test_a_raw_dataset_is_detected_by_its_description(tmp_path):
    assert not is_bids(tmp_path) and not is_bids(tmp_path / "absent")
    assert not is_bids(put_json(tmp_path / "plain" / "dataset_description.json", Name="x").parent)
    assert is_bids(dataset(tmp_path / "old"))
    assert is_bids(dataset(tmp_path / "new", DatasetType="raw"))
    assert not is_bids(dataset(tmp_path / "study", DatasetType="study"))


def test_a_derivative_is_no_raw_dataset(tmp_path):
    foreign = dataset(tmp_path / "prep", DatasetType="derivative", GeneratedBy=[{"Name": "fMRIPrep"}])
    ours = write_dataset_description(tmp_path / "ours", raw_root=dataset(tmp_path / "raw")).parent
    assert not is_bids(foreign) and not is_bids(ours)
    with pytest.raises(UsageError, match=r"E-BIDS-DATASET: .*'derivative'"):
        find_bids_images(ours)


@pytest.mark.parametrize("makers", [None, "monai-sr", ["monai-sr"], [{"Version": "1"}], [{"Name": "fMRIPrep"}]])
def test_an_odd_generatedby_is_not_ours(tmp_path, makers):
    raw = dataset(tmp_path / "raw")
    ours = write_dataset_description(tmp_path / "ours", raw_root=raw)
    assert write_dataset_description(tmp_path / "ours", raw_root=raw) == ours
    ours.write_text(json.dumps(json.loads(ours.read_text()) | {"GeneratedBy": makers}))
    with pytest.raises(OutputError, match="E-OUT-EXISTS"):
        write_dataset_description(tmp_path / "ours", raw_root=raw)


def test_a_folder_without_description_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"E-BIDS-DATASET: .*dataset_description\.json"):
        find_bids_images(tmp_path)


@fault("R24", "E-BIDS-JSON")
@pytest.mark.parametrize(
    "content",
    [b"{", b"[]", b"\xff\xfe\xff", b"[" * 100_000, b'{"a":' * 100_000, b"9" * 10_000, bytes(2**24 + 1)],
    ids=["cut", "a list", "no text", "deep lists", "deep objects", "a long number", "long"],
)
def test_a_damaged_description_is_named(tmp_path, content):
    (tmp_path / "dataset_description.json").write_bytes(content)
    with pytest.raises(ImageError) as caught:
        is_bids(tmp_path)
    assert caught.value.code == "E-BIDS-JSON" and caught.value.path == tmp_path / "dataset_description.json"


@fault("R24", "E-BIDS-IGNORE")
def test_a_binary_bidsignore_is_named_and_any_is_read_fast(tmp_path):
    root = dataset(tmp_path, f"sub-01/anat/sub-01_acq-{'a' * 200}_T1w.nii.gz")
    (root / ".bidsignore").write_text(f"{'[' * 50_000}\n{'*a' * 60}b\n{'**/' * 60}b\n[z-a]\n[\n\\\n")
    started = time.monotonic()
    assert len(find_bids_images(root).images) == 1
    assert time.monotonic() - started < 5
    (root / ".bidsignore").write_bytes(b"\xff")
    with pytest.raises(ImageError) as caught:
        find_bids_images(root)
    assert caught.value.code == "E-BIDS-IGNORE"


# ---------------------------------------------------------------- which images are taken


def test_images_are_found_with_and_without_sessions(tmp_path):
    root = dataset(
        tmp_path,
        "sub-02/anat/sub-02_T1w.nii.gz",
        "sub-01/ses-b/anat/sub-01_ses-b_run-2_FLAIR.nii",
        "sub-01/ses-a/anat/sub-01_ses-a_acq-thick_ce-gd_rec-norm_run-1_FLAIR.nii.gz",
        "sub-01/ses-a/anat/sub-01_ses-a_inplaneT2.nii.gz",
    )
    found = find_bids_images(root)
    assert paths(found, root) == [
        "sub-01/ses-a/anat/sub-01_ses-a_acq-thick_ce-gd_rec-norm_run-1_FLAIR.nii.gz",
        "sub-01/ses-a/anat/sub-01_ses-a_inplaneT2.nii.gz",
        "sub-01/ses-b/anat/sub-01_ses-b_run-2_FLAIR.nii",
        "sub-02/anat/sub-02_T1w.nii.gz",
    ]
    assert not found.left_out
    first = found.images[0]
    assert list(first.entities.items()) == [
        ("sub", "01"),
        ("ses", "a"),
        ("acq", "thick"),
        ("ce", "gd"),
        ("rec", "norm"),
        ("run", "1"),
    ]
    assert (first.suffix, first.modality) == ("FLAIR", "MR")


def test_only_anatomical_images_of_the_raw_data_are_looked_at(tmp_path):
    root = dataset(
        tmp_path,
        "sub-01/func/sub-01_task-rest_bold.nii.gz",
        "sub-01/dwi/sub-01_dwi.nii.gz",
        "derivatives/tool/sub-01/anat/sub-01_desc-x_T1w.nii.gz",
        "sourcedata/sub-01/anat/sub-01_T1w.nii.gz",
        "code/sub-01/anat/sub-01_T1w.nii.gz",
        "sub-01/anat/._sub-01_T1w.nii.gz",
        "sub-01/anat/sub-01_T1w.json",
        "sub-02/anat/sub-02_T2w.json",
        "sub-01/sub-01_task-rest_events.tsv",
        "participants.tsv",
    )
    found = find_bids_images(root)
    assert not found.images and not found.left_out


def test_participants_are_chosen_with_or_without_prefix(tmp_path):
    names = [f"sub-{label}/anat/sub-{label}_T1w.nii.gz" for label in ("01", "02", "A3")]
    root = dataset(tmp_path, *names)
    assert paths(find_bids_images(root, participant_labels=["sub-A3", "01"]), root) == [names[0], names[2]]
    assert paths(find_bids_images(root, participant_labels=["02", "sub-02"]), root) == [names[1]]


@pytest.mark.parametrize(
    ("asked", "named"),
    [("1", "sub-01"), ("sub-002", "sub-02"), ("pat9", "sub-PAT09"), ("pat09", "sub-PAT09"), ("zzz", "sub-01, sub-02")],
)
def test_an_unknown_participant_is_answered_with_near_ones(tmp_path, asked, named):
    root = dataset(tmp_path, *(f"sub-{label}/anat/sub-{label}_T1w.nii.gz" for label in ("01", "02", "PAT09")))
    with pytest.raises(UsageError, match=f"E-BIDS-LABEL: .*sub-{asked.removeprefix('sub-')}.*{named}"):
        find_bids_images(root, participant_labels=[asked])


def test_a_label_asked_of_an_empty_dataset_is_answered(tmp_path):
    with pytest.raises(UsageError, match="the dataset has none"):
        find_bids_images(dataset(tmp_path), participant_labels=["01"])


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("T1.nii.gz", "'T1' is not an image suffix"),
        ("sub-01_t1w.nii.gz", "T1w is meant"),
        ("sub-01_flair.nii", "FLAIR is meant"),
        ("sub-01_T1w.NII.GZ", "lower case"),
        ("sub-01_T1w.Nii", "lower case"),
        ("sub-01_T1w_copy.nii.gz", "'copy' is not an image suffix"),
        ("sub-01_bold.nii.gz", "'bold' is not an image suffix in anat"),
        ("sub-01_ct.nii.gz", "'ct' is not an image suffix in anat"),
        ("T1w.nii.gz", "must start with sub-01_"),
        ("sub-02_T1w.nii.gz", "must start with sub-01_"),
        ("sub-01_ses-a_T1w.nii.gz", "must start with sub-01_"),
        ("sub-01_thick_T1w.nii.gz", "'thick' is not an entity with a label"),
        ("sub-01_acq-_T1w.nii.gz", "'acq-' is not an entity with a label"),
        ("sub-01_acq-a-b_T1w.nii.gz", "'acq-a-b' is not an entity with a label"),
        ("sub-01_run-one_T1w.nii.gz", "'run-one' is not an entity with a label"),
        ("sub-01_acq-a_acq-b_T1w.nii.gz", "acq- is there twice"),
        ("sub-01_foo-1_T1w.nii.gz", "has no foo-"),
        ("sub-01_desc-preproc_T1w.nii.gz", "has no desc-"),
        ("sub-01_space-MNI_T1w.nii.gz", "has no space-"),
        ("sub-01_MEGRE.nii.gz", "needs echo-"),
        ("sub-01_run-1_acq-a_T1w.nii.gz", "order must be sub-, acq-, run-"),
    ],
)
def test_a_name_that_is_not_bids_is_left_out_with_the_reason(tmp_path, name, why):
    root = dataset(tmp_path, f"sub-01/anat/{name}", "sub-01/anat/sub-01_PDw.nii.gz")
    found = find_bids_images(root)
    assert paths(found, root) == ["sub-01/anat/sub-01_PDw.nii.gz"]
    code, reason = reasons(found, root)[f"sub-01/anat/{name}"]
    assert code == "E-BIDS-NAME" and why in reason


def test_folders_and_misplaced_images_that_are_not_bids_are_left_out(tmp_path):
    root = dataset(
        tmp_path,
        "sub-01_old/anat/sub-01_T1w.nii.gz",
        "sub-02/ses-a_b/anat/sub-02_T1w.nii.gz",
        "sub-02/sub-02_T1w.nii.gz",
    )
    found = find_bids_images(root)
    assert not found.images
    assert {path: code for path, (code, _) in reasons(found, root).items()} == dict.fromkeys(
        ("sub-01_old", "sub-02/ses-a_b", "sub-02/sub-02_T1w.nii.gz"), "E-BIDS-NAME"
    )


def test_maps_masks_and_phase_images_are_left_out(tmp_path):
    names = ("sub-01_T1map", "sub-01_defacemask", "sub-01_UNIT1", "sub-01_part-phase_T2starw")
    root = dataset(tmp_path, *(f"sub-01/anat/{name}.nii.gz" for name in names), "sub-01/anat/sub-01_part-mag_PDw.nii")
    found = find_bids_images(root)
    assert len(found.images) == 1
    codes = {name: code for name, (code, _) in reasons(found, root).items()}
    assert codes == {
        f"sub-01/anat/{name}.nii.gz": "E-BIDS-PHASE" if "phase" in name else "E-BIDS-MAP" for name in names
    }


def test_of_twins_the_compressed_one_is_taken(tmp_path):
    root = dataset(tmp_path, "sub-01/anat/sub-01_T1w.nii", "sub-01/anat/sub-01_T1w.nii.gz")
    found = find_bids_images(root)
    assert paths(found, root) == ["sub-01/anat/sub-01_T1w.nii.gz"]
    assert reasons(found, root)["sub-01/anat/sub-01_T1w.nii"][0] == "E-BIDS-TWIN"


def test_a_twin_that_was_not_fetched_hides_nothing(tmp_path):
    root = dataset(tmp_path, "sub-01/anat/sub-01_T1w.nii")
    (root / "sub-01/anat/sub-01_T1w.nii.gz").symlink_to("../../.git/annex/objects/gone")
    assert paths(find_bids_images(root), root) == ["sub-01/anat/sub-01_T1w.nii"]


def test_content_that_datalad_has_not_fetched_is_skipped_and_listed(tmp_path):
    root = dataset(tmp_path / "store", ".git/annex/objects/here", "sub-01/anat/sub-01_FLAIR.nii.gz")
    anat = root / "sub-01" / "anat"
    (anat / "sub-01_T1w.nii.gz").symlink_to("../../.git/annex/objects/here")
    (anat / "sub-01_T2w.nii.gz").symlink_to("../../.git/annex/objects/gone")
    (anat / "sub-01_FLAIR.nii.gz").write_text("/annex/objects/MD5E-s1234--0123456789abcdef.nii.gz\n")
    link = tmp_path / "link"
    link.symlink_to(root)
    found = find_bids_images(link)
    assert paths(found, link) == ["sub-01/anat/sub-01_T1w.nii.gz"]
    assert reasons(found, link) == dict.fromkeys(
        ("sub-01/anat/sub-01_FLAIR.nii.gz", "sub-01/anat/sub-01_T2w.nii.gz"),
        ("E-BIDS-FETCH", "content not fetched; run datalad get"),
    )


def test_what_is_no_regular_file_is_left_out(tmp_path):
    root = dataset(tmp_path, "sub-01/anat/sub-01_T2w.nii.gz")
    os.mkfifo(root / "sub-01/anat/sub-01_T1w.nii.gz")
    (root / "sub-01/anat/sub-01_PDw.nii.gz").mkdir()
    found = find_bids_images(root)
    assert len(found.images) == 1
    assert [left.code for left in found.left_out] == ["E-IO-TYPE", "E-IO-TYPE"]


def test_a_folder_that_may_not_be_read_is_left_out_and_the_others_go_on(tmp_path, monkeypatch):
    root = dataset(tmp_path, "sub-01/anat/sub-01_T1w.nii.gz", "sub-02/anat/sub-02_T1w.nii.gz")
    closed, listdir = root / "sub-01" / "anat", os.listdir

    def guarded(folder):
        if Path(folder) == closed:  # root may read everything, so permissions cannot be taken away here
            raise PermissionError(13, "Permission denied")
        return listdir(folder)

    monkeypatch.setattr(os, "listdir", guarded)
    found = find_bids_images(root)
    assert paths(found, root) == ["sub-02/anat/sub-02_T1w.nii.gz"]
    assert reasons(found, root) == {"sub-01/anat": ("E-IO-PERM", "the folder cannot be read (Permission denied)")}


# ---------------------------------------------------------------- .bidsignore and CT


def test_ignored_images_are_left_out_but_ct_is_taken(tmp_path):
    root = dataset(
        tmp_path,
        "sub-01/ct/sub-01_acq-bone_ct.nii.gz",
        "sub-01/anat/sub-01_acq-trial_T1w.nii.gz",
        "sub-01/anat/sub-01_T1w.nii.gz",
        "sub-02/anat/sub-02_T1w.nii.gz",
    )
    (root / ".bidsignore").write_text("# trials\n*_acq-trial_*\nct/\n*_ct.nii.gz\n/sub-02/\n")
    found = find_bids_images(root)
    assert paths(found, root) == ["sub-01/anat/sub-01_T1w.nii.gz", "sub-01/ct/sub-01_acq-bone_ct.nii.gz"]
    assert [image.modality for image in found.images] == ["MR", "CT"]
    assert found.images[1].target.as_posix() == "sub-01/ct/sub-01_acq-bone_res-thin_desc-SR_ct.nii.gz"
    assert {code for code, _ in reasons(found, root).values()} == {"E-BIDS-IGNORED"}
    assert len(found.left_out) == 2


PATTERNS = """
*.log
# comment
/top.txt
extra/
docs/**/draft
**/deep/x
a/**
!a/keep
sub-?/y[0-9].nii
sub-?/z[!0-9].nii
!important.log
b\\#c
\\#d
mid/le
trailing   
q[*]
"""  # noqa: W291
PLACES = [
    *("top.txt", "x/top.txt", "run.log", "x/run.log", "important.log", "x/important.log", "extra/f", "x/extra/f"),
    *("extra", "docs/draft", "docs/a/b/draft", "docs/a/draft/f", "draft", "deep/x", "1/2/deep/x", "deep/x/f"),
    *("a/b", "a/keep", "a/b/keep", "sub-1/y2.nii", "sub-1/yz.nii", "sub-12/y2.nii", "sub-1/z2.nii", "sub-1/zz.nii"),
    *("b#c", "#d", "x/#d", "mid/le", "mid/le/f", "x/mid/le", "trailing", "q*"),
    *("qx", "sub-1/y2.nii/f"),
]


@pytest.mark.skipif(not shutil.which("git"), reason="git is not installed")
def test_the_grammar_of_bidsignore_is_that_of_git(tmp_path):
    (tmp_path / ".gitignore").write_text(PATTERNS)
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    printed = subprocess.run(
        ["git", "-C", tmp_path, "check-ignore", "--no-index", "--stdin"],
        input="\n".join(PLACES),
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    ignored = ignored_by(tmp_path / ".gitignore")
    assert [place for place in PLACES if ignored(place)] == [place for place in PLACES if place in printed]
    assert 10 < len(printed) < len(PLACES) - 5


# ---------------------------------------------------------------- what is known of an image


def test_metadata_are_inherited_and_the_nearest_has_the_last_word(tmp_path):
    root = dataset(
        tmp_path,
        "sub-01/ses-a/anat/sub-01_ses-a_acq-thick_run-1_FLAIR.nii.gz",
        "sub-01/ses-a/anat/sub-01_ses-a_acq-thick_run-1_T1w.nii.gz",
    )
    put_json(root / "FLAIR.json", SliceThickness=6, EchoTime=0.1, FlipAngle=90, MagneticFieldStrength=3)
    put_json(root / "acq-thick_FLAIR.json", EchoTime=0.2)
    put_json(root / "acq-thin_FLAIR.json", EchoTime=0.9)
    put_json(root / "T2FLAIR.json", EchoTime=0.9)
    put_json(root / "sub-01/sub-01_FLAIR.json", FlipAngle=80)
    put_json(root / "sub-01/ses-a/sub-01_ses-a_run-2_FLAIR.json", FlipAngle=1)
    put_json(root / "sub-01/ses-a/sub-01_ses-a_FLAIR.json", RepetitionTime=9)
    put_json(root / "sub-01/ses-a/anat/sub-01_ses-a_acq-thick_run-1_FLAIR.json", SliceThickness=5)
    flair, t1w = find_bids_images(root).images
    assert flair.metadata == {
        "SliceThickness": 5,
        "EchoTime": 0.2,
        "FlipAngle": 80,
        "MagneticFieldStrength": 3,
        "RepetitionTime": 9,
    }
    assert flair.slice_thickness == 5.0
    assert t1w.metadata == {} and t1w.slice_thickness is None


@pytest.mark.parametrize("thickness", ["5", 0, -2, 3000, [5]])
def test_an_impossible_slice_thickness_gives_a_warning_and_is_not_used(tmp_path, thickness):
    root = dataset(tmp_path, "sub-01/anat/sub-01_T1w.nii.gz")
    put_json(root / "T1w.json", SliceThickness=thickness)
    with pytest.warns(SuperResolutionWarning, match="W-BIDS-THICKNESS: .*sub-01_T1w.nii.gz"):
        assert only(root).slice_thickness is None


def test_metadata_that_cannot_be_read_fail_that_image_alone(tmp_path):
    root = dataset(tmp_path, "sub-01/anat/sub-01_T1w.nii.gz", "sub-02/anat/sub-02_T1w.nii.gz")
    (root / "sub-01/anat/sub-01_T1w.json").write_text('{"SliceThickness": 5')
    (root / "sub-02/anat/sub-02_T1w.json").symlink_to("gone")
    for image, reason in zip(
        find_bids_images(root).images, ("not valid JSON", "cannot be read .No such file"), strict=True
    ):
        with pytest.raises(ImageError, match=f"E-BIDS-JSON: .*{image.path.stem[:6]}_T1w.json - {reason}"):
            _ = image.slice_thickness


def test_an_image_can_be_sent_to_a_worker(tmp_path):
    root = dataset(tmp_path, "sub-01/anat/sub-01_T1w.nii.gz")
    put_json(root / "T1w.json", SliceThickness=4)
    image = only(root)
    assert pickle.loads(pickle.dumps(image)) == image
    assert image.slice_thickness == pickle.loads(pickle.dumps(image)).slice_thickness == 4.0


def test_entities_are_kept_in_the_result(tmp_path):
    name = "sub-01_ses-a_task-rest_acq-x_ce-gd_rec-y_run-02_echo-1_part-mag_chunk-3_T2starw"
    root = dataset(tmp_path, f"sub-01/ses-a/anat/{name}.nii")
    assert only(root).target.as_posix() == (
        "sub-01/ses-a/anat/sub-01_ses-a_task-rest_acq-x_ce-gd_rec-y_run-02_echo-1_part-mag_chunk-3"
        "_res-thin_desc-SR_T2starw.nii.gz"
    )


def test_results_of_different_images_have_different_names(tmp_path):
    root = dataset(tmp_path, *every_name("sub-01/anat/sub-01"))
    found = find_bids_images(root)
    assert not found.left_out
    assert len({image.target for image in found.images}) == len(found.images) == 2 * len(ANAT)


# ---------------------------------------------------------------- the derivative dataset


def test_a_sidecar_names_its_source_and_what_was_acquired(tmp_path):
    root = dataset(tmp_path, "sub-01/anat/sub-01_FLAIR.nii.gz")
    put_json(root / "FLAIR.json", EchoTime=0.09, MagneticFieldStrength=3, SliceThickness=5)
    sidecar = derivative_sidecar(only(root), acquired(THICK, slice_thickness=5.0), THIN)
    assert sidecar["Sources"] == ["bids:raw:sub-01/anat/sub-01_FLAIR.nii.gz"]
    assert sidecar["SpatialReference"] == sidecar["Sources"][0]
    assert (sidecar["EchoTime"], sidecar["MagneticFieldStrength"], sidecar["SkullStripped"]) == (0.09, 3, False)
    assert (sidecar["SliceThickness"], sidecar["SpacingBetweenSlices"]) == (1.0, 1.0)
    assert (sidecar["AcquiredSliceThickness"], sidecar["AcquiredSpacingBetweenSlices"]) == (5.0, 4.0)
    assert "slices 1 mm apart, computed from slices 4 mm apart and 5 mm thick" in sidecar["Resolution"]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_sidecar_finds_the_axis_of_the_slices_and_the_default_thickness(tmp_path, axis):
    spacing, finer = [1.2, 1.2, 1.2], [1.2, 1.2, 1.2]
    spacing[axis], finer[axis] = 6.0, 2.0
    grids = [phantoms.grid((8, 8, 8), tuple(s), orientation="oblique") for s in (spacing, finer)]
    sidecar = derivative_sidecar(only(dataset(tmp_path, "sub-01/anat/sub-01_T1w.nii.gz")), acquired(grids[0]), grids[1])
    assert (sidecar["SpacingBetweenSlices"], sidecar["AcquiredSliceThickness"]) == (2.0, 6.0)


def test_a_passed_through_image_claims_no_new_slices(tmp_path):
    root = dataset(tmp_path, "sub-01/anat/sub-01_T1w.nii.gz")
    put_json(root / "T1w.json", SliceThickness=1)
    sidecar = derivative_sidecar(only(root), acquired(THIN), THIN)
    assert "as acquired" in sidecar["Resolution"] and sidecar["SliceThickness"] == 1
    assert not {"SpacingBetweenSlices", "AcquiredSliceThickness"} & set(sidecar)


def test_nothing_that_points_to_a_patient_is_taken_over(tmp_path):
    root = dataset(tmp_path, "sub-01/anat/sub-01_T1w.nii.gz")
    canary = "Doe^Jane 19700101"
    fields = ("PatientName", "PatientID", "PatientBirthDate", "InstitutionName", "InstitutionAddress", "StationName")
    fields += ("DeviceSerialNumber", "AcquisitionDateTime", "AcquisitionTime", "SeriesDescription", "ProtocolName")
    fields += ("StudyInstanceUID", "ImageComments", "OperatorsName", "ReferringPhysicianName", "NewField")
    put_json(root / "T1w.json", EchoTime=0.01, SkullStripped=True, **dict.fromkeys(fields, canary))
    sidecar = derivative_sidecar(only(root), acquired(THICK), THIN)
    assert canary not in json.dumps(sidecar)
    assert sidecar["EchoTime"] == 0.01 and sidecar["SkullStripped"] is True


def test_infinite_numbers_of_a_sidecar_are_not_passed_on(tmp_path):
    root = dataset(tmp_path, "sub-01/anat/sub-01_T1w.nii.gz")
    (root / "T1w.json").write_text(
        '\ufeff{"EchoTime": NaN, "RepetitionTime": Infinity, "FlipAngle": 9}', encoding="utf-8"
    )
    sidecar = derivative_sidecar(only(root), acquired(THICK), THIN)
    assert sidecar["FlipAngle"] == 9 and not {"EchoTime", "RepetitionTime"} & set(sidecar)


def described(out: Path) -> dict:
    return json.loads((out / "dataset_description.json").read_text())


def test_a_derivative_is_described(tmp_path):
    raw = dataset(tmp_path / "my raw", License="CC0", DatasetDOI="doi:10.1/x", HowToAcknowledge="Cite us.")
    out = tmp_path / "deep" / "out"
    environment = {"APPTAINER_NAME": "sr.sif", "APPTAINER_CONTAINER": "/home/jane/sr.sif"}
    path = write_dataset_description(out, raw_root=raw, environment=environment)
    description = described(out)
    assert path == out / "dataset_description.json"
    assert description["DatasetType"] == "derivative" and description["Name"] == "Thin slices of Phantoms"
    (maker,) = description["GeneratedBy"]
    assert maker["Name"] == "monai-sr" and maker["Version"]
    assert maker["Container"] == {"Type": "apptainer", "Tag": "sr.sif"}
    assert description["DatasetLinks"] == {"raw": "../../my%20raw"}
    assert description["SourceDatasets"] == [{"DOI": "doi:10.1/x"}]
    assert (description["License"], description["HowToAcknowledge"]) == ("CC0", "Cite us.")
    assert "not for diagnosis" in (out / "README.md").read_text()
    assert "monai-sr-*" in (out / ".bidsignore").read_text().splitlines()


def test_the_container_is_recorded_only_where_there_is_one(tmp_path, monkeypatch):
    raw = dataset(tmp_path / "raw")
    monkeypatch.setattr(derivative_module, "DOCKER_MARK", tmp_path / "mark")
    write_dataset_description(tmp_path / "out", raw_root=raw, environment={})
    assert "Container" not in described(tmp_path / "out")["GeneratedBy"][0]
    (tmp_path / "mark").touch()
    write_dataset_description(tmp_path / "out", raw_root=raw, environment={})
    assert described(tmp_path / "out")["GeneratedBy"][0]["Container"] == {"Type": "docker"}


def test_describing_again_changes_nothing(tmp_path):
    raw, out = dataset(tmp_path / "raw"), tmp_path / "raw" / "derivatives" / "monai-sr"
    write_dataset_description(out, raw_root=raw)
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.iterdir()}
    write_dataset_description(out, raw_root=raw)
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.iterdir()} == before
    assert len(before) == 3
    assert described(out)["DatasetLinks"] == {"raw": "../.."}


def test_what_a_user_wrote_stays(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "README").write_text("mine")
    (out / ".bidsignore").write_text("*.log")
    write_dataset_description(out, raw_root=dataset(tmp_path / "raw"))
    assert (out / "README").read_text() == "mine" and not (out / "README.md").exists()
    assert (out / ".bidsignore").read_text().splitlines()[:2] == ["*.log", "monai-sr-*"]


@pytest.mark.parametrize(
    "there",
    [
        {"DatasetType": "derivative", "GeneratedBy": [{"Name": "fMRIPrep"}]},
        {"DatasetType": "raw"},
        {"DatasetType": "derivative", "GeneratedBy": [{"Name": "monai-sr"}], "Name": "Thin slices of something else"},
    ],
    ids=["of another tool", "raw", "ours, of other data"],
)
def test_the_description_of_another_dataset_is_never_overwritten(tmp_path, there):
    out = dataset(tmp_path / "out", **there)
    before = {path: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(OutputError, match=r"E-OUT-EXISTS: .*dataset_description\.json"):
        write_dataset_description(out, raw_root=dataset(tmp_path / "raw"))
    assert {path: path.read_bytes() for path in out.iterdir()} == before


def test_an_output_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(OutputError, match="E-OUT-PERM"):
        write_dataset_description(tmp_path / "out", raw_root=dataset(tmp_path / "raw"))


# ---------------------------------------------------------------- the official validator


LABELS = {"task": "rest", "dir": "AP", "mt": "on", "part": "mag"}


def every_name(start: str) -> list[str]:
    """Each suffix with as few and with as many entities as it may have."""
    names = []
    for suffix, (needed, allowed) in ANAT.items():
        for keys in (needed, (needed | allowed | COMMON) - {"sub", "ses"}):
            pairs = [f"{key}-{LABELS.get(key, '1')}" for key in ENTITIES if key in keys]
            names.append("_".join([start, *pairs, suffix]) + ".nii.gz")
    return names


def raw_phantoms(root: Path) -> Path:
    """Small real volumes under every name that BIDS has for them, and a CT."""
    image = phantoms.known_value(THICK)
    dataset(root, Authors=["Ann", "Bob"], License="CC0")
    (root / "README").write_text("Phantoms. " * 20)
    (root / ".bidsignore").write_text("ct\n")
    names = [
        *every_name("sub-01/ses-a/anat/sub-01_ses-a"),
        "sub-01/ses-a/anat/sub-01_ses-a_acq-thick_ce-gd_run-1_FLAIR.nii.gz",
        "sub-01/ses-a/ct/sub-01_ses-a_ct.nii.gz",
        "sub-02/anat/sub-02_run-1_T1w.nii.gz",
        "sub-02/anat/sub-02_run-2_T1w.nii.gz",
        "sub-02/anat/sub-02_FLAIR.nii.gz",
    ]
    whole = write_image(image, root / "image.nii.gz", dtype=np.int16)
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(whole, root / name)
    whole.unlink()
    times = {"EchoTime": 0.09, "InversionTime": 2.0, "RepetitionTimeExcitation": 0.01, "RepetitionTimePreparation": 5.0}
    others = {"FlipAngle": 12, "MTState": True, "NumberShots": 8, "MagneticFieldStrength": 3, "TaskName": "rest"}
    for suffix in ANAT:
        put_json(
            root / f"{suffix}.json", SliceThickness=5, PulseSequenceType="GRE", PatientName="Doe", **times, **others
        )
    return root


@pytest.mark.skipif(not validator(), reason="bids-validator-deno is not installed (pip install bids-validator-deno)")
def test_the_official_validator_finds_no_error_in_our_datasets(tmp_path):
    raw, out = raw_phantoms(tmp_path / "raw"), tmp_path / "out"
    assert validator_errors(raw) == []
    write_dataset_description(out, raw_root=raw)
    found = find_bids_images(raw)
    assert not found.left_out and len(found.images) == 2 * len(ANAT) + 5
    for source in found.images:
        image = read_image(source.path)
        sr = super_resolve(image, None, slice_thickness=source.slice_thickness, modality=source.modality)
        target = out / source.target
        target.parent.mkdir(parents=True, exist_ok=True)
        write_image(sr, target)
        facts = Acquired.of(image, slice_thickness=source.slice_thickness)
        sidecar = derivative_sidecar(source, facts, grid_of(sr))
        put_json(target.with_name(target.name.removesuffix(".nii.gz") + ".json"), **sidecar)
    for name in ("monai-sr-run.jsonl", "monai-sr-run.tsv", ".monai-sr/case.json", "sub-02/anat/.x.nii.gz.host-1.tmp"):
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text("{}\n")
    assert validator_errors(out) == []
    # the validator does look: it misses what BIDS requires of a derivative image
    json_file = out / "sub-02/anat/sub-02_run-1_res-thin_desc-SR_T1w.json"
    json_file.write_text('{"EchoTime": 0.09}')
    image_file = json_file.relative_to(out).with_suffix(".nii.gz").as_posix()
    assert validator_errors(out) == [("SIDECAR_KEY_REQUIRED", f"/{image_file}")] * 2
