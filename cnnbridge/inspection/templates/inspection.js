"use strict";
document.body.classList.add("scripting");
const data = JSON.parse(document.getElementById("data").textContent);
const find = id => document.getElementById(id);
const make = (tag, content, fields) => {
  const made = Object.assign(document.createElement(tag), fields);
  made.append(...[content].flat());
  return made;
};
const coarse = matchMedia("(pointer: coarse)").matches;
const config = {
  displaylogo: false, showSendToCloud: false, responsive: true,
  displayModeBar: coarse ? false : "hover",
  modeBarButtonsToRemove: ["lasso2d", "select2d"],
  toImageButtonOptions: {format: "svg"},
};
const small = matchMedia("(max-width: 700px)").matches;
const frame = (x, y, rest) => ({
  font: {size: 12}, showlegend: false, paper_bgcolor: "rgba(0,0,0,0)",
  plot_bgcolor: "rgba(0,0,0,0)", margin: {l: 64, r: 12, t: 28, b: 48},
  dragmode: coarse ? false : "zoom", modebar: {bgcolor: "rgba(0,0,0,0)", color: "#888"},
  xaxis: x, yaxis: y, ...rest,
});
const log = title => ({type: "log", title: {text: title}, exponentformat: "power", minexponent: 2});
let current = 0;
let pointed = 0;

// The network from left to right.
const longest = Math.max(...data.overview.names.map(name => name.length));
const shade = index => ({
  type: "rect", xref: "x", yref: "paper", x0: index - 0.5, x1: index + 0.5, y0: 0, y1: 1,
  layer: "below", line: {width: 0}, fillcolor: "rgba(128,128,128,0.22)",
});
Plotly.newPlot("overview", data.overview.traces, frame(
  {tickvals: data.overview.ticks, ticktext: data.overview.names, tickangle: -60, showgrid: false,
   zeroline: false, range: [-0.6, data.layers.length - 0.4]},
  log("curvature, in 1 / lr"),
  {barmode: "overlay", hovermode: "x", shapes: [shade(0)],
   margin: {l: 64, r: 12, t: 28, b: Math.min(150, 24 + 6 * longest)}},
), config);
const words = index => data.overview.traces[2].text[index].split("<br>").join(", ")
  .replace(/&lt;/g, "<").replace(/&amp;/g, "&");
find("overview").on("plotly_hover", event => {
  pointed = Math.round(event.points[0].x);
  find("pointed").textContent = words(pointed);
});
find("overview").on("plotly_click", event => open(Math.round(event.points[0].x), true));
find("overview").addEventListener("keydown", event => {
  if (event.target !== event.currentTarget) return;
  const last = data.layers.length - 1;
  const to = {ArrowRight: pointed + 1, ArrowLeft: pointed - 1, Home: 0, End: last}[event.key];
  if (to !== undefined) {
    pointed = Math.min(last, Math.max(0, to));
    Plotly.Fx.hover("overview", [{curveNumber: 2, pointNumber: pointed}]);
    find("pointed").textContent = words(pointed);
  } else if (event.key === "Enter") open(pointed, true);
  else return;
  event.preventDefault();
});

// The panel of one layer.
function open(index, focus) {
  const layer = data.layers[index];
  current = pointed = index;
  find("panel-name").textContent = layer.name;
  find("summary").textContent = layer.summary;
  find("facts").replaceChildren(...layer.facts.map(([name, value]) =>
    make("div", [make("dt", name), make("dd", value)])));
  find("modes").replaceChildren(...layer.modes.map(mode => make("figure", [
    make("img", [], {src: mode.src, alt: mode.alt}),
    make("figcaption", [mode.title, mode.value, mode.steps, mode.part].filter(Boolean)
      .flatMap(text => [text, make("br", [])])),
  ])));
  if (!layer.modes.length) find("modes").textContent = "No mode is excited: the input is zero.";
  drawSpectrum(layer);
  drawCurvature(layer);
  const rows = layer.horizons.map(row => make("tr", row.map(cell => make("td", cell))));
  const heads = ["Prediction", "Holds for", "Largest error"].map(text => make("th", text));
  find("horizons").replaceChildren(...(rows.length ? [make("h3", "How long predictions hold"),
    make("table", [make("thead", make("tr", heads)), make("tbody", rows)])] : []));
  find("key").textContent = layer.name + "/…";
  find("previous").disabled = index === 0;
  find("next").disabled = index === data.layers.length - 1;
  rowsOf.forEach((row, i) => {
    if (i === index) row.setAttribute("aria-current", "true");
    else row.removeAttribute("aria-current");
  });
  Plotly.relayout("overview", {shapes: [shade(index)]});
  if (focus) {
    history.replaceState(null, "", "#" + encodeURIComponent(layer.name));
    find("panel-name").focus({preventScroll: true});
    find("panel").scrollIntoView({block: "start"});
  }
}

function drawSpectrum(layer) {
  const [ranks, values] = layer.spectrum;
  const parts = layer.normalization.map(([name, x, y], i) => ({
    x, y, name, mode: "lines", line: {width: 1.5, dash: ["solid", "dot", "dash", "dashdot",
      "longdash"][i % 5], color: Object.values(data.colours)[(i + 1) % 4]}}));
  const traces = [{x: ranks, y: values, name: "as it is", mode: "lines+markers",
    marker: {size: 4}, line: {width: 1.5, color: data.colours.spectrum},
    hovertemplate: "mode %{x}: λ %{y:.3g}<extra></extra>"}, ...parts];
  const shown = typeof layer.edge === "number" && values.length &&
    layer.edge < 1e3 * values[0] && layer.edge > values[values.length - 1] / 10;
  const line = {type: "line", xref: "paper", x0: 0, x1: 1, yref: "y", y0: layer.edge,
    y1: layer.edge, line: {color: data.colours.rate, dash: "dash", width: 2}};
  if (shown) traces.push({x: [1], y: [layer.edge], mode: "markers", marker: {opacity: 0},
    hoverinfo: "skip", showlegend: false});
  Plotly.react("spectrum", traces, frame(log("mode, by rank"), log("eigenvalue of R"),
    {showlegend: parts.length > 0, legend: {orientation: "h", y: -0.25},
     margin: {l: 64, r: 12, t: 28, b: parts.length ? 110 : 48}, shapes: shown ? [line] : []}),
    config);
  const many = layer.shown < layer.rank
    ? `${ranks.length} of ${layer.rank} modes are drawn, evenly in log rank; arrays.npz has all. `
    : "";
  const edge = shown ? "Dashed: an eigenvalue above it diverges at the rate trained at." : "";
  find("spectrum-caption").textContent = many + edge;
}

function drawCurvature(layer) {
  const found = layer.curvature;
  find("curvature").hidden = !found;
  if (!found) {
    Plotly.purge("curvature");
    find("curvature-caption").textContent = "The curvature of the loss was not computed.";
    return;
  }
  const ends = [Math.min(...found.x), Math.max(...found.x)];
  Plotly.react("curvature", [
    {x: ends, y: ends.map(x => x * layer.slope), mode: "lines", hoverinfo: "skip",
     line: {color: data.colours.own, dash: "dash", width: 1.5}},
    {x: found.x, y: found.y, error_y: {array: found.error, thickness: 1}, mode: "markers",
     marker: {color: data.colours.loss, size: 7},
     hovertemplate: "λ %{x:.3g}: curvature %{y:.3g}<extra></extra>"},
  ], frame(log("eigenvalue of R"), log("curvature of the loss")), config);
  find("curvature-caption").textContent = "Dashed: the curvature of the layer's own MSE, 2λ/M. " +
    (found.left_out ? `${found.left_out} modes with no positive value are not drawn.` : "");
}

find("previous").addEventListener("click", () => open(current - 1));
find("next").addEventListener("click", () => open(current + 1));

// The table: sorted by a head, filtered by name and kind.
const table = find("table");
const body = table.tBodies[0];
const rowsOf = [...body.rows];
rowsOf.forEach((row, index) => {
  const cell = row.cells[0];
  const button = make("button", [...cell.childNodes], {type: "button"});
  button.addEventListener("click", () => open(index, true));
  cell.append(button);
});
const key = (row, column) => {
  const cell = row.cells[column];
  if (cell.dataset.value === undefined) return cell.textContent;
  return cell.dataset.value === "" ? null : Number(cell.dataset.value);
};
[...table.tHead.rows[0].cells].forEach((head, column, heads) => {
  const button = make("button", [...head.childNodes], {type: "button"});
  head.append(button);
  button.addEventListener("click", () => {
    const now = head.getAttribute("aria-sort") || "none";
    const next = {none: "ascending", ascending: "descending", descending: "none"}[now];
    heads.forEach(other => other.removeAttribute("aria-sort"));
    let rows = rowsOf;
    if (next !== "none") {
      head.setAttribute("aria-sort", next);
      const sign = next === "ascending" ? 1 : -1;
      rows = rowsOf.map(row => [key(row, column), row]).sort(([a], [b]) => {
        if (a === null || b === null) return (a === null) - (b === null);
        if (typeof a === "string") return sign * a.localeCompare(b, "en", {numeric: true});
        return a === b ? 0 : sign * (a < b ? -1 : 1);
      }).map(([, row]) => row);
    }
    body.append(...rows);
  });
});
const filter = () => {
  const name = find("find").value.toLowerCase(), kind = find("kind").value;
  let shown = 0;
  for (const row of rowsOf) {
    row.hidden = !(row.cells[0].textContent.toLowerCase().includes(name) &&
      (!kind || row.dataset.kind === kind));
    shown += !row.hidden;
  }
  find("count").textContent = `${shown} of ${rowsOf.length} layers`;
};
find("find").addEventListener("input", filter);
find("kind").addEventListener("change", filter);
filter();

// The address names a layer, so that other pages can point to it.
const named = () => {
  let name = "";
  try { name = decodeURIComponent(location.hash.slice(1)); } catch { return -1; }
  return data.layers.findIndex(layer => layer.name === name);
};
addEventListener("hashchange", () => { if (named() >= 0) open(named(), true); });
open(named() >= 0 ? named() : data.open, named() >= 0);
