// One clip: the local video, the face box over it, and its position in time.

import { $, outline } from "./dom.js";

const MAX_BOX_AGE_S = 0.5; // maximum time between the displayed frame and its box

export const middle = (window) => (window.start_s + window.end_s) / 2;

// The window with the nearest middle.
export function windowAt(timeline, time) {
  const nearer = (best, window) => (Math.abs(middle(window) - time) < Math.abs(middle(best) - time) ? window : best);
  return timeline.length ? timeline.reduce(nearer) : null;
}

// Time ranges [start, end, kind] without a face in the sampled frames, or in the windows of a sound; the kind is the source of the values there.
export function unseen({ frames, duration_s, timeline }) {
  const ranges = [];
  let last = null;
  const samples = frames?.length ? frames : timeline.map(({ start_s, state }) => ({ time_s: start_s, state }));
  for (const { time_s, state } of samples) {
    const kind = state === "face" ? null : kindOf(windowAt(timeline, time_s));
    if (kind === last) continue;
    if (last) ranges.at(-1)[1] = time_s;
    if (kind) ranges.push([time_s, Math.max(duration_s, time_s), kind]);
    last = kind;
  }
  return ranges;
}

const kindOf = (window) => (!window?.intensities ? "none" : window.state === "face" ? "gap" : "voice");

export class Player {
  constructor(file, document, onTime, onChoice) {
    Object.assign(this, { document, onTime, person: 0 });
    this.element = $("player").content.firstElementChild.cloneNode(true);
    this.video = this.element.querySelector("video");
    this.element.querySelector("figcaption").textContent = document.name;
    this.offerPeople(onChoice);
    this.watch();
    const input = this.element.querySelector("input");
    input.onchange = () => this.load(input.files[0]);
    this.load(file);
  }

  // Without a file, the clip is one that was kept on the server, which has no video of it.
  load(file) {
    this.isLoaded = Boolean(file);
    this.element.querySelector(".absent").hidden = this.isLoaded;
    this.element.querySelector(".screen").hidden = !this.isLoaded;
    if (file) this.video.src = this.url = URL.createObjectURL(file);
    this.draw();
  }

  get prediction() {
    return this.document.predictions[this.person];
  }

  offerPeople(onChoice) {
    const { predictions } = this.document;
    const label = this.element.querySelector(".person");
    const select = label.querySelector("select");
    label.hidden = predictions.length < 2;
    select.append(...predictions.map(({ face }, index) => new Option(face ?? index + 1, index)));
    select.onchange = () => {
      this.person = Number(select.value);
      this.draw();
      onChoice();
      select.focus();
    };
  }

  watch() {
    const { video, element } = this;
    video.setAttribute("aria-label", this.document.name);
    video.onerror = () => {
      element.querySelector(".screen").hidden = true;
      element.querySelector(".unplayable").hidden = false;
    };
    video.onloadedmetadata = () => this.shape();
    video.onloadeddata = video.ontimeupdate = video.onseeked = () => this.draw(); // seeks at once if the sound begins late
    video.onkeydown = (event) => this.press(event);
    if (video.requestVideoFrameCallback) {
      const follow = () => (this.draw(), video.requestVideoFrameCallback(follow));
      video.requestVideoFrameCallback(follow);
    }
  }

  shape() {
    const { video } = this;
    const isUnplayable = !video.videoWidth && this.document.width_px;
    this.element.querySelector(".unplayable").hidden = !isUnplayable;
    video.parentElement.classList.toggle("sound", !video.videoWidth);
    if (video.videoWidth) video.parentElement.style.setProperty("--ratio", video.videoWidth / video.videoHeight);
    if (video.duration === Infinity) this.findEnd();
    this.draw();
  }

  // Browser recordings have no duration until the player has seeked to the end.
  findEnd() {
    this.video.addEventListener("seeked", () => this.jump(0), { once: true });
    this.video.currentTime = 1e6;
  }

  press(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step) this.jump(this.time + step * this.step);
    else if (event.key === " ") this.video.paused ? this.video.play() : this.video.pause();
    else return;
    event.preventDefault();
  }

  get step() {
    const [first, second] = this.prediction.timeline;
    return second ? second.start_s - first.start_s : 1;
  }

  get isPlayable() {
    return this.isLoaded && !this.video.error;
  }

  get time() {
    return this.isPlayable ? this.video.currentTime : (this.at ?? 0);
  }

  jump(time) {
    this.at = Math.min(Math.max(time, 0), this.document.duration_s ?? 0);
    if (this.isPlayable) this.video.currentTime = this.at;
    this.draw();
  }

  draw() {
    this.outline(this.time);
    this.onTime();
  }

  outline(time) {
    const { width_px, height_px, predictions } = this.document;
    if (!width_px) return;
    const boxes = predictions.flatMap(({ frames }, person) => {
      const frame = nearest(frames ?? [], time);
      return frame?.box ? [[frame.box, person !== this.person]] : [];
    });
    outline(this.element.querySelector(".boxes"), width_px, height_px, boxes);
  }

  remove() {
    this.video.removeAttribute("src");
    URL.revokeObjectURL(this.url);
    this.element.remove();
  }
}

function nearest(frames, time) {
  let best = null;
  for (const frame of frames) if (!best || Math.abs(frame.time_s - time) < Math.abs(best.time_s - time)) best = frame;
  return best && Math.abs(best.time_s - time) <= MAX_BOX_AGE_S ? best : null;
}
