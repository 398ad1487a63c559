"""What every code in a message means and what to do about it; ``monai-sr errors`` prints it.

The table is ``codes.tsv``, one row per code. E- codes end the work on a volume, or say why files were left out.
W- codes stand beside a result.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import NamedTuple


class Code(NamedTuple):
    """A row of the table.

    Attributes:
        severity: "error" ends the work on a volume; "warning" means that a result may be worse than usual;
            "info" that nothing is wrong with it, or why a file was left out.
        meaning: the cause.
        remedy: what to do.
    """

    severity: str
    meaning: str
    remedy: str


def _read_codes() -> dict[str, Code]:
    with open(Path(__file__).with_name("codes.tsv"), encoding="utf-8", newline="") as file:
        rows = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        next(rows)
        return {code: Code(*row) for code, *row in rows}


CODES = _read_codes()
"""By code."""
