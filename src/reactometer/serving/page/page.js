// The page: score clips, and keep video, curves and values in step.

import { fetchAs, forget, forgetAll, model, predict } from "./api.js";
import { record } from "./camera.js";
import { drawTimeline, plotly } from "./charts.js";
import { $, complain, make, save, seconds } from "./dom.js";
import { prepareLive, stop } from "./live.js";
import { Player, windowAt } from "./player.js";
import { about, events, unseenText, warnings, whole } from "./result.js";

const FORMATS = [["csv", "CSV", "-timeline.csv"], ["json", "JSON", ".json"], ["elan", "ELAN", ".eaf"]];

let players = [];
let moveCursors = () => {};
let modelInfo = null;

function showProgress(words, share) {
  $("doing").textContent = words;
  if (share == null) $("progress").removeAttribute("value");
  else $("progress").value = share;
}

// Scores a file with the options of the form; returns null if cancelled or failed.
async function score(file) {
  const stopping = new AbortController();
  const fields = [...new FormData($("ask"))].filter(([, value]) => typeof value === "string" && value.trim());
  complain(null);
  showProgress(`Uploading ${file.name}`, 0);
  $("busy").hidden = false;
  $("ask").hidden = true;
  $("cancel").onclick = () => stopping.abort();
  try {
    refuseLarge(file);
    return await predict(file, Object.fromEntries(fields), showProgress, stopping.signal);
  } catch (error) {
    if (error.name !== "AbortError") complain(error.message);
    return null;
  } finally {
    $("busy").hidden = true;
    $("ask").hidden = players.length > 0;
  }
}

function refuseLarge(file) {
  const limit = modelInfo?.limits?.bytes;
  if (!limit || file.size <= limit) return;
  throw new Error(`${file.name} is too large (got ${megabytes(file.size)}; expected at most ${megabytes(limit)}). Choose a shorter or smaller file.`);
}

const megabytes = (bytes) => `${(bytes / 1e6).toFixed(0)} MB`;

async function scoreFile(file) {
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
  $("board").classList.toggle("two", isPair);
  $("players").replaceChildren(...players.map(({ element }) => element));
  $("legend").hidden = !isPair;
  $("legend").replaceChildren(...players.map(({ document }) => make("span", { textContent: document.name })));
  $("unseen").replaceChildren(...players.flatMap((player) => unseenText(player, isPair)));
  $("events").replaceChildren(...players.flatMap((player) => [...titled(player), events(player, jump)]));
  $("downloads").replaceChildren(...players.map(downloads));
  drawCurves();
}

// The clip name as a title if there are two clips.
const titled = ({ document }) => (players.length > 1 ? [make("p", { className: "soft", textContent: document.name })] : []);

function meaning({ coverage }) {
  const intervals = coverage ? `, each with its ${Math.round(coverage * 100)}% interval` : "";
  const starter = "The starter model was trained on composites of faces and voices, not on reactions of people.";
  return `Intensities of the whole clip, from 0 to 1${intervals}, sorted by the peak of the timeline. They estimate the mean rating by human raters. ${isStarter() ? starter : ""}`;
}

const isStarter = () => /starter model of reactometer/i.test(modelInfo?.card ?? "");

async function drawCurves() {
  const clips = players.map(({ document, prediction }, index) => ({
    ...{ index, mark: players.length > 1 ? document.name : "", labels: document.labels, level: document.voice_level },
    ...prediction,
    duration_s: prediction.duration_s ?? document.duration_s ?? 0,
  }));
  moveCursors = () => {};
  try {
    moveCursors = await drawTimeline($("timeline"), clips, { onJump: jump, onChange: onTime });
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
    describePosition(players[0]);
  });
}

function describePosition({ time, prediction, document }) {
  const intensities = windowAt(prediction.timeline, time)?.intensities;
  const highest = intensities && document.labels.reduce((best, label) => (intensities[label].value > intensities[best].value ? label : best));
  const words = highest ? `highest ${highest} ${intensities[highest].value.toFixed(2)}` : "no values";
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
  const buttons = FORMATS.map(([format, text, suffix]) => {
    const button = make("button", { type: "button", textContent: text });
    button.onclick = () => fetchAs(document.id, format).then((blob) => save(blob, stem + suffix), (error) => complain(error.message));
    return button;
  });
  return make("div", {}, ...titled(player), make("p", { className: "buttons" }, ...buttons));
}

function prepareInputs() {
  for (const id of ["file", "second"]) {
    $(id).onchange = () => {
      scoreFile($(id).files[0]);
      $(id).value = "";
    };
  }
  $("ask").onsubmit = (event) => event.preventDefault();
  $("record").onclick = () => record().then(scoreFile, (error) => complain(error.message));
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
    scoreFile(event.dataTransfer.files[0]);
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
  const showCard = () => ($("card").textContent = modelInfo?.card ?? "");
  $("model").ontoggle = async () => {
    if ($("model").open && !modelInfo) modelInfo = await model().catch((error) => (complain(error.message), null));
    showCard();
  };
  modelInfo = await model({ silent: true }).catch(() => null);
  const { bytes, seconds: longest, kept_s } = modelInfo?.limits ?? {};
  $("limits").textContent = [bytes && `Up to ${megabytes(bytes)}`, longest && `${Math.round(longest / 60)} minutes`].filter(Boolean).join(", ");
  if (kept_s) $("kept").textContent = `, or after ${Math.ceil(kept_s / 3600)} hours`;
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
