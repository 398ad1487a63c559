"""Access to an archive: credentials, certificates, and no redirects."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.auth import AuthBase, HTTPBasicAuth

from ...errors import SuperResolutionError, UsageError

USER, PASSWORD, TOKEN = "MONAI_SR_DICOMWEB_USER", "MONAI_SR_DICOMWEB_PASSWORD", "MONAI_SR_DICOMWEB_TOKEN"
"""Environment variables with credentials: a command line can be read by every user of the machine."""


class PacsError(SuperResolutionError):
    """The archive cannot be reached, refuses, or does not answer in DICOMweb.

    Attributes:
        is_temporary: the same request may succeed later.
    """

    exit_code = 11

    def __init__(
        self, code: str, problem: str, *, fix: str = "", path: str | Path | None = None, is_temporary: bool = False
    ) -> None:
        super().__init__(code, problem, fix=fix, path=path)
        self.is_temporary = is_temporary


class Credentials(AuthBase):
    """Basic or bearer credentials for requests, from a file or the environment.

    The file is read for each request, so that a token can be renewed during a run.

    Args:
        file: holds ``user:password`` or ``Bearer TOKEN`` in its first line; only its owner and group may read it.

    Raises:
        UsageError: the file cannot be read, or is open to everyone.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._read()

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        return self._read()(request)

    def _read(self) -> AuthBase:
        try:
            if os.name == "posix" and self._file.stat().st_mode & stat.S_IROTH:
                raise UsageError("E-USE", "everyone may read the credentials", fix="chmod o-r", path=self._file)
            line = (self._file.read_text(encoding="utf-8").splitlines() or [""])[0].strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "no UTF-8 text"
            problem = f"no credentials can be read ({reason})"
            raise UsageError("E-USE", problem, fix="check --auth-file", path=self._file) from error
        word, _, token = line.partition(" ")
        if word.lower() == "bearer" and token.strip():
            return _Bearer(token.strip())
        user, colon, password = line.partition(":")
        if not colon:
            fix = "write user:password or Bearer TOKEN in its first line"
            raise UsageError("E-USE", "credentials are missing", fix=fix, path=self._file)
        return HTTPBasicAuth(user.encode(), password.encode())

    @staticmethod
    def find(file: str | Path | None) -> AuthBase | None:
        """Credentials of a file, otherwise of the environment; None if neither has any, then ``~/.netrc`` is used.

        Raises:
            UsageError: the file or the variables make no credentials.
        """
        if file is not None:
            return Credentials(Path(file))
        user, password, token = (os.environ.get(name) for name in (USER, PASSWORD, TOKEN))
        if token and (user or password):
            raise UsageError("E-USE", f"{TOKEN} and {USER} or {PASSWORD} are set", fix="set one or the other")
        if token:
            return _Bearer(token)
        if bool(user) != bool(password):
            raise UsageError("E-USE", f"one of {USER} and {PASSWORD} is missing", fix="set both")
        return HTTPBasicAuth(user.encode(), password.encode()) if user and password else None


class _Bearer(AuthBase):
    def __init__(self, token: str) -> None:
        self._value = f"Bearer {token}"

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = self._value
        return request


class Session(requests.Session):
    """Verifies certificates, always, and follows no redirect.

    A redirect could send patients' images to another host. It also turns a POST into a GET, whose success does
    not mean that anything was stored.

    Args:
        auth: see :meth:`Credentials.find`.
        ca_file: certificates to trust instead of the usual ones.
    """

    def __init__(self, *, auth: AuthBase | None = None, ca_file: Path | None = None) -> None:
        super().__init__()
        self.auth = auth
        self._verify: bool | str = True if ca_file is None else str(ca_file)

    def request(self, method: str | bytes, url: str | bytes, **options: Any) -> requests.Response:  # type: ignore[override]
        # dicomweb-client (0.61) writes a Host header without the port
        headers = {name: value for name, value in (options.pop("headers") or {}).items() if name != "Host"}
        if method == "POST":
            headers["Accept"] = "application/dicom+json"
        # verify goes with each request: that of a session gives way to REQUESTS_CA_BUNDLE
        options |= {"headers": headers, "verify": self._verify, "allow_redirects": False}
        response = super().request(method, url, **options)
        if response.is_redirect:
            target = urlsplit(response.headers["location"])
            where = f"{target.scheme}://{target.netloc.rpartition('@')[2]}" if target.netloc else "another path"
            raise PacsError("E-PACS-REDIRECT", f"it redirects to {where}, which is not followed")
        return response
