// The page: takes clips, has them scored, and keeps what is shown in step.

import { fetchAs, forget, forgetAll, model, predict } from "./api.js";
import { record } from "./camera.js";
import { drawTimeline, plotly } from "./charts.js";
import { $, complain, make, save, seconds } from "./dom.js";
import { prepareLive, stop } from "./live.js";
import { Player, windowAt } from "./player.js";
import { about, events, unseenWords, warnings, whole } from "./result.js";

const FORMS = [["csv", "CSV", "-timeline.csv"], ["json", "JSON", ".json"], ["elan", "ELAN", ".eaf"]];

let players = [];
let moveCursors = () => {};
let facts = null;

function told(words, share) {
  $("doing").textContent = words;
  if (share == null) $("progress").removeAttribute("value");
  else $("progress").value = share;
}

// Scores a file as the options say; null where it was cancelled or failed, which is told.
async function score(file) {
  const stopping = new AbortController();
  const given = [...new FormData($("ask"))].filter(([, value]) => typeof value === "string" && value.trim());
  complain(null);
  told(`Uploading ${file.name}`, 0);
  $("busy").hidden = false;
  $("ask").hidden = true;
  $("cancel").onclick = () => stopping.abort();
  try {
    refuseLarge(file);
    return await predict(file, Object.fromEntries(given), told, stopping.signal);
  } catch (error) {
    if (error.name !== "AbortError") complain(error.message);
    return null;
  } finally {
    $("busy").hidden = true;
    $("ask").hidden = players.length > 0;
  }
}

function refuseLarge(file) {
  const most = facts?.limits?.bytes;
  if (!most || file.size <= most) return;
  throw new Error(`${file.name} has ${megabytes(file.size)}, and this server takes ${megabytes(most)} at most. Choose a shorter or smaller one.`);
}

const megabytes = (bytes) => `${(bytes / 1e6).toFixed(0)} MB`;

async function take(file) {
  if (!file || !$("busy").hidden) return;
  const scored = await score(file);
  if (!scored) return;
  players.splice(1).forEach(drop);
  players.push(new Player(file, scored, onTime, show));
  show();
  $("title").focus();
}

function drop(player) {
  forget(player.document.id);
  player.remove();
}

function again() {
  players.splice(0).forEach(drop);
  complain(null);
  for (const id of ["ask", "intro"]) $(id).hidden = false;
  $("result").hidden = true;
  $("file").focus();
}

function show() {
  const [first] = players;
  const isPair = players.length > 1;
  for (const id of ["ask", "intro"]) $(id).hidden = true;
  $("result").hidden = false;
  $("title").textContent = players.map(({ document }) => document.name).join(" and ");
  $("about").textContent = isPair ? "Two clips, one timeline" : about(first);
  $("warnings").replaceChildren(...warnings(players));
  $("whole").replaceChildren(whole(players));
  $("meaning").textContent = meaning(first.document);
  $("bands").textContent = first.document.coverage ? `Bands: ${Math.round(first.document.coverage * 100)} % intervals.` : "";
  $("board").classList.toggle("two", isPair);
  $("players").replaceChildren(...players.map(({ element }) => element));
  $("legend").hidden = !isPair;
  $("legend").replaceChildren(...players.map(({ document }) => make("span", { textContent: document.name })));
  $("unseen").replaceChildren(...players.flatMap((player) => unseenWords(player, isPair)));
  $("events").replaceChildren(...players.flatMap((player) => [...titled(player), events(player, jump)]));
  $("downloads").replaceChildren(...players.map(downloads));
  drawCurves();
}

// Whose it is, where there are two clips.
const titled = ({ document }) => (players.length > 1 ? [make("p", { className: "soft", textContent: document.name })] : []);

function meaning({ coverage }) {
  const sure = coverage ? `, each with its ${Math.round(coverage * 100)} % interval` : "";
  const starter = "This is the starter model: made on composites of faces and voices, it never saw a person react.";
  return `Intensities of the whole clip, from 0 to 1${sure}: what raters would say, by the model's estimate. ${isStarter() ? starter : ""}`;
}

const isStarter = () => /starter model of reactometer/i.test(facts?.card ?? "");

async function drawCurves() {
  const shown = players.map(({ document, prediction }, place) => ({
    ...{ place, mark: players.length > 1 ? document.name : "", labels: document.labels, level: document.voice_level },
    ...prediction,
    duration_s: prediction.duration_s ?? document.duration_s ?? 0,
  }));
  moveCursors = () => {};
  try {
    moveCursors = await drawTimeline($("timeline"), shown, { onJump: jump, onChange: onTime });
    onTime();
  } catch (error) {
    complain(error.message);
  }
}

let isDue = false;

function onTime() {
  if (isDue || !players.length) return;
  isDue = true;
  requestAnimationFrame(() => {
    isDue = false;
    if (!players.length) return;
    moveCursors(players.map(({ time }) => time));
    tellPlace(players[0]);
  });
}

function tellPlace({ time, prediction, document }) {
  const said = windowAt(prediction.timeline, time)?.intensities;
  const highest = said && document.labels.reduce((best, label) => (said[label].value > said[best].value ? label : best));
  const words = highest ? `highest ${highest} ${said[highest].value.toFixed(2)}` : "no values";
  const slider = $("timeline");
  slider.setAttribute("aria-valuemax", (prediction.duration_s ?? 0).toFixed(1));
  slider.setAttribute("aria-valuenow", time.toFixed(1));
  slider.setAttribute("aria-valuetext", `${seconds(time)}, ${words}`);
}

const jump = (time) => players.forEach((player) => player.jump(time));

function step(event) {
  const [first] = players;
  const to = { ArrowLeft: first.time - first.step, ArrowRight: first.time + first.step, Home: 0, End: first.prediction.duration_s };
  if (!(event.key in to)) return;
  event.preventDefault();
  jump(to[event.key]);
}

function downloads(player) {
  const { document } = player;
  const stem = document.name.replace(/\.[^.]*$/, "") || "clip";
  const buttons = FORMS.map(([format, words, ending]) => {
    const button = make("button", { type: "button", textContent: words });
    button.onclick = () => fetchAs(document.id, format).then((blob) => save(blob, stem + ending), (error) => complain(error.message));
    return button;
  });
  return make("div", {}, ...titled(player), make("p", { className: "buttons" }, ...buttons));
}

function prepareInputs() {
  for (const id of ["file", "second"]) {
    $(id).onchange = () => {
      take($(id).files[0]);
      $(id).value = "";
    };
  }
  $("ask").onsubmit = (event) => event.preventDefault();
  $("record").onclick = () => record().then(take, (error) => complain(error.message));
  $("again").onclick = again;
  $("timeline").onkeydown = step;
  $("alert").querySelector("button").onclick = () => complain(null);
}

function prepareDrop() {
  const mark = (isOver) => document.body.classList.toggle("dragged", isOver);
  addEventListener("dragover", (event) => (event.preventDefault(), mark(true)));
  addEventListener("dragleave", (event) => event.relatedTarget || mark(false));
  addEventListener("drop", (event) => {
    event.preventDefault();
    mark(false);
    location.hash = "clip";
    take(event.dataTransfer.files[0]);
  });
}

function route() {
  const isLive = location.hash === "#live";
  $("clip-view").hidden = isLive;
  $("live-view").hidden = !isLive;
  if (!isLive) stop();
  for (const link of document.querySelectorAll("nav a")) link.setAttribute("aria-current", (link.hash === "#live") === isLive ? "page" : "false");
}

async function prepareModel() {
  const tell = () => ($("card").textContent = facts?.card ?? "");
  $("model").ontoggle = async () => {
    if ($("model").open && !facts) facts = await model().catch((error) => (complain(error.message), null));
    tell();
  };
  facts = await model({ silent: true }).catch(() => null);
  const { bytes, seconds: longest, kept_s } = facts?.limits ?? {};
  $("limits").textContent = [bytes && `Up to ${megabytes(bytes)}`, longest && `${Math.round(longest / 60)} minutes`].filter(Boolean).join(", ");
  if (kept_s) $("kept").textContent = `, or ${Math.ceil(kept_s / 3600)} hours later at the latest`;
}

prepareInputs();
prepareDrop();
prepareLive();
prepareModel();
route();
addEventListener("hashchange", route);
addEventListener("pagehide", (event) => event.persisted || forgetAll());
addEventListener("resize", onTime);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => players.length && drawCurves());
requestIdleCallback?.(() => plotly().catch(() => {}));
