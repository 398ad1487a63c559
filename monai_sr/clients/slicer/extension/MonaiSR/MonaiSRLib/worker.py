"""The process that does the work: ``monai-sr slicer``, its progress, its lines, its end."""

from __future__ import annotations

import queue
import re
import subprocess
import threading
from collections.abc import Mapping

PROGRESS = re.compile(r"<filter-progress>([\d.]+)</filter-progress>")
TAG = re.compile(r"</?filter-[a-z]+>")

PATIENCE = 5.0
"""Seconds to end after it was asked to; then it is killed."""


def command(python: str, source: str, target: str, settings: Mapping[str, object], **overlays: str | None) -> list[str]:
    """What to run.

    Args:
        python: interpreter that has monai-sr.
        source, target: volumes, as files.
        settings: options by name, such as ``{"slice_thickness": 5.0}``; 0, "" and "auto" leave one to monai-sr.
        overlays: files for ``difference`` and ``consistency``; None leaves one out.
    """
    words = [python, "-m", "monai_sr", "slicer"]
    for name, value in {**settings, **overlays}.items():
        if value not in (None, 0, "", "auto"):
            words += [f"--{name}", str(value)]
    return [*words, source, target]


class Worker:
    """A process whose output is read as it comes.

    Args:
        process: started with stdout as a text pipe and stderr within it.

    Attributes:
        progress: 0 to 1.
        cancelled: whether :meth:`cancel` was called.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.progress, self.cancelled = 0.0, False
        self._process = process
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as output:
            for line in output:
                if self.cancelled:
                    # PythonSlicer starts another process, which may outlive it: that one ends when nobody
                    # listens to its progress
                    break
                self._lines.put(line.rstrip("\n"))

    def lines(self) -> list[str]:
        """What was said since the last call, for the log; tags become :attr:`progress`."""
        said = []
        while not self._lines.empty():
            line = self._lines.get()
            for fraction in PROGRESS.findall(line):
                self.progress = float(fraction)
            if line.strip() and not TAG.search(line):
                said.append(line)
        return said

    @property
    def has_ended(self) -> bool:
        """Whether the process is gone and all it said was read."""
        return self._process.poll() is not None and not self._reader.is_alive()

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    def cancel(self) -> None:
        """End it; what it wrote half is not there, see monai-sr's README."""
        self.cancelled = True
        if self._process.poll() is None:
            self._process.terminate()
            threading.Timer(PATIENCE, self._kill).start()

    def _kill(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
