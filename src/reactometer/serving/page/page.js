// The page: score clips, and keep video, curves and values in step.

import { fetchAs, forget, forgetAll, keep, key, model, predict, read } from "./api.js";
import { record } from "./camera.js";
import { chartImage, drawTimeline, plotly } from "./charts.js";
import { $, complain, copy, make, onSchemeChange, save, seconds } from "./dom.js";
import { prepareLive, stop } from "./live.js";
import { Player, windowAt } from "./player.js";
import { about, codes, events, timelineTable, unseenText, warnings, whole } from "./result.js";

const FORMATS = [
  ["csv", "Timeline (CSV)", "-timeline.csv"], ["events", "Events (CSV)", "-events.csv"], ["frames", "Frames (CSV)", "-frames.csv"],
  ["json", "JSON", ".json"], ["elan", "ELAN", ".eaf"], ["vtt", "WebVTT", ".vtt"], ["png", "Plot (PNG)", ".png"],
];

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
    await loadModel();
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

async function tryExample() {
  $("example").disabled = true;
  $("example").textContent = "Rendering the example…";
  try {
    const answer = await fetch("/page/example.mp4");
    if (!answer.ok) throw new Error(`The example was not loaded (got status ${answer.status}). Try again.`);
    await scoreFile(new File([await answer.blob()], "example.mp4", { type: "video/mp4" }));
  } catch (error) {
    complain(error.message);
  }
  $("example").disabled = false;
  $("example").textContent = "Try an example";
}

// Shows a result that was kept on the server.
async function open(id) {
  if (players.some(({ document }) => document.id === id)) return;
  try {
    await loadModel();
    const document = await read(id);
    if (document.status !== "done") throw new Error(`This clip is not scored (${document.status}). Open the link again later.`);
    again();
    players.push(Object.assign(new Player(null, document, onTime, show), { isKept: true }));
    show();
  } catch (error) {
    complain(error.message);
  }
}

function drop(player) {
  if (!player.isKept) forget(player.document.id);
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
  const { warned, notes } = warnings(players);
  $("warnings").hidden = !warned.length;
  $("warned").replaceChildren(...warned.map((textContent) => make("p", { textContent })));
  $("notes").replaceChildren(...notes.map((textContent) => make("p", { className: "soft", textContent })));
  $("whole").replaceChildren(whole(players));
  $("meaning").textContent = meaning(first.document);
  $("board").classList.toggle("two", isPair);
  $("players").replaceChildren(...players.map(({ element }) => element));
  $("legend").hidden = !isPair;
  $("legend").replaceChildren(...players.map(({ document }) => make("span", { textContent: document.name })));
  $("unseen").replaceChildren(...players.flatMap((player) => unseenText(player, isPair)));
  $("events").replaceChildren(...players.flatMap((player) => [...titled(player), events(player, jump)]));
  $("downloads").replaceChildren(...players.map(downloads));
  $("codes").replaceChildren(...codes(first.document, key()));
  fillTable();
  drawCurves();
}

// The clip name as a title if there are two clips.
const titled = ({ document }) => (players.length > 1 ? [make("p", { className: "soft", textContent: document.name })] : []);

function meaning({ coverage }) {
  const intervals = coverage ? `, with ${Math.round(coverage * 100)}% intervals` : "";
  const starter = "The starter model was trained on composites of faces and voices, not on reactions of people.";
  return `Intensities of the whole clip, from 0 to 1${intervals}, sorted by the peaks of the timeline. They estimate the mean rating by human raters. ${isStarter() ? starter : ""}`;
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
    describePosition();
  });
}

function describePosition() {
  const [{ time, prediction, document }] = players;
  const window = windowAt(prediction.timeline, time);
  const intensities = window?.intensities;
  const highest = intensities && document.labels.reduce((best, label) => (intensities[label].value > intensities[best].value ? label : best));
  const words = highest ? `highest ${highest} ${intensities[highest].value.toFixed(2)}` : "no values";
  const reasons = players.length > 1 ? [] : [window?.state === "no_face" && "no face", window?.warnings].filter(Boolean);
  $("now").textContent = [`at ${players.map((player) => seconds(player.time)).join(" and ")}`, ...reasons].join("; ");
  const slider = $("timeline");
  slider.setAttribute("aria-valuemax", (prediction.duration_s ?? 0).toFixed(1));
  slider.setAttribute("aria-valuenow", time.toFixed(1));
  slider.setAttribute("aria-valuetext", `${seconds(time)}, ${words}`);
}

// Long clips have thousands of rows: they are made when they are wanted.
function fillTable() {
  $("rows").replaceChildren(...($("table").open ? players.map(timelineTable) : []));
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
  const formats = FORMATS.filter(([format]) => format !== "vtt" || document.predictions.length === 1);
  const buttons = formats.map(([format, textContent, suffix]) => {
    const fetchBlob = () => (format === "png" ? chartImage($("timeline")) : fetchAs(document.id, format));
    const onclick = () => fetchBlob().then((blob) => save(blob, stem + suffix), (error) => complain(error.message));
    return make("button", { type: "button", textContent, onclick });
  });
  return make("div", {}, ...titled(player), make("p", { className: "buttons" }, ...buttons), keeper(player));
}

// Offers to keep a result on the server, and then its link.
function keeper(player) {
  const kept_s = modelInfo?.limits?.kept_s;
  if (!kept_s) return "";
  const { id, finished } = player.document;
  const element = make("div");
  const show = () => {
    const link = make("a", { href: `#clip=${id}`, textContent: `${location.href.split("#")[0]}#clip=${id}` });
    const copyLink = make("button", { type: "button", textContent: "Copy link" });
    copyLink.onclick = () => copy(link, copyLink);
    const remove = make("button", { type: "button", textContent: "Delete now" });
    remove.onclick = () => {
      player.isKept = false;
      history.replaceState(null, "", "#clip");
      again();
    };
    const end = new Date(Date.parse(finished) + 1000 * kept_s).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
    const words = make("p", { className: "soft link" }, `The server keeps this result, without the video, until ${end}: `, link);
    element.replaceChildren(words, make("p", { className: "buttons" }, copyLink, remove));
  };
  const button = make("button", { type: "button", textContent: `Keep for ${Math.ceil(kept_s / 3600)} hours` });
  button.onclick = () => {
    keep(id);
    player.isKept = true;
    history.replaceState(null, "", `#clip=${id}`);
    show();
  };
  element.append(make("p", { className: "buttons" }, button));
  if (player.isKept) show();
  return element;
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
  $("example").onclick = tryExample;
  $("again").onclick = () => {
    history.replaceState(null, "", "#clip");
    again();
  };
  $("table").ontoggle = fillTable;
  $("model-name").onclick = () => {
    $("model").open = true;
    $("model").scrollIntoView();
  };
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
  const [view, id] = location.hash.slice(1).split("=");
  const isLive = view === "live";
  $("clip-view").hidden = isLive;
  $("live-view").hidden = !isLive;
  if (!isLive) stop();
  for (const link of document.querySelectorAll("nav a")) link.setAttribute("aria-current", (link.hash === "#live") === isLive ? "page" : "false");
  if (id) open(id);
}

async function prepareModel() {
  $("model").ontoggle = () => $("model").open && loadModel().catch((error) => complain(error.message));
  await loadModel({ silent: true }).catch(() => null);
}

async function loadModel(options) {
  modelInfo = await model(options);
  const { bytes, seconds: longest, kept_s } = modelInfo.limits;
  $("limits").textContent = [bytes && `Up to ${megabytes(bytes)}`, longest && `${Math.round(longest / 60)} minutes`].filter(Boolean).join(", ");
  $("kept").textContent = kept_s ? `, or after ${Math.ceil(kept_s / 3600)} hours` : "";
  $("card").textContent = modelInfo.card?.replace(/^---\n.*?\n---\n/s, "").trim() ?? "This model has no card.";
  const title = modelInfo.card?.match(/^# (.+)$/m)?.[1] ?? "Model without a card";
  for (const id of ["model-name", "model-title"]) $(id).textContent = title;
}

prepareInputs();
prepareDrop();
prepareLive();
prepareModel();
route();
addEventListener("hashchange", route);
addEventListener("pagehide", (event) => event.persisted || forgetAll());
addEventListener("resize", onTime);
onSchemeChange(() => players.length && show());
requestIdleCallback?.(() => plotly().catch(() => {}));
