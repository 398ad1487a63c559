"""A DICOM node: takes CT and MR series by C-STORE, answers C-ECHO, and sends results by C-STORE.

pynetdicom speaks the protocol. It reads a PDU of any length and waits for one byte after the other; a :class:`Guard`
limits both. The number of connections is limited before a thread is started for one.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pydicom.uid import UID
from pynetdicom import AE, evt
from pynetdicom.transport import RequestHandler, ThreadedAssociationServer

from ...dicom.kinds import MODALITY_OF
from ...errors import OutputError, UsageError, printable
from .received import MismatchError, Received
from .target import SUCCESS, SYNTAXES, Tls, be_silent, checked_title

VERIFICATION = UID("1.2.840.10008.1.1")
"""SOP class of C-ECHO."""

LONGEST_PDU = 2**20
"""Bytes. Senders are asked for 128 KiB; a longer one than this ends the connection."""

ASKED_PDU = 2**17

MOST_PENDING = 2 * 2**30
"""Bytes of messages that are not complete, of all connections together; the one that goes beyond it is ended."""

MESSAGE_SECONDS = 900.0
"""A message that takes longer ends the connection, however steadily it comes."""

NOT_AUTHORIZED, NO_ROOM, MISMATCH, CANNOT_UNDERSTAND = 0x0124, 0xA700, 0xA900, 0xC000
"""Statuses of C-STORE (PS3.4, B.2.3; PS3.7, C)."""

QUIET_SECONDS = 60.0
"""Refusals for one reason are reported once in this time, with their number."""


@dataclass(frozen=True)
class Peer:
    """Who may send: an AE title, and the address that it must come from if one is given.

    Raises:
        UsageError: it is not an AE title.
    """

    title: str
    address: str = ""

    @classmethod
    def parse(cls, text: str) -> Peer:
        """A peer as ``AETITLE`` or ``AETITLE@ADDRESS``."""
        title, _, address = text.partition("@")
        try:
            known = socket.getaddrinfo(address, None)[0][4][0] if address else ""
        except OSError as error:
            problem = f"the address of peer {text} is unknown"
            raise UsageError("E-USE", problem, fix="give its IP address") from error
        return cls(checked_title(title), str(known))


class Guard:
    """Reads from a connection in place of pynetdicom, within limits of length and time.

    Args:
        connection: its socket.
        pending: bytes of incomplete messages of all connections.
        seconds: in which each PDU must arrive.
    """

    def __init__(self, connection: socket.socket, pending: Callable[[], int], seconds: float) -> None:
        self._connection, self._pending, self._seconds = connection, pending, seconds
        self.message, self._since, self._kind = 0, time.monotonic(), 0

    def __call__(self, nr_bytes: int) -> bytearray:
        """So many bytes; fewer if the connection ends.

        Raises:
            OSError: they are too many, or take too long.
        """
        if nr_bytes > LONGEST_PDU or self._pending() > MOST_PENDING:
            raise OSError("too long")
        now = time.monotonic()
        if not self.message:
            self._since = now
        deadline, read = min(now + self._seconds, self._since + MESSAGE_SECONDS), bytearray()
        while len(read) < nr_bytes:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self._connection.settimeout(left)
            part = self._connection.recv(min(nr_bytes - len(read), 2**16))
            if not part:
                break
            read += part
        self._connection.settimeout(self._seconds)
        if nr_bytes == 6 and self._kind == 0:
            self._kind = read[0] if read else 0
        else:
            self._count(read)
            self._kind = 0
        return read

    def _count(self, body: bytearray) -> None:
        """Count the bytes of a message whose last fragment has not come."""
        start = 0
        while self._kind == 4 and start + 6 <= len(body):  # P-DATA-TF
            length = int.from_bytes(body[start : start + 4])
            self.message = 0 if body[start + 5] & 2 else self.message + length
            start += 4 + max(length, 2)


class _Handler(RequestHandler):
    def _create_association(self) -> Any:
        made: Any = super()._create_association()
        server: Any = self.server
        made.dul.socket.recv = server.guard(self.request)
        return made


class _Server(ThreadedAssociationServer):
    """A server whose connections are counted before they get a thread."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, node: Node, *args: Any, **how: Any) -> None:
        self._node, self._guards = node, dict[socket.socket, Guard]()
        super().__init__(*args, **how)

    def guard(self, connection: socket.socket) -> Guard:
        return self._guards[connection]

    def get_request(self) -> tuple[socket.socket, Any]:
        """A connection; a TLS handshake is done by its own thread, when it first reads."""
        assert self.socket is not None
        connection, address = self.socket.accept()
        connection.settimeout(self._node.timeout)
        if self.ssl_context:
            connection = self.ssl_context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return connection, address

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Whether a connection is served: not too many are open, and a peer may have its address."""
        self._guards = {one: guard for one, guard in self._guards.items() if one.fileno() != -1}
        if not self._node.allows_address(client_address[0]):
            self._node.refuse(f"connection from {client_address[0]}, which is not the address of a peer")
            return False
        if len(self._guards) >= 2 * self._node.associations:  # those above the half get a reply that says so
            self._node.refuse("connection beyond the limit of --associations")
            return False
        self._guards[request] = Guard(request, self.pending, self._node.timeout)
        return True

    def pending(self) -> int:
        """Bytes of messages that are not complete."""
        return sum(guard.message for one, guard in list(self._guards.items()) if one.fileno() != -1)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that fails is closed; nothing else is known of it."""


class Node:
    """Receives series as long as it is entered.

    Args:
        received: where they are put.
        title: AE title of this node; senders must call it.
        address: IP address to listen at.
        port: TCP port; 0 for any that is free, see the attribute ``port``.
        peers: who may send; empty for everyone.
        associations: how many associations are served at once.
        timeout: seconds without a PDU after which a connection is given up.
        tls: certificates; None for connections without encryption.
        report: called with what was refused.

    Raises:
        UsageError: a certificate cannot be used.
    """

    def __init__(
        self,
        received: Received,
        *,
        title: str = "MONAI-SR",
        address: str = "127.0.0.1",
        port: int = 11112,
        peers: Sequence[Peer] = (),
        associations: int = 8,
        timeout: float = 60.0,
        tls: Tls | None = None,
        report: Callable[[str], None] = lambda text: None,
    ) -> None:
        be_silent()
        self.received, self.peers, self.associations, self.timeout = received, tuple(peers), associations, timeout
        self.address, self.port, self._report = address, port, report
        self._tls = None if tls is None else tls.context(as_server=True)
        self._refused: dict[str, tuple[int, float]] = {}
        self._lock = threading.Lock()
        self._ae = AE(ae_title=checked_title(title))
        self._ae.maximum_associations, self._ae.maximum_pdu_size = associations, ASKED_PDU
        self._ae.acse_timeout = self._ae.dimse_timeout = self._ae.network_timeout = timeout
        self._ae.require_called_aet = True
        self._ae.require_calling_aet = sorted({peer.title for peer in self.peers})
        self._ae.add_supported_context(VERIFICATION)
        for sop_class in MODALITY_OF:
            self._ae.add_supported_context(sop_class, SYNTAXES)

    def __enter__(self) -> Node:
        """Start to listen.

        Raises:
            OutputError: E-NODE-PORT, the port is taken or not allowed.
        """
        handlers = [(evt.EVT_C_STORE, self._store), (evt.EVT_C_ECHO, self._echo), (evt.EVT_REJECTED, self._rejected)]
        try:
            self._server = _Server(
                self,
                self._ae,
                (self.address, self.port),
                self._ae.ae_title,
                self._ae.supported_contexts,
                ssl_context=self._tls,
                evt_handlers=handlers,
                request_handler=_Handler,
            )
        except OSError as error:
            problem = f"port {self.port} of {self.address} cannot be opened ({error.strerror or error})"
            raise OutputError("E-NODE-PORT", problem) from error
        self._ae._servers.append(self._server)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ae.shutdown()

    @property
    def connections(self) -> int:
        """How many are open."""
        return len([one for one in self._server._guards if one.fileno() != -1])

    def allows_address(self, address: str, title: str | None = None) -> bool:
        """Whether a peer, or that of a title, may have this address."""
        named = (peer for peer in self.peers if title in (None, peer.title))
        return not self.peers or any(peer.address in ("", address) for peer in named)

    def refuse(self, reason: str) -> None:
        """Report a refusal; those for one reason together."""
        with self._lock:
            if len(self._refused) > 1000:
                self._refused.clear()
            count, said = self._refused.get(reason, (0, -QUIET_SECONDS))
            is_due = time.monotonic() - said >= QUIET_SECONDS
            self._refused[reason] = (0, time.monotonic()) if is_due else (count + 1, said)
        if is_due:
            self._report(f"W-NODE-REFUSED: {reason}{f' (and {count} times before)' if count else ''}")

    def _allows(self, event: Any) -> bool:
        """Whether a peer has this AE title at this address; pynetdicom has compared the title alone."""
        requestor = event.assoc.requestor
        pair = requestor.ae_title.strip(), requestor.address
        if self.allows_address(pair[1], pair[0]):
            return True
        self.refuse(f"request of {printable(pair[0])} from {pair[1]}, which is another address than its own")
        return False

    def _rejected(self, event: Any) -> None:
        title = printable(event.assoc.requestor.ae_title.strip())
        self.refuse(f"association of {title}: not a peer, another called AE title, or too many at once")

    def _echo(self, event: Any) -> int:
        return SUCCESS if self._allows(event) else NOT_AUTHORIZED

    def _store(self, event: Any) -> int:
        """Keep an instance; success is answered when it is on the disk."""
        if not self._allows(event):
            return NOT_AUTHORIZED
        request = event.request
        try:
            self.received.keep(
                event.encoded_dataset(),
                sop_class=str(request.AffectedSOPClassUID),
                uid=str(request.AffectedSOPInstanceUID),
            )
        except ValueError as error:
            self.refuse(f"instance: {error}")
            return MISMATCH if isinstance(error, MismatchError) else CANNOT_UNDERSTAND
        except OutputError as error:
            self.refuse(f"instance: {error.code}, {error.problem}")
            return NO_ROOM
        return SUCCESS
