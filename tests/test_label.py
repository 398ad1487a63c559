"""MONAI Label's own server and app serve both bundles, and give back what the command line makes.

MONAI_SR_LABEL_PYTHON names the Python of an environment with MONAI Label, made as
monai_sr/clients/workflows/label/README.md describes; without it these tests skip.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np
import phantoms
import pytest
from dicom_phantoms import Stack, even, slices, uid_of, write
from test_pacs_orthanc import PLUGIN, certificates, no_waiting, orthanc  # noqa: F401 - fixtures

from monai_sr.bundles import NAMES, bundle_path, load_bundle
from monai_sr.io.images import read_image, write_image

ROOT = Path(__file__).resolve().parents[1]
LABEL = os.environ.get("MONAI_SR_LABEL_PYTHON", "")

pytestmark = [
    pytest.mark.label,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not LABEL, reason="MONAI_SR_LABEL_PYTHON names no Python with MONAI Label"),
]


def label(*words: object, **options) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | options.pop("env", {})
    return subprocess.Popen([LABEL, "-m", "monailabel.main", *map(str, words)], env=environment, **options)


@contextmanager
def serving(folder: Path, studies: str | Path, **environment: str) -> Iterator[str]:
    """A server with the stock app and both bundles; yields its address."""
    assert label("apps", "--download", "--name", "monaibundle", "--output", folder / "apps").wait() == 0
    app = folder / "apps" / "monaibundle"
    (app / "model").mkdir(exist_ok=True)
    # for segmentations; a server on an archive downloads it from GitHub at its start if it is not there
    (app / "bin").mkdir(exist_ok=True)
    (app / "bin" / "itkimage2segimage").touch()
    for name in NAMES.values():
        (app / "model" / name).symlink_to(bundle_path(name))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = ["start_server", "--app", app, "--studies", studies, "--host", "127.0.0.1", "--port", port]
    for one in (f"models {','.join(NAMES.values())}", "zoo_source local", "skip_trainers true", "sam2 false"):
        words += ["--conf", *one.split()]
    with open(folder / "log", "w") as log:
        server = label(*words, stdout=log, stderr=log, env=environment)
    address = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + 300
        while True:
            try:
                urllib.request.urlopen(f"{address}/info/", timeout=5).read()
                break
            except OSError:
                assert server.poll() is None and time.monotonic() < end, (folder / "log").read_text()[-3000:]
                time.sleep(0.5)
        yield address
    except urllib.error.HTTPError as error:
        raise AssertionError((folder / "log").read_text()[-3000:]) from error
    finally:
        server.terminate()
        server.wait(30)


@pytest.fixture(scope="module")
def studies(tmp_path_factory) -> Path:
    """A datastore with an oblique MR volume of thick slices; a CT series lies beside it."""
    folder = tmp_path_factory.mktemp("studies")
    image = phantoms.known_value(phantoms.grid((26, 24, 8), (1.0, 1.0, 4.0), orientation="oblique"))
    image.meta["stored_dtype"] = "float32"
    write_image(image, folder / "scan.nii.gz")
    write(folder.with_name("series"), slices(Stack(orientation="oblique")))
    return folder


@pytest.fixture(scope="module")
def server(studies, tmp_path_factory) -> Iterator[str]:
    with serving(tmp_path_factory.mktemp("label"), studies) as address:
        yield address


def infer(address: str, name: str, *, image: str = "", file: Path | None = None, **params) -> tuple:
    """POST /infer, as 3D Slicer and OHIF do; voxels and affine of the answer."""
    parts = [("params", "", json.dumps({"device": "cpu", "result_extension": ".nii.gz"} | params).encode())]
    if file:
        parts.append(("file", f'; filename="{file.name}"', file.read_bytes()))
    mark = uuid.uuid4().hex
    body = b"".join(
        f'--{mark}\r\nContent-Disposition: form-data; name="{key}"{more}\r\n\r\n'.encode() + content + b"\r\n"
        for key, more, content in parts
    )
    request = urllib.request.Request(
        f"{address}/infer/{NAMES[name]}?output=image&image={image}",
        body + f"--{mark}--\r\n".encode(),
        {"Content-Type": f"multipart/form-data; boundary={mark}"},
    )
    with urllib.request.urlopen(request, timeout=300) as answer:
        nifti = nib.Nifti1Image.from_bytes(gzip.decompress(answer.read()))
    return nifti.get_fdata(dtype=np.float32), nifti.affine


def same_as_the_command_line(result: tuple, name: str, source: Path) -> None:
    voxels, affine = result
    expected = load_bundle(name, device="cpu", engine="torch")(read_image(source))  # MONAI Label has no OpenVINO
    assert voxels.shape == tuple(expected.shape[1:]) and voxels.shape[2] > 3 * read_image(source).shape[3] - 1
    np.testing.assert_allclose(affine, expected.affine.numpy(), atol=1e-4)
    limit = 1e-4 * float(expected.max() - expected.min())
    np.testing.assert_allclose(voxels, expected[0].numpy(), rtol=0, atol=limit)


@pytest.mark.parametrize("name", NAMES)
def test_a_nifti_of_the_datastore_comes_back_on_the_thin_grid(server, studies, name):
    same_as_the_command_line(infer(server, name, image="scan"), name, studies / "scan.nii.gz")


def test_a_nifti_that_is_sent_along_comes_back_on_the_thin_grid(server, studies):
    result = infer(server, "residual", file=studies / "scan.nii.gz")
    same_as_the_command_line(result, "residual", studies / "scan.nii.gz")


@pytest.mark.parametrize("name", NAMES)
def test_a_dicom_series_on_the_server_comes_back_on_the_thin_grid(server, studies, name):
    series = studies.with_name("series")
    same_as_the_command_line(infer(server, name, image=str(series)), name, series)


def test_a_zip_of_a_dicom_series_comes_back_on_the_thin_grid(server, studies, tmp_path):
    packed = shutil.make_archive(str(tmp_path / "series"), "zip", studies.with_name("series"))
    result = infer(server, "residual", file=Path(packed))
    same_as_the_command_line(result, "residual", studies.with_name("series"))


@pytest.mark.skipif(not shutil.which("Orthanc") or not PLUGIN.exists(), reason="Orthanc with DICOMweb is not installed")
@pytest.mark.parametrize("as_nifti", [False, True])
def test_a_dicom_series_of_an_archive_comes_back_on_the_thin_grid(orthanc, tmp_path, as_nifti):  # noqa: F811
    """As NIfTI, which is MONAI Label's default, the slice thickness is lost and taken as the slice spacing."""
    made = slices(Stack(offsets=even(10, 4.0)), SliceThickness=4.0)
    orthanc.send(write(tmp_path / "series", made))
    environment = {
        "MONAI_LABEL_DICOMWEB_USERNAME": "alice",
        "MONAI_LABEL_DICOMWEB_PASSWORD": "secret",
        "MONAI_LABEL_DICOMWEB_CACHE_PATH": str(tmp_path / "cache"),
        "MONAI_LABEL_DICOMWEB_CONVERT_TO_NIFTI": str(as_nifti).lower(),
        "REQUESTS_CA_BUNDLE": str(orthanc.folder / "ca.pem"),
    }
    with serving(tmp_path, orthanc.url, **environment) as address:
        result = infer(address, "residual", image=str(uid_of(1)), modality="CT")
    if as_nifti:  # in the order of axes that the converter chose
        back = nib.as_closest_canonical(nib.Nifti1Image(*result))
        ours = load_bundle("residual", device="cpu")(read_image(tmp_path / "series"))
        ours = nib.as_closest_canonical(nib.Nifti1Image(ours[0].numpy(), ours.affine.numpy()))
        assert back.shape == ours.shape
        np.testing.assert_allclose(back.affine, ours.affine, atol=1e-3)
    else:
        same_as_the_command_line(result, "residual", tmp_path / "series")
