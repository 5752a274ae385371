// Curves, by plotly.js: one row per emotion over a shared axis of seconds, its name on the left and its value at the cursor on the right.

import { colour, isMuted, make, number } from "./dom.js";
import { middle, unseen, windowAt } from "./player.js";

const ROW_PX = { narrow: 40, wide: 52 };
const NARROW_PX = 480;
const MAX_NAME_SHARE = 0.35; // of the width of the chart
const GAP_PX = 14;
const [TOP_PX, FOOT_PX, TICKS_PX, VALUE_PX] = [20, 40, 28, 46];
const QUIET_DB = -60;
const LIVE_S = 30;
const CONFIG = { displayModeBar: false, responsive: true, scrollZoom: false, doubleClick: "reset" };
const LEVEL = "Voice, dB";
const UNSEEN = { gap: [true, "", "no face"], voice: [false, "/", "voice only"], none: [true, "x", "no values"] }; // filled, pattern, text

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
const axis = (row) => `y${row + 2}`; // the first axis holds the bands without a face

function textWidth(text, size) {
  const context = document.createElement("canvas").getContext("2d");
  context.font = `${size}px ${getComputedStyle(document.body).fontFamily}`;
  return context.measureText(text).width;
}

// Rows of equal height with a shared x axis.
function rowLayout(element, labels, hasLevel, range) {
  const rowPx = element.clientWidth < NARROW_PX ? ROW_PX.narrow : ROW_PX.wide;
  const names = hasLevel ? [...labels, LEVEL] : labels;
  const inner = names.length * (rowPx + GAP_PX);
  const nameWidth = Math.min(Math.ceil(Math.max(...names.map((text) => textWidth(text, 13)))) + 4, MAX_NAME_SHARE * element.clientWidth);
  const layout = {
    height: TOP_PX + inner + FOOT_PX,
    meta: { rowPx },
    margin: { l: nameWidth + TICKS_PX, r: VALUE_PX, t: TOP_PX, b: FOOT_PX },
    paper_bgcolor: css("card"),
    plot_bgcolor: "transparent",
    font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: css("soft") },
    showlegend: false,
    hovermode: "x unified",
    hoversubplots: "axis",
    hoverlabel: { bgcolor: css("card"), bordercolor: css("line"), font: { color: css("ink") } },
    dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom",
    xaxis: { range, anchor: axis(names.length - 1), showgrid: false, zeroline: false, ticksuffix: " s", hoverformat: ".1f", linecolor: css("line") },
    yaxis: { domain: [0, 1], range: [0, 1], fixedrange: true, visible: false },
    annotations: names.map((text, row) => ({
      ...{ text: plain(text), xref: "paper", x: 0, xanchor: "right", xshift: -TICKS_PX, yref: `${axis(row)} domain`, y: 0.5, yanchor: "middle" },
      ...{ showarrow: false, width: nameWidth, align: "right", borderpad: 0, font: { color: css("ink"), size: 13 } },
    })),
  };
  names.forEach((_, row) => {
    const top = inner - row * (rowPx + GAP_PX) - GAP_PX / 2;
    const [low, high] = row === labels.length ? [QUIET_DB, 0] : [0, 1];
    const margin = (high - low) * 0.03;
    layout[`yaxis${row + 2}`] = {
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
    ...{ marker: { size: 6, symbol: clip.timeline.map(({ warnings }) => (isMuted(warnings) ? "circle-open" : "circle")) } },
    ...{ hovertemplate: "%{y:.2f}", meta: { kind: "curve", label, clip: clip.index } },
  };
}

function level(clip, row, line) {
  const { step_s, db } = clip.level;
  return {
    ...{ x: db.map((_, index) => (index + 0.5) * step_s), y: db.map((value) => value && Math.max(value, QUIET_DB)), yaxis: axis(row), mode: "lines" },
    ...{ name: "Level", line: { width: 1.2, ...line }, hovertemplate: "%{y:.0f} dB", meta: { kind: "level", clip: clip.index } },
  };
}

function tracesOf(clip, labels) {
  const isSecond = clip.index > 0;
  const traces = labels.map((label, row) => {
    const ink = isSecond ? css("ink") : colour(label);
    return curve(clip, label, row, { color: ink, width: isSecond ? 1.5 : 2.2, dash: isSecond ? "dash" : "solid" });
  });
  const quiet = { color: isSecond ? css("ink") : css("accent"), dash: isSecond ? "dot" : "solid" };
  return clip.level ? [...traces, level(clip, labels.length, quiet)] : traces;
}

// A band over all rows for the time without a face.
function band([start, end, kind]) {
  const [isFilled, shape] = UNSEEN[kind];
  const fill = isFilled ? css("grey") : "transparent";
  const colours = { fillcolor: fill, fillpattern: { shape, size: 8, solidity: 0.12, fgcolor: css("soft"), fgopacity: 0.45, bgcolor: fill } };
  return { x: [start, end], y: [1, 1], fill: "tozeroy", ...colours, mode: "none", hoverinfo: "skip", meta: { kind } };
}

// The name of a band above it, if it fits.
function bandName([start, end, kind], width, duration) {
  const [, , text] = UNSEEN[kind];
  const fits = textWidth(text, 11) < ((end - start) / duration) * width;
  return fits ? [{ text, x: (start + end) / 2, yref: "paper", y: 1, yanchor: "bottom", showarrow: false, font: { size: 11 } }] : [];
}

function eventMark(event, row) {
  const rect = { type: "rect", xref: "x", yref: `${axis(row)} domain`, x0: event.onset_s, x1: event.offset_s };
  return { ...rect, y0: -0.1, y1: -0.02, fillcolor: colour(event.label), line: { width: 0 } };
}

// Convert between seconds and pixels of the chart.
function scale(element) {
  const { margin, xaxis: { range: [start, end] } } = element.layout;
  const width = element.clientWidth - margin.l - margin.r;
  return {
    pixel: (time) => margin.l + ((time - start) / (end - start)) * width,
    time: (pixel) => start + ((pixel - margin.l) / width) * (end - start),
  };
}

// Cursors and values above the chart, because redrawing it for each video frame is slow; returns the function that sets the values.
function overlay(element, labels, cursors) {
  const { rowPx } = element.layout.meta;
  const values = labels.map((_, row) => {
    const value = make("b", { className: "value" });
    value.style.top = `${TOP_PX + row * (rowPx + GAP_PX)}px`;
    value.style.height = `${rowPx + GAP_PX}px`;
    return value;
  });
  element.querySelectorAll(".cursor, .value").forEach((old) => old.remove());
  element.append(...cursors, ...values);
  return (windows) =>
    labels.forEach((label, row) => {
      const texts = windows.map((window) => make("span", { className: isMuted(window?.warnings) ? "warned" : "", textContent: number(window?.intensities?.[label].value) }));
      values[row].replaceChildren(...texts);
    });
}

// clips: {index, mark, labels, timeline, level, events, frames, duration_s}; returns the function that moves the cursors.
export async function drawTimeline(element, clips, { onJump, onChange }) {
  const { newPlot } = await plotly();
  const [first] = clips;
  const { labels } = first;
  const duration = Math.max(...clips.map((clip) => clip.duration_s), 0.1);
  const layout = rowLayout(element, labels, clips.some((clip) => clip.level), [0, duration]);
  const bands = clips.length === 1 ? unseen(first) : [];
  const width = element.clientWidth - layout.margin.l - layout.margin.r;
  layout.annotations.push(...bands.flatMap((range) => bandName(range, width, duration)));
  layout.shapes = clips.length === 1 ? first.events.map((event) => eventMark(event, labels.indexOf(event.label))) : [];
  await newPlot(element, [...bands.map(band), ...clips.flatMap((clip) => tracesOf(clip, labels))], layout, CONFIG);
  element.onclick = ({ clientX }) => onJump(scale(element).time(clientX - element.getBoundingClientRect().left));
  element.on("plotly_relayout", onChange);
  const lines = clips.map(() => make("i", { className: "cursor" }));
  const setValues = overlay(element, labels, lines);
  return (times) => {
    const { pixel } = scale(element);
    const { l, r } = element.layout.margin;
    lines.forEach((line, index) => {
      const left = pixel(times[index]);
      line.hidden = left < l || left > element.clientWidth - r + 1;
      line.style.transform = `translateX(${left}px)`;
    });
    setValues(clips.map(({ timeline }, index) => windowAt(timeline, times[index])));
  };
}

export async function chartImage(element) {
  const { toImage } = await plotly();
  const url = await toImage(element, { format: "png", width: element.clientWidth, height: element.clientHeight, scale: 2 });
  return new Blob([Uint8Array.from(atob(url.split(",")[1]), (letter) => letter.charCodeAt(0))], { type: "image/png" });
}

// Draws empty curves; returns the function that appends a score.
export async function drawLive(element, labels) {
  const { newPlot, extendTraces, relayout } = await plotly();
  const layout = { ...rowLayout(element, labels, true, [0, LIVE_S]), hovermode: false, dragmode: false };
  const empty = [...labels, null].map((label, row) => ({
    ...{ x: [], y: [], yaxis: axis(row), mode: "lines", hoverinfo: "skip", meta: { kind: label ? "curve" : "level", label } },
    line: { color: label ? colour(label) : css("accent"), width: 2.2 },
  }));
  await newPlot(element, empty, layout, CONFIG);
  const setValues = overlay(element, labels, []);
  return (score) => {
    const { end_s, intensities, level_db } = score;
    const level = level_db == null ? null : Math.max(level_db, QUIET_DB);
    const values = [...labels.map((label) => intensities?.[label].value ?? null), level];
    extendTraces(element, { x: values.map(() => [end_s]), y: values.map((value) => [value]) }, values.map((_, row) => row), 40 * LIVE_S);
    relayout(element, { "xaxis.range": [Math.max(0, end_s - LIVE_S), Math.max(LIVE_S, end_s)] });
    setValues([score]);
  };
}
