"""Another DICOM node, to which results are sent by C-STORE; and what both directions share."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom import dcmread
from pydicom.uid import UID
from pynetdicom import AE, _config, build_context

from ...errors import UsageError, printable
from .access import PacsError
from .archive import LOOPBACK

SYNTAXES = [
    "1.2.840.10008.1.2.1",  # explicit, implicit and deflated
    "1.2.840.10008.1.2",
    "1.2.840.10008.1.2.1.99",
    "1.2.840.10008.1.2.5",  # RLE
    *(f"1.2.840.10008.1.2.4.{end}" for end in (50, 51, 57, 70, 80, 81, 90, 91, 201, 202, 203)),  # JPEG and kin
]
"""Transfer syntaxes that are read; a sender that offers none of them is told so for the class."""

SUCCESS = 0x0000


def checked_title(title: str) -> str:
    """An AE title.

    Raises:
        UsageError: it is not one.
    """
    if not (0 < len(title.strip()) <= 16 and title.isascii() and title.isprintable() and "\\" not in title):
        problem = f"{printable(title)!r} is not an AE title"
        raise UsageError("E-USE", problem, fix="use 1 to 16 letters and digits")
    return title.strip()


@dataclass(frozen=True)
class Tls:
    """Certificates for both directions; the other side must have one of the same authority, always.

    Attributes:
        certificate: PEM file of this node's certificate, and of its key unless ``key`` names one.
        authority: PEM file of the certificates to trust.
        key: PEM file of the key.
    """

    certificate: Path
    authority: Path
    key: Path | None = None

    def context(self, *, as_server: bool) -> ssl.SSLContext:
        """The settings of a connection.

        Raises:
            UsageError: a file cannot be used.
        """
        protocol = ssl.PROTOCOL_TLS_SERVER if as_server else ssl.PROTOCOL_TLS_CLIENT
        made = ssl.SSLContext(protocol)
        made.minimum_version = ssl.TLSVersion.TLSv1_2
        made.verify_mode = ssl.CERT_REQUIRED
        try:
            made.load_verify_locations(self.authority)
            made.load_cert_chain(self.certificate, self.key)
        except (OSError, ValueError) as error:
            fix = "check --certificate, --key and --ca-file"
            raise UsageError("E-USE", "the certificates cannot be used", fix=fix, path=self.certificate) from error
        return made


class Target:
    """Another node, to which results are sent.

    Args:
        text: ``AETITLE@HOST:PORT``.
        title: AE title of this node.
        timeout: seconds without an answer after which it is given up.
        tls: certificates.

    Raises:
        UsageError: the text is not of that form, or a certificate cannot be used.
    """

    def __init__(self, text: str, *, title: str = "MONAI-SR", timeout: float = 60.0, tls: Tls | None = None) -> None:
        be_silent()
        called, at, place = text.partition("@")
        host, colon, port = place.rpartition(":")
        if not (at and colon and host and port.isdecimal() and 0 < int(port) < 2**16):
            raise UsageError("E-USE", f"{text!r} is not a target", fix="give AETITLE@HOST:PORT")
        self._called, self._host, self._port = checked_title(called), host.strip("[]"), int(port)
        self.name, self._tls = text, None if tls is None else (tls.context(as_server=False), self._host)
        self._ae = AE(ae_title=checked_title(title))
        self._ae.acse_timeout = self._ae.dimse_timeout = self._ae.network_timeout = timeout
        self._ae.connection_timeout = min(timeout, 10.0)

    @property
    def is_loopback(self) -> bool:
        """Whether it is on this machine."""
        return bool(LOOPBACK.fullmatch(self._host))

    def __call__(self, files: Sequence[Path]) -> None:
        """Send instances; some may be there already.

        Raises:
            PacsError: E-PACS-CONNECT, E-PACS-RIGHTS or E-PACS-STORE; all may pass.
        """
        classes = sorted({str(dcmread(file, specific_tags=["SOPClassUID"]).SOPClassUID) for file in files})
        contexts = [build_context(UID(one), syntax) for one in classes for syntax in SYNTAXES[:2]]
        try:
            association = self._ae.associate(
                self._host,
                self._port,
                contexts,
                ae_title=self._called,
                tls_args=self._tls,  # type: ignore[arg-type]
            )
        except (OSError, RuntimeError) as error:
            raise self._error("E-PACS-CONNECT", "it cannot be reached") from error
        if association.is_rejected:
            raise self._error("E-PACS-RIGHTS", "it rejects the association; it may have to know our AE title")
        if not association.is_established:
            raise self._error("E-PACS-CONNECT", "it cannot be reached, or takes none of our presentation contexts")
        failed: list[int] = []
        try:
            for file in files:
                try:
                    status = association.send_c_store(dcmread(file)).get("Status")
                except ValueError as error:  # no context for it
                    raise self._error("E-PACS-STORE", f"it does not take {len(classes)} classes of images") from error
                except RuntimeError as error:  # the association has ended
                    raise self._error("E-PACS-CONNECT", "the connection was lost") from error
                if status is None:
                    raise self._error("E-PACS-CONNECT", "the connection was lost")
                if status != SUCCESS and status >> 12 != 0xB:  # a warning: it was stored
                    failed.append(int(status))
        finally:
            if association.is_established:
                association.release()
        if failed:
            reasons = ", ".join(f"{status:04X}" for status in sorted(set(failed)))
            problem = f"{len(failed)} of {len(files)} instances were not accepted (status {reasons})"
            raise self._error("E-PACS-STORE", problem)

    def _error(self, code: str, problem: str) -> PacsError:
        return PacsError(code, problem, path=self.name, is_temporary=True)


def be_silent() -> None:
    """pynetdicom logs headers; nothing of it is to be seen."""
    _config.LOG_HANDLER_LEVEL = "none"
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL + 1)
