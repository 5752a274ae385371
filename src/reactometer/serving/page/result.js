// Results of one or two clips: values of the whole clip, warnings, events, the timeline as a table, requests as code.

import { bar, copy, formatInterval, isMuted, make, name, number, seconds, soft, table } from "./dom.js";
import { unseen } from "./player.js";

const MAX_RANGES = 6;
const UNSEEN = {
  gap: "No face; the values use the other frames of the window",
  voice: "No face; the values use only the voice",
  none: "No values, because no face or voice is usable",
};

export function about({ document, prediction }) {
  const { duration_s, face_share, sound, status } = prediction;
  const face = !document.width_px ? "no video, voice only" : `face in ${Math.round(face_share * 100)}% of the sampled frames`;
  const parts = [duration_s == null ? "" : seconds(duration_s), face, sound ? "with sound" : "no sound", status === "ok" ? "" : status];
  return [...parts, document.predictions.length > 1 ? `${document.predictions.length} people` : ""].filter(Boolean).join(" · ");
}

export function warnings(players) {
  const prefix = ({ document }) => (players.length > 1 ? `${document.name}: ` : "");
  const warned = players.filter(({ prediction }) => prediction.warnings).map((player) => `${prefix(player)}Warning: ${player.prediction.warnings}.`);
  const notes = players.flatMap((player) => player.prediction.notes.map((note) => prefix(player) + note));
  return { warned, notes };
}

const isWarned = ({ prediction }) => isMuted(prediction.warnings);

export function whole(players) {
  return players.length > 1 ? comparison(players) : tiles(players[0]);
}

// Labels, largest peak of the timeline first.
function sorted({ document, prediction }) {
  const peak = (label) => prediction.intensities?.[label].peak ?? prediction.intensities?.[label].value ?? 0;
  return document.labels.toSorted((one, other) => peak(other) - peak(one));
}

const peakText = (intensity) => (intensity?.peak == null ? "" : `peak ${number(intensity.peak)} at ${seconds(intensity.peak_s)}`);

function tiles(player) {
  const items = sorted(player).map((label) => {
    const intensity = player.prediction.intensities?.[label];
    const value = make("b", { textContent: number(intensity?.value) });
    const notes = [peakText(intensity), formatInterval(intensity, player.document.coverage)].filter(Boolean).map(soft);
    return make("li", { className: "card" }, name(label), value, bar(label, intensity), ...notes);
  });
  return make("ul", { className: isWarned(player) ? "tiles warned" : "tiles" }, ...items);
}

function comparison(players) {
  const rows = sorted(players[0]).map((label) => {
    const values = players.map(({ prediction }) => prediction.intensities?.[label]);
    const cells = values.map((cell, index) => {
      const notes = [peakText(cell), formatInterval(cell, players[index].document.coverage)].map((textContent) => make("small", { textContent }));
      return make("td", { className: isWarned(players[index]) ? "warned" : "" }, make("b", { textContent: number(cell?.value) }), ...notes);
    });
    const difference = values.every(Boolean) ? values[1].value - values[0].value : null;
    const signed = difference >= 0.005 ? `+${number(difference)}` : number(difference);
    return make("tr", {}, make("th", { scope: "row" }, name(label)), ...cells, make("td", { textContent: signed }));
  });
  const settings = { className: "card scroll", tabIndex: 0, role: "region", ariaLabel: "Comparison of the clips" };
  return make("div", settings, table(["Whole clip", ...players.map(({ document }) => document.name), "Difference"], rows));
}

// One line per kind of time without a face, each with the pattern that marks it in the chart.
export function unseenText({ prediction, document }, isPair) {
  const ranges = unseen(prediction);
  return Object.entries(UNSEEN).flatMap(([kind, words]) => {
    const texts = ranges.filter((range) => range[2] === kind).map(([start, end]) => `${start.toFixed(1)}–${end.toFixed(1)} s`);
    if (!texts.length) return [];
    const more = texts.length > MAX_RANGES ? ` and ${texts.length - MAX_RANGES} more` : "";
    const line = `${isPair ? `${document.name}: ` : ""}${words}: ${texts.slice(0, MAX_RANGES).join(", ")}${more}.`;
    return [make("p", { className: isPair ? "soft" : `soft unseen ${kind}`, textContent: line })];
  });
}

export function events(player, onJump) {
  const all = player.prediction.events;
  if (!all.length) return make("p", { className: "soft", textContent: "No emotion reaches the threshold." });
  const items = all.map((event) => {
    const words = `${event.onset_s.toFixed(1)}–${event.offset_s.toFixed(1)} s, peak ${number(event.peak)}`;
    const button = make("button", { type: "button", onclick: () => onJump(event.onset_s) }, name(event.label), words);
    return make("li", {}, button);
  });
  return make("ul", { className: "events" }, ...items);
}

// The timeline as a table, for screen readers and for exact values.
export function timelineTable({ document, prediction }) {
  const rows = prediction.timeline.map(({ start_s, end_s, state, warnings: reasons, intensities }) => {
    const seen = state === "face" ? "face" : "no face";
    const cells = [seen, ...document.labels.map((label) => number(intensities?.[label].value)), reasons ?? ""];
    const time = make("th", { scope: "row", textContent: `${start_s.toFixed(1)}–${end_s.toFixed(1)} s` });
    return make("tr", {}, time, ...cells.map((textContent) => make("td", { textContent })));
  });
  const whole = table(["Window", "Face", ...document.labels, "Warning"], rows);
  whole.prepend(make("caption", { className: "soft", textContent: document.name }));
  return whole;
}

// The request for this result as code: [language, text].
function requests({ name: file, options }, hasKey) {
  const fields = Object.entries(options).filter(([, value]) => value != null);
  const address = `${location.origin}/v1/predictions`;
  const header = hasKey ? "\n        headers={\"Authorization\": \"Bearer YOUR_KEY\"}," : "";
  const data = fields.map(([field, value]) => `${JSON.stringify(field)}: ${JSON.stringify(value)}`).join(", ");
  const python = `import httpx

with open(${JSON.stringify(file)}, "rb") as video:
    answer = httpx.post(
        "${address}",
        files={"file": video},
        data={${data}},${header}
        timeout=120,
    )
print(answer.json()["predictions"][0]["intensities"])`;
  const words = [`file=@"${file.replace(/["\\]/g, "\\$&")}"`, ...fields.map((field) => field.join("="))];
  const key = hasKey ? " -H 'Authorization: Bearer YOUR_KEY'" : "";
  const curl = `curl${key} ${words.map((word) => `-F '${word.replaceAll("'", "'\\''")}'`).join(" ")} '${address}?format=csv'`;
  return [["Python", python], ["curl", curl]];
}

export function codes(document, hasKey) {
  return requests(document, hasKey).map(([language, text]) => {
    const code = make("pre", { textContent: text, tabIndex: 0 });
    const button = make("button", { type: "button", textContent: `Copy as ${language}` });
    button.onclick = () => copy(code, button);
    return make("div", {}, make("p", { className: "buttons" }, button), code);
  });
}
