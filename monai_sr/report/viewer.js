"use strict";
(async () => {
  const { Niivue, NVImage } = globalThis.niivue;
  const told = document.querySelector(".told");
  const volumes = JSON.parse(document.getElementById("data").textContent);
  const nv = new Niivue({
    backColor: [0, 0, 0, 1],
    crosshairColor: [0.49, 0.77, 1, 0.6],
    crosshairWidth: 0.4,
    isRadiologicalConvention: true,
    sagittalNoseLeft: true,
    isColorbar: false,
    dragAndDropEnabled: false,
    isResizeCanvas: true,
    show3Dcrosshair: true,
    onLocationChange: (at) => {
      const place = [...at.mm].slice(0, 3).map((v) => v.toFixed(1));
      told.textContent = `R ${place[0]}, A ${place[1]}, S ${place[2]} mm`;
    },
  });
  let shown = "sr";
  let smooth = true;
  let solid = true;
  try {
    await nv.attachTo("volumes");
  } catch (error) {
    told.textContent = "This browser has no WebGL 2.";
    throw error;
  }
  for (const volume of volumes) {
    nv.addVolume(
      await NVImage.loadFromBase64({
        base64: volume.nifti,
        name: `${volume.name}.nii.gz`,
        trustCalMinMax: true, // the window stands in the header
      }),
    );
  }
  const pressed = (selector, on) => document.querySelector(selector).setAttribute("aria-pressed", String(on));
  const show = (name) => {
    shown = name;
    // the first volume, the result, lies below; the acquired one covers it
    volumes.forEach((volume, index) => {
      nv.setOpacity(index, index === 0 || volume.name === name ? 1 : 0);
      pressed(`[data-do=show][data-value="${volume.name}"]`, volume.name === name);
    });
    document.body.dataset.shown = name;
  };
  const setSmooth = (on) => {
    smooth = on;
    nv.setInterpolation(!on);
    pressed("[data-do=smooth]", on);
  };
  const setSolid = (on) => {
    solid = on;
    nv.opts.multiplanarShowRender = on ? 1 : 0; // SHOW_RENDER.ALWAYS, NEVER
    nv.drawScene();
    pressed("[data-do=solid]", on);
  };
  const actions = {
    show,
    smooth: () => setSmooth(!smooth),
    solid: () => setSolid(!solid),
  };
  document.querySelector(".tools").addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    actions[button.dataset.do](button.dataset.value);
    if (event.detail) button.blur();
  });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const keys = {
      1: () => show("thick"),
      3: () => show("sr"),
      " ": () => show(shown === "sr" ? "thick" : "sr"),
      v: actions.smooth,
      d: actions.solid,
    };
    const act = keys[event.key.toLowerCase()];
    if (!act || (event.key === " " && event.target.matches("button"))) return;
    event.preventDefault();
    act();
  });
  nv.setSliceType(nv.sliceTypeMultiplanar);
  setSmooth(true);
  setSolid(true);
  show(shown);
  document.body.dataset.ready = "true";
})();
