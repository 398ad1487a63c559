"""Compressed pixels that lie about their size or break their decoder: an error that names the file, and no more."""

from __future__ import annotations

import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import catalogue
import numpy as np
import pydicom
import pytest
from dicom_phantoms import Stack, even, slices, write
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import JPEG2000Lossless, JPEGLosslessSV1, JPEGLSLossless

from monai_sr.dicom import decoder as decoding
from monai_sr.dicom import find_series, read_series
from monai_sr.dicom.codestreams import check_codestreams
from monai_sr.dicom.decoder import DECODER, Decoder, UndecodableError
from monai_sr.errors import ImageError

WIDE = Stack(even(3, 4.0), rows=40, columns=44)
HEADER = {"Rows": 40, "Columns": 44, "SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2"} | {
    "BitsAllocated": 16, "BitsStored": 16, "HighBit": 15, "PixelRepresentation": 0
}  # fmt: skip


def frame_of(path: Path) -> bytes:
    return next(generate_frames(pydicom.dcmread(path).PixelData, number_of_frames=1))


def replace_frame(path: Path, frame: bytes) -> None:
    dataset = pydicom.dcmread(path)
    dataset.PixelData = encapsulate([frame])
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(path)


def with_bytes(content: bytes, marker: bytes, offset: int, new: bytes) -> bytes:
    """Other bytes at an offset behind a marker."""
    at = content.index(marker) + offset
    return content[:at] + new + content[at + len(new) :]


# ------------------------------------------------------------- what a codestream says of itself

SIZ, SOF55 = b"\xff\x4f\xff\x51", b"\xff\xf7"
CLAIMS = {
    "JPEG 2000 of 40000 x 40000": (JPEG2000Lossless, SIZ, 8, struct.pack(">2I", 40000, 40000)),
    "JPEG 2000 of one row less": (JPEG2000Lossless, SIZ, 12, struct.pack(">I", 39)),
    "JPEG 2000 of 3 components": (JPEG2000Lossless, SIZ, 40, b"\0\3"),
    "JPEG 2000 of 38 bits": (JPEG2000Lossless, SIZ, 42, b"\x25"),
    "JPEG 2000 of tiny tiles": (JPEG2000Lossless, SIZ, 24, struct.pack(">2I", 1, 0)),
    "JPEG 2000 of many tiles": (JPEG2000Lossless, SIZ, 8, struct.pack(">8I", 9000, 9000, 0, 0, 1, 1, 0, 0)),
    "JPEG-LS of other rows": (JPEGLSLossless, SOF55, 5, struct.pack(">H", 39)),
    "JPEG-LS of 60000 columns": (JPEGLSLossless, SOF55, 7, struct.pack(">H", 60000)),
    "JPEG-LS of no bits": (JPEGLSLossless, SOF55, 4, b"\0"),
    "JPEG-LS of 3 components": (JPEGLSLossless, SOF55, 9, b"\3"),
    "JPEG-LS with a wrong segment length": (JPEGLSLossless, SOF55, 2, b"\0\x20"),
}


@catalogue.fault("D40", "E-DCM-PIXELS")
@pytest.mark.parametrize("claim", CLAIMS)
def test_a_codestream_that_contradicts_the_header_never_reaches_a_decoder(tmp_path, monkeypatch, claim):
    syntax, marker, offset, new = CLAIMS[claim]
    path = write(tmp_path, slices(WIDE), syntax=syntax)[1]
    replace_frame(path, with_bytes(frame_of(path), marker, offset, new))
    decode, decoded = DECODER.decode, []
    monkeypatch.setattr(DECODER, "decode", lambda pixels, *rest: decoded.append(pixels) or decode(pixels, *rest))
    with pytest.raises(ImageError) as caught:
        read_series(find_series(tmp_path).series[0])
    assert caught.value.code == "E-DCM-PIXELS" and path.name in str(caught.value)
    assert len(decoded) == 1  # that of the slice before it


@pytest.mark.parametrize("bits", [8, 16])
def test_a_codestream_may_have_as_many_bits_as_the_header_allocates(bits):
    jpeg = b"\xff\xd8\xff\xe0\0\4AB\xff\xc3\0\x0b" + struct.pack(">BHHB", 12, 40, 44, 1) + b"\1\x11\0\xff\xda\0\0"
    pixels = encapsulate([jpeg, jpeg])
    if bits == 16:
        check_codestreams(pixels, rows=40, columns=44, bits_allocated=bits)
    else:
        with pytest.raises(UndecodableError):
            check_codestreams(pixels, rows=40, columns=44, bits_allocated=bits)


# ------------------------------------------------------------- a process that may die


@pytest.fixture
def program(tmp_path):
    """A decoder whose program is given as text."""
    made = []

    def start(text: str) -> Decoder:
        (tmp_path / "program.py").write_text("import sys, time\nprint('ready', flush=True)\n" + text)
        made.append(Decoder(str(tmp_path / "program.py")))
        return made[-1]

    yield start
    for one in made:
        one.close()


@pytest.mark.parametrize(
    "text",
    [
        "import os; os.abort()",
        "sys.exit(3)",
        "print('no JSON')",
        "print('{\"size\": 3}')",
        "time.sleep(60)",
        "print('')",
    ],
)
def test_a_decoder_that_dies_hangs_or_answers_nonsense_is_an_error(program, monkeypatch, text):
    monkeypatch.setattr(decoding, "SECONDS", 0.5)
    start = time.monotonic()
    with pytest.raises(UndecodableError):
        program(f"sys.stdin.readline()\n{text}").decode(b"123", str(JPEG2000Lossless), HEADER)
    assert time.monotonic() - start < 20


def test_a_decoder_that_does_not_start_is_an_error(tmp_path):
    with pytest.raises(UndecodableError):
        Decoder(str(tmp_path / "gone.py")).decode(b"123", str(JPEG2000Lossless), HEADER)


def test_fewer_values_than_the_header_says_are_an_error(program):
    text = 'sys.stdin.readline(); print(\'{"size": 4, "dtype": "<u2"}\'); print(\'abc\', flush=True)'
    with pytest.raises(UndecodableError, match="2 values, 1760 needed"):
        program(text).decode(b"123", str(JPEG2000Lossless), HEADER)


@pytest.mark.skipif(not shutil.which("dcmcjpeg"), reason="dcmcjpeg is not installed")
def test_a_jpeg_at_which_gdcm_ends_its_process_ends_not_ours(tmp_path):
    plain = write(tmp_path, slices(WIDE, rescale=(1, -1024)))[0]
    subprocess.run(["dcmcjpeg", "+e1", plain, tmp_path / "packed.dcm"], check=True)
    frame = frame_of(tmp_path / "packed.dcm")
    at = frame.index(b"\xff\xda")
    for _ in range(2):
        with pytest.raises(UndecodableError, match=r"status -?\d+" if sys.platform == "linux" else ""):
            DECODER.decode(encapsulate([frame[:at] + b"\x12\x34" + frame[at:]]), str(JPEGLosslessSV1), HEADER)
        sound = DECODER.decode(encapsulate([frame]), str(JPEGLosslessSV1), HEADER)
        assert np.array_equal(sound.reshape(40, 44), pydicom.dcmread(plain).pixel_array)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the memory of a process")
def test_a_decoder_gets_no_more_memory_than_the_pixels_need(tmp_path):
    path = write(tmp_path, slices(WIDE), syntax=JPEG2000Lossless)[0]
    claims = with_bytes(frame_of(path), SIZ, 8, struct.pack(">6I", 12000, 12000, 0, 0, 12000, 12000))
    with pytest.raises(UndecodableError):
        DECODER.decode(encapsulate([claims]), str(JPEG2000Lossless), HEADER)
    status = Path(f"/proc/{DECODER._process.pid}/status").read_text() if DECODER._process else "VmHWM: 0 kB"
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    assert peak < 500_000  # kB; the image would take 576 MB at least


def test_an_interrupt_leaves_no_answer_behind(tmp_path, monkeypatch):
    paths = write(tmp_path, slices(WIDE), syntax=JPEG2000Lossless)
    first, second = (encapsulate([frame_of(path)]) for path in paths[:2])
    sound = DECODER.decode(second, str(JPEG2000Lossless), HEADER)

    def interrupted(process, request, pixels):
        process.stdin.write(json.dumps(request, default=bytes.hex).encode() + b"\n" + pixels)
        process.stdin.flush()
        raise KeyboardInterrupt

    monkeypatch.setattr(decoding, "_ask", interrupted)
    with pytest.raises(KeyboardInterrupt):
        DECODER.decode(first, str(JPEG2000Lossless), HEADER)
    monkeypatch.undo()
    assert np.array_equal(DECODER.decode(second, str(JPEG2000Lossless), HEADER), sound)


@pytest.mark.timeout(60)
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_fork_gets_a_decoder_of_its_own_whatever_its_parent_does(tmp_path):
    pixels = encapsulate([frame_of(write(tmp_path, slices(WIDE), syntax=JPEG2000Lossless)[0])])
    sound = DECODER.decode(pixels, str(JPEG2000Lossless), HEADER)
    before = DECODER._process
    with DECODER._lock:  # as if another thread were decoding
        child = os.fork()
        if child == 0:
            signal.alarm(30)  # which ends it if it waits for the lock
            try:
                same = np.array_equal(DECODER.decode(pixels, str(JPEG2000Lossless), HEADER), sound)
                DECODER.close()
                os._exit(0 if same else 1)
            except BaseException:
                os._exit(2)
        assert os.waitpid(child, 0)[1] == 0
    assert np.array_equal(DECODER.decode(pixels, str(JPEG2000Lossless), HEADER), sound)
    assert DECODER._process is before
