// One clip: the browser's own copy of the video, the face's box over it, and the intensities of the moment shown.

import { $, bars, outline, seconds } from "./dom.js";

const BOX_HELD_S = 0.5; // a box is shown for frames that were looked at no further away than this

export const middle = (window) => (window.start_s + window.end_s) / 2;

// The window whose middle is nearest.
export function windowAt(timeline, time) {
  const nearer = (best, window) => (Math.abs(middle(window) - time) < Math.abs(middle(best) - time) ? window : best);
  return timeline.length ? timeline.reduce(nearer) : null;
}

// Stretches [start, end] in which no frame looked at shows the face.
export function unseen({ frames, duration_s }) {
  const stretches = [];
  let start = null;
  for (const frame of frames ?? []) {
    if (frame.state !== "face") start ??= frame.time_s;
    else if (start !== null) {
      stretches.push([start, frame.time_s]);
      start = null;
    }
  }
  if (start !== null) stretches.push([start, Math.max(duration_s, start)]);
  return stretches;
}

export class Player {
  constructor(file, document, onTime, onChoice) {
    Object.assign(this, { document, onTime, whose: 0 });
    this.element = $("player").content.firstElementChild.cloneNode(true);
    this.video = this.element.querySelector("video");
    this.element.querySelector("figcaption").textContent = document.name;
    this.bars = bars(document.labels);
    this.element.append(this.bars.element);
    this.offerPeople(onChoice);
    this.url = URL.createObjectURL(file);
    this.watch();
    this.video.src = this.url;
    this.draw();
  }

  get prediction() {
    return this.document.predictions[this.whose];
  }

  offerPeople(onChoice) {
    const { predictions } = this.document;
    const label = this.element.querySelector(".whose");
    const select = label.querySelector("select");
    label.hidden = predictions.length < 2;
    select.append(...predictions.map(({ face }, place) => new Option(face ?? place + 1, place)));
    select.onchange = () => {
      this.whose = Number(select.value);
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
    video.onloadeddata = video.ontimeupdate = video.onseeked = () => this.draw(); // sound that begins late moves it at once
    video.onkeydown = (event) => this.press(event);
    if (video.requestVideoFrameCallback) {
      const follow = () => (this.draw(), video.requestVideoFrameCallback(follow));
      video.requestVideoFrameCallback(follow);
    }
  }

  shape() {
    const { video } = this;
    const isBlind = !video.videoWidth && this.document.width_px;
    this.element.querySelector(".unplayable").hidden = !isBlind;
    video.parentElement.classList.toggle("sound", !video.videoWidth);
    if (video.videoWidth) video.parentElement.style.setProperty("--ratio", video.videoWidth / video.videoHeight);
    if (video.duration === Infinity) this.findEnd();
    this.draw();
  }

  // A recording of the browser's own does not say how long it is until one has been at its end.
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
    return !this.video.error;
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
    const time = this.time;
    const window = windowAt(this.prediction.timeline, time);
    this.bars.set(window?.intensities);
    this.element.querySelector(".time").textContent = seconds(time);
    this.element.querySelector(".where").textContent = window?.state === "no_face" ? "no face seen" : "";
    this.outline(time);
    this.onTime();
  }

  outline(time) {
    const { width_px, height_px, predictions } = this.document;
    if (!width_px) return;
    const boxes = predictions.flatMap(({ frames }, whose) => {
      const frame = nearest(frames ?? [], time);
      return frame?.box ? [[frame.box, whose !== this.whose]] : [];
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
  return best && Math.abs(best.time_s - time) <= BOX_HELD_S ? best : null;
}
