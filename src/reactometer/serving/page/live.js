// Send camera and microphone to the WebSocket of the service, and draw the scores.

import { key, model } from "./api.js";
import { close, openCamera } from "./camera.js";
import { drawLive } from "./charts.js";
import { $, complain, outline } from "./dom.js";

const FRAME_MS = 100;
const MAX_WIDTH_PX = 640;
const SOUND_RATE_HZ = 16_000;
const MAX_GAP_S = 0.25;
const MAX_BUFFERED_BYTES = 400_000; // frames are dropped above this backlog
const [FRAME, SOUND] = [1, 2];
const PICKERS = [["videoinput", "camera-id", "Camera"], ["audioinput", "microphone-id", "Microphone"]];

let session = null;

class Session {
  startMs = performance.now();
  canvas = document.createElement("canvas");

  constructor(stream) {
    this.stream = stream;
    this.socket = new WebSocket(`${location.protocol.replace("http", "ws")}//${location.host}/v1/live`);
    this.socket.binaryType = "arraybuffer";
    this.socket.onopen = () => this.socket.send(JSON.stringify({ type: "start", key: key(), window_s: 2.0 }));
    this.socket.onmessage = ({ data }) => this.onMessage(JSON.parse(data));
    this.socket.onclose = () => session === this && stop("The server closed the connection.");
  }

  get now() {
    return (performance.now() - this.startMs) / 1000;
  }

  async onMessage(message) {
    if (message.type === "error") return complain(message.error);
    if (message.type === "ready") return this.start(message);
    this.update(message);
  }

  async start({ labels, uses_face: usesFace, uses_voice: usesVoice }) {
    $("live-state").textContent = "Running,";
    this.extend = await drawLive($("live-chart"), labels);
    if (usesFace && this.stream.getVideoTracks().length) this.timer = setInterval(() => this.sendFrame(), FRAME_MS);
    if (usesVoice && this.stream.getAudioTracks().length) await this.startAudio();
  }

  send(type, time, payload) {
    if (this.socket.readyState !== WebSocket.OPEN) return;
    const head = new DataView(new ArrayBuffer(9));
    head.setUint8(0, type);
    head.setFloat64(1, time, true);
    this.socket.send(new Blob([head, payload]));
  }

  sendFrame() {
    const { videoWidth: width, videoHeight: height } = $("camera");
    if (!width || this.socket.bufferedAmount > MAX_BUFFERED_BYTES) return;
    const share = Math.min(1, MAX_WIDTH_PX / width);
    Object.assign(this.canvas, { width: Math.round(width * share), height: Math.round(height * share) });
    this.canvas.getContext("2d").drawImage($("camera"), 0, 0, this.canvas.width, this.canvas.height);
    const time = this.now;
    this.canvas.toBlob((jpeg) => jpeg && this.send(FRAME, time, jpeg), "image/jpeg", 0.8);
  }

  async startAudio() {
    let source;
    try {
      this.sound = new AudioContext({ sampleRate: SOUND_RATE_HZ });
      source = this.sound.createMediaStreamSource(this.stream);
    } catch { // some browsers support only the rate of the microphone
      this.sound = new AudioContext();
      source = this.sound.createMediaStreamSource(this.stream);
    }
    this.sound.resume();
    await this.sound.audioWorklet.addModule("/page/sound.js");
    const worklet = new AudioWorkletNode(this.sound, "sound", { channelCount: 1, channelCountMode: "explicit" });
    worklet.port.onmessage = ({ data }) => this.sendSound(data);
    source.connect(worklet);
  }

  // Blocks are timed without gaps; only a real gap in the sound resets the clock.
  sendSound(block) {
    const duration_s = block.length / SOUND_RATE_HZ;
    const start_s = this.now - duration_s;
    if (!(Math.abs(this.sound_s - start_s) < MAX_GAP_S)) this.sound_s = start_s;
    this.send(SOUND, this.sound_s, block);
    this.sound_s += duration_s;
  }

  update(message) {
    const late_ms = Math.max(0, Math.round((this.now - message.time_s) * 1000));
    const dropped = message.dropped ? `, ${message.dropped} frames dropped` : "";
    $("live-late").textContent = `${late_ms} ms behind${dropped}.`;
    $("live-warning").textContent = message.warnings ? `Warning: ${message.warnings}.` : "";
    outline($("camera").nextElementSibling, this.canvas.width, this.canvas.height, message.face ? [[message.face]] : []);
    this.extend(message);
  }

  end() {
    clearInterval(this.timer);
    this.sound?.close();
    close(this.stream);
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify({ type: "stop" }));
    this.socket.close();
  }
}

// Devices have ids and names only after the first permission.
async function listDevices() {
  const devices = (await navigator.mediaDevices?.enumerateDevices()) ?? [];
  for (const [kind, id, name] of PICKERS) {
    const select = $(id);
    const chosen = select.value;
    const named = devices.filter((device) => device.kind === kind && !["", "default"].includes(device.deviceId));
    const options = named.map(({ label, deviceId }, index) => new Option(label || `${name} ${index + 1}`, deviceId, false, deviceId === chosen));
    select.replaceChildren(new Option("Default", ""), ...options);
  }
}

const picked = (id) => (!$(id).value || { deviceId: { exact: $(id).value } });

async function start() {
  complain(null);
  $("live-start").disabled = true;
  try {
    const { uses_face: usesFace, uses_voice: usesVoice } = await model();
    const stream = await openCamera({ video: usesFace && picked("camera-id"), audio: usesVoice && picked("microphone-id") });
    listDevices();
    $("camera").srcObject = stream;
    await $("camera").play();
    $("camera").parentElement.style.setProperty("--ratio", $("camera").videoWidth / $("camera").videoHeight || 1.6);
    session = new Session(stream);
    switchTo(true);
    $("live-state").textContent = "Connecting…";
  } catch (error) {
    complain(error.message);
  } finally {
    $("live-start").disabled = false;
  }
}

function switchTo(isOn) {
  $("live-start").hidden = isOn;
  $("live-stop").hidden = !isOn;
  $(isOn ? "live-stop" : "live-start").focus();
}

export function stop(words = "Stopped.") {
  if (!session) return;
  const previous = session;
  session = null;
  previous.end();
  $("camera").srcObject = null;
  outline($("camera").nextElementSibling, 1, 1, []);
  $("live-state").textContent = words;
  $("live-late").textContent = $("live-warning").textContent = "";
  switchTo(false);
}

export function prepareLive() {
  $("live-start").onclick = start;
  $("live-stop").onclick = () => stop();
  listDevices();
  navigator.mediaDevices?.addEventListener("devicechange", listDevices);
  for (const [, id] of PICKERS) $(id).onchange = () => session && (stop(), start());
}
