"""Tables of measurements, for the terminal, a page and files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from .measurements import BLOCK_MEASUREMENTS, REFERENCE, Study, agreement
from .tables import aligned, piped, write_rows

_Rows = list[list[str]]

GOOD = 0.9
"""Lower concordance is usually called poor. Source: McBride 2005, "A proposal for strength-of-agreement criteria"."""

EXPLAINED = """\
**What is measured.** Thick slices (each repeated over the thin slices that it covers) and the results of each method \
are measured on the grid of the thin slices, in the body and its lungs, without one thick slice at each end. Results \
for a pair are those with the width and profile of the header. Masks of the body, the lung and soft tissue are those \
of the reference. CT: bone above 200 HU (contrast agent too), muscle -29 to 150 HU, fat -190 to -30 HU, airways and \
lungs below -500 HU at least 3 mm below the skin. MR: bright tissue is above Otsu's threshold of the body.

- **histogram · distance**: mean distance of equal quantiles, HU or signal. **width**: standard deviation of soft \
tissue (MR: of the body) divided by that of the reference. Below 1, noise and texture are missing; measurements that \
count voxels beyond a threshold change with it.
- **emphysema index**: fraction of the lung below -950 HU, %. **15th percentile** of the lung, HU. Both depend on \
noise.
- **ml**: volume beyond the threshold; in brackets its difference from the reference. **Dice**: overlap of the two \
segmentations. **distance**: between the surfaces, both ways, mean and 95th percentile, mm. **roughness**: angle \
between the normals of a surface and their local mean, RMS degrees: stair-steps, fine detail and noise. It should be \
that of the reference.
- **Agreement**: the same feature of cubes of 20 mm. CCC is Lin's concordance correlation (1 is equality; below 0.9 \
is usually called poor), then the bias, and in brackets the 95 % limits of agreement of a single cube. Cubes of one \
volume are not independent: the figures describe these volumes, not a population. First-order and texture features \
follow the definitions of the IBSI (texture: 13 directions together, one voxel apart; gray levels of 25 HU, MR 1/32 \
of the data range). Voxels are not resampled before."""


def measurement_text(study: Study, *, markdown: bool = False) -> str:
    """All tables of a study, and below them what the figures are."""
    blocks = []
    for modality, group in dict.fromkeys((m.modality, m.group) for m in study.measurements):
        chosen = [m for m in study.measurements if (m.modality, m.group) == (modality, group)]
        counted = len({m.volume for m in chosen})
        title = f"{modality}, {group}, {counted} volume{'s' if counted > 1 else ''}"
        methods = list(dict.fromkeys(m.method for m in chosen))
        tables = [_volumes(study, modality, group, methods), _agreement(study, modality, group, methods[1:])]
        for name, rows in zip(("Volumes and surfaces", "Agreement of cubes"), tables, strict=True):
            if len(rows) > 1:
                heading = f"### {name}: {title}" if markdown else f"{name}: {title}"
                blocks.append(f"{heading}\n\n{piped(rows)}" if markdown else f"{heading}\n{aligned(rows, left=1)}")
        blocks += _summary(study, modality, group)
    return "\n\n".join([*blocks, EXPLAINED if markdown else EXPLAINED.replace("**", "")])


def page(study: Study, *, command: str) -> str:
    """A page of its own.

    Args:
        command: that made it.
    """
    return (
        "# What becomes of measurements\n\n**Research only, not for diagnosis.**\n\n"
        "Someone who measures on super-resolved slices wants the figure that thin slices would have given. The "
        "tables compare measurements of the thick slices, of interpolation and of both bundles with those of thin "
        f"slices.\n\n{measurement_text(study, markdown=True)}\n\nMade by `{command}`.\n"
    )


def _summary(study: Study, modality: str, group: str) -> list[str]:
    """How many measurements of cubes agree well, by method."""
    rows = [row for row in agreement_rows(study) if (row["modality"], row["group"]) == (modality, group)]
    names = dict.fromkeys(row["measurement"] for row in rows)
    if not rows:
        return []
    good = Counter(row["method"] for row in rows if row["ccc"] >= GOOD)
    methods = dict.fromkeys(row["method"] for row in rows)
    counts = ", ".join(f"{method} {good[method]}" for method in methods)
    return [f"Of {len(names)} measurements of cubes, those with a CCC of at least {GOOD:g}: {counts}."]


def _volumes(study: Study, modality: str, group: str, methods: Sequence[str]) -> _Rows:
    """One row for each measurement of whole volumes: mean over volumes."""
    names = [m.name for m in study.measurements if m.block is None and (m.modality, m.group) == (modality, group)]
    rows = [["", *methods]]
    for name in dict.fromkeys(names):
        cells = []
        for method in methods:
            ours, true = study.pairs(modality, group, name, method, blocks=False)
            cells.append(_cell(name, ours, true, is_reference=method == REFERENCE))
        rows.append([name, *cells])
    return rows


def _cell(name: str, ours: np.ndarray, true: np.ndarray, *, is_reference: bool) -> str:
    if not len(ours):
        return "–"
    value = ours.mean()
    text = f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    if name.endswith("· ml") and not is_reference:
        text += f" ({100 * (ours.sum() / true.sum() - 1):+.1f} %)"
    return text


def _agreement(study: Study, modality: str, group: str, methods: Sequence[str]) -> _Rows:
    """One row for each measurement of blocks."""
    rows = [["", "n", *methods]]
    for name in BLOCK_MEASUREMENTS:
        of_methods = [agreement(*study.pairs(modality, group, name, method, blocks=True)) for method in methods]
        if of_methods[0].n < 3:
            continue
        cells = [f"{a.ccc:.2f}, {_signed(a.bias)} ({_signed(a.low)} to {_signed(a.high)})" for a in of_methods]
        rows.append([name, str(of_methods[0].n), *cells])
    return rows


def _signed(value: float) -> str:
    return f"{value:+.2g}" if abs(value) < 99.5 else f"{value:+.0f}"


def agreement_rows(study: Study) -> list[dict[str, Any]]:
    """Agreement of cubes, as JSON and CSV hold it."""
    rows = []
    for modality, group in dict.fromkeys((m.modality, m.group) for m in study.measurements):
        methods = {m.method: None for m in study.measurements if (m.modality, m.group) == (modality, group)}
        for name in BLOCK_MEASUREMENTS:
            for method in list(methods)[1:]:
                result = agreement(*study.pairs(modality, group, name, method, blocks=True))
                if result.n >= 3:
                    labels = {"modality": modality, "group": group, "measurement": name, "method": method}
                    rows.append(labels | asdict(result))
    return rows


def write_measurements(study: Study, folder: str | Path, **settings: Any) -> list[Path]:
    """Write ``measurements.csv``, of each volume and cube, and ``measurements.json`` with their agreement."""
    document = {"settings": settings, "figures": EXPLAINED, "agreement": agreement_rows(study)}
    return write_rows(folder, "measurements", [asdict(m) for m in study.measurements], document)
