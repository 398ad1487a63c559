"""A DICOM node: series in by C-STORE, one derived series each out, and peers that do what they should not."""

from __future__ import annotations

import copy
import os
import resource
import shutil
import signal
import socket
import struct
import subprocess
import threading
import time
from pathlib import Path

import dicom_phantoms
import pydicom
import pytest
from catalogue import fault
from dicom_phantoms import Stack, even
from pydicom.uid import RLELossless, SecondaryCaptureImageStorage, generate_uid
from runs import command, wait_for

pytest.importorskip("pynetdicom", reason="monai-sr[node] is not installed")
pytest.importorskip("dicomweb_client", reason="monai-sr[node] is not installed")

from pynetdicom import AE, build_context

from monai_sr.cli.main import main
from monai_sr.clients.pacs import PacsError, Watcher
from monai_sr.clients.pacs import node as node_module
from monai_sr.clients.pacs.node import Node, Peer
from monai_sr.clients.pacs.received import Received
from monai_sr.clients.pacs.target import Target, Tls
from monai_sr.errors import OutputError, UsageError
from monai_sr.options import RunOptions

needs_dcmtk = pytest.mark.skipif(not shutil.which("storescu"), reason="DCMTK is not installed")
CT = "1.2.840.10008.5.1.4.1.1.2"


@pytest.fixture
def received(tmp_path):
    return Received(tmp_path / "state" / "received", tmp_path / "state" / "results")


@pytest.fixture
def said():
    return []


@pytest.fixture
def start(received, said):
    """Start a node; it is stopped at the end."""
    nodes = []

    def made(**how) -> Node:
        nodes.append(Node(received, **{"port": 0, "timeout": 5.0, "report": said.append} | how).__enter__())
        return nodes[-1]

    yield made
    for one in nodes:
        one.__exit__()


@pytest.fixture
def storescp(tmp_path):
    """Another node, of DCMTK, and the folder of what it has."""
    stored, port = tmp_path / "stored", free_port()
    stored.mkdir()
    process = subprocess.Popen(["storescp", "-aet", "ARCHIVE", "-od", stored, str(port)], cwd=tmp_path)
    wait_for(lambda: is_open(port), process)
    yield f"ARCHIVE@127.0.0.1:{port}", stored
    process.kill()
    process.wait()


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def is_open(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


def watcher(received: Received, **how) -> Watcher:
    options = {"options": RunOptions.from_dict({"bundle": "none"}), "settle": 0.0} | how
    return Watcher(received, received.folder.parent, **options)


def echo(port: int, *words: object, called: str = "MONAI-SR") -> int:
    """The exit code of echoscu."""
    line = ["echoscu", "-aec", called, *map(str, words), "127.0.0.1", str(port)]
    return subprocess.run(line, capture_output=True, timeout=60).returncode


def store(port: int, files, *words: object) -> subprocess.CompletedProcess:
    line = ["storescu", *map(str, words), "-aec", "MONAI-SR", "127.0.0.1", str(port), *map(str, files)]
    return subprocess.run(line, capture_output=True, text=True, timeout=120)


def phantom(folder: Path, series: int = 1, **how) -> list[Path]:
    return dicom_phantoms.write(folder, dicom_phantoms.slices(how.pop("stack", Stack()), series=series, **how))


def send(port: int, dataset, *, title: str = "PYNETDICOM", **changes) -> int:
    """The status of C-STORE for one dataset, sent by pynetdicom; ``changes`` are announced and not in the dataset."""
    ae = AE(ae_title=title)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 20
    association = ae.associate("127.0.0.1", port, [build_context(dataset.SOPClassUID)], ae_title="MONAI-SR")
    if not association.is_established:
        return -1
    announced = copy.deepcopy(dataset)
    for name, value in changes.items():
        setattr(announced, name, value)
    if changes:
        original = association.dimse.send_msg

        def sent(message, context):
            message.AffectedSOPInstanceUID = changes.get("SOPInstanceUID", message.AffectedSOPInstanceUID)
            original(message, context)

        association.dimse.send_msg = sent
    status = association.send_c_store(dataset).get("Status", -2)
    association.release()
    return status


def dataset_of(path: Path):
    return pydicom.dcmread(path)


# ------------------------------------------------------------- the way through


@needs_dcmtk
def test_a_series_that_was_sent_comes_back_super_resolved_and_once(tmp_path, received, start, storescp):
    text, stored = storescp
    received.send = Target(text)
    files = phantom(tmp_path / "in")
    node = start()
    assert echo(node.port) == 0 and store(node.port, files).returncode == 0
    assert watcher(received).look().stored == 1
    assert main(["run", str(tmp_path / "in"), str(tmp_path / "out") + "/", "--bundle", "none"]) == 0
    expected = {one.SOPInstanceUID: one.PixelData for one in map(dataset_of, (tmp_path / "out").rglob("*.dcm"))}
    assert {one.SOPInstanceUID: one.PixelData for one in map(dataset_of, stored.iterdir())} == expected
    assert not list(received.folder.iterdir())  # what is done is removed
    before = {path: path.stat().st_mtime_ns for path in stored.iterdir()}
    assert store(node.port, files).returncode == 0
    counts = watcher(received).look()
    assert (counts.stored, counts.settled) == (0, 1) and not list(received.folder.iterdir())
    assert {path: path.stat().st_mtime_ns for path in stored.iterdir()} == before


def test_without_a_target_results_are_put_into_a_folder_as_run_makes_them(tmp_path, received, start):
    files, node = phantom(tmp_path / "in"), start()
    assert {send(node.port, dataset_of(path)) for path in files} == {0}
    assert watcher(received).look().stored == 1
    assert main(["run", str(tmp_path / "in"), str(tmp_path / "out") + "/", "--bundle", "none"]) == 0
    ours, runs = (
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.dcm")}
        for folder in (received.results, tmp_path / "out")
    )
    assert ours == runs and len(ours) == 26


def test_what_is_received_is_what_was_sent(tmp_path, received, start):
    (path, *_), node = phantom(tmp_path / "in"), start()
    assert send(node.port, dataset_of(path)) == 0
    (kept,) = received.folder.rglob("*.dcm")
    assert dataset_of(kept) == dataset_of(path)
    assert dataset_of(kept).file_meta.TransferSyntaxUID == dataset_of(path).file_meta.TransferSyntaxUID


def test_a_compressed_series_is_taken_as_it_is(tmp_path, received, start):
    slices = dicom_phantoms.slices(Stack())
    files, node = dicom_phantoms.write(tmp_path / "in", slices, syntax=RLELossless), start()
    ae = AE()
    association = ae.associate("127.0.0.1", node.port, [build_context(CT, RLELossless)], ae_title="MONAI-SR")
    assert {association.send_c_store(dataset_of(path)).Status for path in files} == {0}
    association.release()
    syntaxes = {dataset_of(path).file_meta.TransferSyntaxUID for path in received.folder.rglob("*.dcm")}
    assert syntaxes == {RLELossless}
    assert watcher(received).look().stored == 1


def test_a_series_is_taken_when_no_slice_came_for_a_while_and_slices_that_come_later_start_it_again(tmp_path, received):
    files = phantom(tmp_path / "in")
    missing = files.pop(len(files) // 2)
    for path in files:
        keep(received, path)
    assert watcher(received, settle=100.0).look().waiting == 1
    assert watcher(received).look().failed == 1  # E-DCM-GAP
    keep(received, missing)
    assert watcher(received).look().stored == 1


@fault("P03", "W-PACS-LATE")
def test_a_slice_that_arrives_while_its_series_is_processed_is_not_removed_in_silence(tmp_path, received):
    last, *files = phantom(tmp_path / "in")
    for path in files:
        keep(received, path)
    store, events = received.store, []

    def store_late(made: list[Path]) -> None:
        store(made)
        keep(received, last)

    received.store = store_late
    assert watcher(received).look().stored == 1
    assert len(list(received.folder.rglob("*.dcm"))) == len(files) + 1
    assert watcher(received, report=events.append).look().settled == 1
    (event,) = events
    assert event.status == "warning" and event.text.startswith("W-PACS-LATE: 1 instance")
    assert not list(received.folder.iterdir())
    keep(received, last)  # sent again: of a series that was done
    assert watcher(received, report=events.append).look().settled == 1 and len(events) == 1


def keep(received: Received, path: Path) -> None:
    one = dataset_of(path)
    received.keep(path.read_bytes(), sop_class=one.SOPClassUID, uid=one.SOPInstanceUID)


def test_a_thin_series_is_left_out_and_removed_after_some_days(tmp_path, received):
    for path in phantom(tmp_path / "in", stack=Stack(offsets=even(8, 2.0))):
        keep(received, path)
    assert watcher(received).look().left_out == 1
    (folder,) = received.folder.iterdir()
    assert watcher(received).look().settled == 1 and folder.exists()
    os.utime(folder, (0, 0))
    assert watcher(received).look().settled == 1 and not folder.exists()


@pytest.mark.slow
@needs_dcmtk
@fault("P03", "E-PACS-CONNECT")
def test_a_result_waits_until_the_target_is_there(tmp_path, received, storescp, monkeypatch):
    text, stored = storescp
    received.send = Target(f"ARCHIVE@127.0.0.1:{free_port()}", timeout=2.0)
    for path in phantom(tmp_path / "in"):
        keep(received, path)
    with pytest.raises(PacsError) as caught:
        watcher(received).look()
    assert (caught.value.code, caught.value.is_temporary) == ("E-PACS-CONNECT", True)
    received.send = Target(text)
    assert watcher(received).look().stored == 1 and len(list(stored.iterdir())) == 26


# ------------------------------------------------------------- who may do what


@needs_dcmtk
@fault("P03", "W-NODE-REFUSED")
def test_only_peers_are_let_in(start, said, tmp_path):
    (path, *_) = phantom(tmp_path / "in")
    one = start(peers=[Peer.parse("SCANNER"), Peer.parse("CONSOLE@127.0.0.2")])
    assert echo(one.port, "-aet", "SCANNER") == 0
    assert echo(one.port, "-aet", "SCANNER", called="OTHER") != 0
    assert echo(one.port, "-aet", "STRANGER") != 0
    assert send(one.port, dataset_of(path), title="STRANGER") == -1
    assert send(one.port, dataset_of(path), title="CONSOLE") == 0x0124  # at another address than its own
    other = start(peers=[Peer.parse("CONSOLE@127.0.0.2")])
    assert echo(other.port, "-aet", "CONSOLE") != 0  # closed at once
    assert said and all(text.startswith("W-NODE-REFUSED: ") for text in said)


@pytest.mark.parametrize(
    ("what", "status"),
    [("another instance", 0xA900), ("no UIDs", 0xC000), ("a full disk", 0xA700), ("another class", -1)],
)
@fault("P03", "W-NODE-REFUSED")
def test_what_cannot_be_kept_gets_its_status_and_leaves_nothing(what, status, tmp_path, received, start, monkeypatch):
    (path, *_), node = phantom(tmp_path / "in"), start()
    one, changes = dataset_of(path), {}
    if what == "another instance":
        changes = {"SOPInstanceUID": generate_uid()}
    elif what == "no UIDs":
        del one.SeriesInstanceUID
    elif what == "another class":
        one.SOPClassUID = SecondaryCaptureImageStorage
    else:
        full = OutputError("E-OUT-SPACE", "the disk is full")
        monkeypatch.setattr("monai_sr.clients.pacs.received.write_atomically", lambda *_: (_ for _ in ()).throw(full))
    if what == "another class":
        association = AE().associate("127.0.0.1", node.port, [build_context(one.SOPClassUID)], ae_title="MONAI-SR")
        assert not association.accepted_contexts
    else:
        assert send(node.port, one, **changes) == status
    assert not list(received.folder.rglob("*.dcm"))


def test_no_uid_decides_where_a_file_is_written(tmp_path, received, start):
    (path, *_), node = phantom(tmp_path / "in"), start()
    one = dataset_of(path)
    one.SeriesInstanceUID = one.StudyInstanceUID = "../../../../tmp/x"
    before = {p for p in tmp_path.rglob("*") if p.is_file()}
    assert send(node.port, one) == 0
    (new,) = {p for p in tmp_path.rglob("*") if p.is_file()} - before
    assert new.parent.parent == received.folder and set(new.stem) <= set("0123456789abcdef")


def test_an_unknown_transfer_syntax_is_refused_for_its_class_alone(start):
    node = start()
    contexts = [build_context(CT, "1.2.3.4.5"), build_context("1.2.840.10008.1.1")]
    association = AE().associate("127.0.0.1", node.port, contexts, ae_title="MONAI-SR")
    assert [context.abstract_syntax for context in association.accepted_contexts] == ["1.2.840.10008.1.1"]
    assert [context.result for context in association.rejected_contexts] == [4]  # transfer syntaxes not supported
    assert association.send_c_echo().Status == 0
    association.release()


# ------------------------------------------------------------- hostile peers


def request_pdu() -> bytes:
    """An A-ASSOCIATE-RQ for C-ECHO as its bytes, by pynetdicom itself."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        ae = AE(ae_title="HOSTILE")
        ae.acse_timeout = 1
        place = listening.getsockname()[1]
        context = [build_context(CT)]
        thread = threading.Thread(target=lambda: ae.associate("127.0.0.1", place, context, ae_title="MONAI-SR"))
        thread.start()
        connection, _ = listening.accept()
        data = connection.recv(65536)
        connection.close()
        thread.join()
    return data


def closes(connection: socket.socket, seconds: float) -> bool:
    """Whether the other side ends a connection in this time."""
    connection.settimeout(seconds)
    try:
        while connection.recv(65536):
            pass
    except TimeoutError:
        return False
    except OSError:
        return True
    return True


def connect(port: int, data: bytes = b"") -> socket.socket:
    made = socket.create_connection(("127.0.0.1", port), timeout=5)
    made.sendall(data)
    return made


@pytest.mark.parametrize("kind", [1, 4, 7, 99])
@fault("P03")
def test_a_pdu_of_gigabytes_ends_the_connection_before_it_is_read(kind, start):
    node = start()
    connection = connect(node.port, struct.pack(">BBL", kind, 0, 2**32 - 1))
    assert closes(connection, 4)
    assert_serves(node)


@pytest.mark.parametrize(
    "start_of",
    ["nothing", pytest.param("a header", marks=pytest.mark.slow), pytest.param("a request", marks=pytest.mark.slow)],
)
@fault("P03")
def test_a_peer_that_sends_byte_by_byte_is_given_up(start_of, start):
    node = start(timeout=1.0)
    data = {"nothing": b"", "a header": b"\1\0", "a request": request_pdu()[:40]}[start_of]
    connection, begun = connect(node.port, data), time.monotonic()
    while time.monotonic() - begun < 4:
        time.sleep(0.2)
        try:
            connection.sendall(b"\0" if start_of != "nothing" else b"")
        except OSError:
            break
        if start_of == "nothing" and closes(connection, 0.2):
            break
    assert time.monotonic() - begun < 4
    assert_serves(node)


@fault("P03")
def test_a_message_without_end_ends_the_connection(tmp_path, start, monkeypatch, received):
    monkeypatch.setattr(node_module, "MOST_PENDING", 200_000)
    node = start()
    one = dataset_of(phantom(tmp_path / "in")[0])
    one.PixelData = bytes(2_000_000)
    assert send(node.port, one) == -2  # no answer
    assert not list(received.folder.rglob("*.dcm"))
    assert_serves(node)
    one.PixelData = bytes(100_000)
    assert send(node.port, one) == 0


def assert_serves(node: Node) -> None:
    """The node is well: it answers, and holds no connection."""
    deadline = time.monotonic() + 10
    while node.connections and time.monotonic() < deadline:
        time.sleep(0.05)
    assert node.connections == 0
    ae = AE(ae_title="FRIEND")
    while True:  # connections that were closed wait in the queue of the system
        association = ae.associate("127.0.0.1", node.port, [build_context("1.2.840.10008.1.1")], ae_title="MONAI-SR")
        if association.is_established or time.monotonic() > deadline:
            break
        time.sleep(0.2)
    assert association.is_established and association.send_c_echo().Status == 0
    association.release()


@pytest.mark.parametrize("count", [60, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("what", ["open", pytest.param("half a request", marks=pytest.mark.slow), "a request"])
@fault("P03")
def test_many_connections_take_no_more_than_their_number_of_threads(count, what, start, said):
    node = start(associations=4, timeout=3.0 if count > 100 else 1.0)
    data = {"open": b"", "half a request": request_pdu()[:30], "a request": request_pdu()}[what]
    before, maximum, connections = threading.active_count(), 0, []
    for _ in range(count):
        try:
            connections.append(connect(node.port, data))
        except OSError:  # the queue of the system is full
            time.sleep(0.01)
        maximum = max(maximum, node.connections)
    for _ in range(20):
        time.sleep(0.05)
        maximum = max(maximum, node.connections)
    assert 0 < maximum <= 8
    assert threading.active_count() - before <= 3 * 8 + 4
    for connection in connections:
        connection.close()
    assert len(said) <= 5  # reasons, not refusals
    assert_serves(node)


@fault("P03")
def test_associations_above_the_limit_are_rejected_for_now(start):
    node, ae = start(associations=2), AE()
    contexts = [build_context("1.2.840.10008.1.1")]
    held = [ae.associate("127.0.0.1", node.port, contexts, ae_title="MONAI-SR") for _ in range(2)]
    assert all(one.is_established for one in held)
    third = ae.associate("127.0.0.1", node.port, contexts, ae_title="MONAI-SR")
    assert third.is_rejected and third.acceptor.primitive.result == 2  # transient
    for one in held:
        one.release()
    assert_serves(node)


# ------------------------------------------------------------- certificates


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """Files of an authority, and of certificates by it and by another one."""
    folder = tmp_path_factory.mktemp("tls")

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    if not shutil.which("openssl"):
        pytest.skip("openssl is not installed")
    (folder / "san").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost")
    for authority in ("ca", "other"):
        new = ("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={authority}")
        openssl(*new, "-keyout", f"{authority}.key", "-out", f"{authority}.pem")
        openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=x", "-keyout", f"{authority}-x.key", "-out", "r")
        signed = ("x509", "-req", "-in", "r", "-days", "2", "-CA", f"{authority}.pem", "-CAkey", f"{authority}.key")
        openssl(*signed, "-CAcreateserial", "-extfile", "san", "-out", f"{authority}-x.pem")
    return folder


def tls_of(folder: Path, name: str = "ca") -> Tls:
    return Tls(folder / f"{name}-x.pem", folder / "ca.pem", folder / f"{name}-x.key")


@needs_dcmtk
@fault("P03")
def test_tls_accepts_certificates_of_the_authority_only(certificates, start):
    node = start(tls=tls_of(certificates))

    def with_certificate(name: str) -> int:
        words = ("+tls", certificates / f"{name}-x.key", certificates / f"{name}-x.pem", "+cf", certificates / "ca.pem")
        return echo(node.port, *words)

    assert with_certificate("ca") == 0
    assert with_certificate("other") != 0
    assert echo(node.port, "+tla", "+cf", certificates / "ca.pem") != 0  # no certificate
    assert echo(node.port, "-ta", "2", "-td", "2", "-to", "2") != 0  # no TLS
    silent = connect(node.port)  # a handshake that never comes holds up nobody
    assert with_certificate("ca") == 0
    silent.close()


@needs_dcmtk
def test_a_result_is_sent_by_tls(certificates, tmp_path, received, start):
    other = Received(tmp_path / "other", tmp_path / "results")
    with Node(other, port=0, title="ARCHIVE", tls=tls_of(certificates)) as archive:
        files = phantom(tmp_path / "in")
        Target(f"ARCHIVE@127.0.0.1:{archive.port}", tls=tls_of(certificates))(files)
        assert len(list(other.folder.rglob("*.dcm"))) == len(files)
        with pytest.raises(PacsError) as caught:
            Target(f"ARCHIVE@127.0.0.1:{archive.port}", tls=tls_of(certificates, "other"), timeout=3.0)(files)
        assert caught.value.code == "E-PACS-CONNECT"
        with pytest.raises(PacsError) as caught:
            Target(f"OTHER@127.0.0.1:{archive.port}", tls=tls_of(certificates))(files)
        assert caught.value.code == "E-PACS-RIGHTS"


# ------------------------------------------------------------- the command


@fault("P03", "E-NODE-PORT")
def test_a_port_that_is_taken_is_refused(tmp_path, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        words = ["--port", str(taken.getsockname()[1]), "--bundle", "none"]
        assert main(["node", "--state", str(tmp_path / "s"), *words]) == 6
    assert "E-NODE-PORT" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["--address", "0.0.0.0"],
        ["--address", "nowhere"],
        ["--certificate", "a.pem"],
        ["--ca-file", "a.pem"],
        ["--certificate", "absent.pem", "--ca-file", "absent.pem"],
        ["--peer", "A TITLE THAT IS TOO LONG"],
        ["--peer", ""],
        ["--send", "ARCHIVE"],
        ["--send", "ARCHIVE@host:0"],
        ["--ae-title", "back\\slash"],
    ],
)
@fault("P03", "E-USE")
def test_what_would_be_unsafe_or_unclear_is_refused(words, tmp_path, capsys):
    assert main(["node", "--state", str(tmp_path / "s"), "--bundle", "none", *words]) == 2
    assert "E-USE" in capsys.readouterr().err


@fault("P03", "W-PACS-PLAIN")
@pytest.mark.parametrize("others", [["--address", "0.0.0.0", "--peer", "SCANNER"], ["--send", "PACS@pacs.invalid:104"]])
def test_a_node_for_others_without_tls_is_warned_of(others, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Watcher, "look", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    words = ["--port", str(free_port()), "--bundle", "none", *others]
    assert main(["node", "--state", str(tmp_path / "s"), *words]) == 130
    out, err = capsys.readouterr()
    assert "W-PACS-PLAIN" in err and "listens" in out


def test_titles_are_checked():
    assert Peer.parse("SCANNER@127.0.0.1") == Peer("SCANNER", "127.0.0.1")
    with pytest.raises(UsageError):
        Peer.parse("SCANNER@no.such.host.invalid")


# ------------------------------------------------------------- killed under load


@pytest.mark.slow
@pytest.mark.timeout(1800)
@needs_dcmtk
def test_nothing_is_lost_and_nothing_comes_twice_when_the_node_is_killed_under_load(tmp_path, storescp):
    text, stored = storescp
    studies, port, state = 200, free_port(), tmp_path / "state"
    stack = Stack(offsets=even(5, 6.0), rows=12, columns=12)
    for number in range(studies):
        phantom(tmp_path / "in" / str(number), number, stack=stack)

    def begin() -> subprocess.Popen:
        words = ["--port", port, "--settle", "1", "--interval", "0.2", "--send", text, "--bundle", "none"]
        words += ["--factor", "2"]
        return command("node", "--state", state, *words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def sends(numbers) -> None:
        for number in numbers:
            files = sorted((tmp_path / "in" / str(number)).iterdir())
            while store(port, files).returncode:  # as a scanner does: until it has been acknowledged
                time.sleep(0.3)

    process = begin()
    senders = [threading.Thread(target=sends, args=(range(part, studies, 4),), daemon=True) for part in range(4)]
    for sender in senders:
        sender.start()
    kills = 0
    while kills < 4 and any(sender.is_alive() for sender in senders):
        wait_for(lambda: is_open(port), process)
        time.sleep(2 + kills)
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
        process = begin()
    for sender in senders:
        sender.join(400)
    wait_for(lambda: len(list(state.glob("*.json"))) == studies, process, 1200)
    wait_for(lambda: not list((state / "received").iterdir()), process, 60)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 143
    results = [dataset_of(path) for path in stored.iterdir()]
    by_series: dict[str, list] = {}
    for one in results:
        by_series.setdefault(one.SeriesInstanceUID, []).append(one)
    assert kills >= 3 and len(by_series) == studies
    assert {len(group) for group in by_series.values()} == {len(results) // studies}
    assert len({one.SOPInstanceUID for one in results}) == len(results)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_associations(tmp_path, start):
    node = start()
    one = dataset_of(phantom(tmp_path / "in")[0])
    assert send(node.port, one) == 0
    for _ in range(50):
        send(node.port, one)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(300):
        assert send(node.port, one) == 0
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 30_000  # KiB
