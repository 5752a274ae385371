// The service's REST interface: one place that knows its addresses, keys, and what it answers when it is busy.

import { $ } from "./dom.js";

const POLL_MS = 400;
const kept = new Set(); // what the server holds of this page's clips

export const key = () => sessionStorage.getItem("reactometer-key");

function once(method, path, { body, headers = {}, onUpload, signal, type = "json" } = {}) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open(method, path);
    request.responseType = "blob";
    if (key()) headers = { ...headers, Authorization: `Bearer ${key()}` };
    for (const [name, value] of Object.entries(headers)) request.setRequestHeader(name, value);
    if (onUpload) request.upload.onprogress = (event) => onUpload(event.loaded / event.total);
    request.onload = async () => {
      const isJson = request.status >= 400 || type === "json";
      const text = isJson ? await request.response.text() : null;
      resolve({ status: request.status, wait: request.getResponseHeader("Retry-After"), body: isJson ? parse(text) : request.response });
    };
    request.onerror = () => reject(new Error("The server cannot be reached. See that it is running, then try again."));
    request.onabort = () => reject(new DOMException("cancelled", "AbortError"));
    signal?.throwIfAborted();
    if (signal) signal.onabort = () => request.abort();
    request.send(body);
  });
}

function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

export function pause(ms, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms);
    if (signal) signal.onabort = () => (clearTimeout(timer), reject(new DOMException("cancelled", "AbortError")));
  });
}

function askForKey(why) {
  const dialog = $("lock");
  $("lock-why").textContent = why ?? "";
  $("key").value = "";
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue ? $("key").value.trim() : null), { once: true });
  });
}

async function waitFor(answer, { signal, told }) {
  for (let left = Math.ceil(Number(answer.wait) || 1); left > 0; left--) {
    told?.(`The server is busy. It is asked again in ${left} s.`);
    await pause(1000, signal);
  }
}

// Sends, asks for a key where one is wanted, waits where the server says so; gives the body or throws its error line.
async function send(method, path, options = {}) {
  for (;;) {
    const answer = await once(method, path, options);
    if (answer.status < 400) return answer.body;
    const error = answer.body?.error ?? `The server answered ${answer.status}.`;
    const isBusy = [429, 503].includes(answer.status) && answer.wait;
    if (answer.status === 401 && !options.silent) {
      const given = await askForKey(error);
      if (!given) throw new Error(error);
      sessionStorage.setItem("reactometer-key", given);
    } else if (isBusy && options.told) await waitFor(answer, options);
    else throw new Error(error);
  }
}

export const model = (options) => send("GET", "/v1/model", options);
export const fetchAs = (id, format) => send("GET", `/v1/predictions/${encodeURIComponent(id)}?format=${format}`, { type: "blob" });

export function forget(id) {
  kept.delete(id);
  const headers = key() ? { Authorization: `Bearer ${key()}` } : {};
  fetch(`/v1/predictions/${encodeURIComponent(id)}`, { method: "DELETE", headers, keepalive: true }).catch(() => {});
}

export const forgetAll = () => kept.forEach(forget);

// Uploads a file, waits for its scores, and gives the document; told(words, share) says how far it is.
export async function predict(file, options, told, signal) {
  const body = new FormData();
  body.append("file", file, file.name);
  for (const [name, value] of Object.entries(options)) body.append(name, value);
  const onUpload = (share) => told(share < 1 ? `Uploading ${file.name}` : `Waiting for ${file.name} to be scored`, share < 1 ? share : null);
  const headers = { Prefer: "respond-async" };
  const { id, ...first } = await send("POST", "/v1/predictions?frames=true", { body, headers, onUpload, signal, told });
  kept.add(id);
  try {
    return await finished({ id, ...first }, file, told, signal);
  } catch (error) {
    forget(id);
    throw error;
  }
}

async function finished(document, file, told, signal) {
  const path = `/v1/predictions/${encodeURIComponent(document.id)}?frames=true`;
  while (["queued", "running"].includes(document.status)) {
    const isWaiting = document.status === "queued";
    told(isWaiting ? `${file.name} waits for its turn` : `Scoring ${file.name}`, isWaiting ? null : document.progress);
    await pause(POLL_MS, signal);
    document = await send("GET", path, { signal, told });
  }
  if (document.status === "failed") throw new Error(document.error);
  return document;
}
