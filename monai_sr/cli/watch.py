"""``watch``: an archive whose new series are super-resolved as they come."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..files import make_folder
from .config import run_options
from .terminal import complain, say


def watch(options: argparse.Namespace) -> int:
    """``monai-sr watch --dicomweb URL --state FOLDER``"""
    try:
        from ..clients.pacs import Archive, Credentials, Watcher
        from ..clients.pacs import watch as watch_on
    except ModuleNotFoundError as error:
        if str(error.name).split(".")[0] not in ("requests", "dicomweb_client"):
            raise
        fix = 'pip install "monai-sr[pacs]"'
        raise UsageError("E-EXTRA", f"{error.name} is not installed, which an archive needs", fix=fix) from error

    archive = Archive(
        options.dicomweb, auth=Credentials.find(options.auth_file), ca_file=options.ca_file, timeout=options.timeout
    )
    make_folder(Path(options.state))
    watcher = Watcher(archive, Path(options.state), **choice_of(options))
    if not options.once:
        watch_on(watcher, interval=options.interval, report=complain)
    counts = watcher.look()
    say(
        f"{counts.stored} stored, {counts.left_out} left out, {counts.failed} failed; "
        f"{counts.settled} done before, {counts.waiting} not ready, {counts.later} tried again later"
    )
    return counts.exit_code


def choice_of(options: argparse.Namespace) -> dict[str, Any]:
    """What a watcher is given of the command line."""
    chosen = run_options(options)
    modality = chosen.acquisition.modality
    return {
        "options": chosen,
        "modalities": [modality] if modality else ["CT", "MR"],
        "days": options.days,
        "settle": options.settle,
        "thick_ratio": options.thick_ratio,
        "report": report_event,
    }


def report_event(event: Any) -> None:
    """Show what became of a series."""
    text = f"{event.series}: {'left out, ' if event.status == 'left out' else ''}{event.text}"
    say(text) if event.status == "stored" else complain(text)
