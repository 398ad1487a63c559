"""What is written beside a result: named after it, and as BIDS wants it."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from bids_datasets import validator, validator_errors
from runs import two_heads

from monai_sr.batch import Case, check_names, map_path, mask_path
from monai_sr.cli.main import main
from monai_sr.errors import UsageError

BIDS = Path("sub-01_run-1_res-thin_desc-SR_T2w.nii.gz")


@pytest.mark.parametrize(
    ("target", "kind", "name"),
    [
        ("out/thin.nii.gz", "consistency", "out/thin_consistency.nii.gz"),
        ("thin.nrrd", "uncertainty", "thin_uncertainty.nii.gz"),
        ("out/series-0123", "uncertainty", "out/series-0123_uncertainty.nii.gz"),
        (BIDS, "consistency", "sub-01_run-1_desc-SRconsistency_T2w.nii.gz"),
        (BIDS, "uncertainty", "sub-01_run-1_res-thin_desc-SRuncertainty_T2w.nii.gz"),
        ("sub-01_ce-gad_desc-fused_T1w.nii.gz", "uncertainty", "sub-01_ce-gad_desc-fuseduncertainty_T1w.nii.gz"),
        ("sub-01_ce-gad_desc-fused_T1w.nii.gz", "stacks", "sub-01_ce-gad_desc-fusedT1wstacks_dseg.nii.gz"),
    ],
)
def test_a_map_is_called_like_its_result(target, kind, name):
    assert map_path(Path(target), kind) == Path(name)


@pytest.mark.parametrize(
    ("target", "mask", "name"),
    [
        ("thin.nii.gz", "a_seg.nii.gz", "thin_seg.nii.gz"),
        ("thin.nii.gz", "a-seg.nii", "thin_seg.nii"),
        ("thin.mha", "elsewhere/tumor.nrrd", "thin_tumor.nii.gz"),
        ("thin.nii.gz", "a_seg.mhd", "thin_seg.nii.gz"),
        ("thin.nii.gz", "tumor.mgz", "thin_tumor.nii.gz"),
        (BIDS, "a_organs.nii.gz", "sub-01_run-1_res-thin_desc-SRorgans_dseg.nii.gz"),
    ],
)
def test_a_mask_is_called_like_the_result_and_itself(target, mask, name):
    assert mask_path(Path(target), Path("in/a.nii.gz"), Path(mask)) == Path(name)


def test_a_carried_mask_and_a_result_of_one_name_clash():
    one = Case("a.nii.gz", Path("in/a.nii.gz"), Path("out/a.nii.gz"), masks=(Path("in/seg.nii.gz"),))
    other = Case("a_seg.nii.gz", Path("in/a_seg.nii.gz"), Path("out/a_seg.nii.gz"))
    check_names([one])
    with pytest.raises(UsageError, match="E-OUT-CLASH"):
        check_names([one, other])


def test_maps_and_masks_of_a_bids_dataset_are_named_as_bids_wants(tmp_path):
    dataset = two_heads(tmp_path / "bids")
    image = nib.load(dataset / "sub-01" / "anat" / "sub-01_T2w.nii.gz")
    labels = nib.Nifti1Image((np.asarray(image.dataobj) > 500).astype(np.uint8), image.affine)
    nib.save(labels, dataset / "sub-01" / "anat" / "sub-01_T2w_seg.nii.gz")
    out = tmp_path / "out"
    run = ["bids", str(dataset), str(out), "participant", "--consistency-map", "--uncertainty", "--device", "cpu"]
    assert main([*run, "--bundle", "pyramid", "--factor", "2", "--mask", "*_seg.nii.gz"]) == 0
    assert sorted(p.name for p in (out / "sub-01" / "anat").glob("*.nii.gz")) == [
        "sub-01_desc-SRconsistency_T2w.nii.gz",
        "sub-01_res-thin_desc-SR_T2w.nii.gz",
        "sub-01_res-thin_desc-SRseg_dseg.nii.gz",
        "sub-01_res-thin_desc-SRuncertainty_T2w.nii.gz",
    ]
    if validator():
        assert validator_errors(out) == []
