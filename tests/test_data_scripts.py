"""The data scripts: downloads that survive a bad line, and a datalist of volumes that are truly thin."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import runpy
import subprocess
import sys
import tarfile
import threading
import urllib.request
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import dicom_phantoms
import nibabel as nib
import numpy as np
import pytest
from monai.apps import DecathlonDataset
from monai.data import load_decathlon_datalist
from scipy.ndimage import gaussian_filter

from monai_sr.slices import interpolation_matrix, profile_matrix

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "data_scripts"))

import download  # noqa: E402 - the scripts are no package; they find each other by their folder
import fetch_ixi  # noqa: E402
import fetch_msd  # noqa: E402
import fetch_rplhr  # noqa: E402
import prepare_datalist  # noqa: E402
import spectrum  # noqa: E402

QUICK = download.Patience(tries=3, pause=0.01, timeout=5)
CONTENT = np.random.default_rng(0).bytes(3_000_000)
MD5 = hashlib.md5(CONTENT).hexdigest()


# ---------------------------------------------------------------- a server with moods


class Server:
    """A local web server. ``behave(handler, tries)`` answers; ``seen`` lists (method, path, range)."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files, self.seen, self.behave = files, [], serve
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.seen.append((self.command, self.path, self.headers.get("Range")))
                server.behave(self, server)

            do_HEAD = do_GET

            def log_message(self, *args: object) -> None:
                """Quiet."""

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}/"

    @property
    def ranges(self) -> list[str | None]:
        return [r for _, _, r in self.seen]


def serve(handler: BaseHTTPRequestHandler, server: Server, *, ranges: bool = True, cut: int | None = None) -> None:
    """Answer well; or ignore ranges; or announce everything and hang up after ``cut`` bytes."""
    content = server.files.get(handler.path.rpartition("/")[2])
    if content is None:
        handler.send_error(404)
        return
    asked = handler.headers.get("Range") if ranges else None
    start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
    if start >= len(content) and asked:
        handler.send_response(416)
        handler.send_header("Content-Range", f"bytes */{len(content)}")
        handler.end_headers()
        return
    handler.send_response(206 if asked else 200)
    if asked:
        handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
    handler.send_header("Content-Length", str(len(content) - start))
    handler.end_headers()
    if handler.command == "GET":
        handler.wfile.write(content[start : start + cut if cut else None])


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    urllib.request.install_opener(None)  # the cached one remembers the proxies of before
    running = Server({"a.bin": CONTENT})
    yield running
    running.http.shutdown()
    running.http.server_close()


def fetch(server: Server, folder: Path, md5: str | None = MD5, name: str = "a.bin") -> Path:
    return download.fetch(download.RemoteFile("A", name, md5), server.url, folder, patience=QUICK)


# ---------------------------------------------------------------- downloads


def test_a_download_is_whole_and_its_sha256_is_written_down(server, tmp_path):
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert (tmp_path / "SHA256SUMS").read_text() == f"{hashlib.sha256(CONTENT).hexdigest()}  a.bin\n"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["SHA256SUMS", "a.bin"]


def test_an_interrupted_download_goes_on_from_its_last_byte(server, tmp_path):
    (tmp_path / "a.bin.part").write_bytes(CONTENT[:1_000_000])
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.ranges == ["bytes=1000000-"]


def test_a_server_that_ignores_ranges_is_read_from_the_beginning(server, tmp_path):
    server.behave = lambda handler, s: serve(handler, s, ranges=False)
    (tmp_path / "a.bin.part").write_bytes(CONTENT[:1_000_000])
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert len(server.seen) == 1


def test_a_line_that_drops_again_and_again_is_outlived(server, tmp_path):
    # more drops than tries: as long as bytes come, patience begins anew
    server.behave = lambda handler, s: serve(handler, s, cut=500_000)
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.ranges == [None, *(f"bytes={n}-" for n in range(500_000, 3_000_000, 500_000))]


def test_a_part_that_was_whole_already_only_gets_its_name(server, tmp_path):
    (tmp_path / "a.bin.part").write_bytes(CONTENT)
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.ranges == ["bytes=3000000-"]


@pytest.mark.parametrize("old", [CONTENT[:999] + b"?", CONTENT + b"?"], ids=["other beginning", "too long"])
def test_a_part_of_another_version_is_fetched_again(server, tmp_path, old):
    (tmp_path / "a.bin.part").write_bytes(old)
    assert fetch(server, tmp_path).read_bytes() == CONTENT


def test_wrong_bytes_never_get_the_name(server, tmp_path):
    server.files["a.bin"] = b"<html>sorry</html>"
    with pytest.raises(download.DownloadError, match=f"published is {MD5}"):
        fetch(server, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.bin.bad"]
    assert len(server.seen) == 1


def test_without_a_published_checksum_the_first_one_holds(server, tmp_path):
    fetch(server, tmp_path, md5=None).unlink()
    server.files["a.bin"] = CONTENT[::-1]
    with pytest.raises(download.DownloadError, match="SHA256SUMS says"):
        fetch(server, tmp_path, md5=None)
    assert not (tmp_path / "a.bin").exists()


def test_a_file_damaged_on_disk_is_kept_aside_and_fetched_again(server, tmp_path):
    (tmp_path / "a.bin").write_bytes(b"damaged")
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert (tmp_path / "a.bin.bad").read_bytes() == b"damaged"


def test_a_file_that_is_there_is_not_fetched(server, tmp_path):
    fetch(server, tmp_path)
    server.seen.clear()
    fetch(server, tmp_path)
    assert server.seen == []


def test_a_missing_file_is_reported_at_once(server, tmp_path):
    with pytest.raises(download.DownloadError, match="404"):
        fetch(server, tmp_path, name="b.bin")
    assert len(server.seen) == 1


def test_a_busy_server_is_asked_again(server, tmp_path):
    server.behave = lambda handler, s: serve(handler, s) if len(s.seen) > 2 else handler.send_error(503)
    assert fetch(server, tmp_path).read_bytes() == CONTENT


def test_patience_ends_and_keeps_what_came(server, tmp_path):
    (tmp_path / "a.bin.part").write_bytes(CONTENT[:100])
    server.behave = lambda handler, s: handler.send_error(503)
    with pytest.raises(download.DownloadError, match="100 bytes are kept"):
        fetch(server, tmp_path)
    assert len(server.seen) == QUICK.tries


def test_a_closed_port_is_an_error_with_its_reason(server, tmp_path):
    server.http.shutdown()
    server.http.server_close()
    with pytest.raises(download.DownloadError, match="no answer after 3 tries"):
        fetch(server, tmp_path)


def test_a_full_disk_is_known_before_the_first_byte(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: SimpleNamespace(free=2_999_999))
    with pytest.raises(download.DownloadError, match=r"needs 3,000,000 bytes.*2,999,999 are free"):
        fetch(server, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_only_the_web_is_fetched_from(tmp_path):
    with pytest.raises(download.DownloadError, match="neither http nor https"):
        download.fetch(download.RemoteFile("A", "passwd"), "file:///etc", tmp_path)


# ---------------------------------------------------------------- archives


def archive(path: Path, *members: tuple[str, bytes] | tarfile.TarInfo) -> Path:
    """A tar file of (name, content) pairs and ready-made members."""
    with tarfile.open(path, "w") as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                tar.addfile(info, io.BytesIO(member[1]))
    return path


def special(name: str, kind: bytes, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


@pytest.mark.parametrize(
    "member",
    [
        ("../evil", b"x"),
        ("images/../../evil", b"x"),
        ("/evil", b"x"),
        ("C:\\evil", b"x"),
        ("..\\evil", b"x"),
        special("evil", tarfile.SYMTYPE, "/etc"),
        special("evil", tarfile.SYMTYPE, "good"),
        special("evil", tarfile.LNKTYPE, "../../evil"),
        special("evil", tarfile.FIFOTYPE),
        special("evil", tarfile.CHRTYPE),
    ],
    ids=lambda member: f"{member.type} {member.linkname}" if isinstance(member, tarfile.TarInfo) else str(member),
)
def test_a_malicious_archive_leaves_nothing_behind(tmp_path, member):
    inner = tmp_path / "inner"
    inner.mkdir()
    tar = archive(inner / "a.tar", ("good", b"x"), member)
    with pytest.raises(download.DownloadError, match=r"would land outside|is a link or device"):
        download.unpack(tar, inner / "A")
    assert sorted(p.name for p in inner.iterdir()) == ["a.tar"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["inner"]


@pytest.mark.parametrize("top", ["", "A/"])
def test_an_archive_becomes_one_folder(tmp_path, top):
    tar = archive(tmp_path / "a.tar", (f"{top}images/1.nii.gz", b"one"), (f"{top}images/._1.nii.gz", b"finder"))
    download.unpack(tar, tmp_path / "A")
    assert [p.relative_to(tmp_path / "A").as_posix() for p in (tmp_path / "A").rglob("*.gz")] == ["images/1.nii.gz"]


def test_a_damaged_archive_leaves_nothing_behind(tmp_path):
    tar = archive(tmp_path / "a.tar", ("1", b"x" * 100_000))
    tar.write_bytes(tar.read_bytes()[:50_000])
    with pytest.raises(download.DownloadError, match="cannot be unpacked"):
        download.unpack(tar, tmp_path / "A")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tar"]


# ---------------------------------------------------------------- the fetch commands


@pytest.fixture
def data_set(server, tmp_path) -> download.DataSet:
    tar = archive(tmp_path / "one.tar", ("1.nii.gz", b"image")).read_bytes()
    server.files |= {"one.tar": tar, "two.tar": b"no archive"}
    return download.DataSet(
        title="Test",
        license="CC0",
        cite="nobody.",
        base_url=server.url,
        files=(
            download.RemoteFile("one", "one.tar", hashlib.md5(tar).hexdigest()),
            download.RemoteFile("two", "two.tar"),
            download.RemoteFile("three", "three.tar"),
        ),
        default=("one",),
    )


def test_a_second_call_asks_the_server_for_nothing(server, data_set, tmp_path):
    assert download.run(data_set, ["--output", str(tmp_path / "out")], patience=QUICK) == 0
    assert (tmp_path / "out" / "one" / "1.nii.gz").read_bytes() == b"image"
    server.seen.clear()
    (tmp_path / "out" / "one.tar").unlink()  # the unpacked folder is enough
    assert download.run(data_set, ["--output", str(tmp_path / "out")], patience=QUICK) == 0
    assert server.seen == []


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["one"], 0), (["one", "two", "three"], 4), (["two", "three"], 5), (["one", "--no-unpack"], 0)],
)
def test_the_exit_code_says_whether_some_or_all_failed(data_set, tmp_path, capsys, arguments, code):
    assert download.run(data_set, [*arguments, "--output", str(tmp_path / "out")], patience=QUICK) == code
    assert capsys.readouterr().err.count("failed: ") == {0: 0, 4: 2, 5: 2}[code]


@pytest.mark.parametrize("arguments", [["four", "--output", "x"], ["one"]])
def test_wrong_usage_is_exit_code_2(data_set, arguments):
    with pytest.raises(SystemExit) as stop:
        download.run(data_set, arguments)
    assert stop.value.code == 2


def test_list_asks_for_sizes_and_fetches_nothing(server, data_set, capsys):
    assert download.run(data_set, ["--list"]) == 0
    assert {method for method, _, _ in server.seen} == {"HEAD"}
    one, two, three = capsys.readouterr().out.splitlines()[1:]
    assert "10,240 bytes" in one and "10 bytes" in two and "not published" in two and "size unknown" in three


def test_a_proxy_of_the_environment_is_obeyed_by_the_command(server):
    server.files["IXI-T1.tar"] = CONTENT
    environment = {k: v for k, v in os.environ.items() if k.lower() not in ("no_proxy", "request_method")}
    listed = subprocess.run(
        [sys.executable, ROOT / "data_scripts" / "fetch_ixi.py", "--list", "--base-url", "http://ixi.invalid/x"],
        env=environment | {"http_proxy": server.url},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ("HEAD", "http://ixi.invalid/x/IXI-T1.tar", None) in server.seen
    assert "3,000,000 bytes" in listed.stdout and "CC BY-SA 3.0" in listed.stdout


def test_decathlon_addresses_and_checksums_are_monais():
    assert {f.key: f.md5 for f in fetch_msd.MSD.files} == DecathlonDataset.md5
    assert {f.key: fetch_msd.MSD.base_url + f.name for f in fetch_msd.MSD.files} == DecathlonDataset.resource
    assert set(fetch_msd.MSD.default) <= set(DecathlonDataset.md5)
    assert all(f.md5 for f in fetch_ixi.IXI.files)


# ---------------------------------------------------------------- real pairs, with a license first


def zipped(members: dict[str, bytes], *, links: tuple[str, ...] = ()) -> bytes:
    """A zip file; members among ``links`` are symbolic links."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        for name, content in members.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = (0o120777 if name in links else 0o100644) << 16
            file.writestr(info, content)
    return packed.getvalue()


def volume(slices: int, spacing: float) -> bytes:
    return nib.Nifti1Image(np.zeros((6, 6, slices), np.int16), np.diag([1, 1, spacing, 1])).to_bytes()


@pytest.fixture
def rplhr(server: Server) -> Server:
    """A server with a record of two archives, as Zenodo answers."""
    pair = {"5mm/a.nii": volume(4, 5.0), "1mm/a.nii": volume(20, 1.0)}
    lone = {"5mm/b.nii": volume(4, 5.0), "5mm/c.nii": volume(4, 5.0), "1mm/c.nii": volume(4, 5.0)}
    server.files |= {
        "test.zip": zipped({f"test/{name}": content for name, content in (pair | lone).items()}),
        "val.zip": zipped({f"val/{name}": content for name, content in pair.items()}),
    }
    files = [
        {"key": name, "size": len(content), "checksum": f"md5:{hashlib.md5(content).hexdigest()}"}
        for name, content in server.files.items()
        if name.endswith(".zip")
    ]
    record = {"metadata": {"title": "RPLHR-CT", "license": {"id": "cc-by-4.0"}}, "doi": "10.1/x", "files": files}
    server.files[fetch_rplhr.RECORD] = json.dumps(record).encode()
    return server


def call_rplhr(server: Server, *words: object) -> int:
    return fetch_rplhr.main([*map(str, words), "--server", server.url], patience=QUICK)


@pytest.mark.parametrize("accepted", [[], ["--accept-license", "cc0-1.0"]])
def test_the_license_is_shown_and_nothing_is_fetched_before_it_is_accepted(rplhr, tmp_path, capsys, accepted):
    assert call_rplhr(rplhr, "--output", tmp_path / "out", *accepted) == 3
    out, err = capsys.readouterr()
    assert "License: cc-by-4.0" in out and "test.zip" in out and "--accept-license cc-by-4.0" in err
    assert [path for _, path, _ in rplhr.seen] == [f"/api/records/{fetch_rplhr.RECORD}"]
    assert not (tmp_path / "out").exists()


def test_a_record_without_a_license_cannot_be_accepted(rplhr, tmp_path):
    record = json.loads(rplhr.files[fetch_rplhr.RECORD])
    del record["metadata"]["license"]
    rplhr.files[fetch_rplhr.RECORD] = json.dumps(record).encode()
    assert call_rplhr(rplhr, "--output", tmp_path, "--accept-license", "") == 3


def test_pairs_are_fetched_and_listed_and_a_second_call_fetches_nothing(rplhr, tmp_path, capsys):
    words = ["--output", tmp_path, "--accept-license", "cc-by-4.0"]
    assert call_rplhr(rplhr, *words) == 0
    lines = [line.split("\t") for line in (tmp_path / "pairs.tsv").read_text().splitlines()]
    assert lines == [
        ["thick", "thin", "split", "thick_spacing", "thin_spacing"],
        *([f"{split}/5mm/a.nii", f"{split}/1mm/a.nii", split, "5", "1"] for split in ("test", "val")),
    ]
    err = capsys.readouterr().err
    assert "test/5mm/b.nii" in err and "test/5mm/c.nii" in err
    for name in ("test.zip", "val.zip"):
        (tmp_path / name).unlink()
    rplhr.seen.clear()
    assert call_rplhr(rplhr, *words) == 0
    assert [path for _, path, _ in rplhr.seen] == [f"/api/records/{fetch_rplhr.RECORD}"]
    assert fetch_rplhr.main(["--pairs-only", "--output", str(tmp_path)]) == 0


def test_one_part_is_fetched_alone_and_a_wrong_one_is_refused(rplhr, tmp_path):
    words = ["--output", tmp_path, "--accept-license", "cc-by-4.0"]
    assert call_rplhr(rplhr, "val", *words) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["SHA256SUMS", "pairs.tsv", "val", "val.zip"]
    with pytest.raises(SystemExit) as caught:
        call_rplhr(rplhr, "training", *words)
    assert caught.value.code == 2


def test_a_damaged_archive_of_pairs_is_named_and_the_others_are_listed(rplhr, tmp_path, capsys):
    rplhr.files["val.zip"] += b"x"
    assert call_rplhr(rplhr, "--output", tmp_path, "--accept-license", "cc-by-4.0") == 4
    assert "MD5" in capsys.readouterr().err and (tmp_path / "val.zip.bad").exists()
    assert (tmp_path / "pairs.tsv").read_text().count("\n") == 2


@pytest.mark.parametrize("answer", [b"<html>", b"{}", b'{"metadata": {"title": "x"}, "files": [{}]}', None])
def test_a_server_without_the_record_is_an_error_in_words(rplhr, tmp_path, capsys, answer):
    rplhr.files.pop(fetch_rplhr.RECORD)
    if answer is not None:
        rplhr.files[fetch_rplhr.RECORD] = answer
    assert call_rplhr(rplhr, "--output", tmp_path) == 5
    assert "check --server" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["../evil", "/evil", "good/../../evil", "C:\\evil", "link"])
def test_a_malicious_zip_leaves_nothing_behind(tmp_path, name):
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "a.zip").write_bytes(zipped({"good": b"x", name: b"/etc"}, links=("link",)))
    with pytest.raises(download.DownloadError, match="not unpacked"):
        download.unpack(inner / "a.zip", inner / "A")
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.zip", "inner"]


@pytest.mark.parametrize("damage", [lambda content: content[:-30], lambda content: content.replace(b"xx", b"xy", 1)])
def test_a_damaged_zip_leaves_nothing_behind(tmp_path, damage):
    (tmp_path / "a.zip").write_bytes(damage(zipped({"1": b"x" * 1000})))
    with pytest.raises(download.DownloadError, match="cannot be unpacked"):
        download.unpack(tmp_path / "a.zip", tmp_path / "A")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.zip"]


# ---------------------------------------------------------------- how thin is it


def thin(seed: int = 0, n: int = 64, *, ct: bool = False) -> np.ndarray:
    """A head-like ellipsoid with smooth noise: as sharp along every axis as its voxels allow."""
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=(n, n, n)), 0.6)
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n),) * 3, indexing="ij")
    inside = x**2 + 1.3 * y**2 + 1.1 * z**2 < 0.7
    voxels = inside * np.maximum(500 + 120 * np.sin(5 * x + 7 * y) + 300 * noise, 1)
    return (voxels - 1000 * ~inside if ct else voxels).astype(np.float32)


def thickened(voxels: np.ndarray, axis: int, factor: float, order: int, *, phase: float = 0.0) -> np.ndarray:
    """Acquired in slices ``factor`` times as thick and interpolated back, rounded as files are."""
    n = voxels.shape[axis]
    thick = (np.arange(int(n / factor) - 1) + 0.5) * factor + phase
    acquired = profile_matrix(np.arange(n), thick, slice_thickness=factor)
    back = np.arange(np.ceil(thick[0]), np.floor(thick[-1]) + 1)
    if order:
        matrix = interpolation_matrix(thick, back, order=order)
    else:
        matrix = np.eye(len(thick))[np.abs(back[:, None] - thick).argmin(axis=1)]
    both = np.asarray(matrix, dtype=np.float64) @ acquired.double().numpy()
    return np.rint(np.moveaxis(np.tensordot(both, voxels, (1, axis)), 0, axis)).astype(np.float32)


def faults(voxels: np.ndarray) -> list[int]:
    return [axis for axis, sharpness in enumerate(spectrum.measure(voxels)) if sharpness.fault]


@pytest.mark.parametrize("around", [0, 9], ids=["", "in an empty frame"])
@pytest.mark.parametrize("n", [40, 64])
@pytest.mark.parametrize("seed", range(3))
def test_a_thin_volume_is_thin_along_every_axis(seed, n, around):
    assert faults(np.pad(thin(seed, n), around)) == []


@pytest.mark.parametrize("phase", [0.0, 0.5])
@pytest.mark.parametrize("order", [0, 1, 3], ids=["nearest", "linear", "cubic"])
@pytest.mark.parametrize("factor", [2, 2.5, 3, 4])
@pytest.mark.parametrize("axis", range(3))
def test_interpolation_from_thick_slices_is_seen_along_its_axis(axis, factor, order, phase):
    assert axis in faults(thickened(thin(), axis, factor, order, phase=phase))


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_a_volume_blown_up_along_all_axes_is_seen_without_a_sharp_one_beside(factor):
    voxels = thin(n=96)
    for axis in range(3):
        voxels = thickened(voxels, axis, factor, 3)
    assert faults(voxels)


@pytest.mark.parametrize("voxels", [np.zeros((64, 64, 64)), np.zeros((64, 64, 31))], ids=["empty", "few slices"])
def test_what_cannot_be_measured_is_an_error(voxels):
    with pytest.raises(ValueError, match=r"no contrast|at least 32"):
        spectrum.measure(voxels)


# ---------------------------------------------------------------- subjects and splits


@pytest.mark.parametrize(
    ("path", "subject"),
    [
        ("sub-03/ses-1/anat/sub-03_ses-1_T1w.nii.gz", "sub-03"),
        ("T1/IXI002-Guys-0828-T1.nii.gz", "IXI002"),
        ("T2/IXI002-Guys-0828-T2.nii.gz", "IXI002"),
        ("LIDC-IDRI-0001/study/series/x.nii", "LIDC-IDRI-0001"),
        ("imagesTr/lung_001.nii.gz", "lung_001"),
        ("patient7/first/T1.nii.gz", "patient7"),
        ("T1w/patient7/a.b.nii.gz", "patient7"),
        ("a.b.nii.gz", "a.b"),
    ],
)
def test_the_subject_comes_from_the_path(path, subject):
    source = Path("/data/set")
    assert prepare_datalist.subject_of(source / path, source) == subject


def test_a_given_pattern_goes_before_all_others():
    pattern = prepare_datalist.re.compile(r"^(\d+)_")
    source = Path("/data/99_set")
    assert prepare_datalist.subject_of(source / "12_sub-01.nii", source, pattern) == "12"
    assert prepare_datalist.subject_of(source / "sub-01.nii", source, pattern) == "sub-01"


def test_a_source_may_be_one_subjects_folder():
    assert prepare_datalist.subject_of(Path("/d/sub-5/a.nii"), Path("/d/sub-5")) == "sub-5"
    assert prepare_datalist.subject_of(Path("/d/sub-5/a.nii"), Path("/d/sub-5/a.nii")) == "sub-5"


def test_the_split_depends_on_subject_and_seed_alone_and_keeps_its_fraction():
    names = [f"sub-{i}" for i in range(2000)]
    first = [prepare_datalist.split_of(name, 0, 0.2) for name in names]
    assert first.count("validation") / len(names) == pytest.approx(0.2, abs=0.03)  # three standard errors
    assert first != [prepare_datalist.split_of(name, 1, 0.2) for name in names]
    # a larger fraction only adds: no volume moves from validation to training
    larger = [prepare_datalist.split_of(name, 0, 0.3) for name in names]
    assert all(b == "validation" for a, b in zip(first, larger, strict=True) if a == "validation")


# ---------------------------------------------------------------- the datalist


def save(path: Path, voxels: np.ndarray, spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.rint(voxels).astype(np.int16), np.diag([*spacing, 1.0])), path)
    return path


def rows(output: Path) -> dict[str, dict[str, str]]:
    """The provenance table by file name."""
    with open(prepare_datalist.provenance_path(output), encoding="utf-8", newline="") as file:
        return {Path(row["path"]).name: row for row in csv.DictReader(file)}


def run(*arguments: object) -> int:
    return prepare_datalist.main([str(a) for a in arguments])


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Eight subjects with two sessions each, some CT, and everything that must be refused."""
    folder = tmp_path_factory.mktemp("data")
    for i in range(16):
        name = f"sub-{i // 2:02}"
        save(folder / name / f"{name}_ses-{i % 2}.nii.gz", thin(i, n=40, ct=i < 6))
    bad = folder / "bad"
    whole = save(bad / "truncated.nii.gz", thin(50, n=40))
    whole.write_bytes(whole.read_bytes()[:-2000])
    (bad / "page.nii.gz").write_bytes(b"<html>not found</html>")
    save(bad / "interpolated.nii", thickened(thin(51), 1, 3, 3))
    save(bad / "thick.nii", thin(52, n=40), (1, 1, 1.9))
    save(bad / "coarse.nii", thin(53, n=40), (2.5, 2.5, 2.5))
    save(bad / "labels.nii", thin(54, n=40) > 100)
    save(bad / "flat.nii", thin(55, n=40)[:, :, :20])
    (bad / "copy.nii.gz").write_bytes((folder / "sub-00" / "sub-00_ses-0.nii.gz").read_bytes())
    return folder


def test_thin_volumes_are_taken_and_every_other_is_refused_with_its_reason(data, tmp_path, capsys):
    output = tmp_path / "list.json"
    assert run(data, "--output", output) == 0
    table = rows(output)
    refused = {name: row["reason"] for name, row in table.items() if row["accepted"] == "False"}
    expected = {
        "truncated.nii.gz": "E-IO-TRUNC",
        "page.nii.gz": "E-IO-TYPE",
        "interpolated.nii": "axis 1 is softer than its spacing",
        "thick.nii": "1.90 times the finest",
        "coarse.nii": "more than 2 mm",
        "labels.nii": "a label map",
        "flat.nii": "at least 32 per axis",
        # "bad" sorts before "sub-00", so the copy is met first
        "sub-00_ses-0.nii.gz": "a copy of",
    }
    assert set(refused) == set(expected)
    for name, reason in expected.items():
        assert reason in refused[name], name
    printed = capsys.readouterr().out
    assert "24 volumes: 16 accepted (6 CT, 10 MR), 8 refused" in printed
    assert all(reason in printed for reason in expected.values())
    taken = table["sub-07_ses-1.nii.gz"]
    assert (taken["modality"], taken["shape"], taken["spacing_mm"], taken["orientation"]) == (
        "MR", "40x40x40", "1x1x1", "RAS",
    )  # fmt: skip
    assert taken["sha256"] == hashlib.sha256((data / "sub-07" / "sub-07_ses-1.nii.gz").read_bytes()).hexdigest()
    assert taken["subject"] == hashlib.sha256(b"sub-07").hexdigest()[:12]


def test_monai_reads_the_datalist_and_no_subject_is_on_both_sides(data, tmp_path):
    output = tmp_path / "list.json"
    # a folder that a plain "CT" in the list would be taken for
    (tmp_path / "CT").mkdir()
    assert run(data, "--output", output, "--validation-share", 0.5) == 0
    sides = {split: load_decathlon_datalist(output, data_list_key=split) for split in ("training", "validation")}
    assert all(len(items) > 2 for items in sides.values())
    subjects = {split: {item["subject"] for item in items} for split, items in sides.items()}
    assert not subjects["training"] & subjects["validation"]
    for items in sides.values():
        assert all(Path(item["image"]).is_file() for item in items)
        assert not any(Path(str(item[key])).exists() for item in items for key in item if key != "image")
        weight = {"CT": 0.0, "MR": 0.0}
        for item in items:
            weight[rows(output)[Path(item["image"]).name]["modality"]] += item["weight"]
        assert weight["CT"] == pytest.approx(weight["MR"], rel=1e-4)
        assert sum(weight.values()) == pytest.approx(len(items), rel=1e-4)


def test_volumes_keep_their_side_when_others_are_added(data, tmp_path):
    few, all_of_them = tmp_path / "few.json", tmp_path / "all.json"
    run(data / "sub-01", data / "sub-05", data / "sub-06", "--output", few, "--seed", 3, "--validation-share", 0.5)
    run(data, "--output", all_of_them, "--seed", 3, "--validation-share", 0.5)
    before, after = rows(few), rows(all_of_them)
    assert len({row["split"] for row in before.values()}) == 2
    assert {name: row["split"] for name, row in before.items()} == {name: after[name]["split"] for name in before}
    assert {name: row["subject"] for name, row in before.items()} == {name: after[name]["subject"] for name in before}


def test_the_same_run_writes_the_same_bytes_and_a_moved_folder_stays_usable(tmp_path):
    save(tmp_path / "old" / "a" / "1.nii.gz", thin(1, n=40))
    output = tmp_path / "old" / "list.json"
    written = []
    for _ in range(2):
        assert run(tmp_path / "old", "--output", output) == 0
        written.append(output.read_bytes() + prepare_datalist.provenance_path(output).read_bytes())
    assert written[0] == written[1]
    (tmp_path / "old").rename(tmp_path / "new")
    (item,) = load_decathlon_datalist(tmp_path / "new" / "list.json", data_list_key="training")
    assert Path(item["image"]) == tmp_path / "new" / "a" / "1.nii.gz"
    assert item["weight"] == 1


def test_one_broken_volume_does_not_end_the_run(data, tmp_path, monkeypatch, capsys):
    real = prepare_datalist.read_image

    def read(path: Path):
        if path.name == "sub-01_ses-0.nii.gz":
            raise RuntimeError("a bug")
        return real(path)

    monkeypatch.setattr(prepare_datalist, "read_image", read)
    assert run(data / "sub-01", "--output", tmp_path / "list.json") == 0
    assert rows(tmp_path / "list.json")["sub-01_ses-0.nii.gz"]["reason"] == "internal error: RuntimeError: a bug"
    assert "Traceback" in capsys.readouterr().err


def test_a_dicom_folder_is_one_volume(tmp_path):
    stack = dicom_phantoms.Stack(dicom_phantoms.even(40, 1.0), rows=40, columns=40, pixel_spacing=(1.0, 1.0))
    made = dicom_phantoms.slices(stack, rescale=(1, 0), dtype="int16", SliceThickness=1)
    for one, drawn in zip(made, np.moveaxis(thin(9, n=40, ct=True), 2, 0), strict=True):
        dicom_phantoms.store(one, drawn.astype(np.int16))
    dicom_phantoms.write(tmp_path / "in" / "patient1" / "series", made)
    output = tmp_path / "list.json"
    assert run(tmp_path / "in", "--output", output) == 0
    row = rows(output)["series"]
    assert (row["accepted"], row["modality"], row["shape"]) == ("True", "CT", "40x40x40")
    assert row["subject"] == hashlib.sha256(b"patient1").hexdigest()[:12]
    assert dicom_phantoms.tells_nothing(output.read_text() + prepare_datalist.provenance_path(output).read_text())


def test_nothing_usable_is_exit_code_3_and_leaves_the_reasons(data, tmp_path, capsys):
    assert run(data / "bad" / "labels.nii", "--output", tmp_path / "list.json") == 3
    assert sorted(p.name for p in tmp_path.iterdir()) == ["list_provenance.csv"]
    (tmp_path / "empty").mkdir()
    assert run(tmp_path / "empty", "--output", tmp_path / "list.json") == 3
    assert "nothing usable" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        ["nowhere", "--output", "x.json"],
        [".", "--output", "x.json", "--validation-share", "1.2"],
        [".", "--output", "x.json", "--subject-pattern", "("],
        [".", "--output", "x.json", "--max-anisotropy", "0.5"],
        ["."],
    ],
    ids=lambda a: " ".join(a),
)
def test_wrong_usage_of_prepare_is_exit_code_2(arguments):
    with pytest.raises(SystemExit) as stop:
        prepare_datalist.main(arguments)
    assert stop.value.code == 2


def test_a_missing_output_folder_is_refused_before_anything_is_read(data, tmp_path, monkeypatch):
    monkeypatch.setattr(prepare_datalist, "read_image", lambda path: pytest.fail("read before the check"))
    assert run(data, "--output", tmp_path / "missing" / "list.json") == 6


def test_the_command_works_as_a_user_runs_it(tmp_path, monkeypatch, capsys):
    save(tmp_path / "in" / "sub-1_T1w.nii.gz", thin(1, n=40))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["prepare_datalist.py", "in", "--output", "list.json"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / "data_scripts" / "prepare_datalist.py"), run_name="__main__")
    shown = capsys.readouterr()
    assert end.value.code == 0, shown.err
    assert "1 volumes: 1 accepted (1 MR)" in shown.out
    assert "%|" not in shown.err  # no progress bar in a log
    (item,) = json.loads((tmp_path / "list.json").read_text())["training"]
    assert item["image"] == "in/sub-1_T1w.nii.gz"


# ---------------------------------------------------------------- real volumes


def real_volumes(folder: Path, *splits: str) -> list[Path]:
    with open(folder / "MANIFEST.csv", encoding="utf-8", newline="") as file:
        listed = [r for r in csv.DictReader(file) if r["split"] in splits and r["path"].startswith("volumes/")]
    return [folder / row["path"] for row in listed]


def middle(path: Path) -> np.ndarray:
    """The middle 128 voxels along each axis, which is what the spectrum is taken of."""
    stored = nib.load(path).dataobj
    part = tuple(slice(max(0, (n - 128) // 2), max(0, (n - 128) // 2) + 128) for n in stored.shape)
    voxels = stored.get_unscaled()[part] * stored.slope + stored.inter
    return np.maximum(voxels.astype(np.float32), prepare_datalist.CT_FLOOR)


OVERSAMPLED = {
    "spine_lumbar_supria_0p55x1mm.nii.gz": [0, 1],  # a smooth kernel on a field of view of 141 mm
    "chest_lungfcp0001_0p76x1mm.nii.gz": [2],  # slices of 2 mm every 1 mm
    "mra_tof_aera_0p78x0p7mm.nii.gz": [2],  # interpolated by the scanner
}
"""Axes along which an acquired volume resolves about twice its spacing: no training data along them."""


@pytest.mark.data
@pytest.mark.slow
def test_acquired_volumes_are_distinguished_from_the_same_volumes_thickened(shared_data):
    ways = [(2, 3, 0.0), (2, 1, 0.0), (3, 3, 0.5), (2, 1, 0.5), (3, 1, 0.5), (4, 1, 0.0), (4, 3, 0.0), (3, 0, 0.0)]
    for number, path in enumerate(real_volumes(shared_data, "train", "validation")):
        voxels = middle(path)
        soft = OVERSAMPLED.get(path.name, [])
        assert faults(voxels) == soft, path
        axis = next(axis % 3 for axis in range(number, number + 3) if axis % 3 not in soft)
        factor, order, phase = ways[number % len(ways)]
        assert axis in faults(thickened(voxels, axis, factor, order, phase=phase)), (path, axis, factor, order)


@pytest.mark.data
def test_real_thick_slices_are_refused(shared_data):
    paths = real_volumes(shared_data, "thick")
    assert paths
    for path in paths:
        volume = prepare_datalist.examine(path, path.parent, prepare_datalist.Rules())
        assert not volume.accepted
        assert "more than 2 mm" in volume.reason
