"""Report pages in a real browser: they open from a file, ask nothing of a network, and keys do what they say."""

from __future__ import annotations

import base64
import io
import itertools
import json
import shutil
import time
from pathlib import Path

import numpy as np
import phantoms
import pytest
from monai.data import MetaTensor
from PIL import Image
from runs import run, scan

from monai_sr.acquired import Acquired
from monai_sr.errors import SuperResolutionWarning
from monai_sr.inference import super_resolve
from monai_sr.report import write_report
from monai_sr.report.views import Scene

CHROMIUM, DRIVER = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="Chromium or chromedriver is not installed"),
]

webdriver = pytest.importorskip("selenium.webdriver")

FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--window-size=1400,1000"),
)

# the browser opens a tab page of its own first, by chrome-untrusted:
LOCAL = ("data:", "file:", "blob:", "chrome:", "chrome-untrusted:")
"""What is no network; the last is the browser's own first page."""


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    """One browser for all tests, with a profile of its own."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.set_page_load_timeout(60)
    yield driver
    driver.quit()


class Opened:
    """A page that is open."""

    def __init__(self, driver, path: Path) -> None:
        self.driver = driver
        driver.get_log("browser"), driver.get_log("performance")
        driver.set_window_size(1400, 1000)
        driver.get(path.as_uri())

    def js(self, code: str, *arguments):
        return self.driver.execute_script(f"return {code}", *arguments)

    def press(self, *keys: str) -> None:
        for key in keys:
            self.driver.switch_to.active_element.send_keys(key)

    def state(self, name: str) -> str:
        return self.js(f"document.querySelector('.viewer').dataset.{name}")

    def shown(self) -> set[str]:
        """The layers that can be seen."""
        return set(
            self.js(
                "[...document.querySelectorAll('.frame[data-layer]')]"
                ".filter(f => getComputedStyle(f).visibility === 'visible').map(f => f.dataset.layer)"
            )
        )

    def pixels(self, selector: str = ".planes") -> np.ndarray:
        """(height, width) gray of an element as it is drawn."""
        box = self.js(
            "(b => ({x: b.x + scrollX, y: b.y + scrollY, width: b.width, height: b.height, scale: 1}))"
            f"(document.querySelector({selector!r}).getBoundingClientRect())"
        )
        options = {"format": "png", "captureBeyondViewport": True, "clip": box}
        png = base64.b64decode(self.driver.execute_cdp_cmd("Page.captureScreenshot", options)["data"])
        return np.asarray(Image.open(io.BytesIO(png)).convert("L")).astype(float)

    def faults(self) -> list[str]:
        """What the console complains about, and what was asked of anything but this file."""
        logged = [entry["message"] for entry in self.driver.get_log("browser")]
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                url = message["params"]["request"]["url"]
                if not url.startswith(LOCAL):
                    logged.append(f"asked for {url[:100]}")
        return logged


@pytest.fixture(scope="module")
def page_file(tmp_path_factory) -> Path:
    image = phantoms.body((40, 34, 14), (1.0, 1.0, 4.0))
    sr = super_resolve(image, None, factor=4)
    return write_report(
        tmp_path_factory.mktemp("page") / "a b#ü.html",
        image,
        sr + 20 * (sr > 300),  # so that there is something to see in the map
        name="a.nii.gz",
        uncertainty=MetaTensor(sr.as_tensor().abs() / 40, affine=sr.affine),
        warnings=[SuperResolutionWarning("W-SR-RANGE", "a factor of 8")],
    )


@pytest.fixture
def page(chromium, page_file) -> Opened:
    return Opened(chromium, page_file)


def test_a_page_opens_from_a_file_without_errors_and_asks_nothing_of_a_network(page):
    assert page.js("document.title") == "a.nii.gz - monai-sr report"
    assert page.shown() == {"sr"}
    assert page.js("[...document.images].filter(i => !i.hidden).every(i => i.complete && i.naturalWidth > 0)")
    page.press("1", "2", "3", "4", "c", "u", "w", "v", "+", "-", "0", "?")
    assert page.faults() == []


def test_the_policy_of_a_page_keeps_even_its_own_script_from_a_network(page):
    blocked = page.driver.execute_async_script(
        "const done = arguments[0];"
        "document.addEventListener('securitypolicyviolation', e => done(e.effectiveDirective), {once: true});"
        "fetch('http://127.0.0.1:9/').catch(() => {}); setTimeout(() => done('nothing'), 3000);"
    )
    assert blocked == "connect-src"


def test_keys_flip_the_layers_in_place(page):
    pictures = {}
    for key, layer in (("1", "thick"), ("2", "cubic"), ("3", "sr")):
        page.press(key)
        assert page.shown() == {layer} and page.state("layer") == layer
        pictures[layer] = page.pixels()
    assert {p.shape for p in pictures.values()} == {pictures["sr"].shape}
    for one, other in itertools.combinations(pictures.values(), 2):
        assert np.abs(one - other).mean() > 0.5
    page.press(" ")
    assert page.shown() == {"thick"}
    assert np.abs(page.pixels() - pictures["thick"]).mean() < 0.05
    page.press(" ", " ")
    assert page.shown() == {"sr"}


def test_side_by_side_shows_all_three(page):
    page.press("4")
    assert page.shown() == {"thick", "cubic", "sr"}
    boxes = page.js("[...document.querySelectorAll('.plane .frame[data-layer]')].map(f => f.getBoundingClientRect().x)")
    assert boxes[0] < boxes[1] < boxes[2]
    page.press("4")
    assert page.shown() == {"sr"}


def test_arrows_move_through_the_slices_of_the_plane_that_is_pointed_at(page):
    before = page.pixels()
    places = "[...document.querySelectorAll('.plane')].map(p => p.querySelector('output').textContent)"
    first = page.js(places)
    page.press("\ue014")  # right arrow
    moved = page.js(places)
    assert moved[0] != first[0] and moved[1:] == first[1:]
    assert np.abs(page.pixels() - before).mean() > 0.3
    page.press("\ue012", "\ue012")
    page.press(*["\ue012"] * 20)
    assert page.js("document.querySelector('.plane input').value") == "0"
    second = page.js("document.querySelectorAll('.plane')[1].querySelector('.frames')")
    webdriver.ActionChains(page.driver).move_to_element(second).perform()
    page.press("\ue014")
    assert page.js(places)[1] != first[1]


def test_maps_are_laid_over_with_their_scale(page):
    plain = page.pixels()
    for key, kind in (("c", "consistency"), ("u", "uncertainty")):
        page.press(key)
        assert np.abs(page.pixels() - plain).mean() > 0.3, kind
        scale = f"getComputedStyle(document.querySelector('.scale.{kind}')).display"
        assert page.js(scale) == "grid"
        page.press(key)
        assert page.js(scale) == "none"
        assert np.abs(page.pixels() - plain).mean() < 0.05


def test_windows_and_zoom_change_what_is_seen_and_zero_brings_it_back(page):
    plain = page.pixels()
    ruler = page.js("document.querySelector('.ruler').textContent")
    page.press("w")
    assert page.state("window") == "1" and np.abs(page.pixels() - plain).mean() > 1
    page.press("w", "w")
    assert page.state("window") == "0"
    page.press("+", "+", "+")
    assert page.js("document.querySelector('[data-do=fit]').textContent") == "338 %"
    assert page.js("document.querySelector('.ruler').textContent") != ruler
    assert np.abs(page.pixels() - plain).mean() > 1
    frames = page.js("document.querySelector('.frames')")
    held = page.pixels()
    webdriver.ActionChains(page.driver).move_to_element(frames).click_and_hold().move_by_offset(
        40, 25
    ).release().perform()
    assert np.abs(page.pixels() - held).mean() > 0.3
    page.press("0")
    webdriver.ActionChains(page.driver).move_by_offset(0, 0).perform()
    assert np.abs(page.pixels() - plain).mean() < 0.3


def test_buttons_do_the_same_for_mouse_and_touch_and_show_their_state(page):
    page.driver.find_element("css selector", "[data-do=layer][data-value=thick]").click()
    assert page.shown() == {"thick"}
    pressed = "document.querySelector('[data-do=layer][data-value=thick]').getAttribute('aria-pressed')"
    assert page.js(pressed) == "true"
    page.press(" ")  # the button does not hold on to the space bar
    assert page.shown() == {"cubic"} and page.js(pressed) == "false"
    page.driver.find_element("css selector", "[data-do=overlay][data-value=consistency]").click()
    assert page.js("document.querySelector('.viewer').classList.contains('consistency')")


def test_keys_in_the_address_are_pressed_as_the_page_opens(page, page_file):
    page.driver.get("about:blank")
    page.driver.get(f"{page_file.as_uri()}#1c")
    assert page.shown() == {"thick"} and page.js("document.querySelector('.viewer').classList.contains('consistency')")


def test_help_opens_and_closes(page):
    page.press("?")
    assert page.js("document.querySelector('dialog').open")
    page.press("1")
    assert page.shown() == {"sr"}  # keys rest while it is open
    page.press("\ue00c")
    assert not page.js("document.querySelector('dialog').open")


def test_pictures_are_true_to_the_millimetre_and_the_ruler_too(page):
    for plane, (width, height) in {"coronal": (40, 56), "sagittal": (34, 56), "axial": (40, 34)}.items():
        box = page.js(f"document.querySelector('[data-plane={plane}] .frame').getBoundingClientRect().toJSON()")
        assert box["width"] / box["height"] == pytest.approx(width / height, rel=0.01)
        ruler = page.js(
            "(r => [r.textContent, r.getBoundingClientRect().width])"
            f"(document.querySelector('[data-plane={plane}] .ruler'))"
        )
        assert ruler[1] / box["width"] == pytest.approx(float(ruler[0].split()[0]) / width, rel=0.02)


@pytest.mark.parametrize("shape", [(40, 34, 14), (40, 34, 6), (40, 34, 3), (30, 44, 12)])
def test_planes_beside_each_other_are_equally_high(chromium, tmp_path, shape):
    image = phantoms.body(shape, (1.0, 1.0, 4.0))
    page = Opened(chromium, write_report(tmp_path / "a.html", image, super_resolve(image, None, factor=2)))
    boxes = page.js(
        "[...document.querySelectorAll('.plane')].map(p => [...[p.querySelector('.frame')].map(f =>"
        " f.getBoundingClientRect())].map(b => [b.x, b.y, b.width, b.height])[0])"
    )
    (_, y1, w1, h1), (_, y2, _, h2), (_, y3, w3, h3) = boxes
    assert h1 == pytest.approx(h2, abs=1)
    if y1 == pytest.approx(y3, abs=1) and y2 == pytest.approx(y3, abs=1):
        assert h3 == pytest.approx(h1, abs=1)
    else:  # a slab: its two planes above each other, beside the third
        assert y2 > y1 + h1 and y3 == pytest.approx(y1, abs=1)
        assert w1 >= w3 / 2
        assert h1 + h2 <= h3 + 1


@pytest.mark.parametrize("air", [0.0, -1000.0], ids=["MR", "CT"])
def test_gray_on_the_screen_is_that_of_the_window(chromium, tmp_path, air):
    kind = "CT" if air else "MR"
    values = [air, 30.0, 60.0, 110.0, 200.0] if air else [0.0, 100.0, 200.0, 300.0, 400.0]
    image = phantoms.constant(phantoms.grid((50, 20, 10), (1.0, 1.0, 4.0)), 0.0)
    for number, value in enumerate(values):
        image[0, 10 * number : 10 * number + 10] = value
    page = Opened(
        chromium, write_report(tmp_path / "a.html", image, super_resolve(image, None, factor=2, modality=kind))
    )
    page.press("1")
    scene = Scene.of(Acquired.of(image, axis=2))
    windows = scene.windows
    for index, preset in enumerate(windows.presets):
        row = page.pixels("[data-plane=coronal] .frame.thick")
        row = row[row.shape[0] // 2 - 12]  # between the letters
        width = len(row) / 50
        low, high = windows.presets[preset]
        for number, value in enumerate(reversed(values)):  # the patient's right, voxel 49, is on the left
            expected = 255 * np.clip((np.clip(value, -1024, 1500) - low) / (high - low), 0, 1)
            shown = row[int((10 * number + 4) * width) : int((10 * number + 6) * width)].mean()
            assert shown == pytest.approx(expected, abs=6), (preset, value)
        assert page.state("window") == str(index)
        page.press("w")


def test_a_page_is_readable_on_paper_and_on_a_telephone_and_without_script(page, page_file):
    cdp = page.driver.execute_cdp_cmd
    cdp("Emulation.setEmulatedMedia", {"media": "print"})
    assert page.shown() == {"thick", "cubic", "sr"}
    assert page.js("getComputedStyle(document.querySelector('.tools')).display") == "none"
    assert len(cdp("Page.printToPDF", {"printBackground": False})["data"]) > 50_000
    cdp("Emulation.setEmulatedMedia", {"media": ""})
    cdp("Emulation.setDeviceMetricsOverride", {"width": 390, "height": 800, "deviceScaleFactor": 2, "mobile": True})
    try:
        page.driver.get(page_file.as_uri())
        assert page.js("document.documentElement.scrollWidth <= 390")
    finally:
        cdp("Emulation.clearDeviceMetricsOverride", {})
    cdp("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        page.driver.get(page_file.as_uri())
        png = base64.b64decode(cdp("Page.captureScreenshot", {"format": "png"})["data"])
        picture = np.asarray(Image.open(io.BytesIO(png)).convert("L")).astype(float)
    finally:
        cdp("Emulation.setScriptExecutionDisabled", {"value": False})
    assert picture.std() > 20


def test_the_index_narrows_to_what_is_typed_and_leads_to_the_pages(chromium, tmp_path):
    scan(tmp_path / "in" / "a b#1.nii.gz")
    scan(tmp_path / "in" / "deep" / "ü.nii", seed=1)
    bad = scan(tmp_path / "in" / "bad.nii.gz")
    bad.write_bytes(bad.read_bytes()[:200])
    run(tmp_path / "in", tmp_path / "out", report=True)
    page = Opened(chromium, tmp_path / "out" / "index.html")
    rows = (
        "[...document.querySelectorAll('tbody tr')].filter(r => !r.hidden).map(r => r.querySelector('th').textContent)"
    )
    assert page.js(rows) == ["bad.nii.gz", "a b#1.nii.gz", "deep/ü.nii"]
    page.driver.find_element("id", "wanted").send_keys("E-IO")
    assert page.js(rows) == ["bad.nii.gz"]
    assert page.js("document.getElementById('count').textContent") == "1 of 3"
    page.driver.find_element("id", "wanted").clear()
    page.driver.find_element("id", "wanted").send_keys("done")
    links = page.js("[...document.querySelectorAll('tbody a')].map(a => a.href)")
    assert page.faults() == []
    for link, title in zip(links, ("bad.nii.gz failed", "a b#1.nii.gz", "deep/ü.nii"), strict=True):
        page.driver.get(link)
        deadline = time.monotonic() + 5
        while not page.js("document.title").startswith(title) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert page.js("document.title").startswith(title)
    assert page.faults() == []
