"""The watch with a real archive: Debian's Orthanc and its DICOMweb plugin, with a password and over TLS.

Debian 12's Orthanc (1.10.1 with civetweb 1.15) dies of the first request over its own HTTPS, so TLS ends in a proxy
before it, as it mostly does.
"""

from __future__ import annotations

import base64
import io
import json
import shutil
import socket
import socketserver
import ssl
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_phantoms import Stack, enhanced, even, read, slices, uid_of, write
from pydicom.uid import RLELossless
from runs import command
from test_pacs import auth_file, certificates, leftovers, no_waiting  # noqa: F401 - fixtures

from monai_sr.clients.pacs import Archive, Credentials, PacsError, Watcher
from monai_sr.clients.pacs.state import name_of
from monai_sr.dicom import is_dicom
from monai_sr.options import RunOptions

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")

pytestmark = [
    pytest.mark.pacs,
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("Orthanc"), reason="Orthanc is not installed (apt-get install orthanc)"),
    pytest.mark.skipif(not PLUGIN.exists(), reason="its plugin is not installed (apt-get install orthanc-dicomweb)"),
]


@dataclass
class Orthanc:
    """An Orthanc at work: its address, and the folder with ``credentials`` and ``ca.pem`` for it."""

    address: str
    folder: Path

    @property
    def url(self) -> str:
        return f"{self.address}/dicom-web"

    def archive(self, **options) -> Archive:
        auth = Credentials.find(self.folder / "credentials")
        return Archive(self.url, auth=auth, ca_file=self.folder / "ca.pem", **options)

    def rest(self, path: str, data: bytes | None = None) -> bytes:
        """Orthanc's own interface."""
        word = base64.b64encode(b"alice:secret").decode()
        request = urllib.request.Request(self.address + path, data, {"Authorization": f"Basic {word}"})
        context = ssl.create_default_context(cafile=self.folder / "ca.pem")
        with urllib.request.urlopen(request, timeout=10, context=context) as answer:
            return answer.read()

    def get(self, path: str):
        return json.loads(self.rest(path))

    def send(self, files) -> None:
        for file in files:
            self.rest("/instances", file.read_bytes())

    def derived(self) -> list[list[pydicom.Dataset]]:
        """Every series that monai-sr made, as the archive gives it back."""
        listed = []
        for series in self.get("/series?expand"):
            files = [self.rest(f"/instances/{one}/file") for one in series["Instances"]]
            them = [pydicom.dcmread(io.BytesIO(file)) for file in files]
            if them[0].ImageType[0] == "DERIVED":
                listed.append(sorted(them, key=lambda one: one.InstanceNumber))
        return listed


class TlsProxy(socketserver.ThreadingTCPServer):
    """Takes TLS connections and passes on what they say to a port of this machine."""

    daemon_threads = True

    def __init__(self, port: int, certificate: Path) -> None:
        super().__init__(("127.0.0.1", 0), self._pass_on)
        self._port = port
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate)

    def _pass_on(self, plain: socket.socket, *_: object) -> None:
        with (
            suppress(OSError),
            self._context.wrap_socket(plain, server_side=True) as client,
            socket.create_connection(("127.0.0.1", self._port)) as server,
        ):
            back = threading.Thread(target=self._copy, args=(server, client), daemon=True)
            back.start()
            self._copy(client, server)
            back.join()

    @staticmethod
    def _copy(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(2**16):
                target.sendall(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def orthanc(tmp_path, certificates) -> Iterator[Orthanc]:  # noqa: F811 - the fixture
    """A PACS of its own on this machine, that asks for a password and speaks TLS by a certificate of a test's CA."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    proxy = TlsProxy(port, certificates / "server.pem")
    threading.Thread(target=proxy.serve_forever, args=(0.02,), daemon=True).start()
    folder = tmp_path / "orthanc"
    folder.mkdir()
    configuration = {
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "HttpPort": port,
        "DicomServerEnabled": False,
        "RemoteAccessAllowed": True,  # as from behind a proxy
        "AuthenticationEnabled": True,
        "RegisteredUsers": {"alice": "secret"},
        "Plugins": [str(PLUGIN)],
    }
    (folder / "orthanc.json").write_text(json.dumps(configuration))
    auth_file(folder, "alice:secret")
    shutil.copy(certificates / "ca.pem", folder)
    one = Orthanc(f"https://localhost:{proxy.server_address[1]}", folder)
    with open(folder / "log", "w") as log:
        server = subprocess.Popen(["Orthanc", str(folder / "orthanc.json")], stdout=log, stderr=log)
    try:
        for _ in range(150):
            try:
                one.get("/system")
                break
            except OSError:
                assert server.poll() is None, (folder / "log").read_text()[-2000:]
                time.sleep(0.2)
        yield one
    finally:
        server.terminate()
        server.wait(20)
        proxy.shutdown()
        proxy.server_close()


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_a_study_that_arrives_gets_its_derived_series(orthanc, tmp_path, modality):
    sent = write(tmp_path / "thick", slices(Stack(offsets=even(60, 4.0)), modality=modality), syntax=RLELossless)
    orthanc.send(sent + write(tmp_path / "thin", slices(Stack(offsets=even(8, 2.0)), series=2, modality=modality)))
    common = ["--state", tmp_path / "state", "--bundle", "none", "--settle", "0", "--days", "36500", "--once"]
    common += ["--auth-file", orthanc.folder / "credentials", "--ca-file", orthanc.folder / "ca.pem"]
    process = command("watch", "--dicomweb", orthanc.url, *common)
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert "192 instances stored" in out and "1 stored, 1 left out, 0 failed" in out
    (derived,) = orthanc.derived()
    assert len(orthanc.get("/studies")) == 1 and len(derived) == 192
    assert derived[0].SeriesNumber == 9001 and derived[0].StudyInstanceUID == uid_of("study")
    process = command("watch", "--dicomweb", orthanc.url, *common)
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert "0 stored, 1 left out, 0 failed; 2 done before" in out  # its own series among those left out
    assert len(orthanc.derived()) == 1 and not leftovers(tmp_path / "state")


def test_what_is_stored_is_what_run_makes_of_the_same_files(orthanc, tmp_path):
    orthanc.send(write(tmp_path / "thick", slices()))
    options = {"options": RunOptions.from_dict({"bundle": "residual", "device": "cpu"}), "settle": 0.0, "days": 36500}
    assert Watcher(orthanc.archive(), tmp_path / "state", **options).look().stored == 1
    process = command("run", tmp_path / "thick", tmp_path / "out", "--bundle", "residual", "--device", "cpu")
    assert process.wait() == 0
    by_hand = [pydicom.dcmread(file) for file in sorted((tmp_path / "out").rglob("*.dcm"))]
    (derived,) = orthanc.derived()
    assert [one.SOPInstanceUID for one in derived] == [one.SOPInstanceUID for one in by_hand]
    for ours, theirs in zip(by_hand, derived, strict=True):
        assert np.array_equal(ours.pixel_array, theirs.pixel_array) and ours == theirs


def test_what_is_fetched_is_the_series_as_it_is_kept(orthanc, tmp_path):
    """Compressed as it was sent, in pages of searches smaller than the series."""
    orthanc.send(write(tmp_path / "thick", slices(), syntax=RLELossless))
    (series,) = orthanc.archive().search("CT", since="19900101")
    assert series.instances == 8 and len(orthanc.archive().instances(series.study, series.uid)) == 8
    assert not orthanc.archive().search("CT", since="20200101") and not orthanc.archive().search("MR")
    (tmp_path / "fetched").mkdir()
    files = orthanc.archive().fetch(series, tmp_path / "fetched")
    assert {pydicom.dcmread(file).file_meta.TransferSyntaxUID for file in files} == {RLELossless}
    assert np.array_equal(read(tmp_path / "fetched").voxels, read(tmp_path / "thick").voxels)


def test_storing_twice_leaves_one_series(orthanc, tmp_path):
    orthanc.send(write(tmp_path / "thick", slices()))
    for state in ("one", "two"):  # as if the state had been lost
        options = {"options": RunOptions.from_dict({"bundle": "none"}), "settle": 0.0, "days": 36500}
        assert Watcher(orthanc.archive(), tmp_path / state, **options).look().stored == 1
    assert len(orthanc.derived()) == 1


def test_an_unknown_user_and_an_unknown_authority_are_refused(orthanc, tmp_path):
    with pytest.raises(PacsError, match="E-PACS-TLS"):
        Archive(orthanc.url, auth=Credentials.find(orthanc.folder / "credentials")).search("CT")
    (tmp_path / "other").mkdir()
    wrong = auth_file(tmp_path / "other", "alice:wrong")
    with pytest.raises(PacsError, match="E-PACS-AUTH"):
        Archive(orthanc.url, auth=Credentials.find(wrong), ca_file=orthanc.folder / "ca.pem").search("CT")


@pytest.mark.parametrize(("how", "count"), [(None, 1), ("classic", 26)])
def test_an_enhanced_series_gives_one_enhanced_image_or_classic_ones(how, count, orthanc, tmp_path):
    orthanc.send(write(tmp_path / "in", enhanced(slices())))
    events = []
    options = RunOptions.from_dict({"bundle": "none", "format": how})
    more = {"settle": 0.0, "days": 36500, "report": events.append}
    Watcher(orthanc.archive(), tmp_path / "state", options, **more).look()
    assert [event.text for event in events if event.status == "stored"] == [f"{count} instances stored"], events
    assert sum(map(len, orthanc.derived())) == count


@pytest.mark.data
def test_every_real_series_of_an_archive_is_stored_or_left_out_for_its_reason(orthanc, shared_data, tmp_path):
    """An even CT, a tilted one, coronal, oblique and enhanced MR, a thin series with a missing slice."""
    sent = {}
    for folder in sorted((shared_data / "dicom").iterdir()):
        files = [file for file in sorted(folder.rglob("*")) if is_dicom(file)]
        orthanc.send(files)
        sent[name_of(str(pydicom.dcmread(files[0]).SeriesInstanceUID))] = folder.name
    events = []
    options = {
        "options": RunOptions.from_dict({"bundle": "none"}),
        "settle": 0.0,
        "days": 36500,
        "report": events.append,
    }
    Watcher(orthanc.archive(), tmp_path / "state", **options).look()
    ended = {sent[event.series]: f"{event.status} {event.text[:12]}" for event in events if event.status != "warning"}
    assert ended == {
        "ct_chest_8mm": "stored 371 instance",
        "ct_head_phantom_gantry_tilt": "stored 59 instances",
        "mr_brain_fse_pd_oblique_5mm": "stored 163 instance",
        "mr_enhanced_philips_8frames": "left out E-PACS-THIN:",
        "mr_enhanced_siemens_8frames": "left out E-PACS-THIN:",
        "mr_liver_haste_coronal_7mm": "stored 168 instance",
        "mr_mprage_missing_slice": "left out E-PACS-THIN:",
    }
    assert sum(map(len, orthanc.derived())) == sum(int(text.split()[1]) for text in ended.values() if "stored" in text)
    assert not leftovers(tmp_path / "state")
