"use strict";
// The page of eqpot/report.py: the numbers of one inspection as pictures to turn and to click.

const data = JSON.parse(document.getElementById("data").textContent);
const last = data.stages.length - 1; // stage 0 is after the embedding, stage k after block k
const state = { stage: 0, atom: null, quantity: "energy_share" };

const LONGEST = 1.8; // Å, as which the longest arrow is drawn
const PALETTE = ["#3f9b62", "#8a5fb0", "#d1495b", "#2a8fa8", "#7a6a58", "#5b6ee1"];
const NAMED = 60; // atoms, up to which each bears its symbol
const LABEL = { fontSize: 11, bold: true, showBackground: false, inFront: true, alignment: "center" };
const MARK = "#d9a21b", GREY = "#9a9a9a";
const COLD = [46, 102, 172], NEUTRAL = [226, 226, 222], HOT = [190, 48, 42]; // RGB
// The message of a path; w holds its constant.
const PATHS = {
  "0x0->0": "w s",
  "0x1->1": "w s Y",
  "1x0->1": "w v",
  "1x1->0": "w Y·v",
  "1x1->1": "w Y×v",
  "1x2->1": "w M v",
  "0x2->2": "w s M",
  "0x3->3": "w s O",
};
const QUANTITIES = {
  energy_share: {
    label: "share of the energy", unit: "eV", sum: true,
    text: () => "What a path adds to the energy while the messages of all paths grow together from nothing to " +
      `what they are (integrated gradients). The shares and ${number(data.energy_rest, 8)} eV, the energy of atoms ` +
      `that hear nothing of each other, sum to the energy, ${number(data.energy, 8)} eV, to round-off.`,
  },
  energy_change_off: {
    label: "energy without the path", unit: "eV",
    text: () => "The energy with this one path switched off, less the energy. Where paths need each other, their " +
      "common effect is lost with either of them, so these do not sum to anything.",
  },
  force_change_off: {
    label: "forces without the path", unit: "eV/Å",
    text: () => "How much the forces change when this one path is switched off: root mean square over components.",
  },
  message_norm: {
    label: "norm of the messages", unit: "",
    text: () => "Length of the sum of a path's messages into an atom, root mean square over the atoms, before the " +
      "matrix that mixes the paths. It has no unit, and says how loud a path is, not how much depends on it.",
  },
};

// ---- small tools

const byId = (id) => document.getElementById(id);

const maker = (space) => (tag, attributes, ...children) => {
  const node = document.createElementNS(space, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children); // strings become text, never markup
  return node;
};
const html = maker("http://www.w3.org/1999/xhtml");
const svg = maker("http://www.w3.org/2000/svg");

// `digits` digits, a power of ten where the number would be long, a dash where there is none.
function number(x, digits = 3) {
  if (x === null) return "–";
  let power = x === 0 ? 0 : Math.floor(Math.log10(Math.abs(x)));
  let tail = "";
  if (power < -3 || power > 9) {
    tail = "·10" + [...String(power)].map((c) => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(c)]).join("");
    x /= 10 ** power;
    power = 0;
  }
  return x.toFixed(Math.max(0, digits - 1 - power)).replace("-", "−") + tail;
}

// Numbers of one table in one unit with equally many decimals: the factor, the unit's prefix, the decimals.
function commonScale(values, unit) {
  const largest = Math.max(0, ...values.map(Math.abs));
  const steps = unit && largest > 0 ? Math.min(3, Math.max(0, Math.ceil(-Math.log10(largest) / 3))) : 0;
  const power = largest > 0 ? Math.floor(Math.log10(largest * 1000 ** steps)) : 0;
  const decimals = Math.min(8, Math.max(0, 2 - power));
  return { factor: 1000 ** steps, prefix: ["", "m", "µ", "n"][steps], decimals, largest };
}

const fixed = (x, scale) =>
  (x * scale.factor).toFixed(scale.decimals).replace(/^-([0.]+)$/, "$1").replace("-", "−");

// The fixed-point numbers of report.py, flat, and their shape.
function unpack({ shape, scale, bytes }) {
  const raw = Uint8Array.from(atob(bytes), (c) => c.charCodeAt(0));
  return { shape, values: Float32Array.from(new Int16Array(raw.buffer), (q) => q * scale) };
}

for (const stage of data.stages) {
  stage.scalars = unpack(stage.scalars);
  stage.vectors = stage.vectors.map(unpack);
}
for (const path of data.paths) path.radial = unpack(path.radial);

const add = (a, b, factor = 1) => a.map((x, k) => x + factor * b[k]);
const distance = (a, b) => Math.hypot(...add(a, b, -1));
const xyz = ([x, y, z]) => ({ x, y, z });
const atomName = (i) => data.symbols[i] + i;

// Vector [3] of an atom in one channel, and its length; k is 0 as given, 1 turned.
function vector(k, atom, channel) {
  const { shape, values } = data.stages[state.stage].vectors[k];
  return [0, 1, 2].map((axis) => values[(atom * 3 + axis) * shape[2] + channel]);
}
const lengthOf = (atom, channel) => Math.hypot(...vector(0, atom, channel));

// ---- the two structures

const limit = Math.max(...data.relative.map(Math.abs)); // eV

// Blue below, red above the mean of the element.
function energyColour(x) {
  const end = x < 0 ? COLD : HOT, share = limit > 0 ? Math.abs(x) / limit : 0;
  return `rgb(${NEUTRAL.map((c, k) => Math.round(c + (end[k] - c) * share)).join()})`;
}

const panelColour = () => getComputedStyle(document.documentElement).getPropertyValue("--panel").trim();

// With an atom chosen, those that are not its neighbours are small.
function styleAtoms(viewer) {
  const style = (scale) => ({
    sphere: { scale, colorfunc: (atom) => energyColour(data.relative[atom.index]) },
    stick: { radius: scale * 0.3, color: GREY },
  });
  viewer.setStyle({}, style(0.2));
  if (state.atom === null) return;
  const near = new Set([state.atom, ...data.neighbours[state.atom].map(([j]) => j)]);
  viewer.setStyle({ predicate: (atom) => !near.has(atom.index) }, style(0.08));
}

function makeViewer(id, k) {
  const viewer = $3Dmol.createViewer(byId(id), { backgroundColor: panelColour(), minimumZoomToDistance: 2.5 });
  const lines = data.structures[k].positions.map((p, i) => `${data.symbols[i]} ${p.join(" ")}`);
  viewer.addModel(`${lines.length}\n\n${lines.join("\n")}\n`, "xyz");
  styleAtoms(viewer);
  viewer.setClickable({}, true, (atom) => choose(atom.index === state.atom ? null : atom.index));
  let tip = null;
  viewer.setHoverable({}, true, (atom) => {
    const text = `${atomName(atom.index)}  ${number(1000 * data.relative[atom.index])} meV`;
    tip = viewer.addLabel(text, { position: atom, fontSize: 13, backgroundOpacity: 0.7, inFront: true });
  }, () => {
    if (tip) viewer.removeLabel(tip);
    tip = null;
  });
  if (data.symbols.length <= NAMED) {
    data.structures[k].positions.forEach((p, i) => {
      const fontColor = Math.abs(data.relative[i]) > 0.6 * limit ? "#ffffff" : "#111111";
      viewer.addLabel(data.symbols[i], { ...LABEL, fontColor, position: xyz(p) }, undefined, true); // true: drawn later
    });
  }
  drawCell(viewer, k); // before zoomTo, which also looks at shapes
  viewer.zoomTo();
  viewer.zoom(0.85); // it fits the width, and is wider than high
  return viewer;
}

const viewers = [];

function openViewers() {
  try {
    viewers.push(makeViewer("given", 0), makeViewer("turned", 1));
  } catch (error) {
    if (typeof error !== "string") throw error; // a string is how 3Dmol says that there is no WebGL
    byId("no-webgl").hidden = false;
    return;
  }
  const [given, turned] = viewers;
  turned.setView(given.getView());
  given.linkViewer(turned);
  turned.linkViewer(given);
}

// Of every atom the one channel that is largest over the structure, or of a chosen atom its largest; the length
// of the longest vector among them.
function shown() {
  const [count, , channels] = data.stages[state.stage].vectors[0].shape;
  const atoms = state.atom === null ? [...Array(count).keys()] : [state.atom];
  const sizes = [...Array(channels).keys()].map((c) => [atoms.reduce((sum, i) => sum + lengthOf(i, c), 0), c]);
  const largest = sizes.filter(([size]) => size > 0).sort((a, b) => b[0] - a[0]).map(([, c]) => c);
  const drawn = largest.slice(0, state.atom === null ? 1 : PALETTE.length);
  const longest = Math.max(0, ...drawn.flatMap((c) => atoms.map((i) => lengthOf(i, c))));
  return { atoms, channels: drawn, longest };
}

// The arrows of viewer k, to one scale in both.
function arrows(k) {
  const { atoms, channels, longest } = shown();
  return channels.flatMap((c, place) => atoms.map((i) => {
    const start = data.structures[k].positions[i];
    return { colour: PALETTE[place], start, end: add(start, vector(k, i, c), LONGEST / longest) };
  }));
}

// A neighbour [j, x, y, z] may be a periodic image of atom j, outside of what is drawn.
const isImage = ([j, ...p]) => distance(p, data.structures[0].positions[j]) > 1e-2;
const dot = (a, b) => a.reduce((sum, x, k) => sum + x * b[k], 0);
const turned = (k, p) => (k === 0 ? p : data.rotation.map((row) => dot(row, p)));

function cellEdges({ origin, cell }) {
  return cell.flatMap((a, k) => {
    const others = cell.filter((_, m) => m !== k);
    const corners = others.reduce((points, b) => [...points, ...points.map((p) => add(p, b))], [origin]);
    return corners.map((p) => [p, add(p, a)]);
  });
}

function rods(viewer, color, list, radius) {
  if (!list.length) return;
  const shape = viewer.addShape({ color });
  for (const [start, end] of list) shape.addCylinder({ start: xyz(start), end: xyz(end), radius });
}

function balls(viewer, color, opacity, list, radius) {
  if (!list.length) return;
  const shape = viewer.addShape({ color, opacity });
  for (const p of list) shape.addSphere({ center: xyz(p), radius });
}

const drawCell = (viewer, k) => rods(viewer, GREY, cellEdges(data.structures[k]), 0.04);

function drawShapes(viewer, k) {
  viewer.removeAllShapes();
  drawCell(viewer, k);
  if (state.atom !== null) {
    const centre = data.structures[k].positions[state.atom];
    const near = data.neighbours[state.atom].map((n) => ({ end: turned(k, n.slice(1)), image: isImage(n) }));
    rods(viewer, MARK, near.map(({ end }) => [centre, end]), 0.03);
    balls(viewer, MARK, 0.45, [centre], 0.5);
    balls(viewer, MARK, 0.25, near.filter((n) => !n.image).map((n) => n.end), 0.45);
    balls(viewer, MARK, 0.6, near.filter((n) => n.image).map((n) => n.end), 0.15);
  }
  const list = arrows(k);
  for (const color of PALETTE) {
    const mine = list.filter((a) => a.colour === color);
    if (!mine.length) continue;
    const shape = viewer.addShape({ color });
    for (const { start, end } of mine) {
      shape.addArrow({ start: xyz(start), end: xyz(end), radius: 0.06, radiusRatio: 2, mid: 0.7 });
    }
  }
  viewer.render();
}

function drawStructures() {
  viewers.forEach(drawShapes);
  const { deviation, longest, vectors } = data.stages[state.stage];
  const { channels, longest: longestShown } = shown();
  if (vectors[0].shape[2] === 0) {
    byId("arrows").textContent = `No arrows: there are no l = 1 features ${stageName()}.`;
    byId("deviation").textContent = "";
    return;
  }
  byId("arrows").textContent =
    `Arrows: l = 1 features ${stageName()}, without unit; the longest shown is ${number(longestShown)}. ` +
    (state.atom === null
      ? `Of ${vectors[0].shape[2]} channels one is shown, the largest over this structure: ${channels.join()}.`
      : `Shown are the largest ${channels.length} channels of ${atomName(state.atom)}: ${channels.join(", ")}.`);
  byId("deviation").textContent =
    "The arrows on the right are computed from the turned positions. From those on the left, turned, they differ " +
    `by at most ${number(deviation, 2)}, of all atoms and channels; the longest has ${number(longest)}.`;
}

// ---- one atom

function drawAtom() {
  const i = state.atom;
  byId("atom-title").textContent = i === null ? "No atom chosen" : `Atom ${atomName(i)}`;
  byId("atom-panel").hidden = i === null;
  byId("atom").value = i ?? "";
  if (i === null) {
    byId("atom-text").textContent = "Click one above, or give its number, counted from 0 in the order of the file.";
    return;
  }
  const near = data.neighbours[i];
  byId("atom-text").textContent =
    `Energy ${number(data.energies[i], 8)} eV, ${number(1000 * data.relative[i])} meV from the mean of ` +
    `${data.symbols[i]}. Force ${number(Math.hypot(...data.forces[i]))} eV/Å. Neighbours within the cutoff: ` +
    `${near.length}${near.some(isImage) ? ", with periodic images, drawn as small balls" : ""}.`;
  fill(byId("neighbours"), ["neighbour", "distance, Å", ""], near.map((n) => {
    const r = distance(n.slice(1), data.structures[0].positions[i]);
    const line = row(atomName(n[0]), ...cells("td", [r.toFixed(3), isImage(n) ? "image" : ""]));
    line.addEventListener("click", () => choose(n[0]));
    return line;
  }));

  const { scalars, vectors } = data.stages[state.stage];
  const channels = [...Array(scalars.shape[1]).keys()];
  const features = channels.map((c) => scalars.values[i * channels.length + c]);
  const lengths = [...Array(vectors[0].shape[2]).keys()].map((c) => lengthOf(i, c));
  const drawn = shown().channels;
  const strips = [strip(`scalar features (l = 0) ${stageName()}, by channel`, features, () => "")];
  if (lengths.length) {
    const title = `lengths of the vectors (l = 1) ${stageName()}, coloured as the arrows`;
    strips.push(strip(title, lengths, (c) => PALETTE[drawn.indexOf(c)] ?? ""));
  }
  byId("strips").replaceChildren(...strips);
}

function strip(title, values, colour) {
  const { node, x, y } = chart([-0.5, values.length - 0.5], range(values), title, 760, 150);
  values.forEach((value, c) => {
    const size = { x: x(c - 0.4), width: x(0.8) - x(0), y: y(Math.max(0, value)), height: Math.abs(y(value) - y(0)) };
    const bar = svg("rect", { class: "feature", ...size }, svg("title", {}, `channel ${c}: ${number(value)}`));
    bar.style.fill = colour(c);
    node.append(bar);
  });
  return node;
}

// ---- charts

// From the smallest to the largest value, zero included.
const range = (values) => values.reduce(([low, high], x) => [Math.min(low, x), Math.max(high, x)], [0, 0]);

function ticks(low, high, wanted) {
  const power = 10 ** Math.floor(Math.log10((high - low) / wanted));
  const step = power * [1, 2, 5, 10].find((m) => m * power >= (high - low) / wanted);
  const first = Math.ceil(low / step), count = Math.floor(high / step + 1e-9) - first + 1;
  return [...Array(count).keys()].map((k) => Number(((first + k) * step).toPrecision(6)));
}

// An empty chart with a grid: its node, a node inside of its frame, the functions that place x and y in both, and
// the upper and lower edge.
function chart([left, right], [low, high], title, width, height) {
  if (high === low) high = low + 1;
  const top = 24, bottom = height - 22;
  const x = (t) => 46 + ((t - left) / (right - left)) * (width - 56);
  const y = (t) => bottom - ((t - low) / (high - low)) * (bottom - top);
  const node = svg("svg", { viewBox: `0 0 ${width} ${height}` });
  const text = (words, place, style = "") => {
    node.append(svg("text", { class: style, ...place }, words.replace("-", "−")));
  };
  text(title, { x: x(left), y: 14 }, "title");
  for (const t of ticks(low, high, 4)) {
    node.append(svg("path", { class: t === 0 ? "zero" : "grid", d: `M${x(left)} ${y(t)}H${x(right)}` }));
    text(String(t), { x: x(left) - 5, y: y(t) + 4, "text-anchor": "end" });
  }
  for (const t of ticks(left, right, width / 60)) text(String(t), { x: x(t), y: height - 6, "text-anchor": "middle" });
  const frame = { x: x(left), y: top, width: x(right) - x(left), height: bottom - top };
  const inside = svg("svg", { ...frame, viewBox: Object.values(frame).join(" ") });
  node.append(inside);
  return { node, inside, x, y, top, bottom };
}

function drawRadial() {
  const block = Math.max(1, state.stage);
  byId("radial-block").textContent = `block ${block}`;
  byId("radial").replaceChildren(...data.paths.filter((p) => p.block === block).map(radialChart));
}

function radialChart({ path, radial }) {
  const channels = radial.shape[1], most = Math.max(...data.histogram);
  const row = (m) => radial.values.subarray(m * channels, (m + 1) * channels);
  // Closer than the closest pair, nothing holds w(r) back: its values there would hide all others.
  const first = data.radii.findIndex((r) => r >= data.closest);
  const seen = range(radial.values.subarray(first * channels));
  const cutoff = data.radii.at(-1), title = `${pathName(path)}: ${PATHS[path]}`;
  const { node, inside, x, y, top, bottom } = chart([0, cutoff], seen, title, 320, 200);
  node.append(svg("text", { x: x(cutoff), y: 14, "text-anchor": "end" }, "r, Å"));
  node.prepend(...data.histogram.map((pairs, k) => {
    const height = (pairs / most) * (bottom - top) || 0;
    return svg("rect", { class: "column", x: x(k * data.bin), width: x(data.bin) - x(0), y: bottom - height, height });
  }));
  const line = (style, f) => {
    const points = data.radii.map((r, m) => `${x(r).toFixed(1)} ${y(f(m)).toFixed(1)}`);
    inside.append(svg("path", { class: style, d: `M${points.join("L")}` }));
  };
  for (let c = 0; c < channels; c++) line("channel", (m) => row(m)[c]);
  line("mean", (m) => Math.hypot(...row(m)) / Math.sqrt(channels));
  return node;
}

// ---- tables

const pathName = (path) => path.replace("->", "→");
const blocks = [...Array(last).keys()].map((k) => k + 1);
const present = Object.keys(PATHS).filter((path) => data.paths.some((p) => p.path === path));

const cells = (tag, texts) => texts.map((text) => html(tag, {}, text));
const row = (first, ...rest) => html("tr", {}, html("th", {}, first), ...rest);

function fill(table, head, rows) {
  table.replaceChildren(html("thead", {}, html("tr", {}, ...cells("th", head))), html("tbody", {}, ...rows));
}

// Red above, blue below zero, the stronger the larger.
function shade(x, largest) {
  const share = largest > 0 ? Math.round((70 * Math.abs(x)) / largest) : 0;
  return `background: color-mix(in srgb, var(${x < 0 ? "--cold" : "--hot"}) ${share}%, transparent)`;
}

function drawMap() {
  const key = state.quantity, { label, unit, sum, text } = QUANTITIES[key];
  const scale = commonScale(data.paths.map((p) => p[key]), unit);
  const value = (block, path) => {
    const found = data.paths.find((p) => p.block === block && p.path === path);
    if (!found) return html("td", {}, "–");
    return html("td", { style: shade(found[key], scale.largest) }, fixed(found[key], scale));
  };
  const total = (which) => {
    const values = data.paths.filter(which).map((p) => p[key]);
    return html("td", { class: "sum" }, fixed(values.reduce((a, b) => a + b, 0), scale));
  };
  const head = ["", "message", ...blocks.map((b) => `block ${b}`)];
  const rows = present.map((path) => row(pathName(path),
    html("td", { class: "formula" }, PATHS[path]), ...blocks.map((b) => value(b, path)),
    ...(sum ? [total((p) => p.path === path)] : [])));
  if (sum) {
    head.push("all blocks");
    rows.push(row("all paths", html("td", {}), ...blocks.map((b) => total((p) => p.block === b)), total(() => true)));
  }
  fill(byId("map"), head, rows);
  byId("map").prepend(html("caption", {}, unit ? `${label}, ${scale.prefix}${unit}` : label));
  byId("map-text").textContent = text();
}

function drawTables() {
  fill(byId("equivariance"), ["block", "rotation", "mirror", "permutation"], data.equivariance.map((e) =>
    row(String(e.block), ...cells("td", [e.rotation, e.mirror, e.permutation].map((x) => number(x, 2))))));
  fill(byId("cost"), ["block, path", "operations, 10⁶", "time, µs"], data.paths.map((p) =>
    row(`${p.block}, ${pathName(p.path)}`,
      ...cells("td", [number(p.operations / 1e6), number(p.seconds && 1e6 * p.seconds)]))));
}

// ---- what never changes

function drawHead() {
  const atoms = `${data.symbols.length} atom${data.symbols.length === 1 ? "" : "s"}`;
  byId("name").textContent = data.name;
  byId("model").textContent = data.model;
  byId("summary").textContent = `${data.formula}, ${atoms}, energy ${number(data.energy, 8)} eV`;

  const [[xx, xy, xz], [yx, yy, yz], [zx, zy, zz]] = data.rotation;
  const angle = Math.acos(Math.min(1, Math.max(-1, (xx + yy + zz - 1) / 2)));
  const axis = [zy - yz, xz - zx, yx - xy].map((t) => number(t / (2 * Math.sin(angle)), 2));
  const degrees = Math.round((angle * 180) / Math.PI);
  byId("turn").textContent = `turned by ${degrees}° about (${axis.join(", ")}), computed anew`;

  byId("bar").hidden = limit === 0;
  byId("lowest").textContent = `${number(-1000 * limit)} meV`;
  byId("highest").textContent = `+${number(1000 * limit)} meV`;
  byId("colours").style.background =
    `linear-gradient(to right, ${energyColour(-limit)}, ${energyColour(0)}, ${energyColour(limit)})`;
}

// ---- what the user does

const stageName = () => (state.stage === 0 ? "after the embedding" : `after block ${state.stage} of ${last}`);

function draw() {
  byId("stage-name").textContent = stageName();
  drawStructures();
  drawAtom();
  drawRadial();
}

function choose(atom) {
  state.atom = atom;
  viewers.forEach(styleAtoms);
  draw();
}

byId("quantities").append(...Object.entries(QUANTITIES).map(([key, { label }]) => {
  const input = html("input", { type: "radio", name: "quantity", value: key });
  input.checked = key === state.quantity;
  input.addEventListener("change", () => {
    state.quantity = key;
    drawMap();
  });
  return html("label", {}, input, label);
}));

// The last stage that has vectors shows most; without any, the last one.
state.stage = data.stages.findLastIndex((stage) => stage.vectors[0].shape[2] > 0);
if (state.stage < 0) state.stage = last;
byId("stage").max = last;
byId("stage").value = state.stage;
byId("stage").addEventListener("input", ({ target }) => {
  state.stage = Number(target.value);
  draw();
});

byId("atom").max = data.symbols.length - 1;
byId("atom").addEventListener("change", ({ target }) => {
  choose(target.value !== "" && target.checkValidity() ? Number(target.value) : null);
});

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const viewer of viewers) viewer.setBackgroundColor(panelColour());
});

openViewers();
drawHead();
drawMap();
drawTables();
draw();
