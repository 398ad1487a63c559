"""One volume, whole path: where the voxels lie, what they hold, and that nothing acquired is contradicted."""

import itertools

import nibabel as nib
import numpy as np
import phantoms
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor
from monai.engines import SupervisedEvaluator
from monai.transforms import Compose, LoadImaged, Orientation, SaveImaged
from small_networks import idle
from torch import nn

from monai_sr import SuperResolutionInferer, inference
from monai_sr.engine.torch_engine import TorchEngine
from monai_sr.errors import ImageError, SuperResolutionWarning, UsageError
from monai_sr.grid import grid_of
from monai_sr.inference import super_resolve
from monai_sr.io.images import VolumeReader, VolumeWriter, read_image, write_image
from monai_sr.networks import SRCNN, PyramidNet, ResidualNet
from monai_sr.slices import SliceModel, profile_matrix
from monai_sr.training.augmentation import RandSimulateThickSlicesd
from monai_sr.training.inferer import ConsistentInferer
from monai_sr.transforms import SuperResolvedGridd, simulate_thick_slices

GRIDS = phantoms.grids()
FWHM = 2 * np.sqrt(2 * np.log(2))


def lively(network: nn.Module, strength: float = 1.0) -> nn.Module:
    """Weights large enough that what the network adds, and any seam in it, is plain to see."""
    for parameter in network.parameters():
        fan_in = parameter[0].numel() if parameter.ndim > 1 else 25
        nn.init.normal_(parameter, std=strength * (1.5 / fan_in) ** 0.5)
    return network.eval()


def residual(fold: int = 2) -> nn.Module:
    return lively(ResidualNet(layers=4, features=4, fold=fold))


def pyramid() -> nn.Module:
    return lively(PyramidNet(features=4, depth=2))


def srcnn() -> nn.Module:
    return lively(SRCNN())


NETWORKS = {"residual": residual, "pyramid": pyramid}
EFFECTLESS = {
    "none": lambda: None,
    "residual": lambda: idle(ResidualNet(layers=4, features=2)),
    "pyramid": lambda: idle(PyramidNet(features=2, depth=2)),
}


def noise(shape=(6, 5, 8), spacing=(1.0, 1.2, 4.0), *, low: float = 0.0, high: float = 100.0, **where) -> MetaTensor:
    """A volume that no interpolation flatters, so every difference shows."""
    image = phantoms.constant(phantoms.grid(shape, spacing, **where))
    image[:] = low + (high - low) * torch.rand(shape)
    return image


def acquired(grid, axis: int, thickness: float) -> MetaTensor:
    """``phantoms.known_value`` as a Gaussian profile sees it, by formula: plane waves only lose height."""
    direction = grid.affine[:3, axis] / grid.spacing[axis]
    sigma = thickness / FWHM

    def height(wave):
        return np.exp(-((np.dot(wave, direction) * sigma) ** 2) / 2)

    def value(points):
        x, y, z = points
        return 100 * (
            height(np.array([0.8, 0.5, 0.3]) / 11) * np.sin((0.8 * x + 0.5 * y + 0.3 * z) / 11)
            + height(np.array([-0.3, 0.9, 0.0]) / 13) * np.cos((-0.3 * x + 0.9 * y) / 13)
            + height(np.array([1.0, -1.0, 2.0]) / 27) * np.sin((x - y + 2 * z) / 27)
        )

    return phantoms.draw(grid, value)


# ------------------------------------------------------------- geometry


@pytest.mark.parametrize("name", GRIDS)
def test_voxels_hold_the_value_of_the_world_point_they_lie_at(name):
    grid, axis = GRIDS[name]
    sr = super_resolve(acquired(grid, axis, 4.0), None)
    reference = phantoms.known_value_at(phantoms.world(grid_of(sr)))
    error = phantoms.away_from_ends(np.abs(sr[0].numpy() - reference), axis, 16)
    assert error.max() < 1  # a tenth of a slice step off would be 4 or more


@pytest.mark.parametrize("network", ["residual", "pyramid"])
@pytest.mark.parametrize(
    "name", ["RAS, slices along axis 2", "LPS, slices along axis 0", "oblique, slices along axis 1"]
)
@pytest.mark.parametrize("factor", [2, 3, 2.7])
def test_networks_that_add_nothing_leave_every_value_at_its_world_point(network, name, factor):
    grid, axis = GRIDS[name]
    sr = super_resolve(acquired(grid, axis, 4.0), EFFECTLESS[network](), factor=factor)
    reference = phantoms.known_value_at(phantoms.world(grid_of(sr)))
    error = phantoms.away_from_ends(np.abs(sr[0].numpy() - reference), axis, round(4 * factor))
    assert error.max() < 1


@pytest.mark.parametrize("network", ["residual", "pyramid"])
@pytest.mark.parametrize("factor", [2, 3, 2.7, 5])
def test_a_network_is_right_before_consistency_mends_it(monkeypatch, network, factor):
    monkeypatch.setattr(SliceModel, "enforce", lambda self, sr, lr: sr)
    grid, axis = GRIDS["oblique, slices along axis 1"]
    sr = super_resolve(acquired(grid, axis, 4.0), EFFECTLESS[network](), factor=factor)
    reference = phantoms.known_value_at(phantoms.world(grid_of(sr)))
    error = phantoms.away_from_ends(np.abs(sr[0].numpy() - reference), axis, round(5 * factor))
    assert error.max() < 1.5  # half of a pyramid's finest slice off would be 3 or more


@pytest.mark.parametrize(
    ("factor", "levels"), [(1.5, 1), (2, 1), (2.1, 2), (3, 2), (4, 2), (5, 2), (7.9, 2), (8, 3), (15, 3), (16, 4)]
)
def test_the_pyramid_doubles_to_at_least_the_wanted_slices_and_above_4_to_most_of_them(factor, levels):
    spy = Spy(pyramid())
    super_resolve(noise(), spy.engine, factor=factor)
    assert spy.levels == levels


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("factor", [2, 3, 4])
def test_the_first_center_moves_by_half_a_slice_step_less_half_a_thin_one(name, factor):
    grid, axis = GRIDS[name]
    sr = super_resolve(acquired(grid, axis, 4.0), None, factor=factor)
    expected = grid.affine.copy()
    expected[:3, 3] += grid.affine[:3, axis] * (1 / factor - 1) / 2
    expected[:3, axis] /= factor
    np.testing.assert_allclose(sr.affine.numpy(), expected, rtol=0, atol=1e-9)
    shape = list(grid.shape)
    shape[axis] *= factor
    assert list(sr.shape) == [1, *shape]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_by_default_slices_become_as_close_as_the_finer_in_plane_spacing(axis):
    spacing = [0.8, 1.3]
    spacing.insert(axis, 4.0)
    sr = super_resolve(noise((6, 6, 6), tuple(spacing)), None)
    assert grid_of(sr).spacing[axis] == pytest.approx(0.8)
    assert sr.shape[axis + 1] == 30


@pytest.mark.parametrize(("wanted", "slices"), [({"factor": 2.5}, 20), ({"factor": 3.3}, 26), ({"spacing": 1.5}, 21)])
def test_factor_and_spacing_need_not_divide(wanted, slices):
    image = noise()
    sr = super_resolve(image, None, **wanted)
    grid, old = grid_of(sr), grid_of(image)
    assert sr.shape[3] == slices
    assert grid.spacing[2] == pytest.approx(wanted.get("spacing", 4 / wanted.get("factor", 1)))
    assert grid.spacing[:2] == pytest.approx(old.spacing[:2])
    np.testing.assert_allclose(phantoms.center(grid), phantoms.center(old), atol=1e-9)
    assert abs(slices * grid.spacing[2] - 8 * 4.0) <= grid.spacing[2] / 2


def test_the_axis_may_be_given_where_the_spacing_does_not_decide_it():
    sr = super_resolve(noise((6, 6, 6), (2.0, 2.0, 1.0)), None, axis=0)
    assert sr.shape == (1, 12, 6, 6)
    assert grid_of(sr).spacing == pytest.approx((1.0, 2.0, 1.0))


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("orientation", ["RAS", "oblique"])
def test_the_same_anatomy_stored_any_way_round_gives_the_same_voxels(network, orientation):
    image, network = noise(orientation=orientation), NETWORKS[network]()
    reference = super_resolve(image, network, factor=2)[0].numpy()
    for order, flips in zip(itertools.permutations(range(3)), itertools.product((0, 1), repeat=3), strict=False):
        voxels, affine = image[0].numpy().transpose(order), image.affine.numpy()[:, [*order, 3]].copy()
        for axis in range(3):
            if flips[axis]:
                affine[:3, 3] += affine[:3, axis] * (voxels.shape[axis] - 1)
                affine[:3, axis] *= -1
                voxels = np.flip(voxels, axis)
        stored = MetaTensor(torch.from_numpy(voxels.copy())[None], affine=torch.from_numpy(affine))
        sr = super_resolve(stored, network, factor=2)[0].numpy()
        again = np.flip(sr, [a for a in range(3) if flips[a]]).transpose(np.argsort(order))
        np.testing.assert_allclose(again, reference, rtol=0, atol=1e-4)  # of values up to 100


# ------------------------------------------------------------- tiles


def untiled_and_tiled(image, network, tile_voxels: int, **options):
    fractions: list[float] = []
    whole = super_resolve(image, network, tile_voxels=10**9, **options)
    tiled = super_resolve(image, TorchEngine(network), tile_voxels=tile_voxels, progress=fractions.append, **options)
    assert len(fractions) > 2
    plain = super_resolve(image, None, **options)
    assert (whole - plain).abs().max() > 1  # the network did something that could go wrong at a seam
    return whole.numpy(), tiled.numpy()


@pytest.mark.parametrize("fold", [1, 2])
@pytest.mark.parametrize(("slices", "factor"), [(17, 3), (20, 3), (23, 2.2)])
def test_tiles_of_the_residual_network_cannot_be_seen(fold, slices, factor):
    image = noise((24, 22, slices))
    whole, tiled = untiled_and_tiled(image, residual(fold), 5000, factor=factor)
    np.testing.assert_allclose(tiled, whole, rtol=0, atol=2e-3)  # of 100


@pytest.mark.parametrize(("slices", "voxels"), [(61, 800), (61, 1000), (71, 900), (83, 1100)])
def test_tiles_along_the_slices_keep_folded_ones_together(slices, voxels):
    whole, tiled = untiled_and_tiled(noise((3, 3, slices)), residual(fold=2), voxels, factor=3)
    np.testing.assert_allclose(tiled, whole, rtol=0, atol=2e-3)


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_tiles_of_the_pyramid_cannot_be_seen(factor):
    # wider and longer than the four halos a side that a tile has at least
    image = noise((46, 5, 109))
    whole, tiled = untiled_and_tiled(image, pyramid(), 5000, factor=factor)
    np.testing.assert_allclose(tiled, whole, rtol=0, atol=2e-3)


def test_tiles_of_srcnn_cannot_be_seen():
    whole, tiled = untiled_and_tiled(noise((30, 8, 16)), srcnn(), 4000, factor=2)
    np.testing.assert_allclose(tiled, whole, rtol=0, atol=2e-3)


class Spy:
    """What a network was given, in voxels of the output; it computes nothing."""

    def __init__(self, network: nn.Module) -> None:
        self.engine, self.voxels, self.lowest, self.highest = TorchEngine(network), [], np.inf, -np.inf
        network.forward = self

    def __call__(self, x, levels=0):
        self.levels = levels
        self.voxels.append(x.numel() * 2**levels)
        self.lowest, self.highest = min(self.lowest, float(x.min())), max(self.highest, float(x.max()))
        return x.repeat_interleave(2**levels, dim=-1)


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("slices", [40, 120])
def test_the_network_is_never_given_more_voxels_than_the_bound(kind, slices):
    spy = Spy(NETWORKS[kind]())
    super_resolve(noise((70, 60, slices)), spy.engine, factor=4, tile_voxels=250_000)
    assert max(spy.voxels) <= 250_000
    assert sum(spy.voxels) >= 70 * 60 * slices * 4


@pytest.mark.parametrize("kind", ["none", "residual", "pyramid"])
def test_several_threads_make_the_same_voxels(kind, monkeypatch):
    image = phantoms.body((90, 20, 12), (1.0, 1.0, 3.0))
    network = NETWORKS[kind]() if kind != "none" else None
    alone = super_resolve(image, network, factor=3)
    monkeypatch.setattr(inference, "thread_count", lambda: 3)
    monkeypatch.setattr("monai_sr.grid.BLOCK_VOXELS", 4000)
    assert torch.equal(super_resolve(image, network, factor=3), alone)


def test_what_goes_wrong_in_a_thread_is_raised(monkeypatch):
    def full(*_):
        raise MemoryError("full")

    monkeypatch.setattr(inference, "thread_count", lambda: 3)
    monkeypatch.setattr(SliceModel, "enforce", full)
    with pytest.raises(MemoryError, match="full"):
        super_resolve(phantoms.body((20, 18, 8), (1.0, 1.0, 3.0)), None, factor=3)


def test_progress_grows_to_one():
    fractions: list[float] = []
    super_resolve(noise((20, 20, 40)), residual(), factor=3, tile_voxels=5000, progress=fractions.append)
    assert fractions == sorted(set(fractions))
    assert 0 < fractions[0] < fractions[-1] == 1


# ------------------------------------------------------------- consistency


@pytest.mark.parametrize("kind", ["none", *NETWORKS])
@pytest.mark.parametrize(
    ("ratio", "profile", "tolerance"),
    [(1.0, "gaussian", 0.01), (0.6, "gaussian", 0.01), (1.4, "gaussian", 0.2), (1.0, "box", 0.01), (0.6, "box", 0.01)],
)
@pytest.mark.parametrize("factor", [2, 3, 3.5])
def test_acquiring_the_result_again_gives_the_acquired_slices(kind, ratio, profile, tolerance, factor):
    image = noise((6, 5, 12))
    network = NETWORKS[kind]() if kind in NETWORKS else None
    sr = super_resolve(image, network, factor=factor, slice_thickness=4.0 * ratio, profile=profile)
    thin, thick = (g.positions(2) for g in (grid_of(sr), grid_of(image)))
    again = sr[0].numpy() @ profile_matrix(thin, thick, slice_thickness=4.0 * ratio, profile=profile).numpy().T
    np.testing.assert_allclose(again, image[0].numpy(), rtol=0, atol=tolerance)  # of 100; overlap needs the ridge


def test_the_network_decides_what_the_scanner_could_not_see():
    image = noise()
    with_network, without = (super_resolve(image, n, factor=2) for n in (residual(), None))
    assert (with_network - without).abs().max() > 1


def test_the_input_is_not_changed():
    image = noise()
    image.meta["slice_thickness"] = 4.0
    voxels, affine, meta = image.as_tensor().clone(), image.affine.clone(), dict(image.meta)
    super_resolve(image, residual(), factor=2)
    assert torch.equal(image.as_tensor(), voxels)
    assert torch.equal(image.affine, affine)
    assert {k: str(v) for k, v in image.meta.items()} == {k: str(v) for k, v in meta.items()}


# ------------------------------------------------------------- intensities and metadata


def test_the_thickness_is_taken_from_the_metadata_and_an_option_goes_before_it():
    image = noise()
    plain = super_resolve(image, None, factor=2)
    given = super_resolve(image, None, factor=2, slice_thickness=2.5)
    image.meta["slice_thickness"] = 2.5
    torch.testing.assert_close(super_resolve(image, None, factor=2), given)
    torch.testing.assert_close(super_resolve(image, None, factor=2, slice_thickness=4.0), plain)
    assert (given - plain).abs().max() > 1


@pytest.mark.parametrize("thickness", [0.0, -1.0, float("nan"), float("inf")])
def test_an_invalid_thickness_is_refused(thickness):
    with pytest.raises(UsageError, match="thickness"):
        super_resolve(noise(), None, factor=2, slice_thickness=thickness)


@pytest.mark.filterwarnings("ignore:W-CT-HU")
@pytest.mark.parametrize(
    ("meta", "options", "expected"),
    [
        ({}, {}, (0.0, 1.0)),  # positive values: taken for MR
        ({"modality": "CT"}, {}, (0.5, 0.55)),
        ({}, {"modality": "CT"}, (0.5, 0.55)),
        ({}, {"modality": "CT", "ct_window": (0.0, 200.0)}, (0.0, 0.5)),
    ],
)
def test_the_modality_of_the_metadata_or_the_option_decides_the_range(meta, options, expected):
    image = noise((20, 20, 10))
    image.meta.update(meta)
    spy = Spy(pyramid())
    super_resolve(image, spy.engine, factor=2, **options)
    # the pyramid sees the acquired slices themselves
    assert (spy.lowest, spy.highest) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("kind", EFFECTLESS)
def test_hounsfield_units_come_back_as_they_were(kind):
    image = noise((6, 6, 8), low=-1000, high=2000)
    sr = super_resolve(image, EFFECTLESS[kind](), factor=2)
    again = simulate_thick_slices(sr, 4.0, axis=2)
    np.testing.assert_allclose(again[0].numpy(), image[0].numpy(), rtol=0, atol=0.3)
    assert sr.min() < -900 and sr.max() > 1900
    assert sr.dtype == torch.float32


def test_the_other_metadata_stay_with_the_result():
    image = noise()
    image.meta.update(filename_or_obj="scan.nii.gz", stored_dtype="int16")
    sr = super_resolve(image, None, factor=2)
    assert sr.meta["filename_or_obj"] == "scan.nii.gz"
    assert sr.meta["stored_dtype"] == "int16"
    assert list(sr.meta["spatial_shape"]) == [6, 5, 16]
    np.testing.assert_allclose(sr.meta["original_affine"], sr.affine)


# ------------------------------------------------------------- what is not super-resolved


@pytest.mark.parametrize(
    ("spacing", "wanted"),
    [
        ((1.0, 1.0, 1.0), {}),
        ((1.0, 1.0, 4.0), {"factor": 1}),
        ((1.0, 1.0, 4.0), {"factor": 0.5}),
        ((1.0, 1.0, 4.0), {"spacing": 4.0}),
        ((1.0, 1.0, 4.0), {"spacing": 7.0}),
    ],
)
def test_where_nothing_is_to_be_gained_the_image_is_passed_through_with_a_warning(spacing, wanted):
    image = noise((6, 5, 8), spacing)
    with pytest.warns(SuperResolutionWarning, match="W-SR-NOGAIN"):
        same = super_resolve(image, residual(), **wanted)
    assert torch.equal(same.as_tensor(), image.as_tensor())
    assert torch.equal(same.affine, image.affine)


@pytest.mark.parametrize("slices", [1, 2])
def test_fewer_than_three_slices_are_refused(slices):
    with pytest.raises(ImageError, match=f"E-IMG-FEW.*{slices} slices"):
        super_resolve(noise((6, 5, slices)), None)


def test_three_slices_are_enough():
    assert super_resolve(noise((6, 5, 3)), pyramid(), factor=2).shape == (1, 6, 5, 6)


def test_an_image_without_contrast_is_refused():
    with pytest.raises(ImageError, match="E-IMG-CONST"):
        super_resolve(phantoms.constant(phantoms.grid((6, 5, 8), (1.0, 1.0, 4.0))), residual())


@pytest.mark.parametrize(("spacing", "wanted"), [((1.0, 4.0, 4.0), {}), ((1.0, 1.0, 1.0), {"factor": 2})])
def test_an_unclear_through_plane_axis_is_asked_for(spacing, wanted):
    with pytest.raises(UsageError, match=r"E-HDR-AXIS.*--axis"):
        super_resolve(noise((6, 5, 8), spacing), None, **wanted)


def test_factor_and_spacing_together_are_refused():
    with pytest.raises(UsageError, match="factor and spacing"):
        super_resolve(noise(), None, factor=2, spacing=2.0)


@pytest.mark.parametrize("options", [{"axis": 3}, {"factor": 0}, {"factor": -2.0}, {"spacing": 0.0}, {"spacing": -1.0}])
def test_options_that_make_no_sense_are_refused(options):
    with pytest.raises(UsageError):
        super_resolve(noise(), None, **options)


# ------------------------------------------------------------- MONAI's engines


def evaluated(path, folder, network, **options) -> None:
    """A file through MONAI's evaluator as the bundles' inference.json builds it."""
    load = LoadImaged("image", reader=VolumeReader, ensure_channel_first=True)
    wanted = {key: options[key] for key in ("spacing", "factor", "axis") if key in options}
    save = SaveImaged(
        "pred",
        writer=VolumeWriter,
        output_dir=folder,
        output_postfix="sr",
        output_ext=".nii.gz",
        separate_folder=False,
        resample=False,
        print_log=False,
    )
    SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(Dataset([{"image": str(path)}], load), batch_size=1),
        network=network,
        inferer=SuperResolutionInferer(**options),
        postprocessing=Compose([SuperResolvedGridd("pred", **wanted), save]),
    ).run()


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize(
    ("orientation", "options"), [("LPS", {"factor": 2}), ("oblique", {"spacing": 1.5}), ("RAS", {})]
)
def test_an_evaluator_writes_the_thin_grid_to_disk(tmp_path, kind, orientation, options):
    image = noise(low=-900, high=900, orientation=orientation)
    image.meta["stored_dtype"] = "int16"
    network = NETWORKS[kind]()
    path = write_image(image, tmp_path / "scan.nii.gz")
    evaluated(path, tmp_path / "out", network, **options)
    (written,) = (tmp_path / "out").iterdir()
    assert written.name == "scan_sr.nii.gz"
    expected = super_resolve(read_image(path), network, **options)
    file = nib.load(written)
    assert file.shape == tuple(expected.shape[1:])
    assert file.shape[2] == {"LPS": 16, "oblique": 21, "RAS": 32}[orientation]
    assert file.header.get_zooms() == pytest.approx(grid_of(expected).spacing, rel=1e-5)
    np.testing.assert_allclose(file.affine, expected.affine, atol=1e-4)
    assert file.get_data_dtype() == np.int16
    # half a unit of rounding, and a tie may fall either way
    np.testing.assert_allclose(np.asarray(file.dataobj), expected[0].numpy(), rtol=0, atol=0.51)


def test_the_inferer_takes_a_batch_and_each_image_by_itself():
    images = [noise(), noise(low=-900, high=900)]
    network = residual()
    batch = MetaTensor(torch.stack([i.as_tensor() for i in images]), affine=images[0].affine)
    batch.is_batch = True
    batch.meta["affine"] = torch.stack([i.affine for i in images])
    result = SuperResolutionInferer(factor=2)(batch, network)
    for one, image in zip(result, images, strict=True):
        torch.testing.assert_close(one, super_resolve(image, network, factor=2).as_tensor())


@pytest.mark.parametrize("profile", ["gaussian", "box"])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_profile_is_estimated_if_it_is_not_given(profile, axis):
    hr = phantoms.constant(phantoms.grid((64, 64, 96)))
    hr[:] = 1000 * phantoms.anatomy(0)
    hr = Orientation(axcodes=("SAR", "RSA", "LAI")[axis])(hr)
    thick = simulate_thick_slices(hr, 2.0, axis=axis, profile=profile)
    given = {"factor": 2, "axis": axis, "consistency": "exact"}
    sr = super_resolve(thick, None, **given)
    assert sr.meta["slice_profile"] == profile
    torch.testing.assert_close(sr, super_resolve(thick, None, **given, profile=profile), rtol=0, atol=0)
    other = super_resolve(thick, None, **given, profile="box" if profile == "gaussian" else "gaussian")
    assert (sr - other).abs().max() > 1


def test_the_inferer_takes_an_image_that_was_given_a_batch_axis_by_hand():
    image = noise()
    image.meta["slice_thickness"] = 7.0
    result = SuperResolutionInferer(factor=2)(image[None], None)  # as MONAI Label calls it
    torch.testing.assert_close(result[0], super_resolve(image, None, factor=2).as_tensor())


# ------------------------------------------------------------- the training path


def crops(works_on: str, factor: int, **draws) -> dict[str, torch.Tensor]:
    """Three crops as the training feeds them, batched."""
    transform = RandSimulateThickSlicesd("image", factors=(factor,), works_on=works_on, **draws)
    transform.set_random_state(0)
    volume = phantoms.constant(phantoms.grid((24, 24, 24)))
    items = []
    for _ in range(3):
        volume = volume.clone()
        volume[:] = torch.rand(24, 24, 24)
        items.append(transform({"image": volume}))
    return {key: torch.stack([torch.as_tensor(item[key]) for item in items]) for key in items[0]}


def reacquired(sr: torch.Tensor, batch) -> torch.Tensor:
    return torch.einsum("bmn,bcxyn->bcxym", batch["acquisition"], sr)


@pytest.mark.parametrize("factor", [2, 3, 4])
@pytest.mark.parametrize("network", [residual, lambda: residual(fold=1), srcnn], ids=["residual", "no fold", "SRCNN"])
def test_crops_in_training_agree_with_what_was_acquired(network, factor):
    batch = crops("thin", factor, thickness_ratios=(0.6, 1.1))
    network = network().train()
    kwargs = {key: batch[key] for key in ("acquired", "acquisition", "spline")}
    sr = ConsistentInferer()(batch["image"], network, **kwargs)
    assert sr.shape == batch["label"].shape
    assert sr.requires_grad
    assert (reacquired(network(batch["image"]), batch) - batch["acquired"]).abs().max() > 0.02
    torch.testing.assert_close(reacquired(sr, batch), batch["acquired"], rtol=0, atol=2e-3)


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_every_level_of_the_pyramid_is_given_in_training_and_the_last_is_consistent(factor):
    batch = crops("thick", factor, thickness_ratios=(0.6, 1.1))
    network = pyramid().train()
    kwargs = {key: batch[key] for key in ("acquired", "acquisition", "spline")}
    levels = ConsistentInferer()(batch["image"], network, **kwargs)
    assert [level.shape[-1] for level in levels] == [24 // factor * 2 ** (k + 1) for k in range(len(levels))]
    assert levels[-1].shape == batch["label"].shape
    torch.testing.assert_close(reacquired(levels[-1], batch), batch["acquired"], rtol=0, atol=2e-3)
    network.eval()
    torch.testing.assert_close(ConsistentInferer()(batch["image"], network, **kwargs), levels[-1])


def test_training_stays_consistent_under_mixed_precision():
    # in half precision A x would differ from y by far more than the ridge
    volume = torch.rand(1, 1, 8, 8, 12)
    thin = torch.arange(12.0) - 5.5
    model = SliceModel.between((torch.arange(3.0) - 1) * 4, thin, slice_thickness=4.0)
    lr = volume @ model.acquisition.float().T
    matrices = {"acquired": lr, "acquisition": model.acquisition.float()[None], "spline": model.spline.float()[None]}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        sr = ConsistentInferer()(lr @ model.spline.float().T, ResidualNet(4, 8), **matrices)
    assert sr.dtype == torch.float32
    torch.testing.assert_close(sr @ model.acquisition.float().T, lr, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("network", "works_on"), [(residual, "thin"), (pyramid, "thick")])
def test_mixed_precision_does_not_spoil_consistency(network, works_on):
    batch = crops(works_on, 4, usual=1.0)
    kwargs = {key: batch[key] for key in ("acquired", "acquisition", "spline")}
    with torch.autocast("cpu", torch.bfloat16):
        sr = ConsistentInferer()(batch["image"], network(), **kwargs)
    assert sr.dtype == torch.float32
    torch.testing.assert_close(reacquired(sr, batch), batch["acquired"], rtol=0, atol=2e-3)


@pytest.mark.parametrize(("network", "works_on"), [(residual, "thin"), (pyramid, "thick")])
def test_bfloat16_rounds_what_is_learned_and_not_the_image(network, works_on):
    batch = crops(works_on, 4, usual=1.0)
    kwargs = {key: batch[key] for key in ("acquired", "acquisition", "spline")}
    busy, still = lively(network()), idle(network())
    exact, rounded = (ConsistentInferer(bfloat16=b)(batch["image"], busy, **kwargs) for b in (False, True))
    assert rounded.dtype == torch.float32
    assert 0 < (exact - rounded).abs().max() < 0.1 * exact.abs().max()
    # bfloat16 has eight bits: an image that went through it would be off by up to 0.002
    exact, rounded = (ConsistentInferer(bfloat16=b)(batch["image"], still, **kwargs) for b in (False, True))
    torch.testing.assert_close(rounded, exact, rtol=0, atol=1e-6)


# ------------------------------------------------------------- uneven slices, gaps, padding

PLACES = np.array([0.0, 2.0, 4.1, 7.0, 9.0, 11.2, 15.0, 17.0, 19.0, 21.0, 23.1, 25.0])


def uneven_image(wavelength: float = 16.0, thickness: float | np.ndarray = 2.0, *, flipped: bool = False) -> tuple:
    """A wave along z, seen by Gaussian profiles at uneven places, and the wave itself."""
    places = PLACES - (PLACES[0] + PLACES[-1]) / 2
    height = np.exp(-((2 * np.pi / wavelength * thickness / FWHM) ** 2) / 2)
    seen = 50 + 30 * height * np.sin(2 * np.pi * places / wavelength)
    step = (PLACES[-1] - PLACES[0]) / (len(PLACES) - 1)
    grid = phantoms.grid((4, 5, len(PLACES)), (0.8, 0.8, step))
    affine = np.diag([0.8, 0.8, -step if flipped else step, 1.0])
    affine[2, 3] = (PLACES[-1] - PLACES[0]) / 2 * (1 if flipped else -1)
    texture = 1 + 0.1 * torch.rand(grid.shape[:2], generator=torch.Generator().manual_seed(1))[..., None]
    voxels = torch.from_numpy(seen[::-1].copy() if flipped else seen).float() * texture
    meta = {
        "slice_positions": -places[::-1] if flipped else places,
        "slice_thickness": np.flip(thickness) if flipped else thickness,
    }
    image = MetaTensor(voxels[None], affine=torch.from_numpy(affine), meta=meta)

    def reference(sr: MetaTensor) -> torch.Tensor:
        z = grid_of(sr).affine[2, 3] + grid_of(sr).affine[2, 2] * np.arange(sr.shape[-1])
        return torch.from_numpy(50 + 30 * np.sin(2 * np.pi * z / wavelength)).float() * texture

    return image, reference


def test_uneven_slices_are_used_where_they_lie():
    image, reference = uneven_image()
    sr = super_resolve(image, None, modality="MR")
    assert grid_of(sr).spacing[2] == pytest.approx(0.8)
    inner = slice(4, -4)
    error = (sr[0] - reference(sr))[..., inner].abs().max()
    even = MetaTensor(image.as_tensor(), affine=image.affine, meta={"slice_thickness": 2.0})
    as_if_even = super_resolve(even, None, modality="MR", spacing=0.8)
    assert error < 1.5  # of an amplitude of 30
    assert (as_if_even[0] - reference(as_if_even))[..., inner].abs().max() > 5 * error
    assert "slice_positions" not in sr.meta


@pytest.mark.parametrize("flipped", [False, True])
def test_a_thickness_that_changes_within_a_volume_is_used_slice_by_slice(flipped):
    thickness = np.where((np.arange(len(PLACES)) > 4) & (np.arange(len(PLACES)) < 9), 3.0, 1.5)
    # crests at both ends, where slices are mirrored
    image, reference = uneven_image(wavelength=PLACES[-1] / 1.5, thickness=thickness, flipped=flipped)
    inner = slice(4, -4)
    sr = super_resolve(image, None, modality="MR")
    error = (sr[0] - reference(sr))[..., inner].abs().max()
    as_the_first = super_resolve(image, None, modality="MR", slice_thickness=1.5)
    assert error < 0.3  # of an amplitude of 30
    assert (as_the_first[0] - reference(sr))[..., inner].abs().max() > 5 * error
    assert "slice_thickness" not in sr.meta  # it is that of the acquired slices


def test_a_thick_slice_covers_more_of_a_gap_than_a_thin_one():
    def filled(thickness) -> list[int]:
        image, _ = uneven_image(thickness=np.full(len(PLACES), 2.0) if thickness is None else thickness)
        return list(super_resolve(image, None, modality="MR", spacing=0.5).meta.get("filled_slices", ()))

    thick_around_the_last_gap = np.where((PLACES > 10) & (PLACES < 16), 4.0, 2.0)
    positions = uneven_image()[0]
    sr = super_resolve(positions, None, modality="MR", spacing=0.5)
    z = grid_of(sr).positions(2) + PLACES[-1] / 2
    last_gap = {int(i) for i in np.flatnonzero((z > 11.2) & (z < 15))}
    assert last_gap & set(filled(None))
    assert set(filled(thick_around_the_last_gap)) == set(filled(None)) - last_gap


def test_the_thickness_of_the_header_holds_only_along_the_stack():
    image = noise()
    image.meta |= {"slice_thickness": 1.0, "slice_axis": 2}
    plain = MetaTensor(image.as_tensor(), affine=image.affine)
    torch.testing.assert_close(
        super_resolve(image, None, axis=0, factor=2), super_resolve(plain, None, axis=0, factor=2), rtol=0, atol=0
    )


@pytest.mark.parametrize("short", NETWORKS)
def test_uneven_slices_are_recovered_in_the_result(short):
    image, _ = uneven_image()
    sr = super_resolve(image, NETWORKS[short](), modality="MR", factor=3)
    thin = grid_of(sr).positions(2)
    again = (
        sr.as_tensor()[0]
        @ profile_matrix(thin, np.asarray(image.meta["slice_positions"]), slice_thickness=2.0).T.float()
    )
    torch.testing.assert_close(again, image.as_tensor()[0], atol=2e-3, rtol=0)


@pytest.mark.parametrize("short", NETWORKS)
def test_uneven_slices_stored_upside_down_give_the_same_volume(short):
    network = NETWORKS[short]()
    up, down = (super_resolve(uneven_image(flipped=f)[0], network, modality="MR") for f in (False, True))
    np.testing.assert_allclose(up[0].numpy(), down[0].flip(-1).numpy(), atol=1e-3)


def test_a_factor_counts_from_the_typical_step_of_uneven_slices():
    image, _ = uneven_image()
    assert grid_of(super_resolve(image, None, factor=4, modality="MR")).spacing[2] == pytest.approx(0.5)
    assert grid_of(super_resolve(image, None, factor=1, modality="MR")).spacing[2] == pytest.approx(2.0)
    with pytest.raises(UsageError, match="axis 2"):
        super_resolve(image, None, axis=1, modality="MR")


@pytest.mark.parametrize("flipped", [False, True])
def test_slices_in_a_gap_are_listed(flipped):
    image, _ = uneven_image(flipped=flipped)
    sr = super_resolve(image, None, modality="MR", spacing=0.5)
    z = grid_of(sr).affine[2, 3] + grid_of(sr).affine[2, 2] * np.arange(sr.shape[-1])
    far = np.abs(z[:, None] - (PLACES - PLACES[-1] / 2)).min(axis=1) > 1.05
    np.testing.assert_array_equal(sr.meta["filled_slices"], np.flatnonzero(far))
    assert "filled_slices" not in super_resolve(noise(), None, factor=4, slice_thickness=1.0).meta


@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize("modality", ["CT", "MR"])
@pytest.mark.parametrize("short", ["none", *NETWORKS])
def test_padding_is_kept_and_touches_nothing_else(short, modality, declared):
    network = NETWORKS[short]() if short != "none" else None
    inside = noise((10, 9, 6), low=-100, high=300)
    outside = torch.zeros(inside.shape, dtype=torch.bool)
    outside[:, :3], outside[..., 8, 2:] = True, True
    padding, air = (-2000.0, -1000.0) if modality == "CT" else (-32768.0, float(inside[~outside].min()))
    padded, unpadded = (
        MetaTensor(torch.where(outside, v, inside.as_tensor()), affine=inside.affine) for v in (padding, air)
    )
    if declared:
        padded.meta["padding_value"] = padding
    given = {"factor": 3, "modality": modality, "consistency": "exact"}
    got, expected = (super_resolve(i, network, **given) for i in (padded, unpadded))
    mask = outside.repeat_interleave(3, dim=-1)
    assert (got[mask] == padding).all()
    np.testing.assert_array_equal(got[~mask].numpy(), expected[~mask].numpy())


def test_dark_voxels_of_an_mr_volume_are_no_padding():
    image = noise((6, 5, 8), low=-3000, high=100)
    sr = super_resolve(image, None, factor=2, modality="MR")
    assert (sr == image.min()).sum() == 0
