"""8 bits: near to 32 and cheaper, made from the weights at hand and from no others, and never in the image path."""

from __future__ import annotations

import json
from copy import deepcopy

import numpy as np
import phantoms
import pytest
import torch
from runs import make_bundle
from small_networks import computed, idle, lively

from monai_sr.bundles import NAMES, bundle_path, load_bundle
from monai_sr.cli.main import main
from monai_sr.engine.int8 import find_ranges, quantized_tensors, read_ranges, weights_fingerprint, write_ranges
from monai_sr.engine.openvino import OpenVinoEngine
from monai_sr.engine.selection import make_engine
from monai_sr.errors import BundleError
from monai_sr.evaluation import quantize
from monai_sr.inference import super_resolve
from monai_sr.io.images import read_image, write_image
from monai_sr.networks import PyramidNet, ResidualNet

NETWORKS = {"residual": lambda: lively(ResidualNet(6, 8)), "pyramid": lambda: lively(PyramidNet(8, 2))}


def seen_by(network, count=3):
    """What a network may see, and its levels."""
    levels = 3 if isinstance(network, PyramidNet) else 0
    return [(torch.rand(1, 1, 20, 18, 6), levels) for _ in range(count)]


@pytest.fixture(params=NETWORKS)
def network(request):
    """Each kind of network, small."""
    return NETWORKS[request.param]()


@pytest.fixture
def eight_bits(network):
    """The same network in 8 bits."""
    return OpenVinoEngine(network, ranges=find_ranges(network, seen_by(network)))


def residual_of(network, image, *levels):
    """What a network adds to the interpolated image."""
    with torch.no_grad():
        whole = network(image, *levels)
        image_path = idle(deepcopy(network))(image, *levels)
    return whole - image_path


# ----------------------------------------------------------------- the result


@pytest.mark.parametrize("levels", [1, 2, 4])
def test_8_bits_are_near_32(network, eight_bits, levels):
    levels = (levels,) if isinstance(network, PyramidNet) else ()
    image = torch.rand(1, 1, 40, 9, 8)
    with torch.no_grad():
        exact = network(image, *levels)
    error = (computed(eight_bits, image, *levels) - exact).std()
    added = residual_of(network, image, *levels).std()
    assert 1e-4 * added < error < 0.1 * added


def test_the_image_path_is_not_quantized(network):
    idle(network)
    image = torch.rand(1, 1, 30, 9, 8) + 1000
    eight_bits = OpenVinoEngine(network, ranges=find_ranges(network, seen_by(network)))
    levels = (2,) if isinstance(network, PyramidNet) else ()
    with torch.no_grad():
        assert torch.allclose(computed(eight_bits, image, *levels), network(image, *levels), rtol=1e-6, atol=0)


@pytest.mark.slow
def test_8_bits_are_the_same_every_time_and_in_tiles(eight_bits):
    image = phantoms.body((30, 90, 40), (1.0, 1.0, 3.0))
    whole, again, tiled = (
        super_resolve(image, eight_bits, factor=2.0, modality="MR", tile_voxels=voxels)
        for voxels in (4_000_000, 4_000_000, 1)
    )
    assert torch.equal(whole, again)
    # float32 sums at the image's end may round a value to the other side of a step
    assert (tiled - whole).abs().max() < 1e-3 * np.ptp(whole.numpy())


def test_what_the_graph_quantizes_has_ranges_and_nothing_else_has(network):
    asked = set()

    class Spy(dict):
        def __contains__(self, name):
            asked.add(name)
            return name in ranges

    ranges = find_ranges(network, seen_by(network, 1))
    spy = Spy(ranges)
    computed(OpenVinoEngine(network, ranges=spy), *seen_by(network, 1)[0])
    assert asked == set(ranges) == set(quantized_tensors(network))


def test_channels_of_small_values_get_finer_steps():
    network = NETWORKS["residual"]()
    with torch.no_grad():
        network.head.weight[0] *= 0.01
        network.head.bias[0] *= 0.01
    ranges = find_ranges(network, seen_by(network))["head"]
    assert 0 < ranges[0] < 0.3 * max(ranges)


def test_a_tensor_that_is_always_zero_is_no_fault(network):
    pairs = network.body if isinstance(network, ResidualNet) else network.last.body
    for parameter in pairs[0].first.parameters():
        torch.nn.init.zeros_(parameter)
    ranges = find_ranges(network, seen_by(network, 1))
    assert torch.isfinite(computed(OpenVinoEngine(network, ranges=ranges), *seen_by(network, 1)[0])).all()


# --------------------------------------------------------- bound to its weights


def test_ranges_are_read_as_they_were_written(network, tmp_path):
    ranges = find_ranges(network, seen_by(network, 1))
    write_ranges(tmp_path / "int8.json", network, ranges, made_by="a test")
    read_back = read_ranges(tmp_path / "int8.json", network)
    assert read_back.keys() == ranges.keys()
    for name, values in ranges.items():
        assert read_back[name] == pytest.approx(values, rel=1e-3)


def test_an_8_bit_form_of_other_weights_is_refused(network, tmp_path):
    write_ranges(tmp_path / "int8.json", network, find_ranges(network, seen_by(network, 1)), made_by="a test")
    before = weights_fingerprint(network)
    with torch.no_grad():
        next(network.parameters())[0, 0, 0, 0, 0] += 1e-6
    assert weights_fingerprint(network) != before
    with pytest.raises(BundleError, match=r"other weights\. Fix: .*monai-sr quantize") as caught:
        read_ranges(tmp_path / "int8.json", network)
    assert caught.value.code == "E-W-INT8" and caught.value.exit_code == 7


@pytest.mark.parametrize(
    "change",
    [
        None,
        lambda text: text[: len(text) // 2],
        lambda text: "[]",
        lambda text: "{}",
        lambda text: "\0" * 100,
        lambda text: text.replace('"head"', '"heads"'),
        lambda text: text.replace('"version": 2', '"version": 1'),
        lambda text: json.dumps(json.loads(text) | {"ranges": {"head": "wide"}}),
        lambda text: json.dumps(json.loads(text) | {"ranges": {name: [1.0] for name in json.loads(text)["ranges"]}}),
        lambda text: json.dumps(
            json.loads(text) | {"ranges": {name: [-1.0] * 8 for name in json.loads(text)["ranges"]}}
        ),
        lambda text: json.dumps(
            json.loads(text) | {"ranges": {name: [1e999] * 8 for name in json.loads(text)["ranges"]}}
        ),
    ],
)
def test_a_missing_or_damaged_8_bit_form_is_named(change, tmp_path):
    network, path = NETWORKS["residual"](), tmp_path / "int8.json"
    if change is not None:
        write_ranges(path, network, find_ranges(network, seen_by(network, 1)), made_by="a test")
        changed = change(path.read_text())
        assert changed != path.read_text()
        path.write_text(changed)
    with pytest.raises(BundleError) as caught:
        read_ranges(path, network)
    assert caught.value.code == "E-W-INT8" and "quantize" in caught.value.remedy


@pytest.mark.parametrize("name", sorted(NAMES))
def test_an_8_bit_form_that_ships_is_of_the_weights_that_ship(name):
    if not (bundle_path(name) / "models" / "int8.json").exists():
        pytest.skip("this bundle ships without one")
    assert load_bundle(name, device="cpu", precision="int8").engine.precision == "int8"


# -------------------------------------------------------------------- the command


@pytest.fixture
def dataset(tmp_path):
    """A datalist of two small heads."""
    entries = []
    for name in "ab":
        write_image(phantoms.body((30, 28, 32)), tmp_path / f"{name}.nii.gz", dtype=np.float32)
        entries.append({"image": f"{name}.nii.gz"})
    path = tmp_path / "datalist.json"
    path.write_text(json.dumps({"training": entries[:1], "validation": entries[1:]}))
    return path


@pytest.fixture
def bundle(tmp_path, monkeypatch):
    """A small bundle without an 8-bit form, and a builder that takes little time."""
    folder = make_bundle(tmp_path / "bundles", "pyramid", features=4, depth=2)
    for name, value in {"PATCHES": 3, "PATCH": 24, "FACTORS": (2,)}.items():
        monkeypatch.setattr(quantize, name, value)
    return folder


def test_one_command_makes_the_8_bit_form_that_the_command_line_then_runs(bundle, dataset, tmp_path, capsys):
    thick, thin = tmp_path / "thick.nii.gz", tmp_path / "thin.nii.gz"
    write_image(phantoms.body((20, 22, 9), (1.0, 1.0, 2.0)), thick, dtype=np.float32)
    words = ["run", str(thick), str(thin), "--bundle", str(bundle), "--trust-bundle", "--precision", "int8"]
    assert main(words) == 7
    assert "E-W-INT8" in capsys.readouterr().err and not thin.exists()
    assert main(["quantize", str(bundle), "--dataset", str(dataset), "--crop", "24"]) == 0
    printed = capsys.readouterr().out
    assert "MR x2" in printed and "OpenVINO float32 differs from torch by" in printed
    assert main(words) == 0
    model = load_bundle(bundle, device="cpu", precision="int8", trust_bundle=True)
    assert (model.engine.name, model.engine.precision) == ("openvino", "int8")
    exact = load_bundle(bundle, device="cpu", precision="float32", trust_bundle=True)(read_image(thick)).numpy()
    assert 0 < np.abs(read_image(thin).numpy() - exact).max() < 0.05 * np.ptp(exact)


def test_the_precision_auto_is_int8_where_the_form_is_of_the_weights(network, tmp_path):
    write_ranges(tmp_path / "int8.json", network, find_ranges(network, seen_by(network, 1)), made_by="a test")
    int8 = {"int8": tmp_path / "int8.json"}
    assert make_engine(network, **int8).precision == "int8"
    assert make_engine(network, engine="torch", **int8).precision == "float32"
    assert make_engine(network, precision="float32", **int8).precision == "float32"
    assert make_engine(network).precision == "float32"  # there is no such form
    with torch.no_grad():
        next(network.parameters()).mul_(2)
    assert make_engine(network, **int8).precision == "float32"


def test_an_8_bit_form_that_loses_too_much_is_not_written(bundle, dataset, monkeypatch, capsys):
    monkeypatch.setattr(quantize, "LOSS_DB", -1.0)
    assert main(["quantize", str(bundle), "--dataset", str(dataset), "--crop", "24"]) == 7
    assert "E-W-INT8" in capsys.readouterr().err
    assert not (bundle / "models" / "int8.json").exists()
