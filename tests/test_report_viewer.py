"""The page with volumes in it: what NiiVue gets is what was acquired and made, and nothing else is needed."""

from __future__ import annotations

import base64
import gzip
import json
import os
import re
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import phantoms
import pytest
import torch
from monai.data import MetaTensor
from runs import run, scan
from test_report import Page
from test_report_browser import CHROMIUM, DRIVER, FLAGS, LOCAL

from monai_sr.errors import UsageError
from monai_sr.inference import super_resolve
from monai_sr.report import summary_of, write_viewer
from monai_sr.report import volumes as volumes_module

LIBRARY = "globalThis.niivue = {}; // </script><script>alert(1)</script>"


@pytest.fixture
def niivue(tmp_path, monkeypatch) -> Path:
    """A stand-in for NiiVue, known to the surroundings."""
    path = tmp_path / "niivue.umd.js"
    path.write_text(LIBRARY)
    monkeypatch.setenv(volumes_module.VARIABLE, str(path))
    return path


def volumes_of(path: Path) -> dict[str, nib.Nifti1Image]:
    text = path.read_text()
    content = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL).group(1)
    packed = {one["name"]: gzip.decompress(base64.b64decode(one["nifti"])) for one in json.loads(content)}
    return {name: nib.Nifti1Image.from_bytes(content) for name, content in packed.items()}


def test_both_volumes_are_in_the_page_where_they_lie_and_as_their_window_shows_them(tmp_path, niivue):
    image = phantoms.body((20, 18, 10), (1.0, 1.2, 4.0))
    sr = super_resolve(image, None, factor=4)
    volumes = volumes_of(write_viewer(tmp_path / "a.html", image, sr))
    assert list(volumes) == ["sr", "thick"]  # NiiVue lays all volumes on the grid of the first
    for name, volume in (("thick", image), ("sr", sr)):
        nifti = volumes[name]
        np.testing.assert_allclose(nifti.affine, volume.affine.numpy(), atol=1e-5)
        low, high = float(nifti.header["cal_min"]), float(nifti.header["cal_max"])
        expected = np.clip(volume[0].numpy(), low, high)
        np.testing.assert_allclose(nifti.get_fdata(), expected, atol=0.51 * (high - low) / 255 + 1e-3)


def test_a_large_volume_is_averaged_down_around_the_same_places(tmp_path, niivue, monkeypatch):
    monkeypatch.setattr(volumes_module, "LARGEST", 3000)
    grid = phantoms.grid((21, 24, 12), (1.0, 1.0, 4.0), orientation="oblique LPS")
    image = phantoms.ramp(grid)
    volume = volumes_of(write_viewer(tmp_path / "a.html", image, image))["thick"]
    assert np.prod(volume.shape) <= 3000 and volume.shape[2] == 12
    index = np.stack(np.meshgrid(*(np.arange(1, n - 1) for n in volume.shape), indexing="ij"), axis=-1)
    there = np.moveaxis(nib.affines.apply_affine(volume.affine, index), -1, 0)
    inner = volume.get_fdata()[1:-1, 1:-1, 1:-1]
    low, high = volume.header["cal_min"], volume.header["cal_max"]
    expected = phantoms.ramp_at(there)
    shown = (expected > low) & (expected < high)
    assert shown.mean() > 0.8
    np.testing.assert_allclose(inner[shown], expected[shown], atol=float(high - low) / 100)


def test_the_page_runs_the_library_and_its_own_script_and_no_other(tmp_path, niivue):
    image = phantoms.body((12, 12, 8), (1.0, 1.0, 4.0))
    path = write_viewer(tmp_path / "a.html", image, super_resolve(image, None, factor=2), name="<b>&'")
    page = Page(path)
    assert len(page.all("script")) == 4 and "<b>&'" in page.text
    (policy,) = page.all("meta", **{"http-equiv": "Content-Security-Policy"})
    assert policy["content"].count("'sha256-") == 2 and "default-src 'none'" in policy["content"]
    assert "http" not in policy["content"]
    assert "BSD 2-Clause" in path.read_text()
    again = write_viewer(tmp_path / "b.html", image, super_resolve(image, None, factor=2), name="<b>&'")
    assert again.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("path", [None, "nowhere/niivue.umd.js"])
def test_without_niivue_nothing_is_started_and_the_error_says_how_to_get_it(fails, tmp_path, monkeypatch, path):
    monkeypatch.delenv(volumes_module.VARIABLE, raising=False)
    if path:
        monkeypatch.setenv(volumes_module.VARIABLE, path)
    source = scan(tmp_path / "a.nii.gz")
    target = tmp_path / "b.nii.gz"
    message = fails("run", source, target, "--bundle", "none", "--viewer", exit_code=2, code="E-EXTRA")
    assert "npm pack @niivue/niivue" in message
    image = phantoms.body((12, 12, 8), (1.0, 1.0, 4.0))
    with pytest.raises(UsageError, match="E-EXTRA"):
        write_viewer(tmp_path / "a.html", image, image)


def test_a_run_writes_a_viewer_beside_each_result_and_once_only(tmp_path, niivue, call):
    scan(tmp_path / "in" / "a.nii.gz")
    (outcome,) = run(tmp_path / "in", tmp_path / "out", viewer=True).values()
    path = tmp_path / "out" / "a.viewer.html"
    assert outcome.status == "done" and summary_of(path)["kind"] == "viewer" and not outcome.warnings
    assert not (tmp_path / "out" / "a.html").exists()
    stamp = path.stat().st_mtime_ns
    run(tmp_path / "in", tmp_path / "out", viewer=True)
    assert path.stat().st_mtime_ns == stamp
    path.unlink()
    assert run(tmp_path / "in", tmp_path / "out", viewer=True)["a.nii.gz"].status == "skipped" and path.exists()
    code, out, _ = call("run", tmp_path / "in" / "a.nii.gz", tmp_path / "b.nii.gz", "--bundle", "none", "--viewer")
    assert code == 0 and str(tmp_path / "b.viewer.html") in out


@pytest.mark.browser
@pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="Chromium or chromedriver is not installed")
@pytest.mark.skipif(
    not Path(os.environ.get(volumes_module.VARIABLE, "")).is_file(), reason="MONAI_SR_NIIVUE names no niivue.umd.js"
)
def test_niivue_shows_both_volumes_from_a_file_without_a_network(tmp_path):
    webdriver = pytest.importorskip("selenium.webdriver")
    image = phantoms.body((40, 34, 14), (1.0, 1.0, 4.0))
    sr = super_resolve(image, None, factor=4)
    path = write_viewer(tmp_path / "a.html", image, MetaTensor(sr.as_tensor() * torch.tensor(1.0), affine=sr.affine))
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    drawn = ("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")
    for flag in (*(f for f in FLAGS if f != "--disable-gpu"), *drawn, f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    try:
        driver.get_log("performance")
        driver.get(path.as_uri())
        deadline = time.monotonic() + 60
        while driver.execute_script("return document.body.dataset.ready") != "true" and time.monotonic() < deadline:
            time.sleep(0.1)
        pictures = {}
        for key, name in (("3", "sr"), ("1", "thick")):
            driver.switch_to.active_element.send_keys(key)
            assert driver.execute_script("return document.body.dataset.shown") == name
            time.sleep(0.5)
            pictures[name] = driver.get_screenshot_as_png()
        assert pictures["sr"] != pictures["thick"]
        faults = [entry for entry in driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]
        assert not faults
        for entry in driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                assert message["params"]["request"]["url"].startswith(LOCAL)
    finally:
        driver.quit()
