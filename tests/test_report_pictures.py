"""Pictures and curves of a report show what is there, the right way round."""

import io
import xml.etree.ElementTree as ElementTree

import numpy as np
import phantoms
import pytest
import torch
from monai.data import MetaTensor
from PIL import Image

from monai_sr.acquired import Acquired
from monai_sr.inference import super_resolve
from monai_sr.report.curves import spectra, steepest_profile
from monai_sr.report.overlays import HALF_OPAQUE, Overlay, round_up
from monai_sr.report.png import png_bytes
from monai_sr.report.svg import Curve, Mark, plot
from monai_sr.report.views import Scene
from monai_sr.report.windows import CT_PRESETS, windows_for
from monai_sr.transforms import interpolate_slices, simulate_thick_slices

RNG = np.random.default_rng(0)


# ------------------------------------------------------------- PNG


@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (64, 33)])
def test_a_picture_is_read_by_pillow_as_it_was_written(shape):
    pixels = RNG.integers(0, 256, shape).astype(np.uint8)
    image = Image.open(io.BytesIO(png_bytes(pixels)))
    assert image.mode == "L"
    assert (np.asarray(image) == pixels).all()


def test_a_picture_with_a_palette_keeps_its_colors_and_what_is_transparent():
    palette = RNG.integers(0, 256, (9, 4)).astype(np.uint8)
    pixels = RNG.integers(0, 9, (12, 5)).astype(np.uint8)
    shown = np.asarray(Image.open(io.BytesIO(png_bytes(pixels, palette))).convert("RGBA"))
    assert (shown == palette[pixels]).all()


def test_equal_pixels_give_equal_bytes():
    pixels = RNG.integers(0, 256, (20, 30)).astype(np.uint8)
    assert png_bytes(pixels) == png_bytes(np.asfortranarray(pixels))


@pytest.mark.parametrize("pixels", [np.zeros((2, 2)), np.zeros((0, 3), np.uint8), np.zeros((2, 2, 2), np.uint8)])
def test_what_is_no_8_bit_picture_is_refused(pixels):
    with pytest.raises(ValueError, match="uint8"):
        png_bytes(pixels)


# ------------------------------------------------------------- planes


@pytest.mark.parametrize(("grid", "axis"), phantoms.grids().values(), ids=phantoms.grids().keys())
@pytest.mark.parametrize("direction", [0, 1, 2], ids=["right", "anterior", "superior"])
def test_right_and_anterior_are_on_the_left_or_at_the_top_and_superior_at_the_top(grid, axis, direction):
    # world coordinates are RAS+: they grow to the patient's right, front and head
    image = phantoms.draw(grid, lambda points: points[direction])
    scene = Scene.of(Acquired.of(image, axis=axis))
    shown = 0
    for lacking in range(3):
        if scene.directions[lacking] == direction:
            continue
        picture = scene.picture(scene.plane("thick", lacking, scene.thin.shape[lacking] // 2), lacking)
        height, width = picture.shape
        where = {
            "left": picture[:, : width // 3],
            "right": picture[:, -(width // 3) :],
            "top": picture[: height // 3],
            "bottom": picture[-(height // 3) :],
        }
        (place,) = [place for place, letter in scene.letters(lacking).items() if letter == "RAS"[direction]]
        assert place in ("left", "top") and (direction != 2 or place == "top")
        opposite = {"left": "right", "top": "bottom"}[place]
        assert where[place].mean() > where[opposite].mean() + 1, scene.name(lacking)
        shown += 1
    assert shown == 2


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_same_anatomy_stored_any_way_round_gives_the_same_pictures(axis):
    pictures = {}
    for name in ("RAS", "LAS", "LPS"):
        grid = phantoms.grid((7, 8, 9), (1.0, 1.0, 1.0), orientation=name, origin=(0.0, 0.0, 0.0))
        affine = grid.affine.copy()
        affine[:3, 3] = -affine[:3, :3] @ ((np.array(grid.shape) - 1) / 2)
        image = phantoms.draw(type(grid)(grid.shape, affine), phantoms.known_value_at)
        thick = simulate_thick_slices(image, 3.0, axis=axis) if grid.shape[axis] % 3 == 0 else image
        scene = Scene.of(Acquired.of(thick, axis=axis))
        pictures[name] = [scene.picture(scene.plane("thick", lacking, 1), lacking) for lacking in (2,)]
        pictures[name] += [scene.name(lacking) for lacking in range(3)]
    for name in ("LAS", "LPS"):
        assert pictures[name][1:] == pictures["RAS"][1:]
        np.testing.assert_allclose(pictures[name][0], pictures["RAS"][0], atol=1e-3)


def test_a_file_without_orientation_gets_no_letters():
    image = phantoms.body((10, 12, 6), (1.0, 1.0, 4.0))
    image.meta["has_orientation"] = False
    assert Scene.of(Acquired.of(image, axis=2)).letters(0) == {}


def test_a_picture_is_as_large_in_mm_as_the_volume():
    image = phantoms.body((20, 30, 6), (1.5, 1.0, 4.0))
    scene = Scene.of(Acquired.of(image, axis=2), super_resolve(image, None))
    assert {scene.name(k): scene.size(k) for k in range(3)} == {
        "sagittal": pytest.approx((30, 24)),
        "coronal": pytest.approx((30, 24)),
        "axial": pytest.approx((30, 30)),
    }


def test_planes_are_those_of_the_volumes_they_are_called_by():
    image = phantoms.body((14, 13, 9), (1.0, 1.2, 4.0))
    sr = super_resolve(image, None, factor=3)
    cubic = interpolate_slices(image, 4 / 3, axis=2)
    scene = Scene.of(Acquired.of(image, axis=2), sr)
    for lacking, index in ((0, 5), (1, 7), (2, 13)):
        for layer, volume in (("sr", sr), ("cubic", cubic)):
            expected = np.take(volume[0].numpy(), index, axis=lacking)
            np.testing.assert_allclose(scene.plane(layer, lacking, index), expected, rtol=1e-4, atol=0.01)
    thick = image[0].numpy()
    np.testing.assert_array_equal(scene.plane("thick", 2, 13), thick[..., 4])
    np.testing.assert_array_equal(scene.plane("thick", 0, 5), np.repeat(thick[5], 3, axis=1))


def test_the_result_is_shown_as_it_is_stored():
    image = phantoms.body((10, 12, 6), (1.0, 1.0, 4.0))
    image.meta["stored_dtype"] = "int16"
    scene = Scene.of(Acquired.of(image, axis=2), super_resolve(image, None))
    plane = scene.plane("sr", 0, 5)
    assert (plane == np.rint(plane)).all() and not (scene.thin[5] == plane).all()


def test_padding_of_a_ct_does_not_ring_in_the_cubic_picture():
    image = phantoms.body((12, 12, 8), (1.0, 1.0, 4.0), air=-1000.0)
    image[..., :2] = -3024.0
    scene = Scene.of(Acquired.of(image, axis=2), super_resolve(image, None))
    assert scene.plane("cubic", 0, 6).min() > -1250


def test_shown_planes_lie_in_the_body_and_native_ones_between_acquired_slices():
    image = phantoms.body((60, 60, 10), (1.0, 1.0, 4.0))  # the ball reaches 9 mm in-plane
    scene = Scene.of(Acquired.of(image, axis=2), super_resolve(image, None, factor=4))
    for lacking in (0, 1):
        chosen = scene.chosen(lacking, 5)
        assert len(chosen) == 5 and min(chosen) >= 18 and max(chosen) <= 42
    middle = scene.chosen(2, 3)
    assert {index % 4 for index in middle} <= {0, 3}  # farthest from acquired centers at 1.5 + 4 k


def test_large_pictures_are_averaged_down_to_what_a_screen_shows():
    image = MetaTensor(torch.arange(1700.0)[None, :, None, None].repeat(1, 1, 4, 4), affine=torch.eye(4))
    scene = Scene.of(Acquired.of(image, axis=2))
    picture = scene.picture(scene.plane("thick", 2, 1), 2)
    assert picture.shape == (4, 567)
    assert picture[0, 0] == 1698 and picture[0, -1] == 0.5 and picture.mean() == pytest.approx(849.5, abs=2)


# ------------------------------------------------------------- windows and maps


def test_a_window_of_ct_is_linear_in_hu_and_fine_where_tissue_is():
    windows = windows_for(np.linspace(-1000, 1000, 50), "CT", np.ones(50, bool))
    assert next(iter(windows.presets)) == "soft tissue" and windows.unit == "HU"
    for preset, (low, high) in CT_PRESETS.items():
        hu = np.linspace(low, high, 41)
        gray = windows.table(preset)[windows.encode(hu)]
        expected = (hu.clip(-1024, 1500) - low) / (high - low)
        assert np.abs(gray - expected).max() < (0.03 if preset != "brain" else 0.012), preset


def test_a_lung_is_first_shown_in_the_lung_window():
    values = np.concatenate([np.full(60, -850.0), np.full(40, 40.0)])
    assert next(iter(windows_for(values, "CT", np.ones(100, bool)).presets)) == "lung"


def test_the_window_of_mr_goes_by_percentiles_and_survives_a_nearly_empty_image():
    values = np.arange(1000.0)
    windows = windows_for(values, "MR", values > 100)
    assert windows.presets["standard"] == pytest.approx((5, 994), abs=1)
    assert windows.table("standard")[windows.encode(np.array([-50.0, 5000.0]))].tolist() == [0, 1]
    flat = windows_for(np.zeros(100), "MR", np.zeros(100, bool))
    assert np.isfinite(flat.table("standard")).all()


def test_a_map_is_transparent_where_there_is_nothing_and_keeps_the_sign_apart():
    overlay = Overlay("consistency", "x", 10.0, True, "HU")
    codes = overlay.codes(np.array([0.0, np.nan, 10.0, 99.0, -10.0, 5.0]))
    colors = overlay.palette[codes].astype(int)
    assert colors[0, 3] == colors[1, 3] == 0
    assert (colors[2] == colors[3]).all() and colors[2, 3] == HALF_OPAQUE
    assert colors[2, 0] > colors[2, 2] and colors[4, 2] > colors[4, 0]  # red above, blue below
    assert overlay.picture(np.zeros((3, 3))) == "" and overlay.picture(np.ones((3, 3)) * 5)
    assert "−10 HU" in overlay.scale() and "+10 HU" in overlay.scale()


@pytest.mark.parametrize(("value", "round_one"), [(0.7, 1), (1.0, 1), (1.01, 2), (33, 50), (5e-3, 5e-3), (0, 1)])
def test_limits_are_round_numbers(value, round_one):
    assert round_up(value) == round_one


# ------------------------------------------------------------- curves


def test_the_profile_goes_through_the_steepest_step_between_slices():
    grid = phantoms.grid((20, 22, 60), (1.0, 1.0, 1.0), orientation="LPS")
    hr = phantoms.draw(grid, lambda p: 50 + 0 * p[0])
    hr[0, 5:9, 10:14, 33:] = 400
    lr = simulate_thick_slices(hr, 4.0, axis=2)
    scene = Scene.of(Acquired.of(lr, axis=2), super_resolve(lr, None, spacing=1.0))
    profile = steepest_profile(scene)
    edge = grid.affine[:3, :3] @ np.array([6.5, 11.5, 32.5]) + grid.affine[:3, 3]
    assert np.abs(profile.place - edge)[:2].max() <= 2 and abs(profile.place[2] - edge[2]) <= 2
    assert profile.sr.max() - profile.sr.min() > 250
    assert len(profile.cubic) == len(profile.sr) == len(profile.thin_at)


def test_the_spectrum_separates_waves_by_frequency_and_its_power_does_not_depend_on_the_sampling():
    grid = phantoms.grid((32, 32, 96), (1.0, 1.0, 1.0))
    hr = phantoms.draw(grid, lambda p: 300 + 40 * np.sin(2 * np.pi * p[2] / 24))
    lr = simulate_thick_slices(hr, 4.0, slice_thickness=0.5, profile="box", axis=2)
    scene = Scene.of(Acquired.of(lr, axis=2), interpolate_slices(lr, 1.0, axis=2))
    curves = spectra(scene)
    assert curves["thick"].frequency[-1] == pytest.approx(1 / 8)
    for key in ("thick", "cubic", "sr"):
        spectrum = curves[key]
        assert spectrum.frequency[spectrum.power.argmax()] == pytest.approx(1 / 24, abs=0.011), key
    assert curves["thick"].power.max() == pytest.approx(curves["sr"].power.max(), rel=0.15)
    assert curves["in-plane"].power.max() < 1e-6 * curves["sr"].power.max()


def test_few_or_uneven_slices_have_no_spectrum():
    image = phantoms.body((10, 10, 6), (1.0, 1.0, 4.0))
    assert spectra(Scene.of(Acquired.of(image, axis=2), super_resolve(image, None))) == {}
    assert steepest_profile(Scene.of(Acquired.of(image[..., :3], axis=2))) is None


# ------------------------------------------------------------- plots


def test_a_plot_is_sound_svg_whose_points_are_where_they_belong():
    text = plot(
        [
            Curve("a <b>", "sr", [0, 1, 2], [0.0, 5.0, 10.0]),
            Curve("c", "thick", [0, 1, 2], [1, float("nan"), 3], "steps"),
        ],
        title="x & y",
        x="mm",
        y="HU",
        marks=[Mark("here", x=1.0), Mark("level", y=5.0)],
        y_range=(0, 10),
    )
    svg, _, legend = text.partition("</svg>")
    root = ElementTree.fromstring(svg + "</svg>")
    assert root.attrib["aria-label"] == "x & y"
    curve = next(e for e in root if e.attrib.get("class") == "curve sr").attrib["d"]
    first, middle, last = (tuple(map(float, p.split())) for p in curve[1:].split("L"))
    assert middle == pytest.approx(((first[0] + last[0]) / 2, (first[1] + last[1]) / 2), abs=0.1)
    assert first[0] < last[0] and first[1] > last[1]
    assert "a &lt;b&gt;" in legend and "<b>" not in legend
    assert "nan" not in text


@pytest.mark.parametrize("values", [[3.0, 3.0], [0.0, 1e-9], [-1e6, 1e6], [float("nan"), 2.0]])
def test_a_plot_copes_with_any_range(values):
    for drawn in ("line", "steps", "bars", "points and line"):
        text = plot([Curve("a", "sr", [1, 2], values, drawn)], title="t", x="x", y="y")
        ElementTree.fromstring(text)
        assert "nan" not in text and "inf" not in text
