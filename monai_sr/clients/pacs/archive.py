"""An archive that speaks DICOMweb (PS3.18): search for series, fetch them, store results.

dicomweb-client composes and parses the messages. Its retries are not used: they repeat a body that was
read to its end (0.61), and do not stop on Ctrl-C.
"""

from __future__ import annotations

import re
import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import SplitResult, urlsplit

import requests
from dicomweb_client.api import DICOMwebClient
from pydicom import Dataset, dcmread
from pydicom.datadict import tag_for_keyword
from pydicom.errors import InvalidDicomError
from requests.auth import AuthBase

from ...dicom.dataset import pydicom_silent
from ...errors import UsageError, warn, write_error
from .access import PacsError, Session

PAGE = 200
"""Results asked for at once."""

WAITS = (1.0, 2.0, 4.0, 8.0)
"""Seconds before each further attempt, of what may succeed later."""

LONGEST_WAIT = 60.0
"""An archive may ask us to wait (Retry-After), but no longer than this."""

MESSAGE_BYTES = 16 * 2**20
"""Instances are stored in messages of about this size: a whole series need not fit into memory."""

LATER = (408, 425, 429, 500, 502, 503, 504)
"""Status codes of requests that may succeed later."""

DUPLICATE = 0x0111
"""FailureReason of an instance that the archive has already (PS3.7, annex C.5.6)."""

_EXAMPLE = "give one such as https://host/dicom-web"

LOOPBACK = re.compile(r"localhost|127(\.\d+){3}|::1")

Result = TypeVar("Result")


@dataclass(frozen=True)
class RemoteSeries:
    """A series in the answer to a search.

    Attributes:
        study, uid: StudyInstanceUID and SeriesInstanceUID.
        modality: "CT" or "MR".
        instances: how many instances it has now.
    """

    study: str
    uid: str
    modality: str
    instances: int


class Archive:
    """A DICOMweb service.

    Args:
        url: its root, to which ``/studies`` and ``/series`` are added.
        auth: see :meth:`monai_sr.clients.pacs.Credentials.find`.
        ca_file: PEM file of certificates to trust instead of the usual ones, for a private authority.
        timeout: seconds without a byte until a connection is given up.

    Raises:
        UsageError: the URL is not valid, or contains a password.
    """

    def __init__(
        self, url: str, *, auth: AuthBase | None = None, ca_file: str | Path | None = None, timeout: float = 60.0
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not _has_address(parts) or parts.query or parts.fragment:
            raise UsageError("E-USE", "this is not the URL of a DICOMweb service", fix=_EXAMPLE)
        if parts.username or parts.password:
            problem = "the URL contains credentials, which everyone on this machine can see"
            raise UsageError("E-USE", problem, fix="give --auth-file")
        if ca_file is not None and not Path(ca_file).is_file():
            raise UsageError("E-USE", "the certificate file does not exist", fix="check --ca-file", path=ca_file)
        self.host = parts.netloc
        self._client = _Client(
            url.rstrip("/"),
            session=Session(auth=auth, ca_file=None if ca_file is None else Path(ca_file)),
            timeout=(min(timeout, 10.0), timeout),
            chunk_size=2 * MESSAGE_BYTES,  # above it, bodies are sent in chunks, which not every server takes
            permissive_uid=True,
        )
        if parts.scheme == "http" and not LOOPBACK.fullmatch(parts.hostname or ""):
            text = "images and credentials travel unencrypted; https would protect them"
            warn("W-PACS-PLAIN", text, path=parts.netloc)
        self._client.set_http_retry_params(retry=False)

    def search(self, modality: str, *, since: str | None = None) -> list[RemoteSeries]:
        """Every series of a modality.

        Args:
            modality: "CT" or "MR".
            since: only of studies of this date or later, ``YYYYMMDD``.

        Raises:
            PacsError: the archive cannot be reached or refuses.
        """
        filters = {"Modality": modality} | ({"StudyDate": f"{since}-"} if since else {})
        found = []
        for answer in self._pages(
            lambda **page: self._client.search_for_series(
                fields=["NumberOfSeriesRelatedInstances"], search_filters=filters, **page
            ),
            "SeriesInstanceUID",
        ):
            study, uid = (str(answer.get(name) or "") for name in ("StudyInstanceUID", "SeriesInstanceUID"))
            # some servers pass over a filter that they do not know
            if not study or not uid or answer.get("Modality") not in (modality, None, ""):
                continue
            count = answer.get("NumberOfSeriesRelatedInstances")
            found.append(
                RemoteSeries(study, uid, modality, len(self.instances(study, uid)) if count is None else int(count))
            )
        return found

    def instances(self, study: str, series: str) -> set[str]:
        """The SOPInstanceUIDs of a series; empty if there is none."""
        return {
            str(answer.SOPInstanceUID)
            for answer in self._pages(
                lambda **page: self._client.search_for_instances(study, series, **page), "SOPInstanceUID"
            )
        }

    def headers(self, series: RemoteSeries, keywords: Iterable[str]) -> list[Dataset]:
        """Some attributes of every instance of a series; other attributes may be invalid for pydicom."""
        wanted = [f"{tag_for_keyword(keyword):08X}" for keyword in keywords]
        return self._try(
            lambda: [
                _dataset({tag: answer[tag] for tag in wanted if tag in answer})
                for answer in self._client.retrieve_series_metadata(series.study, series.uid)
            ]
        )

    def fetch(self, series: RemoteSeries, folder: Path) -> list[Path]:
        """Every instance of a series as a file in an empty folder, as it is in the archive.

        Raises:
            PacsError: E-PACS-SHORT, the instances are fewer or others than those of a search.
            OutputError: the folder cannot be written to.
        """

        def once() -> list[Path]:
            files: dict[str, Path] = {}
            for content in self._client.iter_files(series.study, series.uid):
                header = dcmread(BytesIO(content), stop_before_pixels=True, specific_tags=_UIDS)
                uid = str(header.get("SOPInstanceUID") or "")
                if str(header.get("SeriesInstanceUID")) != series.uid or not uid:
                    continue
                path = files.setdefault(uid, folder / f"{len(files) + 1:05d}.dcm")
                try:
                    path.write_bytes(content)
                except OSError as error:
                    raise write_error(path, error) from error
            return list(files.values())

        with pydicom_silent():
            files = self._try(once)
        if len(files) != series.instances:
            problem = f"{len(files)} of {series.instances} instances came"
            fix = "nothing if it is still being sent; else check the archive"
            raise PacsError("E-PACS-SHORT", problem, fix=fix, path=self.host, is_temporary=True)
        return files

    def store(self, files: Sequence[Path]) -> None:
        """Store instances; some may be in the archive already.

        Args:
            files: DICOM files of one series.

        Raises:
            PacsError: E-PACS-STORE, the archive did not take every one of them.
        """
        failed: dict[str, int] = {}
        unclear: set[str] = set()
        study = series = ""
        for message in _messages(files):
            datasets = [dcmread(file) for file in message]
            study, series = str(datasets[0].StudyInstanceUID), str(datasets[0].SeriesInstanceUID)
            answer = self._try(partial(self._store_once, datasets, study))
            sent = {str(dataset.SOPInstanceUID) for dataset in datasets}
            refused = {
                str(item.get("ReferencedSOPInstanceUID")): int(item.get("FailureReason") or 0)
                for item in answer.get("FailedSOPSequence") or ()
            }
            taken = {str(item.get("ReferencedSOPInstanceUID")) for item in answer.get("ReferencedSOPSequence") or ()}
            failed |= {uid: reason for uid, reason in refused.items() if uid in sent and reason != DUPLICATE}
            unclear |= sent - taken - set(refused)
        if unclear:  # the answer does not name them, so look
            failed |= dict.fromkeys(unclear - self.instances(study, series), 0)
        if failed:
            reasons = ", ".join(sorted({f"{reason:04X}" if reason else "not given" for reason in failed.values()}))
            problem = f"{len(failed)} of {len(files)} instances were not accepted (FailureReason {reasons})"
            raise PacsError("E-PACS-STORE", problem, path=self.host, is_temporary=True)

    def release(self, series: RemoteSeries, *, is_stored: bool) -> None:
        """Nothing: the archive keeps a series that needs no more work."""

    def _store_once(self, datasets: Sequence[Dataset], study: str) -> Dataset:
        try:
            return self._client.store_instances(datasets, study)
        except requests.HTTPError as error:
            if error.response.status_code != 409:  # which means: some or all were not taken
                raise
            try:
                return Dataset.from_json(error.response.json())
            except (ValueError, KeyError, TypeError):
                return Dataset()

    def _pages(self, ask: Callable[..., list[Any]], key: str) -> Iterator[Dataset]:
        """Every answer to a search, page by page, each once: some servers ignore ``offset``."""
        seen: set[str] = set()
        while True:
            page = self._try(partial(ask, limit=PAGE, offset=len(seen)))
            with _explained(self.host):
                new = {str(answer.get(key)): answer for answer in map(_dataset, page)}
            new = {uid: answer for uid, answer in new.items() if uid not in seen}
            seen |= set(new)
            yield from new.values()
            if not new or len(page) < PAGE:
                return

    def _try(self, request: Callable[[], Result]) -> Result:
        """The result of a request; temporary errors are tried again."""
        for wait in (*WAITS, None):
            try:
                with _explained(self.host):
                    return request()
            except PacsError as error:
                if wait is None or not error.is_temporary:
                    raise
                time.sleep(max(wait, _asked_to_wait(error)))
        raise AssertionError("the last attempt returns or raises")


def _has_address(parts: SplitResult) -> bool:
    try:
        return bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number
        return False


_UIDS = ["SOPInstanceUID", "SeriesInstanceUID"]

_AS_STORED = 'multipart/related; type="application/dicom"; transfer-syntax=*'
"""In any transfer syntax; without this a server decompresses what it sends."""


class _Client(DICOMwebClient):
    def iter_files(self, study: str, series: str) -> Iterator[bytes]:
        """The files of a series as they are.

        ``iter_series`` gives datasets that pydicom cannot always write again (stray elements behind the pixels of
        a real MR series).
        """
        url = f"{self.base_url}/studies/{study}/series/{series}"
        response = self._http_get(url, headers={"Accept": _AS_STORED}, stream=True)
        if response.headers.get("Content-Type", "").startswith("application/dicom"):
            yield response.content
        else:
            yield from self._decode_multipart_message(response, stream=True)


def _dataset(answer: Any) -> Dataset:
    """An answer in JSON as a Dataset; large values, given as links, are empty."""
    with pydicom_silent():
        return Dataset.from_json(answer)


def _messages(files: Iterable[Path]) -> Iterator[list[Path]]:
    """Files in groups whose messages have a limited size."""
    group: list[Path] = []
    size = 0
    for file in files:
        group.append(file)
        size += file.stat().st_size
        if size >= MESSAGE_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


@contextmanager
def _explained(host: str) -> Iterator[None]:
    """The error of a request in our words; the words of libraries may quote a patient's data."""
    try:
        yield
    except PacsError as error:
        raise error.at(host) from error.__cause__
    except requests.exceptions.SSLError as error:
        raise PacsError("E-PACS-TLS", f"no trusted connection can be made ({_tls_reason(error)})", path=host) from error
    except requests.HTTPError as error:
        raise _refusal(error, host) from error
    except UsageError:  # a file of credentials that is no more
        raise
    except (ValueError, KeyError, TypeError, AttributeError, InvalidDicomError) as error:
        raise PacsError("E-PACS-ANSWER", "its answer is not DICOMweb", path=host) from error
    except requests.RequestException as error:
        slow = isinstance(error, requests.Timeout)
        raise PacsError(
            "E-PACS-CONNECT",
            "it does not answer in time" if slow else "it cannot be reached, or the connection was lost",
            path=host,
            is_temporary=True,
        ) from error


def _refusal(error: requests.HTTPError, host: str) -> PacsError:
    status = error.response.status_code
    if status == 401:
        fix = "give --auth-file, or set the variables that monai-sr watch --help names"
        return PacsError("E-PACS-AUTH", "it does not accept the credentials (401)", fix=fix, path=host)
    if status == 403:
        return PacsError("E-PACS-RIGHTS", "it forbids the request (403)", path=host)
    if status == 404:
        fix = "check the URL: it must be the root of the DICOMweb service"
        return PacsError("E-PACS-MISSING", "there is nothing of that kind (404)", fix=fix, path=host)
    fix = "look into the archive's log"
    return PacsError("E-PACS-SERVER", f"it fails (status {status})", fix=fix, path=host, is_temporary=status in LATER)


def _tls_reason(error: BaseException | None) -> str:
    """Why a certificate was refused, as OpenSSL puts it."""
    seen: list[Any] = [error]
    while seen:
        one = seen.pop()
        if isinstance(one, ssl.SSLCertVerificationError):
            return one.verify_message
        if isinstance(one, BaseException):
            seen += [*one.args, one.__cause__, one.__context__, getattr(one, "reason", None)]
            seen = [inner for inner in seen if isinstance(inner, BaseException)]
    return "the connection is not sound"


def _asked_to_wait(error: PacsError) -> float:
    """Seconds, by the header Retry-After of the answer behind an error."""
    response = getattr(error.__cause__, "response", None)
    seconds = "" if response is None else response.headers.get("Retry-After", "")
    return min(float(seconds), LONGEST_WAIT) if seconds.isdigit() else 0.0
