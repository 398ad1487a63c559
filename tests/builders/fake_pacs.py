"""A DICOMweb archive of a hundred lines on loopback, that can refuse, fail, stall and lose connections.

It keeps what it is given in memory, checks credentials, and remembers every request. A :class:`Fault`
spoils the requests that it fits.
"""

from __future__ import annotations

import base64
import io
import json
import ssl
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pydicom
from pydicom import Dataset

ROOT = "/dicom-web"


@dataclass
class Fault:
    """What happens to requests instead of an answer.

    Attributes:
        method, part: of the requests that are concerned; ``part`` is a piece of the path, which a blank ends.
        status: to answer with; 0 to cut the connection after ``after`` bytes of the body.
        times: how often.
        headers: of the answer.
        stall: seconds before the answer.
    """

    method: str
    part: str
    status: int = 0
    times: int = 1
    headers: dict[str, str] = field(default_factory=dict)
    after: int = 0
    stall: float = 0.0


class FakePacs(ThreadingHTTPServer):
    """Use as ``with FakePacs() as pacs``; its address is ``pacs.url``.

    Attributes:
        instances: what is kept, by SOPInstanceUID.
        requests: method and path of every request, in order.
        stored: how often each SOPInstanceUID came.
        faults: what goes wrong.
        refuse: FailureReason by number of the instance in its series, of what is not taken.
        silent: answer STOW without a word on what was stored.
        authorization: the header that is asked for.
        counts: report NumberOfSeriesRelatedInstances.
        pages: heed limit and offset.
    """

    daemon_threads = True

    def __init__(self, *, context: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        if context:
            self.socket = context.wrap_socket(self.socket, server_side=True)
        self.url = f"http{'s' if context else ''}://localhost:{self.server_port}{ROOT}"
        self.instances: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.stored: dict[str, int] = {}
        self.faults: list[Fault] = []
        self.refuse: dict[int, int] = {}
        self.authorization = ""
        self.silent, self.counts, self.pages = False, True, True

    def __enter__(self) -> FakePacs:
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, *_: object) -> None:
        """A client that goes away is no news."""

    def add(self, files: Iterable[Path]) -> None:
        """Keep files as they are."""
        for file in files:
            content = file.read_bytes()
            self.instances[str(_header(content).SOPInstanceUID)] = content

    def series(self) -> dict[str, list[Dataset]]:
        """What is kept, by SeriesInstanceUID, in the order of InstanceNumber."""
        by_series: dict[str, list[Dataset]] = {}
        for content in list(self.instances.values()):
            dataset = pydicom.dcmread(io.BytesIO(content))
            by_series.setdefault(str(dataset.SeriesInstanceUID), []).append(dataset)
        return {uid: sorted(them, key=lambda one: one.InstanceNumber) for uid, them in by_series.items()}

    def derived(self) -> dict[str, list[Dataset]]:
        """The series of derived images."""
        return {uid: them for uid, them in self.series().items() if them[0].ImageType[0] == "DERIVED"}

    def asked(self, method: str, part: str = "") -> int:
        """How many such requests came."""
        return sum(one.startswith(f"{method} ") and part in one for one in self.requests)

    def require(self, user: str, password: str) -> None:
        """Ask for basic credentials."""
        self.authorization = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


class _Handler(BaseHTTPRequestHandler):
    server: FakePacs
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Nothing."""

    def do_GET(self) -> None:
        if self._let_in():
            parts = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(parts.query).items()}
            self._get(parts.path.removeprefix(ROOT).strip("/").split("/"), query)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self._let_in():
            self._store(body)

    def _let_in(self) -> bool:
        self.server.requests.append(f"{self.command} {self.path}")
        fault = next(
            (f for f in self.server.faults if f.times and f.method == self.command and f.part in self.path + " "), None
        )
        if fault:
            fault.times -= 1
            time.sleep(fault.stall)
            self._cut = None if fault.status else fault.after
            if fault.status:
                self._answer(fault.status, b"<html>a patient's name</html>", "text/html", **fault.headers)
                return False
        else:
            self._cut = None
        if not self.path.startswith(ROOT):
            self._answer(404)
        elif self.server.authorization not in ("", self.headers.get("Authorization")):
            self._answer(401)
        else:
            return True
        return False

    def _get(self, path: list[str], query: dict[str, str]) -> None:
        headers = {uid: _header(content) for uid, content in self.server.instances.items()}
        if path == ["series"]:
            self._json(_page(self._series(headers.values(), query), query if self.server.pages else {}))
            return
        chosen = {uid: one for uid, one in headers.items() if one.SeriesInstanceUID == path[3]}
        if not chosen:
            self._answer(404)
        elif path[4:] == ["metadata"]:
            self._json([one.to_json_dict() for one in chosen.values()])
        elif path[4:] == ["instances"]:
            self._json(_page([_only(one, "SOPInstanceUID") for one in chosen.values()], query))
        elif "transfer-syntax=*" not in self.headers["Accept"]:
            self._answer(406)  # a real one would decompress
        else:
            parts = [self.server.instances[uid] for uid in chosen]
            body = b"".join(b"\r\n--cut\r\nContent-Type: application/dicom\r\n\r\n" + part for part in parts)
            self._answer(200, body + b"\r\n--cut--", 'multipart/related; type="application/dicom"; boundary=cut')

    def _series(self, headers: Iterable[Dataset], query: dict[str, str]) -> list[dict[str, Any]]:
        instances: dict[str, list[Dataset]] = {}
        for one in headers:
            if one.Modality == query.get("Modality", one.Modality) and one.StudyDate + "-" >= query.get(
                "StudyDate", ""
            ):
                instances.setdefault(one.SeriesInstanceUID, []).append(one)
        answers = []
        for members in instances.values():
            answer = _only(members[0], "StudyInstanceUID", "SeriesInstanceUID", "Modality")
            if self.server.counts:
                answer["00201209"] = {"vr": "IS", "Value": [len(members)]}
            answers.append(answer)
        return answers

    def _store(self, body: bytes) -> None:
        boundary = self.headers["Content-Type"].partition("boundary=")[2].strip('"').encode()
        answer, failed = Dataset(), []
        answer.ReferencedSOPSequence, answer.FailedSOPSequence = [], []
        for part in body.split(b"\r\n--" + boundary)[1:-1]:
            content = part.partition(b"\r\n\r\n")[2]
            header = _header(content)
            item = _item(header)
            reason = self.server.refuse.get(int(header.InstanceNumber))
            if reason is not None:
                item.FailureReason = reason
                failed.append(item)
                continue
            uid = str(header.SOPInstanceUID)
            self.server.stored[uid] = self.server.stored.get(uid, 0) + 1
            self.server.instances[uid] = content
            answer.ReferencedSOPSequence.append(item)
        answer.FailedSOPSequence = failed
        status = 200 if not failed else 202 if len(answer.ReferencedSOPSequence) else 409
        if self.server.silent:
            self._answer(status)
        else:
            self._answer(status, json.dumps(answer.to_json_dict()).encode(), "application/dicom+json")

    def _json(self, answers: list[Any]) -> None:
        self._answer(
            200 if answers else 204, json.dumps(answers).encode() if answers else b"", "application/dicom+json"
        )

    def _answer(self, status: int, body: bytes = b"", kind: str = "text/plain", **headers: str) -> None:
        self.send_response(status)
        for name, value in ({"Content-Type": kind, "Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body if self._cut is None else body[: self._cut])
        self.close_connection = self._cut is not None


def _header(content: bytes) -> Dataset:
    return pydicom.dcmread(io.BytesIO(content), stop_before_pixels=True)


def _only(dataset: Dataset, *names: str) -> dict[str, Any]:
    one = Dataset()
    for name in names:
        setattr(one, name, dataset.get(name))
    return one.to_json_dict()


def _item(header: Dataset) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = header.SOPClassUID, header.SOPInstanceUID
    return item


def _page(answers: list[Any], query: dict[str, str]) -> list[Any]:
    start = int(query.get("offset", 0))
    return answers[start : start + int(query.get("limit", len(answers)))]
