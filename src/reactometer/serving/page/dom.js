// Elements and words of the page. Text only ever becomes text: no markup is made of it.

export const COLOURS = ["#d1495b", "#edae49", "#00798c", "#5f8a3a", "#8f5aa8", "#30638e", "#c86b3c"];

export const $ = (id) => document.getElementById(id);

export function make(tag, settings = {}, ...children) {
  const element = Object.assign(document.createElement(tag), settings);
  element.append(...children);
  return element;
}

export const colour = (place) => COLOURS[place % COLOURS.length];
export const number = (value) => (value == null ? "–" : value.toFixed(2).replace(/^-(0\.00)$/, "$1").replace("-", "−"));
export const seconds = (value) => `${value.toFixed(1)} s`;
export const ends = (said) => (said?.low == null ? "" : `${number(said.low)}–${number(said.high)}`);

function paint(bar, said) {
  for (const name of ["value", "low", "high"]) bar.style.setProperty(`--${name}`, said?.[name] ?? 0);
}

export function bar(place, said) {
  const element = make("span", { className: "bar" }, make("i", { className: "band" }), make("i"));
  element.style.setProperty("--colour", colour(place));
  paint(element, said);
  return element;
}

export function name(label, place) {
  const element = make("span", { className: "name", textContent: label });
  element.style.setProperty("--colour", colour(place));
  return element;
}

// A bar an emotion, with its number and interval, that can be set as often as one likes.
export function bars(labels) {
  const rows = labels.map((label, place) => ({ label, bar: bar(place), value: make("b"), ends: make("small") }));
  const items = rows.map((row, place) => make("li", {}, name(row.label, place), row.bar, row.value, row.ends));
  const set = (intensities) => {
    for (const row of rows) {
      const said = intensities?.[row.label];
      paint(row.bar, said);
      row.value.textContent = number(said?.value);
      row.ends.textContent = ends(said);
    }
  };
  set(null);
  return { element: make("ul", { className: "bars" }, ...items), set };
}

// Outlines of faces, in pixels of a picture of the size given; [box, whether it is another's].
export function outline(svg, width, height, boxes) {
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.replaceChildren(
    ...boxes.map(([box, other]) => {
      const rect = document.createElementNS("http://www.w3.org/2000/svg", "rect");
      ["x", "y", "width", "height"].forEach((side, place) => rect.setAttribute(side, box[place]));
      rect.classList.toggle("other", Boolean(other));
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
