// Elements and texts of the page. Text is never parsed as markup.

const DARK = matchMedia("(prefers-color-scheme: dark)");
let colours = {};

export const $ = (id) => document.getElementById(id);

export function make(tag, settings = {}, ...children) {
  const element = Object.assign(document.createElement(tag), settings);
  element.append(...children);
  return element;
}

// Colours by label, from the server: {Anger: {light, dark}}.
export const setColours = (byLabel) => (colours = byLabel);
export const colour = (label) => colours[label]?.[DARK.matches ? "dark" : "light"];
export const onSchemeChange = (redraw) => DARK.addEventListener("change", redraw);

export const number = (value) => (value == null ? "–" : value.toFixed(2).replace(/^-(0\.00)$/, "$1").replace("-", "−"));
export const seconds = (value) => `${value.toFixed(1)} s`;
export const formatInterval = (intensity, coverage) => (intensity?.low == null ? "" : `${Math.round(100 * coverage)}%: ${number(intensity.low)}–${number(intensity.high)}`);
export const soft = (textContent) => make("span", { className: "soft", textContent });

export function bar(label, intensity) {
  const element = make("span", { className: "bar" }, make("i", { className: "band" }), make("i"));
  element.style.setProperty("--colour", colour(label));
  for (const side of ["value", "low", "high"]) element.style.setProperty(`--${side}`, intensity?.[side] ?? 0);
  return element;
}

export function name(label) {
  const element = make("span", { className: "name", textContent: label });
  element.style.setProperty("--colour", colour(label));
  return element;
}

export function table(heads, rows) {
  const head = make("tr", {}, ...heads.map((text) => make("th", { scope: "col", textContent: text })));
  return make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows));
}

// Face boxes as [box, isOther], in pixels of an image of this size.
export function outline(svg, width, height, boxes) {
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.replaceChildren(
    ...boxes.map(([box, isOther]) => {
      const rect = document.createElementNS("http://www.w3.org/2000/svg", "rect");
      ["x", "y", "width", "height"].forEach((side, index) => rect.setAttribute(side, box[index]));
      rect.classList.toggle("other", Boolean(isOther));
      return rect;
    }),
  );
}

export function complain(message) {
  $("alert").hidden = !message;
  $("alert").firstElementChild.textContent = message ?? "";
  if (message) $("alert").scrollIntoView({ block: "nearest" });
}

export function save(blob, filename) {
  const link = make("a", { href: URL.createObjectURL(blob), download: filename });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

// Selects the text of an element and copies it; without https, browsers allow only the selection.
export async function copy(element, button) {
  getSelection().selectAllChildren(element);
  const isCopied = await navigator.clipboard?.writeText(element.textContent).then(() => true, () => false);
  button.textContent = isCopied ? "Copied" : "Selected";
}

// Without speech the values come from the face, and are shown as usual.
export const isMuted = (warnings) => (warnings ?? "").split("; ").some((reason) => reason && reason !== "voice not used: no speech");
