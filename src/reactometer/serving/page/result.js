// Results of one or two clips: values of the whole clip, warnings, events, time without a face.

import { bar, formatInterval, make, name, number, seconds } from "./dom.js";
import { unseen } from "./player.js";

const MAX_RANGES = 6;

export function about({ document, prediction }) {
  const { duration_s, face_share, sound, status } = prediction;
  const face = !document.width_px ? "no video" : `face in ${Math.round(face_share * 100)}% of the sampled frames`;
  const parts = [duration_s == null ? "" : seconds(duration_s), face, sound ? "with sound" : "no sound", status === "ok" ? "" : status];
  return [...parts, document.predictions.length > 1 ? `${document.predictions.length} people` : ""].filter(Boolean).join(" · ");
}

export function warnings(players) {
  const lines = players.flatMap(({ prediction, document }) => {
    const prefix = players.length > 1 ? `${document.name}: ` : "";
    const reasons = prediction.warnings ? [`${prefix}Warning: ${prediction.warnings}.`] : [];
    return [...reasons, ...prediction.notes.map((note) => `${prefix}${note}`)];
  });
  return lines.length ? [make("div", { className: "warning" }, ...lines.map((line) => make("p", { textContent: line })))] : [];
}

export function whole(players) {
  return players.length > 1 ? table(players) : tiles(players[0]);
}

// Labels with their indices, largest peak of the timeline first.
function sorted({ document, prediction }) {
  const peak = ([label]) => prediction.intensities?.[label].peak ?? prediction.intensities?.[label].value ?? 0;
  return document.labels.map((label, index) => [label, index]).sort((one, other) => peak(other) - peak(one));
}

const peakText = (intensity) => (intensity?.peak == null ? "" : `peak ${number(intensity.peak)} at ${seconds(intensity.peak_s)}`);

function tiles(player) {
  const items = sorted(player).map(([label, index]) => {
    const intensity = player.prediction.intensities?.[label];
    const value = make("b", { textContent: number(intensity?.value) });
    value.dataset.label = label;
    const notes = [formatInterval(intensity), peakText(intensity)].filter(Boolean).map((textContent) => make("span", { className: "soft", textContent }));
    return make("li", { className: "card" }, name(label, index), value, bar(index, intensity), ...notes);
  });
  return make("ul", { className: "tiles" }, ...items);
}

function table(players) {
  const heads = ["Whole clip", ...players.map(({ document }) => document.name), "Difference"];
  const rows = sorted(players[0]).map(([label, index]) => {
    const values = players.map(({ prediction }) => prediction.intensities?.[label]);
    const cells = values.map((cell) => make("td", {}, number(cell?.value), make("small", { textContent: [formatInterval(cell), peakText(cell)].filter(Boolean).join(", ") })));
    const difference = values.every(Boolean) ? values[1].value - values[0].value : null;
    const signed = difference >= 0.005 ? `+${number(difference)}` : number(difference);
    return make("tr", {}, make("th", { scope: "row" }, name(label, index)), ...cells, make("td", { textContent: signed }));
  });
  const head = make("tr", {}, ...heads.map((text) => make("th", { scope: "col", textContent: text })));
  const whole = make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows));
  return make("div", { className: "card scroll" }, whole);
}

export function unseenText({ prediction, document }, isPair) {
  const ranges = unseen(prediction);
  if (!ranges.length) return [];
  const listed = ranges.slice(0, MAX_RANGES).map(([start, end]) => `${start.toFixed(1)}–${end.toFixed(1)} s`);
  const more = ranges.length > MAX_RANGES ? ` and ${ranges.length - MAX_RANGES} more` : "";
  return [make("p", { className: "soft", textContent: `${isPair ? `${document.name}, no face` : "Grey: no face"}: ${listed.join(", ")}${more}.` })];
}

export function events(player, onJump) {
  const { labels } = player.document;
  const all = player.prediction.events;
  if (!all.length) return make("p", { className: "soft", textContent: "No emotion reaches the threshold." });
  const items = all.map((event) => {
    const words = `${event.onset_s.toFixed(1)}–${event.offset_s.toFixed(1)} s, peak ${number(event.peak)}`;
    const button = make("button", { type: "button", onclick: () => onJump(event.onset_s) }, name(event.label, labels.indexOf(event.label)), words);
    return make("li", {}, button);
  });
  return make("ul", { className: "events" }, ...items);
}
