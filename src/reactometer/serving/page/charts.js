// Curves, by plotly.js: one row per emotion over a shared axis of seconds.

import { colour, make } from "./dom.js";
import { middle, unseen } from "./player.js";

const ROW_PX = { narrow: 46, wide: 60 };
const NARROW_PX = 480;
const GAP_PX = 26;
const FOOT_PX = 40;
const SIDES_PX = [30, 12];
const QUIET_DB = -60;
const LIVE_S = 30;
const CONFIG = { displayModeBar: false, responsive: true, scrollZoom: false, doubleClick: "reset" };

let library;

// The library is large: load it after the page.
export function plotly() {
  library ??= new Promise((resolve, reject) => {
    const script = make("script", { src: "/page/plotly.min.js", async: true });
    script.onload = () => resolve(window.Plotly);
    script.onerror = () => reject(new Error("The chart library was not loaded. Reload the page."));
    document.head.append(script);
  });
  return library;
}

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const plain = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;");
const axis = (row) => (row ? `y${row + 1}` : "y");

// Rows of equal height with a shared x axis, each with its name above.
function rowLayout(element, names, isLevel, range) {
  const rowPx = element.clientWidth < NARROW_PX ? ROW_PX.narrow : ROW_PX.wide;
  const height = names.length * (rowPx + GAP_PX) + FOOT_PX;
  const inner = height - FOOT_PX;
  const layout = {
    height,
    margin: { l: SIDES_PX[0], r: SIDES_PX[1], t: 0, b: FOOT_PX },
    paper_bgcolor: "transparent",
    plot_bgcolor: "transparent",
    font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: css("soft") },
    showlegend: false,
    hovermode: "x unified",
    hoversubplots: "axis",
    hoverlabel: { bgcolor: css("card"), bordercolor: css("line"), font: { color: css("ink") } },
    dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom",
    xaxis: { range, anchor: axis(names.length - 1), showgrid: false, zeroline: false, ticksuffix: " s", hoverformat: ".1f", linecolor: css("line") },
    annotations: names.map((name, row) => ({
      ...{ text: plain(name), xref: "paper", x: 0, xanchor: "left", yref: `${axis(row)} domain`, y: 1, yanchor: "bottom" },
      ...{ showarrow: false, yshift: 1, font: { color: css("ink"), size: 13 } },
    })),
  };
  names.forEach((_, row) => {
    const top = inner - row * (rowPx + GAP_PX) - GAP_PX;
    const [low, high] = isLevel(row) ? [QUIET_DB, 0] : [0, 1];
    const margin = (high - low) * 0.03;
    layout[axis(row).replace("y", "yaxis")] = {
      ...{ domain: [(top - rowPx) / inner, top / inner], range: [low - margin, high + margin], tickvals: [low, high], fixedrange: true },
      ...{ zeroline: false, gridcolor: css("line"), tickfont: { size: 11 } },
    };
  });
  return layout;
}

function curve(clip, label, row, line) {
  const values = clip.timeline.map(({ intensities }) => intensities?.[label].value ?? null);
  const name = plain(clip.mark ? `${label}, ${clip.mark}` : label);
  return {
    ...{ x: clip.timeline.map(middle), y: values, yaxis: axis(row), name, mode: "lines+markers", line },
    ...{ marker: { size: 5 }, hovertemplate: "%{y:.2f}", meta: { kind: "curve", label, clip: clip.index } },
  };
}

function level(clip, row, line) {
  const { step_s, db } = clip.level;
  return {
    ...{ x: db.map((_, index) => (index + 0.5) * step_s), y: db.map((value) => value && Math.max(value, QUIET_DB)), yaxis: axis(row), mode: "lines" },
    ...{ name: "Level", line: { width: 1.2, ...line }, hovertemplate: "%{y:.0f} dB", meta: { kind: "level", clip: clip.index } },
  };
}

function tracesOf(clip, rows) {
  const isSecond = clip.index > 0;
  const traces = rows.labels.map((label, row) => {
    const ink = isSecond ? css("ink") : colour(row);
    const line = { color: ink, width: isSecond ? 1.5 : 2.2, dash: isSecond ? "dash" : "solid" };
    return curve(clip, label, row, line);
  });
  const quiet = { color: isSecond ? css("ink") : css("accent"), dash: isSecond ? "dot" : "solid" };
  return clip.level ? [...traces, level(clip, rows.labels.length, quiet)] : traces;
}

function shade([x0, x1]) {
  return { type: "rect", xref: "x", yref: "paper", x0, x1, y0: 0, y1: 1, fillcolor: css("grey"), line: { width: 0 }, layer: "below" };
}

function eventMark(event, row) {
  const rect = { type: "rect", xref: "x", yref: `${axis(row)} domain`, x0: event.onset_s, x1: event.offset_s };
  return { ...rect, y0: -0.1, y1: -0.02, fillcolor: colour(row), line: { width: 0 } };
}

// Convert between seconds and pixels of the chart.
function scale(element) {
  const [start, end] = element.layout.xaxis.range;
  const width = element.clientWidth - SIDES_PX[0] - SIDES_PX[1];
  return {
    pixel: (time) => SIDES_PX[0] + ((time - start) / (end - start)) * width,
    time: (pixel) => start + ((pixel - SIDES_PX[0]) / width) * (end - start),
  };
}

// Cursor lines above the chart: redrawing the chart for each video frame is slow.
function cursors(element, clips) {
  element.querySelectorAll(".cursor").forEach((line) => line.remove());
  const lines = clips.map(() => make("i", { className: "cursor" }));
  element.append(...lines);
  return (times) => {
    const { pixel } = scale(element);
    lines.forEach((line, index) => {
      const left = pixel(times[index]);
      line.hidden = left < SIDES_PX[0] || left > element.clientWidth - SIDES_PX[1] + 1;
      line.style.transform = `translateX(${left}px)`;
    });
  };
}

// clips: {index, mark, labels, timeline, level, events, frames, duration_s}; returns the function that moves the cursors.
export async function drawTimeline(element, clips, { onJump, onChange }) {
  const { newPlot } = await plotly();
  const [{ labels, events }] = clips;
  const isSingle = clips.length === 1;
  const names = clips.some((clip) => clip.level) ? [...labels, "Voice level, dB"] : labels;
  const layout = rowLayout(element, names, (row) => row >= labels.length, [0, Math.max(...clips.map((clip) => clip.duration_s), 0.1)]);
  const marks = isSingle ? [...unseen(clips[0]).map(shade), ...events.map((event) => eventMark(event, labels.indexOf(event.label)))] : [];
  layout.shapes = marks;
  await newPlot(element, clips.flatMap((clip) => tracesOf(clip, { labels })), layout, CONFIG);
  element.onclick = ({ clientX }) => onJump(scale(element).time(clientX - element.getBoundingClientRect().left));
  element.on("plotly_relayout", onChange);
  return cursors(element, clips);
}

// Draws empty curves; returns the function that appends a score.
export async function drawLive(element, labels) {
  const { newPlot, extendTraces, relayout } = await plotly();
  const layout = { ...rowLayout(element, [...labels, "Voice level, dB"], (row) => row >= labels.length, [0, LIVE_S]), hovermode: false, dragmode: false };
  const empty = [...labels, null].map((label, row) => ({
    ...{ x: [], y: [], yaxis: axis(row), mode: "lines", hoverinfo: "skip", meta: { kind: label ? "curve" : "level", label } },
    line: { color: label ? colour(row) : css("accent"), width: 2.2 },
  }));
  await newPlot(element, empty, layout, CONFIG);
  return ({ end_s, intensities, level_db }) => {
    const level = level_db == null ? null : Math.max(level_db, QUIET_DB);
    const values = [...labels.map((label) => intensities?.[label].value ?? null), level];
    extendTraces(element, { x: values.map(() => [end_s]), y: values.map((value) => [value]) }, values.map((_, row) => row), 40 * LIVE_S);
    relayout(element, { "xaxis.range": [Math.max(0, end_s - LIVE_S), Math.max(LIVE_S, end_s)] });
  };
}
