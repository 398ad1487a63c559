"""The pictures of a case as a part of its page: planes, layers, maps, windows, and the buttons for them."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

import numpy as np

from .overlays import Overlay
from .png import data_url
from .views import Scene, nearest_plane

PIXELS = 4_000_000
"""Of all pictures of a case together, which makes about 3 MB."""

MOST, LEAST = 9, 3
"""Pictures in a plane."""

FLAT, WIDE = 1.25, 3.0
"""Two planes of a slab, whose heights together are at most so much of the third's, are set above each other, and take
at most so many times its width."""

THUMBNAIL = 96
"""Pixels on the longer side of the picture in an index."""


def viewer(scene: Scene, layers: list[str], overlays: Mapping[str, tuple[Overlay, np.ndarray]]) -> str:
    """The part of a page with all pictures of a scene.

    Args:
        scene: the volumes.
        layers: of the scene; the last is shown first.
        overlays: by kind; values (a, b, m) for consistency, (a, b, n) for others.
    """
    order = scene.showing_order()
    sizes = {lacking: scene.size(lacking) for lacking in order}
    pixels = sum(int(np.prod([n for a, n in enumerate(scene.thin.shape) if a != lacking])) for lacking in order)
    count = int(np.clip(PIXELS // max(1, pixels * len(layers)), LEAST, MOST))
    planes = [_plane(scene, lacking, count, layers, overlays) for lacking in order]
    (w1, h1), (w2, h2), (w3, h3) = (sizes[lacking] for lacking in order)
    # widths in proportion to width / height make all heights in the row equal
    ratios = [w1 / h1, w2 / h2, w3 / h3]
    if h1 + h2 <= FLAT * h3:
        widest = max(w1, w2)
        ratios = [min(widest / (h1 + h2), WIDE * ratios[2]), ratios[2]]
        style = f"--ratio:{ratios[0]:.3f};--widest:{widest:.2f}"
        planes = [f'<div class="column" style="{style}">{planes[0]}{planes[1]}</div>', planes[2]]
    shown = layers[-1]
    classes = "viewer" + (" alone" if len(layers) == 1 else "")
    scales = "".join(overlay.scale() for overlay, _ in overlays.values())
    return (
        f'<section class="{classes}" aria-label="Pictures" data-layer="{shown}" data-mode="flip" data-window="0">'
        f"{_filters(scene)}{_tools(scene, layers, list(overlays))}"
        f'<div class="planes" style="--sum:{sum(ratios):.3f}">{"".join(planes)}</div>'
        f'<div class="scales">{scales}</div>'
        '<p class="hint">Keys: '
        + (f"1, 2, 3 or space flip {_listed(scene)} in place; 4 side by side; " if len(layers) > 1 else "")
        + "← → slices; + − zoom; w window; ? all keys.</p></section>"
    )


def _filters(scene: Scene) -> str:
    """Each window as an SVG filter: a table from the code in a picture to the gray on the screen."""
    filters = []
    for index, preset in enumerate(scene.windows.presets):
        values = " ".join(f"{v:.3f}".rstrip("0").rstrip(".") for v in scene.windows.table(preset))
        channels = "".join(f'<feFunc{c} type="table" tableValues="{values}"/>' for c in "RGB")
        filters.append(
            f'<filter id="window-{index}" color-interpolation-filters="sRGB" x="0" y="0" width="1" height="1">'
            f"<feComponentTransfer>{channels}</feComponentTransfer></filter>"
        )
    return f'<svg width="0" height="0" aria-hidden="true" style="position:absolute">{"".join(filters)}</svg>'


def _listed(scene: Scene) -> str:
    """The layers in a sentence."""
    first, second, third = (button if button.isupper() else button.lower() for button, _ in scene.labels.values())
    return escape(f"{first}, {second} and {third}")


def _tools(scene: Scene, layers: list[str], overlays: list[str]) -> str:
    def button(action: str, text: str, key: str, *, value: str = "", label: str = "", toggles: bool = False) -> str:
        attributes = f' data-value="{value}"' if value else ""
        attributes += ' aria-pressed="false"' if toggles else ""
        attributes += f' aria-label="{label}"' if label else ""
        hint = f"<kbd>{key}</kbd>" if key else ""
        return f'<button type="button" data-do="{action}"{attributes}>{text}{hint}</button>'

    groups = []
    if len(layers) > 1:
        flips = [
            button("layer", escape(scene.labels[layer][0]), str(number), value=layer, toggles=True)
            for number, layer in enumerate(layers, 1)
        ]
        groups.append(("What is shown", "".join(flips) + button("side", "Side by side", "4", toggles=True)))
    if overlays:
        names = {
            "consistency": ("Consistency", "c"),
            "uncertainty": ("Uncertainty", "u"),
            "stacks": ("Nearest stack", "n"),
        }
        maps = [button("overlay", names[o][0], names[o][1], value=o, toggles=True) for o in overlays]
        groups.append(("Maps", "".join(maps)))
    unit = f" {scene.windows.unit}" if scene.windows.unit else ""
    choices = "".join(
        f'<option value="{i}">{escape(preset)} ({low:.4g} to {high:.4g}{unit})</option>'
        for i, (preset, (low, high)) in enumerate(scene.windows.presets.items())
    )
    zoom = (
        button("out", "−", "", label="Farther")
        + button("fit", "100 %", "", label="All of it")
        + button("in", "+", "", label="Closer")
    )
    looks = button("voxels", "Voxels", "v", toggles=True) + button("help", "?", "", label="Keys")
    window = f"<label>Window <select>{choices}</select></label>"
    parts = [*(_group(*group) for group in groups), window, _group("Zoom", zoom), _group("Looks", looks)]
    return f'<div class="tools">{"".join(parts)}</div>'


def _group(label: str, content: str) -> str:
    return f'<div class="group" role="group" aria-label="{label}">{content}</div>'


def _plane(
    scene: Scene, lacking: int, count: int, layers: list[str], overlays: Mapping[str, tuple[Overlay, np.ndarray]]
) -> str:
    width, height = scene.size(lacking)
    name, places = scene.name(lacking), scene.chosen(lacking, count)
    words = [_place(scene, lacking, index) for index in places]
    middle = len(places) // 2
    corners = "".join(f'<span class="letter {side}">{letter}</span>' for side, letter in scene.letters(lacking).items())
    frames = []
    for layer in layers:
        images = []
        for number, index in enumerate(places):
            codes = scene.windows.encode(scene.picture(scene.plane(layer, lacking, index), lacking))
            alt = f"{name}, {words[number]}, {escape(scene.labels[layer][1])}"
            images.append(_img(data_url(codes), number, alt, css="gray", shown=number == middle))
        ruler, fraction = _ruler(width)
        tag = f'<span class="tag {layer}">{escape(scene.labels[layer][0])}</span>' if len(layers) > 1 else ""
        frames.append(
            f'<div class="frame {layer}" data-layer="{layer}"><div class="canvas">{"".join(images)}</div>'
            f'{tag}{corners}<span class="ruler" style="width:{fraction:.1f}%">{ruler}</span></div>'
        )
    over = []
    for kind, (overlay, values) in overlays.items():
        for number, index in enumerate(places):
            if kind == "consistency":
                plane = nearest_plane(values, scene.nearest, lacking, index)
            else:
                plane = np.take(values, index, axis=lacking)
            source = overlay.picture(scene.picture(plane, lacking))
            if source:
                alt = f"{kind} map over {name}, {words[number]}"
                over.append(_img(source, number, alt, css=f"overlay {kind}", shown=number == middle))
    if overlays:
        frames.append(f'<div class="frame over"><div class="canvas">{"".join(over)}</div></div>')
    texts = "|".join(words)
    return (
        f'<figure class="plane" data-plane="{name}" data-width="{width:.3f}" style="--w:{width:.2f};--h:{height:.2f}">'
        f'<div class="frames">{"".join(frames)}</div><figcaption><strong>{name.capitalize()}</strong>'
        f'<input type="range" min="0" max="{len(places) - 1}" value="{middle}" aria-label="{name} slice" '
        f'aria-valuetext="{words[middle]}" data-places="{texts}"><output>{words[middle]}</output></figcaption></figure>'
    )


def _img(source: str, number: int, alt: str, *, css: str, shown: bool) -> str:
    hidden = "" if shown else " hidden"
    return f'<img class="{css}" data-slice="{number}" alt="{escape(alt)}" src="{source}"{hidden}>'


def _place(scene: Scene, lacking: int, index: int) -> str:
    """Position of a plane along the axis across it, from the middle."""
    n, step = scene.thin.shape[lacking], scene.spacings[lacking]
    offset = scene.thin_at[index] if lacking == 2 else (index - (n - 1) / 2) * step
    text = f"{offset:+.1f} mm".replace("-", "−")
    if not scene.has_orientation:
        return text
    if abs(offset) < 0.05:
        return "the middle"
    positive, negative = "RAS"[scene.directions[lacking]], "LPI"[scene.directions[lacking]]
    return f"{abs(offset):.1f} mm {positive if offset >= 0 else negative} of the middle"


def _ruler(width: float) -> tuple[str, float]:
    """A round length at most a third of a picture, and its percentage of the width."""
    length = next((mm for mm in (100, 50, 20, 10, 5, 2, 1) if mm <= width / 3), 1)
    return f"{length} mm", 100 * length / width


def thumbnail(scene: Scene, layer: str) -> str:
    """A small picture for an index, as a data URL."""
    return data_url(picture_of(scene, layer, THUMBNAIL))


def picture_of(scene: Scene, layer: str, pixels: int) -> np.ndarray:
    """(height, width) uint8 of a middle plane that shows the slices from the side, so many ``pixels`` at most."""
    lacking = scene.showing_order()[0]
    (index,) = scene.chosen(lacking, 1)
    picture = scene.picture(scene.plane(layer, lacking, index), lacking)
    width, height = scene.size(lacking)
    scale = pixels / max(width, height)
    rows, columns = (
        np.minimum(((np.arange(max(1, round(mm * scale))) + 0.5) / max(1, round(mm * scale)) * n).astype(int), n - 1)
        for mm, n in zip((height, width), picture.shape, strict=True)
    )
    windows = scene.windows
    gray = windows.table(next(iter(windows.presets)))[windows.encode(picture[np.ix_(rows, columns)])]
    return np.rint(gray * 255).astype(np.uint8)
