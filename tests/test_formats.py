"""Every format that is read: right where it is sound, refused by a code where it is not."""

from __future__ import annotations

import gzip
import re
import struct
import tracemalloc
import zlib
from pathlib import Path

import file_formats as formats
import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from catalogue import fault
from nibabel.freesurfer.mghformat import MGHImage

from monai_sr.acquired import Acquired
from monai_sr.errors import ImageError, SuperResolutionError, UsageError, collect_notices
from monai_sr.io.images import read_header, read_image


def read(path: Path, **options):
    """The volume, and the codes of what was warned of."""
    with collect_notices() as notices:
        image = read_image(path, **options)
    return image, [notice.code for notice in notices]


def code_of(path: Path, **options) -> str:
    """The code by which a file is refused."""
    with pytest.raises(ImageError) as caught:
        read(path, **options)
    return caught.value.code


# ------------------------------------------------------------- sound


@fault("I29")
@pytest.mark.parametrize("name", formats.FORMATS)
def test_every_format_is_read_where_its_voxels_lie(tmp_path, name):
    path = formats.FORMATS[name](tmp_path)
    image, codes = read(path)
    assert np.array_equal(image[0].numpy(), formats.voxels())
    assert image.meta["stored_dtype"] == ("int32" if name.startswith("MG") else "int16")
    if name.startswith(("Analyze", "GIPL")):
        assert codes == ["W-HDR-NOFORM"]
        assert image.meta["has_orientation"] is False
        np.testing.assert_allclose(np.linalg.norm(image.affine[:3, :3], axis=0), formats.SPACING)
    else:
        assert codes == []
        np.testing.assert_allclose(image.affine, formats.AFFINE, atol=1e-6)
    with collect_notices():
        header = read_header(path)
    assert header.shape == formats.SHAPE
    np.testing.assert_array_equal(header.affine, image.affine)


@fault("I29")
@pytest.mark.parametrize("name", [name for name in formats.FORMATS if "pair" in name or "Analyze" in name])
def test_a_pair_may_be_given_by_either_name(tmp_path, name):
    path = formats.FORMATS[name](tmp_path)
    image, codes = read(path)
    header = path.with_name(path.name.replace(".img", ".hdr"))
    again, same = read(header)
    assert torch.equal(image, again) and codes == same
    # one of them may be packed and the other not
    if path.suffix == ".gz":
        (tmp_path / "a.hdr").write_bytes(gzip.decompress(header.read_bytes()))
        header.unlink()
        assert torch.equal(read(path)[0], image)


@pytest.mark.parametrize(
    "dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "float32", "float64"]
)
@pytest.mark.parametrize("suffix", [".mha", ".mhd", ".nrrd", ".nhdr"])
@pytest.mark.parametrize("compressed", [False, True])
def test_what_simpleitk_writes_is_read_as_simpleitk_reads_it(tmp_path, dtype, suffix, compressed):
    image = sitk.GetImageFromArray(formats.voxels((5, 6, 7), dtype))
    image.SetSpacing((0.7, 0.8, 3))
    image.SetOrigin((-20.5, 13.25, 7.75))
    image.SetDirection((0, 0, 1, -0.6, 0.8, 0, -0.8, -0.6, 0))
    sitk.WriteImage(image, str(tmp_path / f"a{suffix}"), useCompression=compressed)
    read, _ = globals()["read"](tmp_path / f"a{suffix}")
    assert np.array_equal(read[0].numpy(), sitk.GetArrayFromImage(image).T)
    assert read.meta["stored_dtype"] == (dtype if np.dtype(dtype).itemsize <= 4 else "float32")
    for index in [(0, 0, 0), (3, 4, 2), (6, 5, 4)]:
        world = np.array(image.TransformIndexToPhysicalPoint(index)) * [-1, -1, 1]
        np.testing.assert_allclose((read.affine.numpy() @ [*index, 1])[:3], world, atol=1e-6)


@pytest.mark.parametrize(("slope", "intercept"), [(1, 0), (0.25, -5), (3, 0), (1, 7), (0, 9), (np.nan, 2)])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32", "float64", ">i2", ">f4"])
def test_scaled_voxels_are_those_of_nibabel(tmp_path, dtype, slope, intercept):
    header = nib.Nifti1Header(endianness=">" if dtype.startswith(">") else "<")
    header.set_data_dtype(dtype)
    image = nib.Nifti1Image(formats.voxels(dtype=dtype), formats.AFFINE, header)
    nib.save(image, tmp_path / "a.nii")
    content = bytearray((tmp_path / "a.nii").read_bytes())
    content[112:120] = struct.pack(f"{header.endianness}2f", slope, intercept)
    (tmp_path / "a.nii").write_bytes(content)
    expected = np.asarray(nib.load(tmp_path / "a.nii").dataobj, dtype=np.float32)
    assert np.array_equal(read(tmp_path / "a.nii")[0][0].numpy(), expected)


@pytest.mark.parametrize("shape", [(8, 7, 6), (9, 5, 4)])
def test_an_mgh_lies_where_nibabel_says(tmp_path, shape):
    turn = np.array([[-0.6, 0, 0.8], [0.8, 0, 0.6], [0, -1, 0]])
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turn * [1.0, 1.2, 4.0], (3, -4, 5.5)
    nib.save(MGHImage(formats.voxels(shape, "float32"), affine), tmp_path / "a.mgz")
    np.testing.assert_allclose(read(tmp_path / "a.mgz")[0].affine, affine, atol=1e-5)


def test_voxels_may_be_listed_in_several_files(tmp_path):
    for index in range(6):
        part = formats.stored(np.asfortranarray(formats.voxels()[..., index]))
        (tmp_path / f"s{index + 1:02d}.raw").write_bytes(part)
    names = "".join(f"s{index:02d}.raw\n" for index in range(1, 7)).encode()
    text = (formats.meta_image(tmp_path / "a.mhd").read_bytes().split(b"ElementDataFile")[0], b"ElementDataFile = ")
    for place in (b"LIST\n" + names, b"s%02d.raw 1 6 1\n"):
        (tmp_path / "a.mhd").write_bytes(b"".join(text) + place)
        assert np.array_equal(read(tmp_path / "a.mhd")[0][0].numpy(), formats.voxels())
    header = formats.nrrd(tmp_path / "a.nhdr", b"").read_bytes().rstrip(b"\n")
    for place in (b"LIST\n" + names, b"s%02d.raw 1 6 1\n"):
        (tmp_path / "a.nhdr").write_bytes(header + b"\ndata file: " + place)
        assert np.array_equal(read(tmp_path / "a.nhdr")[0][0].numpy(), formats.voxels())
    (tmp_path / "s03.raw").unlink()
    assert code_of(tmp_path / "a.nhdr") == code_of(tmp_path / "a.mhd") == "E-IO-MISSING"


@pytest.mark.parametrize(
    ("content", "fields"),
    [
        (b"notes\nmore\n" + formats.COMPRESSED, {"encoding": "gzip", "line_skip": "2"}),
        (gzip.compress(b"1234" + formats.stored()), {"encoding": "gzip", "byte_skip": "4"}),
        (b"notes\n" + gzip.compress(b"12" + formats.stored()), {"encoding": "gz", "line_skip": "1", "byte_skip": "2"}),
        (b"notes\n\0\0" + formats.stored(), {"line_skip": "1", "byte_skip": "2"}),
        (b"anything" + formats.stored(), {"byte_skip": "-1"}),
        (formats.stored(formats.voxels().astype(">i2").view("<i2")), {"endian": "big"}),
    ],
    ids=["lines", "bytes in a gzip", "both", "both of plain voxels", "the last bytes", "big-endian"],
)
@pytest.mark.parametrize("detached", [False, True])
def test_a_nrrd_may_skip_what_lies_before_the_voxels(tmp_path, content, fields, detached):
    name = {"data_file": "a.bin"} if detached else {}
    image, codes = read(formats.nrrd(tmp_path / "a.nhdr", content, **fields, **name))
    assert np.array_equal(image[0].numpy(), formats.voxels()) and not codes


@pytest.mark.parametrize(
    ("fields", "thickness"),
    [
        ({"thicknesses": "nan nan 5"}, 5.0),
        ({"thicknesses": "NaN NaN 0.5", "space_units": '"cm" "cm" "cm"'}, 5.0),
        ({"thicknesses": "1 1 nan"}, None),
        ({"thicknesses": "nan nan 0"}, None),
        ({}, None),
    ],
)
def test_a_nrrd_has_the_thickness_of_its_slices(tmp_path, fields, thickness):
    image, _ = read(formats.nrrd(tmp_path / "a.nrrd", formats.stored(), **fields))
    assert image.meta.get("slice_thickness") == thickness
    assert Acquired.of(image).sources["slice_thickness"] == ("assumed" if thickness is None else "header")


def test_a_meta_image_may_skip_what_lies_before_the_voxels(tmp_path):
    for skip in ("3", "-1"):
        path = formats.meta_image(
            tmp_path / "a.mhd", b"abc" + formats.stored(), HeaderSize=skip, ElementDataFile="a.raw"
        )
        assert np.array_equal(read(path)[0][0].numpy(), formats.voxels())


@pytest.mark.parametrize(
    ("sizes", "kinds", "directions", "shape"),
    [
        ("3 8 7 6", "list domain domain domain", "none (1,0,0) (0,1.5,0) (0,0,4)", (8, 7, 6)),
        ("8 7 6 3", "space space space time", "(1,0,0) (0,1.5,0) (0,0,4) none", (8, 7, 6)),
        ("1 8 7 6", "scalar domain domain domain", "none (1,0,0) (0,1.5,0) (0,0,4)", (8, 7, 6)),
        ("8 1 7 6", "domain list domain domain", "(1,0,0) none (0,1.5,0) (0,0,4)", (8, 7, 6)),
    ],
)
def test_other_axes_of_a_nrrd_are_volumes_or_nothing(tmp_path, sizes, kinds, directions, shape):
    count = max(1, int(np.prod([int(n) for n in sizes.split()])) // 336)
    lengths = [int(n) for n in sizes.split()]
    data = formats.voxels(lengths)
    path = formats.nrrd(
        tmp_path / "a.nrrd", formats.stored(data), dimension="4", sizes=sizes, kinds=kinds, space_directions=directions
    )
    volumes, _ = read(path, volume="all")
    assert volumes.shape == (count, *shape)
    across = [axis for axis, word in enumerate(directions.split()) if word == "none"]
    assert np.array_equal(volumes.numpy(), np.moveaxis(data, across, [0]))
    np.testing.assert_allclose(volumes.affine, formats.AFFINE)
    if count > 1:
        assert code_of(path) == "E-IMG-4D"


def test_colors_of_a_nrrd_are_refused(tmp_path):
    path = formats.nrrd(
        *(tmp_path / "a.nrrd", formats.stored(formats.voxels((3, 8, 7, 6)))),
        **{"dimension": "4", "sizes": "3 8 7 6", "kinds": "RGB-color domain domain domain"},
        space_directions="none (1,0,0) (0,1.5,0) (0,0,4)",
    )
    assert code_of(path) == "E-IMG-DTYPE"


# ------------------------------------------------------------- damaged: the table of formats and damages

DAMAGES = ("cut", "flipped", "absurd size", "missing companion")


def expected(name: str, damage: str) -> str | None:
    """The code of a damage; None where a format cannot show it."""
    if damage == "cut":
        return "E-IO-TRUNC"
    if damage == "flipped":
        return "E-IO-CRC" if formats.is_packed(name) else None
    if damage == "absurd size":
        return "E-HDR-DIM"
    return "E-IO-MISSING" if any(word in name for word in ("pair", "Analyze", "file")) else None


def damaged(name: str, damage: str, folder: Path) -> Path:
    path = formats.FORMATS[name](folder)
    voxels = formats.voxel_file(path)
    content = bytearray(voxels.read_bytes())
    if damage == "cut":
        voxels.write_bytes(content[:-9])
    elif damage == "flipped":
        content[len(content) - 40] ^= 8
        voxels.write_bytes(content)
    elif damage == "absurd size":
        header = path.with_name(path.name.replace(".img", ".hdr"))
        header.write_bytes(enlarged(header.read_bytes(), name))
    else:
        (voxels if voxels != path else path.with_name(path.name.replace(".img", ".hdr"))).unlink()
    return path


def enlarged(content: bytes, name: str) -> bytes:
    """A header that claims 60,000 x 60,000 x 60,000 voxels, or as many as its numbers can say."""
    packed = content[:2] == b"\x1f\x8b"
    content = bytearray(gzip.decompress(content) if packed else content)
    if "NRRD" in name or "MetaImage" in name:
        content = bytearray(re.sub(rb"(?m)^((?:sizes:|DimSize =) )8 7 6", rb"\g<1>60000 60000 60000", bytes(content)))
    elif "GIPL" in name:
        content[:6] = struct.pack(">3H", *[60000] * 3)
    elif name.startswith("MG"):
        content[4:16] = struct.pack(">3i", *[60000] * 3)
    elif "NIfTI-2" in name:
        content[24:48] = struct.pack("<3q", *[60000] * 3)
    else:
        content[42:48] = struct.pack("<3h", *[32000] * 3)
    return gzip.compress(content) if packed else bytes(content)


TABLE = [
    pytest.param(name, damage, expected(name, damage), id=f"{name}-{damage}")
    for name in formats.FORMATS
    for damage in DAMAGES
    if expected(name, damage)
]


@fault("I28", "E-IO-TRUNC", "E-IO-CRC", "E-HDR-DIM", "E-IO-MISSING")
@pytest.mark.parametrize(("name", "damage", "code"), TABLE)
def test_each_damage_of_each_format_is_refused_by_its_code(tmp_path, name, damage, code, capfd):
    path = damaged(name, damage, tmp_path)
    assert code_of(path) == code
    assert capfd.readouterr() == ("", "")


@fault("I28", "E-IO-TRUNC", "E-IO-CRC")
@pytest.mark.parametrize("name", formats.FORMATS)
def test_wherever_a_format_is_cut_or_flipped_it_gives_the_right_voxels_or_none(tmp_path, name):
    """But for what has no checksum: there a flipped bit of a voxel is another voxel."""
    path = formats.FORMATS[name](tmp_path)
    voxels = formats.voxel_file(path)
    content = voxels.read_bytes()
    for length in range(0, len(content), 17):
        voxels.write_bytes(content[:length])
        assert code_of(path).startswith(("E-IO-", "E-HDR-"))
    if not formats.is_packed(name):
        return
    text = content.rfind(b"\n\n") + 2 if "NRRD" in name and voxels == path else content.find(b"LOCAL\n") + 6
    codes = set()
    for offset in range(text if "MetaImage" in name or "NRRD" in name else 0, len(content), 5):
        damaged = bytearray(content)
        damaged[offset] ^= 1 << offset % 8
        voxels.write_bytes(damaged)
        try:
            assert np.array_equal(read(path)[0][0].numpy(), formats.voxels()), offset
        except ImageError as error:
            codes.add(error.code)
    assert codes <= {"E-IO-CRC", "E-IO-TRUNC", "E-IO-READ", "E-IO-TYPE", "E-HDR-FIELD", "E-HDR-DIM"}
    assert "E-IO-CRC" in codes


@fault("I28", "E-IO-TRUNC")
@pytest.mark.parametrize("size", ["1", "50", "100000"])
def test_a_meta_image_with_a_wrong_size_of_its_stream_is_refused(tmp_path, size):
    path = formats.meta_image(tmp_path / "a.mha", formats.PACKED, CompressedData="True", CompressedDataSize=size)
    assert code_of(path) == "E-IO-TRUNC"


@fault("I28", "W-IO-MORE")
@pytest.mark.parametrize("name", formats.FORMATS)
def test_bytes_put_in_or_taken_out_among_the_voxels_are_noticed(tmp_path, name):
    path = formats.FORMATS[name](tmp_path)
    voxels = formats.voxel_file(path)
    content = voxels.read_bytes()
    middle = len(content) - 150
    for damage in (content[:middle] + b"\a" * 7 + content[middle:], content[:middle] + content[middle + 7 :]):
        voxels.write_bytes(damage)
        try:
            _, codes = read(path)
        except SuperResolutionError:
            continue
        assert "W-IO-MORE" in codes or "text" in name  # where a number may have fewer digits


@fault("I28")
@pytest.mark.parametrize("name", ["MetaImage", "MetaImage raw file", "NRRD", "NRRD raw file", "NIfTI-1", "MGH", "GIPL"])
def test_a_header_that_ends_at_any_byte_is_refused(tmp_path, name):
    path = formats.FORMATS[name](tmp_path)
    content = path.read_bytes()
    for end in range(min(len(content), 600)):
        path.write_bytes(content[:end])
        try:
            read(path)
        except SuperResolutionError:
            continue
        assert content[end:].strip() == b""  # but for the last end of line


@fault("I28", "W-IO-MORE")
@pytest.mark.parametrize("name", [name for name in formats.FORMATS if not name.startswith("MG") and "ITK" not in name])
def test_bytes_behind_the_last_voxel_are_reported(tmp_path, name):
    """The header may have lost a slice; of MGH, text may follow."""
    path = formats.FORMATS[name](tmp_path)
    voxels = formats.voxel_file(path)
    content = voxels.read_bytes()
    more = b"0123" if "hex" in name else b" 1 2 3"
    if "zlib" in name or "zraw" in name:
        more = zlib.compress(formats.stored() + more)
        content = content.replace(formats.PACKED, more).replace(f"{len(formats.PACKED)}".encode(), b"%d" % len(more))
    elif formats.is_packed(name):
        content += gzip.compress(more)
    else:
        content += more
    voxels.write_bytes(content)
    image, codes = read(path)
    assert np.array_equal(image[0].numpy(), formats.voxels())
    assert "W-IO-MORE" in codes


@fault("I28", "E-IO-READ", "E-IO-TYPE", "E-HDR-FIELD")
@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("a.mnc", b"CDF\1" + bytes(600), "E-IO-READ"),
        ("a.mnc", b"\x89HDF\r\n\x1a\n" + bytes(600), "E-IO-READ"),
        ("a.nrrd.gz", gzip.compress(b"NRRD0005\n", mtime=0), "E-IO-TYPE"),
        ("a.mha", b"ObjectType = Image\nNDims = 3\n", "E-IO-TRUNC"),
        ("a.nhdr", b"NRRD0005\ntype: short\n", "E-IO-TRUNC"),
        ("a.img", bytes(600), "E-IO-MISSING"),
        ("a.gipl", bytes(600), "E-IO-READ"),
    ],
)
def test_what_cannot_be_read_is_refused_with_a_remedy(tmp_path, name, content, code):
    (tmp_path / name).write_bytes(content)
    assert code_of(tmp_path / name) == code


@fault("I28", "E-HDR-FIELD", "E-HDR-DIM", "E-IMG-DTYPE")
@pytest.mark.parametrize(
    ("make", "fields", "code"),
    [
        (formats.meta_image, {"ElementType": "MET_WORD"}, "E-HDR-FIELD"),
        (formats.meta_image, {"ElementNumberOfChannels": "3"}, "E-IMG-DTYPE"),
        (formats.meta_image, {"ElementNumberOfChannels": "x"}, "E-HDR-FIELD"),
        (formats.meta_image, {"DimSize": "8 7"}, "E-HDR-DIM"),
        (formats.meta_image, {"DimSize": "8 -7 6"}, "E-HDR-DIM"),
        (formats.meta_image, {"DimSize": f"8 7 {'6' * 5000}"}, "E-HDR-FIELD"),
        (formats.meta_image, {"TransformMatrix": "1 0 0"}, "E-HDR-AFFINE"),
        (formats.meta_image, {"DistanceUnits": "inch"}, "E-HDR-UNITS"),
        (formats.nrrd, {"type": "block"}, "E-IMG-DTYPE"),
        (formats.nrrd, {"type": "word"}, "E-HDR-FIELD"),
        (formats.nrrd, {"encoding": "bzip2"}, "E-HDR-FIELD"),
        (formats.nrrd, {"endian": None}, "E-HDR-FIELD"),
        (formats.nrrd, {"sizes": None}, "E-HDR-DIM"),
        (formats.nrrd, {"dimension": "4"}, "E-HDR-DIM"),
        (formats.nrrd, {"space_directions": "(1,0,0) (0,1,0)"}, "E-HDR-FIELD"),
        (formats.nrrd, {"space_directions": "(1,0,0) (0,1,0) (0,nan,4)"}, "E-HDR-FIELD"),
        (formats.nrrd, {"space_units": '"inch" "inch" "inch"'}, "E-HDR-UNITS"),
        (formats.nrrd, {"line_skip": "9"}, "E-IO-TRUNC"),
        (formats.nrrd, {"line_skip": "-1"}, "E-HDR-FIELD"),
        (formats.nrrd, {"byte_skip": "-2"}, "E-HDR-FIELD"),
    ],
)
def test_an_invalid_field_is_named(tmp_path, make, fields, code):
    assert code_of(make(tmp_path / "a.x", **fields)) == code


@fault("Z06", "E-SEC-PATH", "E-IO-TYPE", "E-IO-MISSING")
@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("../outside.raw", "E-SEC-PATH"),
        ("in/../../outside.raw", "E-SEC-PATH"),
        ("/etc/hostname", "E-SEC-PATH"),
        ("..\\outside.raw", "E-SEC-PATH"),
        ("C:\\outside.raw", "E-SEC-PATH"),
        ("a\0b", "E-SEC-PATH"),
        ("x" * 5000, "E-IO-MISSING"),
        ("in", "E-IO-TYPE"),
    ],
)
@pytest.mark.parametrize("suffix", [".mhd", ".nhdr"])
def test_a_header_takes_no_voxels_from_outside_its_folder(tmp_path, name, code, suffix):
    (tmp_path / "folder" / "in").mkdir(parents=True)
    (tmp_path / "outside.raw").write_bytes(formats.stored())
    make, key = (formats.meta_image, "ElementDataFile") if suffix == ".mhd" else (formats.nrrd, "data_file")
    path = make(tmp_path / "folder" / f"a{suffix}", **{key: "a.raw"})
    path.write_bytes(path.read_bytes().replace(b"a.raw", name.encode()))
    assert code_of(path) == code


# ------------------------------------------------------------- sizes before anything is unpacked


@fault("Z02", "E-IO-TRUNC", "E-SEC-BOMB")
@pytest.mark.parametrize(("slices", "code"), [(6000, "E-IO-TRUNC"), (600, "E-SEC-BOMB")])
def test_a_gzip_is_not_unpacked_where_its_header_claims_too_much(tmp_path, slices, code):
    """1.3 MB that hold 1.3 GB, and claim ten times more, or what they hold."""
    header = nib.Nifti1Header()
    header.set_data_shape((1024, 1024, slices))
    header.set_data_dtype(np.int16)
    header["sform_code"], header["srow_x"], header["srow_y"], header["srow_z"] = 1, *np.diag([1.0, 1, 4, 1])[:3]
    header["vox_offset"], header["magic"] = 352, b"n+1"
    path = tmp_path / "a.nii.gz"
    path.write_bytes(gzip.compress(header.binaryblock + bytes(4), 1) + bytes(1_300_000))
    tracemalloc.start()
    assert code_of(path) == code
    assert tracemalloc.get_traced_memory()[1] < 8e6
    tracemalloc.stop()


# ------------------------------------------------------------- geometry: never one millimeter in silence


def nifti(folder: Path, **fields) -> Path:
    """A NIfTI-1 file with both forms, and fields of its header changed on disk."""
    image = nib.Nifti1Image(formats.voxels(), formats.AFFINE)
    image.set_qform(formats.AFFINE, 1)
    image.set_sform(formats.AFFINE, 1)
    for name, value in fields.items():
        image.header[name] = value
    path = folder / "a.nii"
    # nibabel would mend the header as it writes
    path.write_bytes(image.header.binaryblock + bytes(4) + formats.stored())
    return path


ON = {"magic": b"n+1", "vox_offset": 352}
DIRECTIONS = {"srow_x": [1, 0, 0, -5], "srow_y": [0, 1, 0, 6.5], "srow_z": [0, 0, 1, -7.25]}
NOTHING = {"srow_x": [0] * 4, "srow_y": [0] * 4, "srow_z": [0] * 4}
OTHER = {"srow_x": [2, 0, 0, -5], "srow_y": [0, 3, 0, 6.5], "srow_z": [0, 0, 9, -7.25]}


@fault("I30", "W-HDR-SPACING", "W-HDR-AFFINE", "W-HDR-FORMS", "W-HDR-OFFSET")
@pytest.mark.parametrize(
    ("fields", "spacing", "codes"),
    [
        ({}, formats.SPACING, []),
        ({"vox_offset": 0}, formats.SPACING, ["W-HDR-OFFSET"]),
        ({"vox_offset": 348}, formats.SPACING, ["W-HDR-OFFSET"]),
        (DIRECTIONS, formats.SPACING, ["W-HDR-SPACING"]),
        (DIRECTIONS | {"qform_code": 0}, formats.SPACING, ["W-HDR-SPACING"]),
        (OTHER, (2, 3, 9), ["W-HDR-FORMS"]),
        (OTHER | {"qform_code": 0}, (2, 3, 9), ["W-HDR-SPACING"]),
        (NOTHING, formats.SPACING, ["W-HDR-AFFINE"]),
        ({"pixdim": [1, -1, 1.5, 4, 0, 0, 0, 0]}, formats.SPACING, ["W-HDR-SPACING"]),
        ({"pixdim": [1, -1, 1.5, 4, 0, 0, 0, 0], "qform_code": 0}, formats.SPACING, ["W-HDR-SPACING"]),
        ({"pixdim": [0, 1, 1.5, 4, 0, 0, 0, 0], "sform_code": 0}, formats.SPACING, []),
    ],
)
def test_the_spacing_is_right_or_a_warning_says_which_is_used(tmp_path, fields, spacing, codes):
    image, warned = read(nifti(tmp_path, **ON | fields))
    np.testing.assert_allclose(np.linalg.norm(image.affine[:3, :3], axis=0), spacing, rtol=1e-6)
    np.testing.assert_allclose(image.affine[:3, 3], formats.ORIGIN, rtol=1e-6)
    assert warned == codes
    assert np.array_equal(image[0].numpy(), formats.voxels())


@fault("I30", "E-HDR-SPACING")
@pytest.mark.parametrize(
    "fields",
    [
        NOTHING | {"qform_code": 0},
        {"pixdim": [1, -1, 1.5, 4, 0, 0, 0, 0], "sform_code": 0},
        {"pixdim": [1, 1, 1.5, 0, 0, 0, 0, 0]},
    ],
)
def test_a_nifti_without_a_usable_spacing_is_refused(tmp_path, fields):
    assert code_of(nifti(tmp_path, **ON | fields)) == "E-HDR-SPACING"


@fault("I30")
def test_a_form_that_is_asked_for_is_taken_as_it_is(tmp_path):
    image, codes = read(nifti(tmp_path, **ON | DIRECTIONS), geometry="sform")
    np.testing.assert_allclose(np.linalg.norm(image.affine[:3, :3], axis=0), 1)
    assert not codes


@fault("I30", "E-HDR-SPACING", "W-HDR-NOFORM", "W-HDR-UNITS")
@pytest.mark.parametrize(
    ("make", "fields", "spacing", "codes"),
    [
        (formats.nrrd, {"space_directions": None}, None, "E-HDR-SPACING"),
        (formats.nrrd, {"space_directions": None, "spacings": "nan nan nan"}, None, "E-HDR-SPACING"),
        (formats.nrrd, {"space_directions": None, "space": None, "spacings": "1 1.5 4"}, (1, 1.5, 4), ["W-HDR-NOFORM"]),
        (formats.nrrd, {"space_units": '"cm" "cm" "cm"'}, (10, 15, 40), ["W-HDR-UNITS"]),
        (formats.nrrd, {"space_units": '"mm" "mm" "mm"'}, (1, 1.5, 4), []),
        (formats.nrrd, {"space_units": '"um" "um" "mm"'}, None, "E-HDR-UNITS"),
        (
            formats.nrrd,
            {"space_directions": None, "spacings": ".1 .15 .4", "units": '"cm" "cm" "cm"'},
            (1, 1.5, 4),
            ["W-HDR-UNITS"],
        ),
        (formats.nrrd, {"space_directions": "(1,0,0) (0,1,0) (0,0,0)"}, None, "E-HDR-SPACING"),
        (formats.nrrd, {"space_directions": "(1,0,0) (0,1,0) none"}, None, "E-HDR-SPACING"),
        (formats.meta_image, {"ElementSpacing": None}, None, "E-HDR-SPACING"),
        (formats.meta_image, {"ElementSpacing": None, "ElementSize": "1 1.5 4"}, (1, 1.5, 4), []),
        (formats.meta_image, {"ElementSpacing": "1 0 4"}, None, "E-HDR-SPACING"),
        (formats.meta_image, {"DistanceUnits": "cm"}, (10, 15, 40), ["W-HDR-UNITS"]),
        (formats.meta_image, {"DistanceUnits": "mm", "Offset": None}, (1, 1.5, 4), []),
    ],
)
def test_no_format_is_taken_as_one_millimeter_in_silence(tmp_path, make, fields, spacing, codes):
    path = make(tmp_path / "a.x", **fields)
    if isinstance(codes, str):
        assert code_of(path) == codes
        return
    image, warned = read(path)
    np.testing.assert_allclose(np.linalg.norm(image.affine[:3, :3], axis=0), spacing, rtol=1e-6)
    assert warned == codes


@pytest.mark.parametrize(
    ("space", "signs"),
    [
        ("left-posterior-superior", (-1, -1, 1)),
        ("LAS", (-1, 1, 1)),
        ("RAS", (1, 1, 1)),
        ("right-anterior-superior-time", (1, 1, 1)),
    ],
)
def test_the_space_of_a_nrrd_decides_left_and_right(tmp_path, space, signs):
    image, codes = read(formats.nrrd(tmp_path / "a.nrrd", space=space))
    np.testing.assert_allclose(image.affine, np.diag([*signs, 1.0]) @ formats.AFFINE)
    assert not codes


@fault("I30", "E-HDR-SPACING")
def test_an_mgh_without_geometry_is_refused(tmp_path):
    path = formats.FORMATS["MGH"](tmp_path)
    content = bytearray(path.read_bytes())
    content[28:30] = b"\0\0"
    path.write_bytes(content)
    assert code_of(path) == "E-HDR-SPACING"


def test_an_analyze_image_has_no_forms_to_choose(tmp_path):
    with pytest.raises(UsageError, match="--geometry qform"):
        read_image(formats.FORMATS["Analyze"](tmp_path), geometry="qform")
    assert read(formats.FORMATS["NIfTI-1 pair"](tmp_path), geometry="sform")[1] == []


@pytest.mark.parametrize(("name", "better"), [("a.mgz", "a.mgh"), ("a.nii.gz", "a.nii")])
def test_a_plain_file_named_packed_gets_a_better_name(tmp_path, name, better):
    plain = formats.FORMATS["MGH" if "mg" in name else "NIfTI-1"](tmp_path)
    plain.rename(tmp_path / name)
    with collect_notices() as notices:
        read_image(tmp_path / name)
    assert [(notice.code, notice.facts["name"]) for notice in notices] == [("W-IO-NAME", better)]


def test_a_gipl_lies_where_simpleitk_says(tmp_path):
    path = formats.FORMATS["GIPL"](tmp_path)
    theirs, (ours, _) = sitk.ReadImage(str(path)), read(path)
    assert np.array_equal(sitk.GetArrayFromImage(theirs).T, ours[0].numpy())
    for index in [(0, 0, 0), (3, 4, 2)]:
        world = np.array(theirs.TransformIndexToPhysicalPoint(index)) * [-1, -1, 1]
        np.testing.assert_allclose((ours.affine.numpy() @ [*index, 1])[:3], world, atol=1e-6)
