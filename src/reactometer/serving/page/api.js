// Client of the REST interface: addresses, keys, and retries while the server is busy.

import { $, setColours } from "./dom.js";

const POLL_MS = 400;
const storedIds = new Set(); // predictions of this page on the server

export const key = () => sessionStorage.getItem("reactometer-key");

function sendOnce(method, path, { body, headers = {}, onUpload, signal, type = "json" } = {}) {
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
    request.onerror = () => reject(new Error("The server is not reachable. Check that it is running, then try again."));
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

function askForKey(reason) {
  const dialog = $("lock");
  $("lock-why").textContent = reason ?? "";
  $("key").value = "";
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue ? $("key").value.trim() : null), { once: true });
  });
}

async function waitFor(answer, { signal, onProgress }) {
  for (let left = Math.ceil(Number(answer.wait) || 1); left > 0; left--) {
    onProgress?.(`The server is busy. Retrying in ${left} s.`);
    await pause(1000, signal);
  }
}

// Sends a request, asks for a key on 401, retries while the server is busy; returns the body or throws the error message.
async function send(method, path, options = {}) {
  for (;;) {
    const answer = await sendOnce(method, path, options);
    if (answer.status < 400) return answer.body;
    const error = answer.body?.error ?? `The server responded with status ${answer.status}.`;
    const isBusy = [429, 503].includes(answer.status) && answer.wait;
    if (answer.status === 401 && !options.silent) {
      const entered = await askForKey(error);
      if (!entered) throw new Error(error);
      sessionStorage.setItem("reactometer-key", entered);
    } else if (isBusy && options.onProgress) await waitFor(answer, options);
    else throw new Error(error);
  }
}

let loadedModel = null;

// The model and the limits of the service; requested once.
export async function model(options) {
  loadedModel ??= await send("GET", "/v1/model", options);
  setColours(loadedModel.colours);
  return loadedModel;
}

const documentPath = (id) => `/v1/predictions/${encodeURIComponent(id)}?frames=true`;
export const fetchAs = (id, format) => send("GET", `${documentPath(id)}&format=${format}`, { type: "blob" });

export function forget(id) {
  storedIds.delete(id);
  const headers = key() ? { Authorization: `Bearer ${key()}` } : {};
  fetch(`/v1/predictions/${encodeURIComponent(id)}`, { method: "DELETE", headers, keepalive: true }).catch(() => {});
}

export const forgetAll = () => storedIds.forEach(forget);
export const keep = (id) => storedIds.delete(id); // the server deletes it when its time is over
export const read = (id) => send("GET", documentPath(id));

// Uploads a file, waits for its scores, and returns the document; calls onProgress(text, share).
export async function predict(file, options, onProgress, signal) {
  const body = new FormData();
  body.append("file", file, file.name);
  for (const [name, value] of Object.entries(options)) body.append(name, value);
  const onUpload = (share) => onProgress(share < 1 ? `Uploading ${file.name}` : `Waiting for ${file.name} to be scored`, share < 1 ? share : null);
  const headers = { Prefer: "respond-async" };
  const { id, ...first } = await send("POST", "/v1/predictions?frames=true", { body, headers, onUpload, signal, onProgress });
  storedIds.add(id);
  try {
    return await finished({ id, ...first }, file, onProgress, signal);
  } catch (error) {
    forget(id);
    throw error;
  }
}

async function finished(document, file, onProgress, signal) {
  while (["queued", "running"].includes(document.status)) {
    const isWaiting = document.status === "queued";
    onProgress(isWaiting ? `${file.name} is queued` : `Scoring ${file.name}`, isWaiting ? null : document.progress);
    await pause(POLL_MS, signal);
    document = await send("GET", documentPath(document.id), { signal, onProgress });
  }
  if (document.status === "failed") throw new Error(document.error);
  return document;
}
