"""Decode compressed pixels in a process of its own, with limits of memory and time.

Decoders are C and C++ code. GDCM ends the whole process at some damaged JPEG and JPEG-LS streams
(an exception that nobody catches), and a damaged stream can make a decoder allot gigabytes or run
on and on. The process is started at the first compressed file and serves all that follow. Its
program is this file, so it imports nothing of monai-sr.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np

if __name__ == "__main__":  # the process that decodes
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import UID

ATTRIBUTES = (
    *("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated"),
    *("BitsStored", "HighBit", "PixelRepresentation", "ExtendedOffsetTable", "ExtendedOffsetTableLengths"),
)
"""What a decoder needs of a header."""

MEMORY, FLOOR = 16, 256 * 2**20
"""Memory may be so many times the pixels, compressed and decoded, above some MiB that any decoder takes."""

SECONDS, SLOW = 8.0, 2**19
"""Time for any file, and bytes of pixels in each further second; decoders do some MiB per second."""


class UndecodableError(Exception):
    """Pixels that cannot be decoded; the text holds nothing of the header's."""


class Decoder:
    """The process, started when it is needed.

    Args:
        program: what it runs; another one is for tests.
    """

    def __init__(self, program: str = __file__) -> None:
        self._program = program
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def decode(self, pixels: bytes, syntax: str, header: Mapping[str, Any]) -> np.ndarray:
        """(frames · rows · columns) decoded values.

        Args:
            pixels: the value of PixelData, encapsulated.
            syntax: TransferSyntaxUID.
            header: those of :data:`ATTRIBUTES` that the file has.

        Raises:
            UndecodableError: the decoder raised, ended, or took too much memory or time.
        """
        count = int(header["Rows"]) * int(header["Columns"]) * int(header.get("NumberOfFrames") or 1)
        size = len(pixels) + count * int(header["BitsAllocated"]) // 8
        request = {"syntax": syntax, "size": len(pixels), "memory": FLOOR + MEMORY * size, "header": dict(header)}
        with self._lock:
            process = self._started()
            limit = SECONDS + size / SLOW
            timer = threading.Timer(limit, process.kill)
            timer.start()
            try:
                answer, values = _ask(process, request, pixels)
            except (OSError, ValueError) as error:
                raise UndecodableError(self._reason(process, timer, limit)) from error
            except BaseException:  # what remains of this answer must not be read as the next one
                self.close()
                raise
            finally:
                timer.cancel()
        if "error" in answer:
            raise UndecodableError(answer["error"])
        decoded = np.frombuffer(values, answer["dtype"])
        if decoded.size != count:
            raise UndecodableError(f"{decoded.size} values, {count} needed")
        return decoded

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            # -P: the modules beside this file have names that others may have, too
            paths = os.pathsep.join(filter(None, sys.path))
            environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
            self._process = subprocess.Popen(
                [sys.executable, "-P", self._program],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
            )
            if not self._process.stdout.readline():  # type: ignore[union-attr]  # it is a pipe
                raise UndecodableError("the decoder does not start")
        return self._process

    def _reason(self, process: subprocess.Popen[bytes], timer: threading.Timer, limit: float) -> str:
        """Why there is no answer."""
        is_late = timer.finished.is_set()
        self.close()
        return f"not done after {limit:.0f} s" if is_late else f"the decoder ended with status {process.returncode}"

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()


def _ask(process: subprocess.Popen[bytes], request: Mapping[str, Any], pixels: bytes) -> tuple[dict[str, Any], bytes]:
    """Send a request; the answer, and the bytes behind it.

    Raises:
        OSError, ValueError: there is none, or not all of it.
    """
    assert process.stdin is not None and process.stdout is not None, "both are pipes"
    process.stdin.write(json.dumps(request, default=bytes.hex).encode() + b"\n")
    process.stdin.write(pixels)
    process.stdin.flush()
    answer = json.loads(process.stdout.readline())
    values = process.stdout.read(answer["size"])
    if len(values) < answer["size"]:
        raise ValueError(f"{len(values)} bytes, {answer['size']} announced")
    return answer, values


DECODER = Decoder()
atexit.register(DECODER.close)
if hasattr(os, "register_at_fork"):  # a fork gets a process of its own, and a lock that nobody holds
    os.register_at_fork(after_in_child=DECODER.__init__)  # type: ignore[misc]  # it starts anew


def _serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Decode what is asked for until the other side is gone."""
    answers.write(b"ready\n")  # the time for an answer is not that of imports
    answers.flush()
    while line := requests.readline():
        request = json.loads(line)
        pixels = requests.read(request["size"])
        values = np.array([], np.uint8)
        try:
            _limit_memory(request["memory"])
            values = _decoded(pixels, request["syntax"], request["header"])
            answer = {"dtype": values.dtype.str}
        except Exception as error:  # decoders raise many types
            answer = {"error": type(error).__name__}
        answers.write(json.dumps(answer | {"size": values.nbytes}).encode() + b"\n")
        answers.write(np.ascontiguousarray(values).data)
        answers.flush()


def _limit_memory(more: int) -> None:
    """Let this process have so many bytes more than it has; only Linux keeps such a limit."""
    if sys.platform == "linux":
        import resource

        with open("/proc/self/statm", encoding="utf-8") as file:
            have = int(file.read().split()[0]) * resource.getpagesize()
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        limit = have + more if hard == resource.RLIM_INFINITY else min(have + more, hard)
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def _decoded(pixels: bytes, syntax: str, header: Mapping[str, Any]) -> np.ndarray:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = UID(syntax)
    dataset.is_little_endian, dataset.is_implicit_VR = True, False  # as pydicom 2 wants
    for name, value in header.items():
        setattr(dataset, name, bytes.fromhex(value) if name.startswith("Extended") else value)
    dataset.PixelData = pixels
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    return dataset.pixel_array


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    # what decoders print must not get between the answers
    _answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    _serve(sys.stdin.buffer, _answers)
