"use strict";
(() => {
  const viewer = document.querySelector(".viewer");
  const dialog = document.querySelector("dialog");
  for (const button of document.querySelectorAll("button.copy")) {
    button.hidden = false;
    button.addEventListener("click", async () => {
      const text = document.getElementById(button.dataset.of);
      try {
        await navigator.clipboard.writeText(text.textContent);
        button.textContent = "Copied";
      } catch {
        // a page opened from a file may not reach the clipboard: select the text for Ctrl+C
        getSelection().selectAllChildren(text);
        button.textContent = "Selected";
      }
    });
  }
  if (!viewer) return;
  const planes = [...viewer.querySelectorAll(".plane")];
  const layers = [...new Set([...viewer.querySelectorAll(".frame[data-layer]")].map((frame) => frame.dataset.layer))];
  const ROUND = [100, 50, 20, 10, 5, 2, 1, 0.5, 0.2];
  const LARGEST_ZOOM = 16;
  let active = planes[0];
  let zoom = 1;

  const pressed = (action, value, on) => {
    const wanted = value === undefined ? `[data-do="${action}"]` : `[data-do="${action}"][data-value="${value}"]`;
    for (const button of viewer.querySelectorAll(wanted)) button.setAttribute("aria-pressed", String(on));
  };

  const marked = () => {
    const side = viewer.dataset.mode === "side";
    for (const layer of layers) pressed("layer", layer, !side && viewer.dataset.layer === layer);
    pressed("side", undefined, side);
    for (const overlay of ["consistency", "uncertainty", "stacks"]) pressed("overlay", overlay, viewer.classList.contains(overlay));
    pressed("voxels", undefined, viewer.classList.contains("voxels"));
  };

  const showLayer = (layer) => {
    if (!layers.includes(layer)) return;
    viewer.dataset.layer = layer;
    viewer.dataset.mode = "flip";
    marked();
    placed();
  };

  const showSide = () => {
    if (layers.length < 2) return;
    viewer.dataset.mode = viewer.dataset.mode === "side" ? "flip" : "side";
    marked();
    placed();
  };

  const toggle = (name) => {
    if (!viewer.querySelector(`[data-do="overlay"][data-value="${name}"]`)) return;
    viewer.classList.toggle(name);
    marked();
  };

  const showSlice = (plane, index) => {
    const range = plane.querySelector("input[type=range]");
    const last = Number(range.max);
    const chosen = Math.min(last, Math.max(0, index));
    range.value = String(chosen);
    for (const image of plane.querySelectorAll("img[data-slice]")) image.hidden = Number(image.dataset.slice) !== chosen;
    const text = range.dataset.places.split("|")[chosen];
    range.setAttribute("aria-valuetext", text);
    plane.querySelector("output").textContent = text;
  };

  const activate = (plane) => {
    active = plane;
    for (const one of planes) one.classList.toggle("active", one === plane);
  };

  // places are shares of a frame, so that they stay when the window changes
  const limit = (plane) => {
    const held = (value) => Math.min(0, Math.max(1 - zoom, value));
    plane.at = { x: held(plane.at.x), y: held(plane.at.y) };
    const frames = plane.querySelector(".frames");
    frames.style.setProperty("--x", `${100 * plane.at.x}%`);
    frames.style.setProperty("--y", `${100 * plane.at.y}%`);
    frames.style.setProperty("--zoom", zoom);
  };

  const placed = () => {
    viewer.classList.toggle("zoomed", zoom > 1);
    for (const plane of planes) {
      limit(plane);
      const frame = plane.querySelector(".frame");
      const perMm = (frame.clientWidth / Number(plane.dataset.width)) * zoom;
      const length = ROUND.find((mm) => mm * perMm <= frame.clientWidth / 3) || ROUND[ROUND.length - 1];
      for (const ruler of plane.querySelectorAll(".ruler")) {
        ruler.style.width = `${length * perMm}px`;
        ruler.textContent = `${length} mm`;
      }
    }
    viewer.querySelector("[data-do=fit]").textContent = `${Math.round(zoom * 100)} %`;
  };

  const zoomTo = (wanted, plane, point) => {
    const next = Math.min(LARGEST_ZOOM, Math.max(1, wanted));
    for (const one of planes) {
      const at = one === plane && point ? point : { x: 0.5, y: 0.5 };
      one.at.x = at.x - ((at.x - one.at.x) * next) / zoom;
      one.at.y = at.y - ((at.y - one.at.y) * next) / zoom;
    }
    zoom = next;
    placed();
  };

  const pickWindow = (index) => {
    const select = viewer.querySelector("select");
    const count = select.options.length;
    select.value = String(((index % count) + count) % count);
    viewer.dataset.window = select.value;
  };

  const actions = {
    layer: (value) => showLayer(value),
    side: showSide,
    overlay: (value) => toggle(value),
    voxels: () => {
      viewer.classList.toggle("voxels");
      marked();
    },
    in: () => zoomTo(zoom * 1.5),
    out: () => zoomTo(zoom / 1.5),
    fit: () => zoomTo(1),
    help: () => dialog.showModal(),
  };

  viewer.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-do]");
    if (!button) return;
    actions[button.dataset.do](button.dataset.value);
    if (event.detail) button.blur(); // of a mouse: let the space bar flip, not press it again
  });
  viewer.querySelector("select").addEventListener("change", (event) => pickWindow(Number(event.target.value)));
  dialog.querySelector("button").addEventListener("click", () => dialog.close());

  for (const plane of planes) {
    plane.at = { x: 0, y: 0 };
    const range = plane.querySelector("input[type=range]");
    range.addEventListener("input", () => showSlice(plane, Number(range.value)));
    plane.addEventListener("pointerenter", () => activate(plane));
    plane.addEventListener("focusin", () => activate(plane));
    const frames = plane.querySelector(".frames");
    const within = (event) => {
      const box = (event.target.closest(".frame") || plane.querySelector(".frame")).getBoundingClientRect();
      return { x: (event.clientX - box.left) / box.width, y: (event.clientY - box.top) / box.height };
    };
    let from = null;
    frames.addEventListener("pointerdown", (event) => {
      activate(plane);
      if (zoom === 1) return;
      from = { x: event.clientX, y: event.clientY, at: plane.at };
      frames.setPointerCapture(event.pointerId);
      frames.classList.add("dragging");
    });
    frames.addEventListener("pointermove", (event) => {
      if (!from) return;
      const frame = plane.querySelector(".frame");
      const moved = [(event.clientX - from.x) / frame.clientWidth, (event.clientY - from.y) / frame.clientHeight];
      plane.at = { x: from.at.x + moved[0], y: from.at.y + moved[1] };
      limit(plane);
    });
    const dropped = () => {
      from = null;
      frames.classList.remove("dragging");
    };
    frames.addEventListener("pointerup", dropped);
    frames.addEventListener("pointercancel", dropped);
    frames.addEventListener("dblclick", (event) => zoomTo(zoom > 1 ? 1 : 3, plane, within(event)));
    frames.addEventListener(
      "wheel",
      (event) => {
        if (!event.ctrlKey) return; // the page scrolls; pinching says ctrl
        event.preventDefault();
        zoomTo(zoom * Math.exp(-event.deltaY / 200), plane, within(event));
      },
      { passive: false },
    );
  }

  const keys = {
    1: () => showLayer("thick"),
    2: () => showLayer("cubic"),
    3: () => showLayer("sr"),
    4: showSide,
    " ": () => showLayer(layers[(layers.indexOf(viewer.dataset.layer) + 1) % layers.length]),
    ArrowLeft: () => showSlice(active, Number(active.querySelector("input").value) - 1),
    ArrowRight: () => showSlice(active, Number(active.querySelector("input").value) + 1),
    "+": actions.in,
    "=": actions.in,
    "-": actions.out,
    0: actions.fit,
    c: () => toggle("consistency"),
    u: () => toggle("uncertainty"),
    n: () => toggle("stacks"),
    w: () => pickWindow(Number(viewer.dataset.window) + 1),
    v: actions.voxels,
    "?": actions.help,
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || dialog.open) return;
    const act = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    const at = event.target;
    const own = at.matches("select") || (event.key === " " && at.matches("button, a")) ||
      (event.key.startsWith("Arrow") && at.matches("input"));
    if (!act || own) return;
    event.preventDefault();
    act();
  });
  addEventListener("resize", placed);
  addEventListener("beforeprint", () => viewer.querySelectorAll("img").forEach((image) => (image.loading = "eager")));
  activate(planes[0]);
  for (const plane of planes) showSlice(plane, Number(plane.querySelector("input").value));
  marked();
  placed();
  // page.html#4c opens as if those keys had been pressed
  for (const key of decodeURIComponent(location.hash.slice(1))) if (key !== "?" && keys[key]) keys[key]();
})();
