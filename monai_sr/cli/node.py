"""``node``: a DICOM node whose series are super-resolved as they come."""

from __future__ import annotations

import argparse
import ipaddress
import sys
from pathlib import Path

from ..errors import UsageError, warn
from ..files import make_folder
from .terminal import complain, say
from .watch import choice_of


def node(options: argparse.Namespace) -> int:
    """``monai-sr node --state FOLDER``"""
    try:
        from ..clients.pacs import Watcher, watch
        from ..clients.pacs.node import Node, Peer
        from ..clients.pacs.received import Received
        from ..clients.pacs.target import Target, Tls
    except ModuleNotFoundError as error:
        if str(error.name).split(".")[0] not in ("pynetdicom", "requests", "dicomweb_client"):
            raise
        fix = 'pip install "monai-sr[node]"'
        raise UsageError("E-EXTRA", f"{error.name} is not installed, which a DICOM node needs", fix=fix) from error

    peers = [Peer.parse(text) for text in options.peer]
    tls = None
    if options.certificate or options.key or options.ca_file:
        if not (options.certificate and options.ca_file):
            problem = "TLS needs a certificate of this node and the authority of its peers"
            raise UsageError("E-USE", problem, fix="give --certificate and --ca-file")
        tls = Tls(Path(options.certificate), Path(options.ca_file), Path(options.key) if options.key else None)
    if not peers and not _is_loopback(options.address):
        fix = "give --peer for each sender, or --address 127.0.0.1"
        raise UsageError("E-USE", f"everyone who reaches {options.address} could send", fix=fix)
    common = {"title": options.ae_title, "timeout": options.timeout, "tls": tls}
    target = Target(options.send, **common) if options.send else None
    if tls is None and not (_is_loopback(options.address) and (target is None or target.is_loopback)):
        text = "images travel unencrypted; --certificate would protect them"
        warn("W-PACS-PLAIN", text, path=f"{options.address}:{options.port}")
    state = make_folder(Path(options.state))
    received = Received(state / "received", state / "results", target, options.days)
    watcher = Watcher(received, state, **choice_of(options))
    with Node(
        received,
        address=options.address,
        port=options.port,
        peers=peers,
        associations=options.associations,
        report=complain,
        **common,
    ) as one:
        say(f"{options.ae_title} listens at {options.address}:{one.port}")
        sys.stdout.flush()
        watch(watcher, interval=options.interval, report=complain)
    return 0


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError as error:
        raise UsageError("E-USE", f"{address!r} is not an IP address", fix="correct --address") from error
