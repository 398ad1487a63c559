"""An archive is watched: thick series in, one derived series each out, whatever goes wrong on the way."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import dicom_phantoms
import fake_pacs
import numpy as np
import pytest
from dicom_phantoms import Stack, even, slices, tells_nothing, write
from fake_pacs import FakePacs, Fault
from pydicom import Dataset
from runs import command, wait_for

pytest.importorskip("dicomweb_client", reason="monai-sr[pacs] is not installed")
pytest.importorskip("requests", reason="monai-sr[pacs] is not installed")

from monai_sr.cli.main import main
from monai_sr.clients.pacs import Archive, Credentials, PacsError, RemoteSeries, Watcher, archive, watch, why_not
from monai_sr.clients.pacs.state import Entry
from monai_sr.dicom import find_series
from monai_sr.errors import OutputError, UsageError
from monai_sr.files import _mark_of, hidden_beside
from monai_sr.options import RunOptions

watch_module = sys.modules["monai_sr.clients.pacs.watch"]  # whose name the function has taken

THIN = even(8, 2.0)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    """Attempts follow at once, and neither the environment nor a ~/.netrc knows credentials."""
    monkeypatch.setattr(archive, "WAITS", (0.0, 0.0))
    monkeypatch.setenv("NETRC", os.devnull)
    for name in list(os.environ):
        if name.startswith("MONAI_SR_DICOMWEB") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.fixture
def pacs():
    with FakePacs() as one:
        yield one


@pytest.fixture
def fill(pacs, tmp_path):
    """Put a phantom series into the archive."""

    def add(number: int = 1, stack: Stack | None = None, **attributes) -> list:
        made = slices(stack, series=number, **attributes)
        pacs.add(write(tmp_path / "scanner" / str(number), made))
        return made

    return add


def watcher(pacs, folder: Path, **options) -> Watcher:
    fast = RunOptions.from_dict({"bundle": "none", "factor": 2})
    options = {"options": fast, "settle": 0.0, "days": 36500} | options
    return Watcher(Archive(pacs.url, timeout=5.0), folder, **options)


def events_of(pacs, folder: Path, **options) -> tuple:
    """A look at the archive: its outcome and its events."""
    events = []
    outcome = watcher(pacs, folder, report=events.append, **options).look()
    return outcome, events


OF_THE_COMMAND = RunOptions.from_dict({"bundle": "none"})
"""The options of :func:`watch_once`: with other ones, a series is another case."""


def watch_once(pacs, folder: Path, *options) -> list[str]:
    """The words of a command that looks once."""
    common = ["--bundle", "none", "--settle", "0", "--days", "36500", "--once"]
    return ["watch", "--dicomweb", pacs.url, "--state", str(folder), *common, *options]


def leftovers(folder: Path) -> list[str]:
    """What a state folder holds besides records."""
    return [path.name for path in folder.iterdir() if path.suffix != ".json"]


# ------------------------------------------------------------- the way through


def test_a_new_thick_series_comes_back_super_resolved_and_is_left_alone_from_then_on(pacs, fill, tmp_path):
    source = fill()
    outcome, _ = events_of(pacs, tmp_path / "state")
    assert (outcome.stored, outcome.exit_code) == (1, 0)
    (derived,) = pacs.derived().values()
    assert {one.StudyInstanceUID for one in derived} == {source[0].StudyInstanceUID}
    assert {one.FrameOfReferenceUID for one in derived} == {source[0].FrameOfReferenceUID}
    assert derived[0].SeriesDescription == "SR research - not for diagnosis"
    step = np.diff([one.ImagePositionPatient[2] for one in derived])
    assert np.allclose(np.abs(step), 2.0) and len(derived) == 16
    again, (event,) = events_of(pacs, tmp_path / "state")
    assert (again.settled, again.left_out, event.text) == (1, 1, "E-DCM-OWN: made by monai-sr")
    before = len(pacs.requests)
    assert events_of(pacs, tmp_path / "state")[0].settled == 2
    assert len(pacs.requests) - before == 2  # the searches for CT and for MR
    assert not leftovers(tmp_path / "state")


def test_what_is_stored_is_what_run_makes_of_the_same_files(pacs, fill, tmp_path):
    fill()
    events_of(pacs, tmp_path / "state", options=RunOptions.from_dict({"bundle": "none"}))
    assert main(["run", str(tmp_path / "scanner"), str(tmp_path / "out"), "--bundle", "none"]) == 0
    by_hand = {path.read_bytes() for path in (tmp_path / "out").rglob("*.dcm")}
    assert by_hand == {pacs.instances[uid] for uid in pacs.stored}


@pytest.mark.parametrize(("volume", "stored", "series"), [(None, 39, 3), ("all", 39, 1)])
def test_volumes_of_a_series_are_stored_as_one_series_if_asked_for(pacs, tmp_path, volume, stored, series):
    stack = Stack(offsets=even(6, 4.0))
    for number in range(1, 4):
        made = slices(stack, modality="MR", TemporalPositionIdentifier=number, ScanningSequence="GR")
        pacs.add(write(tmp_path / "scanner", made))
    options = RunOptions.from_dict({"bundle": "none", "factor": 13 / 6, "volume": volume})
    outcome, events = events_of(pacs, tmp_path / "state", options=options)
    assert outcome.stored == 1 and events[-1].text == f"{stored} instances stored", events
    assert len(pacs.derived()) == series
    (one, *_) = pacs.derived().values()
    assert {i.TemporalPositionIdentifier for i in one} == ({1, 2, 3} if volume else {one[0].TemporalPositionIdentifier})


def test_a_number_chooses_no_volume_of_an_archive(pacs, tmp_path):
    with pytest.raises(UsageError, match="E-USE"):
        watcher(pacs, tmp_path, options=RunOptions.from_dict({"bundle": "none", "volume": 3}))


def test_what_is_fetched_is_what_the_archive_holds_to_the_byte(pacs, fill, tmp_path):
    made = fill()
    series = RemoteSeries(made[0].StudyInstanceUID, made[0].SeriesInstanceUID, "CT", len(made))
    (tmp_path / "fetched").mkdir()
    files = Archive(pacs.url).fetch(series, tmp_path / "fetched")
    assert {file.read_bytes() for file in files} == set(pacs.instances.values())


@pytest.mark.parametrize(
    ("attributes", "code"),
    [
        ({"stack": Stack(offsets=THIN)}, "E-PACS-THIN"),
        ({"ImageType": ["DERIVED", "SECONDARY", "MPR"]}, "E-PACS-DERIVED"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "E-DCM-LOCALIZER"),
        ({"ImagePositionPatient": None}, "E-DCM-NOGEOM"),
        ({"stack": Stack(offsets=even(2, 4.0))}, "E-IMG-FEW"),
    ],
)
def test_what_is_no_acquired_thick_series_is_left_out_and_not_even_fetched(pacs, fill, tmp_path, attributes, code):
    made = fill(**attributes)
    outcome, (event,) = events_of(pacs, tmp_path / "state")
    assert (outcome.left_out, event.status, event.text.split(":")[0]) == (1, "left out", code)
    assert not pacs.asked("POST") and len(pacs.instances) == len(made)
    assert not any(request.endswith(made[0].SeriesInstanceUID) for request in pacs.requests)


def test_a_result_is_never_taken_as_a_source_even_if_it_says_that_it_is_original(pacs, fill, tmp_path):
    fill()
    events_of(pacs, tmp_path / "state")
    (derived,) = pacs.derived().values()
    headers = [one for one in derived if setattr(one, "ImageType", ["ORIGINAL", "PRIMARY"]) is None]
    assert why_not(headers, thick_ratio=0.1).code == "E-DCM-OWN"


def test_an_attribute_that_cannot_be_read_matters_only_where_it_is_needed(pacs, fill, tmp_path, monkeypatch):
    fill()
    spoilt = fake_pacs._header
    monkeypatch.setattr(fake_pacs, "_header", lambda content: spoil(spoilt(content)))

    def spoil(header):
        header.to_json_dict = lambda: Dataset.to_json_dict(header) | {"00200011": {"vr": "IS", "Value": ["1.5 x"]}}
        return header

    assert watcher(pacs, tmp_path / "state").look().stored == 1


def test_echoes_at_one_place_count_as_one_slice(tmp_path):
    pair = slices(Stack(offsets=THIN)) + slices(Stack(offsets=THIN), EchoTime=2.0)
    assert why_not(pair).code == "E-PACS-THIN"
    both = zip(slices(), slices(EchoTime=2.0), strict=True)
    assert why_not([one for pair in both for one in pair]) is None  # slice by slice, as a scanner sends them


def test_only_recent_studies_of_the_wanted_modality_are_looked_at(pacs, fill, tmp_path):
    fill(1)
    fill(2, modality="MR")
    assert watcher(pacs, tmp_path / "a", days=7).look().stored == 0  # the phantoms are of 2001
    assert watcher(pacs, tmp_path / "b", modalities=["MR"]).look().stored == 1
    assert {them[0].Modality for them in pacs.derived().values()} == {"MR"}


def test_other_settings_give_another_series(pacs, fill, tmp_path):
    fill()
    for factor in (2, 3, 2):
        options = RunOptions.from_dict({"bundle": "none", "factor": factor})
        watcher(pacs, tmp_path / "state", options=options).look()
    assert sorted(map(len, pacs.derived().values())) == [16, 24]


# ------------------------------------------------------------- when


def test_a_series_is_taken_when_no_slice_came_for_a_while(pacs, tmp_path, monkeypatch):
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)
    files = write(tmp_path / "scanner", slices())
    looks = []
    for later, arrived in ((0, 4), (50, 8), (100, 8), (111, 8)):
        monkeypatch.setattr(time, "time", lambda later=later: now + later)
        pacs.add(files[:arrived])
        outcome = watcher(pacs, tmp_path / "state", settle=60.0).look()
        looks.append((outcome.waiting, outcome.stored))
    assert looks == [(1, 0), (1, 0), (1, 0), (0, 1)]


def test_a_series_with_a_gap_fails_once_and_is_tried_again_when_the_slice_arrives(pacs, tmp_path):
    files = write(tmp_path / "scanner", slices())
    pacs.add(files[:4] + files[5:])
    outcome, (event,) = events_of(pacs, tmp_path / "state")
    assert (outcome.failed, outcome.exit_code) == (1, 5) and event.text.startswith("E-DCM-GAP")
    assert events_of(pacs, tmp_path / "state")[0].settled == 1
    pacs.add(files)
    assert events_of(pacs, tmp_path / "state")[0].stored == 1
    assert not leftovers(tmp_path / "state")


def test_slices_that_come_after_the_result_was_stored_make_no_second_one(pacs, tmp_path):
    files = write(tmp_path / "scanner", slices())
    pacs.add(files[:7])
    assert watcher(pacs, tmp_path / "state").look().stored == 1
    pacs.add(files)
    texts = []
    for _ in range(2):
        counts, events = events_of(pacs, tmp_path / "state")
        texts += [event.text for event in events if event.status == "warning"]
        assert counts.settled >= 1 and counts.stored == 0
    assert len(texts) == 1 and texts[0].startswith("W-PACS-LATE: 1 instance")
    assert len(pacs.derived()) == 1


def test_a_spacing_that_is_no_finer_is_a_failure_and_stores_no_copy(pacs, fill, tmp_path):
    fill()
    outcome, events = events_of(
        pacs, tmp_path / "state", options=RunOptions.from_dict({"bundle": "none", "spacing": 4.0})
    )
    assert outcome.failed == 1 and events[0].text.startswith("E-SR-NOGAIN") and not pacs.stored


# ------------------------------------------------------------- servers of all kinds


def test_an_archive_that_neither_counts_nor_pages_is_searched_all_the_same(pacs, fill, tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "PAGE", 2)
    pacs.counts = pacs.pages = False
    for number in (1, 2, 3):
        fill(number, Stack(offsets=THIN))
    assert watcher(pacs, tmp_path / "a").look().left_out == 3
    pacs.pages = True
    assert watcher(pacs, tmp_path / "b").look().left_out == 3


def test_an_archive_that_does_not_say_what_it_stored_is_asked(pacs, fill, tmp_path):
    fill()
    pacs.silent = True
    assert watcher(pacs, tmp_path / "state").look().stored == 1
    shutil.rmtree(tmp_path / "state")
    for uid in list(pacs.stored):
        del pacs.instances[uid]
    pacs.refuse = {3: 0xA700}
    with pytest.raises(PacsError, match=r"E-PACS-STORE: .* 1 of 16 "):
        watcher(pacs, tmp_path / "state").look()


# ------------------------------------------------------------- failures


@pytest.mark.parametrize(
    ("part", "status"),
    [("/series?", 429), ("/series?", 0), ("/metadata", 500), *((f"/{dicom_phantoms.uid_of(1)} ", n) for n in (503, 0))],
)
def test_what_fails_for_a_moment_is_tried_again(pacs, fill, tmp_path, part, status):
    fill()
    pacs.faults = [Fault("GET", part, status, times=2, after=40)]
    outcome, _ = events_of(pacs, tmp_path / "state")
    assert outcome.stored == 1 and pacs.faults[0].times == 0


def test_a_storing_that_fails_for_a_moment_is_tried_again_with_its_whole_body(pacs, fill, tmp_path):
    fill()
    pacs.faults = [Fault("POST", "/studies", 503)]
    assert watcher(pacs, tmp_path / "state").look().stored == 1
    assert (pacs.asked("POST"), len(pacs.stored)) == (2, 16)


def test_an_archive_may_ask_for_patience(pacs, fill, tmp_path, monkeypatch):
    slept = []
    monkeypatch.setattr(archive.time, "sleep", slept.append)
    pacs.faults = [Fault("GET", "/series?", 503, headers={"Retry-After": "7"})]
    watcher(pacs, tmp_path / "state").look()
    assert max(slept) == 7.0


def test_one_series_that_the_archive_cannot_give_out_does_not_stop_the_others(pacs, fill, tmp_path):
    bad, _ = fill(1)[0], fill(2)
    pacs.faults = [Fault("GET", f"{bad.SeriesInstanceUID}/metadata", 500, times=1000)]
    one = watcher(pacs, tmp_path / "state", report=(events := []).append)
    round_ = one.look()
    assert (round_.stored, round_.later, round_.exit_code) == (1, 1, 11)
    assert [event.text.split(":")[0] for event in events if event.status == "later"] == ["E-PACS-SERVER"]
    asked = pacs.asked("GET", f"{bad.SeriesInstanceUID}/metadata")
    assert one.look().later == 1  # but it is not asked for: it waits, longer each time
    assert pacs.asked("GET", f"{bad.SeriesInstanceUID}/metadata") == asked
    pacs.faults = []
    assert watcher(pacs, tmp_path / "state").look().stored == 1


def test_a_bug_fails_one_series_and_its_message_has_nothing_of_the_patient(pacs, fill, tmp_path, monkeypatch):
    fill(1)
    fill(2)

    def why_not_but_once(headers, **options):
        monkeypatch.undo()
        raise KeyError(dicom_phantoms.CANARY)

    monkeypatch.setattr(watch_module, "why_not", why_not_but_once)
    outcome, events = events_of(pacs, tmp_path / "state")
    assert (outcome.failed, outcome.stored, outcome.exit_code) == (1, 1, 4)
    assert "E-BUG: KeyError in test_pacs.py" in events[0].text and tells_nothing(events)


def test_a_series_that_comes_short_is_not_used(pacs, fill, tmp_path, monkeypatch):
    made = fill()
    series = RemoteSeries(made[0].StudyInstanceUID, made[0].SeriesInstanceUID, "CT", 9)
    (tmp_path / "fetched").mkdir()
    with pytest.raises(PacsError, match=r"E-PACS-SHORT: .* 8 of 9 "):
        Archive(pacs.url).fetch(series, tmp_path / "fetched")


def test_a_result_waits_for_an_archive_that_is_away_and_is_not_made_twice(pacs, fill, tmp_path, monkeypatch):
    fill()
    fill(2)
    pacs.faults = [Fault("POST", "/studies", 503, times=3)]
    with pytest.raises(PacsError, match="E-PACS-SERVER"):
        watcher(pacs, tmp_path / "state").look()
    waiting = [path for path in (tmp_path / "state").iterdir() if path.is_dir()]
    assert len(waiting) == 1  # results do not pile up
    fetched = pacs.asked("GET", "/metadata")
    assert fetched == 1
    outcome, _ = events_of(pacs, tmp_path / "state")
    assert outcome.stored == 2 and pacs.asked("GET", "/metadata") == 2
    assert not leftovers(tmp_path / "state") and set(pacs.stored.values()) == {1}


def test_instances_that_are_not_taken_are_sent_three_times_and_then_given_up(pacs, fill, tmp_path):
    fill()
    pacs.refuse = {3: 0xA700, 4: 0xC000}
    for _ in range(3):
        with pytest.raises(PacsError, match=r"E-PACS-STORE: .* 2 of 16 .*A700, C000"):
            watcher(pacs, tmp_path / "state").look()
    outcome, events = events_of(pacs, tmp_path / "state")
    assert (outcome.failed, pacs.asked("POST")) == (1, 3)
    (event,) = (event for event in events if event.status == "failed")
    assert event.text.startswith("E-PACS-STORE: 2 of 16 ")
    assert not leftovers(tmp_path / "state")
    assert watcher(pacs, tmp_path / "state").look().settled == 2 and pacs.asked("POST") == 3


def test_an_archive_that_accepts_nothing_gives_the_reason(pacs, fill, tmp_path):
    fill()
    pacs.refuse = dict.fromkeys(range(1, 27), 0x0110)
    with pytest.raises(PacsError, match=r"16 of 16 .*FailureReason 0110"):
        watcher(pacs, tmp_path / "state").look()


def test_what_the_archive_has_already_counts_as_stored(pacs, fill, tmp_path):
    fill()
    pacs.refuse = {3: archive.DUPLICATE}
    assert watcher(pacs, tmp_path / "state").look().stored == 1


def test_long_series_are_stored_in_messages_of_a_bounded_size(pacs, fill, tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "MESSAGE_BYTES", 8000)  # three instances
    fill()
    assert watcher(pacs, tmp_path / "state").look().stored == 1
    assert (pacs.asked("POST"), len(pacs.stored)) == (6, 16)


@pytest.mark.parametrize(("status", "code"), [(401, "E-PACS-AUTH"), (403, "E-PACS-RIGHTS"), (404, "E-PACS-MISSING")])
def test_a_refusal_ends_the_watch_at_once(pacs, fill, tmp_path, status, code, capsys):
    fill()
    pacs.faults = [Fault("GET", "/series?", status, times=1000)]
    assert main([word for word in watch_once(pacs, tmp_path / "state") if word != "--once"]) == 11
    err = capsys.readouterr().err
    assert code in err and len(pacs.requests) == 1 and tells_nothing(err) and "patient" not in err


def test_an_answer_that_is_no_dicomweb_is_named_so(pacs, tmp_path):
    pacs.faults = [Fault("GET", "/series?", 200, times=9)]
    with pytest.raises(PacsError, match="E-PACS-ANSWER"):
        watcher(pacs, tmp_path / "state").look()


def test_an_archive_that_is_absent_or_does_not_answer_is_reported(pacs, tmp_path):
    pacs.faults = [Fault("GET", "/series?", 200, times=9, stall=0.5)]
    with pytest.raises(PacsError, match=r"E-PACS-CONNECT: .* does not answer in time"):
        Archive(pacs.url, timeout=0.1).search("CT")
    pacs.server_close()
    with pytest.raises(PacsError, match=r"E-PACS-CONNECT: .* cannot be reached"):
        Archive(pacs.url, timeout=0.1).search("CT")


@pytest.mark.parametrize(("method", "status"), [("GET", 301), ("GET", 308), ("POST", 302), ("POST", 307)])
def test_no_redirect_is_followed(pacs, fill, tmp_path, method, status):
    fill()
    with FakePacs() as elsewhere:
        part = "/series?" if method == "GET" else "/studies"
        headers = {"Location": f"{elsewhere.url}/series"}
        pacs.faults = [Fault(method, part, status, times=9, headers=headers)]
        with pytest.raises(PacsError, match=f"E-PACS-REDIRECT: .*http://localhost:{elsewhere.server_port},"):
            watcher(pacs, tmp_path / "state").look()
        assert not elsewhere.requests


# ------------------------------------------------------------- who we are


def auth_file(folder: Path, text: str, mode: int = 0o600) -> Path:
    file = folder / "credentials"
    file.write_text(text)
    file.chmod(mode)
    return file


def test_credentials_come_from_a_file_the_environment_or_netrc(pacs, tmp_path, monkeypatch):
    pacs.require("alice", "se:cret")
    with pytest.raises(PacsError, match="E-PACS-AUTH"):
        Archive(pacs.url).search("CT")
    file = auth_file(tmp_path, "alice:se:cret\n")
    Archive(pacs.url, auth=Credentials.find(file)).search("CT")
    (tmp_path / "netrc").write_text("machine localhost login alice password se:cret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    Archive(pacs.url).search("CT")
    monkeypatch.setenv("NETRC", os.devnull)
    monkeypatch.setenv("MONAI_SR_DICOMWEB_USER", "alice")
    with pytest.raises(UsageError, match="MONAI_SR_DICOMWEB_PASSWORD is missing"):
        Credentials.find(None)
    monkeypatch.setenv("MONAI_SR_DICOMWEB_PASSWORD", "se:cret")
    Archive(pacs.url, auth=Credentials.find(None)).search("CT")
    monkeypatch.setenv("MONAI_SR_DICOMWEB_TOKEN", "abc")
    with pytest.raises(UsageError, match="MONAI_SR_DICOMWEB_TOKEN and"):
        Credentials.find(None)


def test_a_token_may_be_renewed_while_the_watch_goes_on(pacs, tmp_path, monkeypatch):
    file = auth_file(tmp_path, "Bearer one")
    one = Archive(pacs.url, auth=Credentials.find(file))
    for token in ("one", "two"):
        file.write_text(f"Bearer {token}\n")
        pacs.authorization = f"Bearer {token}"
        one.search("CT")
    monkeypatch.setenv("MONAI_SR_DICOMWEB_TOKEN", "two")
    Archive(pacs.url, auth=Credentials.find(None)).search("CT")


@pytest.mark.parametrize(
    ("text", "mode", "complaint"),
    [
        ("alice:secret", 0o644, "everyone may read"),
        ("alice", 0o600, "credentials are missing"),
        ("", 0o600, "credentials are missing"),
        (None, 0o600, "No such file"),
    ],
)
def test_a_file_of_credentials_that_is_of_no_use_is_refused_without_quoting_it(tmp_path, text, mode, complaint):
    file = tmp_path / "credentials"
    if text is not None:
        auth_file(tmp_path, text, mode)
    with pytest.raises(UsageError, match=complaint) as caught:
        Credentials.find(file)
    assert "alice" not in str(caught.value) and "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "http://alice:secret@localhost/dicom-web",
        "localhost/dicom-web",
        "ftp://localhost",
        "https://",
        "http://h/?a=b",
        "http://h:port/",
    ],
)
def test_an_invalid_url_or_one_with_credentials_is_refused(url):
    with pytest.raises(UsageError, match="E-USE") as caught:
        Archive(url)
    assert "secret" not in str(caught.value)


def test_plain_http_to_another_machine_is_warned_of():
    with pytest.warns(UserWarning, match="W-PACS-PLAIN"):
        Archive("http://pacs.example/dicom-web")


# ------------------------------------------------------------- whom we trust


@pytest.fixture(scope="session")
def certificates(tmp_path_factory) -> Path:
    """An authority of its own (ca.pem) and a certificate for localhost by it (server.pem, with its key)."""
    if not shutil.which("openssl"):
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("certificates")
    (folder / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    new = ["openssl", "req", "-newkey", "rsa:2048", "-nodes"]
    sign = ["openssl", "x509", "-req", "-days", "2", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key"]
    sign += ["-CAcreateserial"]
    for words in (
        [*new, "-x509", "-days", "2", "-subj", "/CN=test CA", "-keyout", "ca.key", "-out", "ca.pem"],
        [*new, "-subj", "/CN=localhost", "-keyout", "server.key", "-out", "server.csr"],
        [*sign, "-extfile", "names", "-out", "server.crt"],
    ):
        subprocess.run(words, cwd=folder, check=True, capture_output=True)
    (folder / "server.pem").write_text((folder / "server.crt").read_text() + (folder / "server.key").read_text())
    return folder


@pytest.fixture
def tls_pacs(certificates):
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "server.pem")
    with FakePacs(context=context) as one:
        yield one


def test_a_certificate_must_be_signed_by_a_known_authority(tls_pacs, certificates, monkeypatch):
    with pytest.raises(PacsError, match=r"E-PACS-TLS: .*unable to get local issuer|E-PACS-TLS: .*self.signed"):
        Archive(tls_pacs.url).search("CT")
    assert not tls_pacs.requests
    Archive(tls_pacs.url, ca_file=certificates / "ca.pem").search("CT")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificates / "ca.pem"))
    Archive(tls_pacs.url).search("CT")
    # the file that was named is the one that counts
    with pytest.raises(PacsError, match="E-PACS-TLS"):
        Archive(tls_pacs.url, ca_file=certificates / "server.crt").search("CT")


def test_a_certificate_must_be_of_the_host_that_was_asked_for(certificates, tmp_path):
    import ssl

    (tmp_path / "names").write_text("subjectAltName=DNS:elsewhere.example\n")
    words = ["-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2"]
    words += ["-extfile", str(tmp_path / "names"), "-out", str(tmp_path / "other.crt")]
    subprocess.run(["openssl", "x509", "-req", *words], cwd=certificates, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "other.crt", certificates / "server.key")
    with FakePacs(context=context) as one:
        with pytest.raises(PacsError, match=r"E-PACS-TLS: .*[Hh]ostname mismatch"):
            Archive(one.url, ca_file=certificates / "ca.pem").search("CT")
        assert not one.requests


def test_nothing_turns_verification_off(capsys):
    with pytest.raises(SystemExit):
        main(["watch", "--help"])
    shown = capsys.readouterr().out
    assert "--ca-file" in shown and not any(word in shown for word in ("insecure", "no-verify", "verify"))


# ------------------------------------------------------------- kills and company


def test_the_command_line_prints_nothing_of_the_patient(pacs, fill, tmp_path, capsys):
    fill()
    fill(2, Stack(offsets=THIN))
    pacs.faults = [Fault("GET", "/series?", 503, times=1)]
    assert main(watch_once(pacs, tmp_path / "state")) == 0
    shown = capsys.readouterr()
    assert "26 instances stored" in shown.out and "1 stored, 1 left out, 0 failed" in shown.out
    assert "E-PACS-THIN" in shown.err
    records = [path.read_text() for path in (tmp_path / "state").iterdir()]
    names = [path.name for path in (tmp_path / "state").iterdir()]
    assert len(records) == 2 and tells_nothing(*shown, *records, *names)
    assert dicom_phantoms.uid_of(1) not in "".join([*records, *names, *shown])


@pytest.mark.slow
def test_a_watcher_that_is_killed_while_it_stores_is_finished_by_the_next(pacs, fill, tmp_path):
    """The archive has a part of the result then; the rest comes, and nothing comes as another series."""
    fill()
    state = tmp_path / "state"
    pacs.faults = [Fault("POST", "/studies", 503, times=99, headers={"Retry-After": "60"})]
    process = command(*watch_once(pacs, state))
    wait_for(lambda: pacs.asked("POST"), process)
    process.kill()
    process.wait()
    (waiting,) = [path for path in state.iterdir() if path.is_dir()]
    pacs.add(sorted(waiting.glob("*/*.dcm"))[:5])  # as if they had been stored
    pacs.faults = []
    outcome, _ = events_of(pacs, state, options=OF_THE_COMMAND)
    assert outcome.stored == 1
    (derived,) = pacs.derived().values()
    assert len(derived) == 26 and not leftovers(state)


@pytest.mark.slow
def test_a_watcher_that_is_killed_while_it_fetches_leaves_nothing_behind(pacs, fill, tmp_path):
    made = fill()
    state = tmp_path / "state"
    whole = Fault("GET", f"/{made[0].SeriesInstanceUID} ", 503, times=99, headers={"Retry-After": "60"})
    pacs.faults = [whole]
    process = command(*watch_once(pacs, state))
    wait_for(lambda: whole.times < 99, process)
    assert [name for name in leftovers(state) if "-fetched." in name]
    process.kill()
    process.wait()
    pacs.faults = []
    assert events_of(pacs, state, options=OF_THE_COMMAND)[0].stored == 1
    assert not leftovers(state) and len(pacs.derived()) == 1


def test_a_series_that_kills_every_process_is_given_up(pacs, fill, tmp_path):
    fill()
    one = watcher(pacs, tmp_path / "state", report=(events := []).append)
    place = one._state.place(str(dicom_phantoms.uid_of(1)))
    tmp_path.joinpath("state").mkdir()
    place.with_name(f"{place.name}.json").write_text(
        json.dumps({"record": 1, "status": "begun", "instances": 8, "attempts": 3})
    )
    assert one.look().failed == 1
    assert events[0].text.startswith("E-WORKER") and "killed, 3 times" in events[0].text


def test_a_series_that_grew_since_its_start_must_settle_again(pacs, tmp_path):
    files = write(tmp_path / "scanner", slices())
    pacs.add(files[:6])
    one = watcher(pacs, tmp_path / "state", settle=60.0)
    place = one._state.place(str(dicom_phantoms.uid_of(1)))
    (tmp_path / "state").mkdir()
    one._state.write(place, Entry("begun", 6, attempts=1))  # and its process was killed
    pacs.add(files)
    assert one.look().waiting == 1
    pacs.instances = {uid: pacs.instances[uid] for uid in list(pacs.instances)[:6]}
    assert one.look().stored == 1


@pytest.mark.slow
def test_two_watchers_on_one_folder_store_each_series_once(pacs, fill, tmp_path):
    for number in range(1, 5):
        fill(number)
    both = [command(*watch_once(pacs, tmp_path / "state")) for _ in range(2)]
    ended = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], ended
    assert len(pacs.derived()) == 4 and set(pacs.stored.values()) == {1}
    assert not leftovers(tmp_path / "state")


@pytest.mark.slow
def test_sigterm_ends_a_watch_within_seconds_and_the_attempt_does_not_count(pacs, fill, tmp_path):
    fill()
    state = tmp_path / "state"
    pacs.faults = [Fault("POST", "/studies", 200, times=99, stall=30.0)]
    process = command(*[word for word in watch_once(pacs, state) if word != "--once"])
    wait_for(lambda: pacs.asked("POST"), process)
    begun = time.monotonic()
    process.send_signal(signal.SIGTERM)
    said = process.stderr.readline()  # all is done then; the interpreter may take a while to go
    assert (said, time.monotonic() - begun < 5) == ("monai-sr: terminated\n", True)
    assert process.wait() == 143
    (record,) = [json.loads(path.read_text()) for path in state.glob("*.json")]
    assert (record["status"], record["attempts"]) == ("made", 0)
    pacs.faults = []
    assert events_of(pacs, state)[0].stored == 1 and set(pacs.stored.values()) == {1}


def test_a_watch_goes_on_while_the_archive_is_away(pacs, fill, tmp_path, monkeypatch):
    fill()
    pacs.faults = [Fault("GET", "/series?", 503, times=6)]
    slept, reported = [], []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if pacs.stored:
            raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", sleep)
    with pytest.raises(KeyboardInterrupt):
        watch(watcher(pacs, tmp_path / "state"), interval=30.0, report=reported.append)
    assert slept.count(30.0) == 3  # two looks in vain, and the one that stored
    assert [error.code for error in reported] == ["E-PACS-SERVER"] * 2


def test_a_series_that_another_watcher_works_on_is_left_to_it(pacs, fill, tmp_path):
    fill()
    one = watcher(pacs, tmp_path / "state")
    place = one._state.place(str(dicom_phantoms.uid_of(1)))
    (tmp_path / "state").mkdir()
    claim = hidden_beside(place, "claim")
    claim.write_text(_mark_of(os.getppid()))
    assert one.look().waiting == 1 and not pacs.asked("GET", "/metadata")
    claim.unlink()
    assert one.look().stored == 1


def test_a_record_of_a_later_version_is_not_touched(pacs, fill, tmp_path):
    fill()
    one = watcher(pacs, tmp_path / "state")
    one.look()
    (record,) = (tmp_path / "state").glob("*.json")
    record.write_text(json.dumps({"record": 99}))
    with pytest.raises(OutputError, match="E-VER"):
        one.look()


def test_without_the_packages_for_an_archive_the_command_says_what_to_install(tmp_path, monkeypatch, capsys):
    for name in [name for name in sys.modules if name.startswith("monai_sr.clients.pacs")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "requests", None)
    assert main(["watch", "--dicomweb", "https://host/dicom-web", "--state", str(tmp_path / "state")]) == 2
    assert 'pip install "monai-sr[pacs]"' in capsys.readouterr().err


def test_the_archive_is_left_as_it_was_but_for_the_results(pacs, fill, tmp_path):
    fill()
    before = dict(pacs.instances)
    events_of(pacs, tmp_path / "state")
    assert all(pacs.instances[uid] == content for uid, content in before.items())
    assert {request.split()[0] for request in pacs.requests} == {"GET", "POST"}
    (tmp_path / "back").mkdir()
    for number, uid in enumerate(pacs.stored):
        (tmp_path / "back" / f"{number}.dcm").write_bytes(pacs.instances[uid])
    assert {left.code for left in find_series(tmp_path / "back").left_out} == {"E-DCM-OWN"}
