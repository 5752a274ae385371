// What is said of one clip or two, beside the curves: values of the whole clip, warnings, events, what was not seen.

import { bar, ends, make, name, number, seconds } from "./dom.js";
import { unseen } from "./player.js";

const MOST_TOLD = 6;

export function about({ document, prediction }) {
  const { duration_s, face_share, sound, status } = prediction;
  const face = !document.width_px ? "no pictures" : `face in ${Math.round(face_share * 100)} % of the frames looked at`;
  const parts = [duration_s == null ? "" : seconds(duration_s), face, sound ? "with sound" : "no sound", status === "ok" ? "" : status];
  return [...parts, document.predictions.length > 1 ? `${document.predictions.length} people` : ""].filter(Boolean).join(" · ");
}

export function warnings(players) {
  const lines = players.flatMap(({ prediction, document }) => {
    const whose = players.length > 1 ? `${document.name}: ` : "";
    const reasons = prediction.warnings ? [`${whose}Warning: ${prediction.warnings}.`] : [];
    return [...reasons, ...prediction.notes.map((note) => `${whose}${note}`)];
  });
  return lines.length ? [make("div", { className: "warning" }, ...lines.map((line) => make("p", { textContent: line })))] : [];
}

export function whole(players) {
  return players.length > 1 ? table(players) : tiles(players[0]);
}

function tiles({ document, prediction }) {
  const items = document.labels.map((label, place) => {
    const said = prediction.intensities?.[label];
    const value = make("b", { textContent: number(said?.value) });
    value.dataset.label = label;
    return make("li", { className: "card" }, name(label, place), value, bar(place, said), make("span", { className: "soft", textContent: ends(said) }));
  });
  return make("ul", { className: "tiles" }, ...items);
}

function table(players) {
  const heads = ["Whole clip", ...players.map(({ document }) => document.name), "Difference"];
  const rows = players[0].document.labels.map((label, place) => {
    const said = players.map(({ prediction }) => prediction.intensities?.[label]);
    const cells = said.map((one) => make("td", {}, number(one?.value), make("small", { textContent: ends(one) })));
    const difference = said.every(Boolean) ? said[1].value - said[0].value : null;
    const signed = difference >= 0.005 ? `+${number(difference)}` : number(difference);
    return make("tr", {}, make("th", { scope: "row" }, name(label, place)), ...cells, make("td", { textContent: signed }));
  });
  const head = make("tr", {}, ...heads.map((text) => make("th", { scope: "col", textContent: text })));
  const whole = make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows));
  return make("div", { className: "card scroll" }, whole);
}

export function unseenWords({ prediction, document }, isPair) {
  const stretches = unseen(prediction);
  if (!stretches.length) return [];
  const told = stretches.slice(0, MOST_TOLD).map(([start, end]) => `${start.toFixed(1)}–${end.toFixed(1)} s`);
  const more = stretches.length > MOST_TOLD ? ` and ${stretches.length - MOST_TOLD} more` : "";
  return [make("p", { className: "soft", textContent: `${isPair ? `${document.name}, not seen` : "Grey, not seen"}: ${told.join(", ")}${more}.` })];
}

export function events(player, onJump) {
  const { labels } = player.document;
  const found = player.prediction.events;
  if (!found.length) return make("p", { className: "soft", textContent: "No emotion rises to the threshold." });
  const items = found.map((event) => {
    const words = `${event.onset_s.toFixed(1)}–${event.offset_s.toFixed(1)} s, peak ${number(event.peak)}`;
    const button = make("button", { type: "button", onclick: () => onJump(event.onset_s) }, name(event.label, labels.indexOf(event.label)), words);
    return make("li", {}, button);
  });
  return make("ul", { className: "events" }, ...items);
}
