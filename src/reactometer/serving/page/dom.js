// Elements and texts of the page. Text is never parsed as markup.

export const COLOURS = ["#d1495b", "#edae49", "#00798c", "#5f8a3a", "#8f5aa8", "#30638e", "#c86b3c"];

export const $ = (id) => document.getElementById(id);

export function make(tag, settings = {}, ...children) {
  const element = Object.assign(document.createElement(tag), settings);
  element.append(...children);
  return element;
}

export const colour = (index) => COLOURS[index % COLOURS.length];
export const number = (value) => (value == null ? "–" : value.toFixed(2).replace(/^-(0\.00)$/, "$1").replace("-", "−"));
export const seconds = (value) => `${value.toFixed(1)} s`;
export const formatInterval = (intensity) => (intensity?.low == null ? "" : `${number(intensity.low)}–${number(intensity.high)}`);

function paint(bar, intensity) {
  for (const name of ["value", "low", "high"]) bar.style.setProperty(`--${name}`, intensity?.[name] ?? 0);
}

export function bar(index, intensity) {
  const element = make("span", { className: "bar" }, make("i", { className: "band" }), make("i"));
  element.style.setProperty("--colour", colour(index));
  paint(element, intensity);
  return element;
}

export function name(label, index) {
  const element = make("span", { className: "name", textContent: label });
  element.style.setProperty("--colour", colour(index));
  return element;
}

// One bar per emotion with its value; set() updates them.
export function bars(labels) {
  const rows = labels.map((label, index) => ({ label, bar: bar(index), value: make("b") }));
  const items = rows.map((row, index) => make("li", {}, name(row.label, index), row.bar, row.value));
  const set = (intensities) => {
    for (const row of rows) {
      const intensity = intensities?.[row.label];
      paint(row.bar, intensity);
      row.value.textContent = number(intensity?.value);
    }
  };
  set(null);
  return { element: make("ul", { className: "bars" }, ...items), set };
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
