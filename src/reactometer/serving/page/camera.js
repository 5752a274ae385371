// Open camera and microphone, and record a file.

import { $, complain, seconds } from "./dom.js";

const MIME_TYPES = ["video/mp4;codecs=avc1.42E01E,mp4a.40.2", "video/webm;codecs=vp8,opus", "video/webm", "video/mp4"];
const REASONS = {
  NotAllowedError: "Access to camera and microphone was denied. Allow access for this page, then try again.",
  NotFoundError: "No camera or microphone was found. Connect a camera or choose a file.",
  NotReadableError: "The camera is in use by another program. Close that program, then try again.",
};

export async function openCamera(constraints = { video: true, audio: true }) {
  if (!navigator.mediaDevices) throw new Error("Camera access requires https or localhost. Open this page at such an address.");
  try {
    return await navigator.mediaDevices.getUserMedia(constraints);
  } catch (error) {
    throw new Error(REASONS[error.name] ?? error.message, { cause: error });
  }
}

export const close = (stream) => stream?.getTracks().forEach((track) => track.stop());

// Shows the recorder; returns a file, or null if discarded.
export async function record() {
  const stream = await openCamera();
  const recorder = new MediaRecorder(stream, { mimeType: MIME_TYPES.find((type) => MediaRecorder.isTypeSupported(type)) });
  const chunks = [];
  const start = performance.now();
  const clock = setInterval(() => ($("recorded").textContent = seconds((performance.now() - start) / 1000)), 100);
  recorder.ondataavailable = ({ data }) => chunks.push(data);
  showRecorder(stream);
  const isComplete = await new Promise((resolve) => {
    recorder.onstop = () => resolve(chunks.length > 0);
    recorder.onerror = ({ error }) => (complain(error?.message), resolve(false));
    $("stop").onclick = () => recorder.stop();
    $("discard").onclick = () => resolve(false);
    recorder.start();
  });
  clearInterval(clock);
  close(stream);
  hideRecorder();
  const extension = recorder.mimeType.includes("mp4") ? "mp4" : "webm";
  return isComplete ? new File(chunks, `recording.${extension}`, { type: recorder.mimeType }) : null;
}

function showRecorder(stream) {
  $("drop").hidden = true;
  $("recorder").hidden = false;
  $("preview").srcObject = stream;
  $("preview").play();
  $("stop").focus();
}

function hideRecorder() {
  $("preview").srcObject = null;
  $("recorder").hidden = true;
  $("drop").hidden = false;
}
