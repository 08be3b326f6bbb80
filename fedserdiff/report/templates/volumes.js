"use strict";
(() => {
  const data = JSON.parse(document.getElementById("volumes").textContent);
  const find = (id) => document.getElementById(id);
  const PLANES = {
    "Axial": { type: niivue.SLICE_TYPE.AXIAL, axis: 2 },
    "Coronal": { type: niivue.SLICE_TYPE.CORONAL, axis: 1 },
    "Sagittal": { type: niivue.SLICE_TYPE.SAGITTAL, axis: 0 },
    "All three planes": { type: niivue.SLICE_TYPE.MULTIPLANAR, axis: 2 },
  };
  const AXES = ["Sagittal", "Coronal", "Axial"];
  const STEPS = { ArrowUp: 1, ArrowRight: 1, ArrowDown: -1, ArrowLeft: -1, PageUp: 5, PageDown: -5, Home: -1e9, End: 1e9 };
  // Bright for large errors, dark for small ones: distinct for any colour vision.
  const ADD = { R: [120, 255], G: [30, 160], B: [0, 40], A: [0, 255], I: [0, 255] };
  const TAKE = { R: [0, 90], G: [50, 190], B: [140, 255], A: [0, 255], I: [0, 255] };
  const FADE = 0.3; // a smaller error lets the scan through
  const UNUSED = 8; // NiiVue draws the first colours of a long table wrongly; these entries do not occur in a volume

  const panels = new Map();
  let position = [0, 0, 0]; // voxel
  let shownCase = null;
  let drawn = Promise.resolve();
  let waiting = false; // for what is being drawn

  function fail(why) {
    document.documentElement.dataset.state = "failed";
    find("failure").textContent = why;
    find("failure").hidden = false;
    find("viewer").hidden = true;
  }

  class Panel {
    constructor(name) {
      this.figure = document.createElement("figure");
      this.caption = document.createElement("figcaption");
      this.box = document.createElement("div");
      this.box.className = "canvas";
      this.canvas = document.createElement("canvas");
      this.canvas.setAttribute("role", "img");
      this.box.append(this.canvas);
      this.figure.append(this.caption, this.box);
      this.figure.dataset.layer = name;
      for (const type of ["keydown", "keyup"]) {
        this.box.addEventListener(type, onKey, true); // before NiiVue's own keys
      }
      find("views").append(this.figure);
    }

    async show(scan, layer, place) {
      this.caption.textContent = layer.name;
      const note = layer.kind === "errors" && layer.volumes.length ? data.regions[place].name : layer.note;
      this.caption.append(Object.assign(document.createElement("span"), { textContent: ` ${note}` }));
      this.box.hidden = !layer.volumes.length;
      if (this.box.hidden) return;
      if (!this.viewer) await this.open();
      const overlay = layer.kind === "errors" ? layer.volumes[place] : layer.volumes[0];
      if (this.scan !== scan.scan || this.overlay !== overlay) {
        const grey = { colormap: "gray", cal_min: scan.window[0], cal_max: scan.window[1] };
        const errors = { colormap: "add", colormapNegative: "take", cal_min: FADE, cal_max: 1 };
        const under = await this.read(scan.scan, grey);
        const over = await this.read(overlay, layer.kind === "errors" ? errors : {});
        if (layer.kind === "errors") over.colormapType = 1; // from 0, translucent below cal_min
        else over.setColormapLabel(regionColours());
        this.viewer.volumes = [];
        this.viewer.addVolume(under);
        this.viewer.addVolume(over);
        [this.scan, this.overlay] = [scan.scan, overlay];
      } else if (layer.kind === "masks") {
        this.viewer.volumes[1].setColormapLabel(regionColours());
      }
      this.viewer.setOpacity(1, Number(find("opacity").value)); // also redraws the colours
    }

    async open() {
      const viewer = new niivue.Niivue({
        isNearestInterpolation: true,
        dragAndDropEnabled: false,
        dragMode: niivue.DRAG_MODE.none,
        showAllOrientationMarkers: true,
        multiplanarShowRender: niivue.SHOW_RENDER.NEVER,
        crosshairColor: [1, 1, 1, 0.6],
        fontColor: [0.75, 0.75, 0.75, 1],
        logLevel: "error",
      });
      await viewer.attachToCanvas(this.canvas);
      viewer.addColormap("add", ADD);
      viewer.addColormap("take", TAKE);
      viewer.onLocationChange = () => go(Array.from(viewer.frac2vox(viewer.scene.crosshairPos)));
      this.viewer = viewer;
    }

    read(place, options) {
      return niivue.NVImage.loadFromBase64({ base64: data.volumes[place], name: "volume.nii.gz", ...options });
    }

    go() {
      this.viewer.scene.crosshairPos = this.viewer.vox2frac(position);
      this.viewer.drawScene();
    }
  }

  /** Return the colour of each set of regions: that of its smallest visible region. */
  function regionColours() {
    const shown = new Set([...find("regions").querySelectorAll("input:checked")].map((box) => Number(box.value)));
    const table = { R: [], G: [], B: [], A: [], I: [] };
    for (let set = -UNUSED; set < 2 ** data.regions.length; set += 1) {
      const top = set < 0 ? undefined : data.order.findLast((place) => shown.has(place) && (set >> place) & 1);
      const colour = top === undefined ? "#000000" : data.regions[top].colour;
      ["R", "G", "B"].forEach((channel, at) => table[channel].push(parseInt(colour.slice(1 + 2 * at, 3 + 2 * at), 16)));
      table.A.push(top === undefined ? 0 : 255);
      table.I.push(set);
    }
    return table;
  }

  const plane = () => PLANES[find("plane").value];
  const visible = () => [...panels.values()].filter((panel) => panel.viewer && !panel.figure.hidden && !panel.box.hidden);

  function go(wanted) {
    const { shape, modality, site } = data.cases[shownCase];
    position = wanted.map((place, axis) => Math.min(Math.max(place, 0), shape[axis] - 1));
    const { axis } = plane();
    const words = `${position[axis] + 1} of ${shape[axis]}`;
    find("axis").textContent = AXES[axis];
    find("place").textContent = words;
    find("slice").max = shape[axis] - 1;
    find("slice").value = position[axis];
    find("slice").setAttribute("aria-valuetext", words);
    for (const panel of visible()) {
      panel.canvas.setAttribute("aria-label", `${panel.caption.textContent} over ${modality}, ${site}, ${AXES[axis].toLowerCase()} slice ${words}`);
      panel.go();
    }
  }

  function step(by) {
    if (shownCase === null) return; // nothing is drawn yet
    go(position.map((place, axis) => place + (axis === plane().axis ? by : 0)));
  }

  function onKey(event) {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    event.stopPropagation();
    if (!(event.key in STEPS)) return;
    event.preventDefault();
    if (event.type === "keydown") step(STEPS[event.key]);
  }

  /** Return the aspect ratio (width / height) of a view. */
  function ratio({ shape, spacing }) {
    const [x, y, z] = shape.map((count, axis) => count * spacing[axis]);
    return { "Axial": x / y, "Coronal": x / z, "Sagittal": y / z, "All three planes": (x + y) / (y + z) }[find("plane").value];
  }

  async function draw() {
    const one = document.querySelector("input[name=show]:checked").value;
    const at = Number(find("site").value);
    const scan = data.cases[at];
    const method = find("method") ? find("method").value : Object.keys(data.methods)[0];
    const multiplanar = find("plane").value === "All three planes";
    find("case").textContent = `${method}. ${scan.site}, case ${scan.case}; scan: ${scan.modality}, ${scan.grid}.`;
    find("views").className = `views${one ? " single" : ""}${multiplanar ? " planes" : ""}`;
    if (shownCase !== at) position = [...scan.centre];
    shownCase = at;
    for (const layer of data.methods[method][at]) {
      if (!panels.has(layer.name)) panels.set(layer.name, new Panel(layer.name));
      const panel = panels.get(layer.name);
      panel.figure.hidden = Boolean(one) && one !== layer.name;
      panel.box.style.aspectRatio = ratio(scan);
      if (!panel.figure.hidden) await panel.show(scan, layer, Number(find("region").value));
    }
    for (const panel of visible()) {
      panel.viewer.setCrosshairWidth(multiplanar ? 0.25 : 0);
      panel.viewer.setSliceType(plane().type);
    }
    go(position);
  }

  function redraw() {
    document.documentElement.dataset.state = "drawing";
    if (waiting) return;
    waiting = true;
    drawn = drawn
      .then(() => {
        waiting = false;
        return draw();
      })
      .then(() => {
        if (!waiting) document.documentElement.dataset.state = "ready";
      })
      .catch((error) => fail(`The volumes cannot be drawn: ${error.message}.`));
  }

  if (!document.createElement("canvas").getContext("webgl2")) {
    fail("The volumes cannot be drawn: this browser has no WebGL 2, or it is switched off. Use another browser, or switch graphics acceleration on.");
    return;
  }
  const bar = (map, end) => `rgb(${map.R[end]} ${map.G[end]} ${map.B[end]})`;
  find("scale").querySelector("i").style.background =
    `linear-gradient(to right, ${bar(TAKE, 1)}, ${bar(TAKE, 0)} 40%, #000 50%, ${bar(ADD, 0)} 60%, ${bar(ADD, 1)})`;
  find("slice").addEventListener("input", (event) => step(Number(event.target.value) - position[plane().axis]));
  find("viewer").addEventListener("change", (event) => {
    if (event.target.id !== "slice") redraw();
  });
  find("opacity").addEventListener("input", redraw);
  redraw();
})();
