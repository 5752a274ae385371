// Camera and microphone: asked for, recorded into a file.

import { $, complain, seconds } from "./dom.js";

const KINDS = ["video/mp4;codecs=avc1.42E01E,mp4a.40.2", "video/webm;codecs=vp8,opus", "video/webm", "video/mp4"];
const REASONS = {
  NotAllowedError: "The browser was not allowed to use camera and microphone. Allow it for this page, then try again.",
  NotFoundError: "No camera or microphone was found. Plug one in, or choose a file.",
  NotReadableError: "The camera is in use by another program. Close that, then try again.",
};

export async function openCamera(wanted = { video: true, audio: true }) {
  if (!navigator.mediaDevices) throw new Error("The browser gives the camera only to pages by https or from localhost. Open this page that way.");
  try {
    return await navigator.mediaDevices.getUserMedia(wanted);
  } catch (error) {
    throw new Error(REASONS[error.name] ?? error.message, { cause: error });
  }
}

export const close = (stream) => stream?.getTracks().forEach((track) => track.stop());

// Shows the recorder; gives a file, or null where it is discarded.
export async function record() {
  const stream = await openCamera();
  const recorder = new MediaRecorder(stream, { mimeType: KINDS.find((kind) => MediaRecorder.isTypeSupported(kind)) });
  const pieces = [];
  const began = performance.now();
  const clock = setInterval(() => ($("recorded").textContent = seconds((performance.now() - began) / 1000)), 100);
  recorder.ondataavailable = ({ data }) => pieces.push(data);
  showRecorder(stream);
  const isWanted = await new Promise((resolve) => {
    recorder.onstop = () => resolve(pieces.length > 0);
    recorder.onerror = ({ error }) => (complain(error?.message), resolve(false));
    $("stop").onclick = () => recorder.stop();
    $("discard").onclick = () => resolve(false);
    recorder.start();
  });
  clearInterval(clock);
  close(stream);
  hideRecorder();
  const ending = recorder.mimeType.includes("mp4") ? "mp4" : "webm";
  return isWanted ? new File(pieces, `recording.${ending}`, { type: recorder.mimeType }) : null;
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
