// Latent space of the two chosen variants: a path between two test images that one drags, and maps of test images.

const paths = document.getElementById("paths"), position = document.getElementById("position");
const steps = Number(paths.dataset.steps), ends = all("input[name=from]").length;

const endOf = (name) => all(`input[name=${name}]`).findIndex((radio) => radio.checked);
const labelOf = (name) => document.querySelector(`input[name=${name}]:checked`).getAttribute("aria-label");
const rowOf = (low, high) => low * ends - (low * (low + 1)) / 2 + high - low - 1; // pairs are (0, 1), (0, 2), ...

// The row of the sheet with the path, and the column of each step; an image joined with itself has one frame.
function frames(from, to) {
  const other = from !== to ? to : from ? 0 : 1, forward = from < other;
  const column = (step) => (from === to ? 0 : step);
  return { row: rowOf(Math.min(from, other), Math.max(from, other)), column: (step) => (forward ? column(step) : steps - 1 - column(step)) };
}

async function drawPath(side, variant) {
  const sheet = document.getElementById(`path-${variant}`), step = Number(position.value);
  await sheet.decode();
  const width = sheet.naturalWidth / steps, height = sheet.naturalHeight / ((ends * (ends - 1)) / 2);
  const { row, column } = frames(endOf("from"), endOf("to"));
  const [frame, strip] = all("canvas", document.getElementById(`path-of-${side}`));
  const copy = (canvas, from, to) => canvas.getContext("2d").drawImage(sheet, column(from) * width, row * height, width, height, to * width, 0, width, height);
  [frame.width, frame.height, strip.width, strip.height] = [width, height, steps * width, height];
  copy(frame, step, 0);
  for (let i = 0; i < steps; i++) copy(strip, i, i);
  const pen = strip.getContext("2d");
  pen.strokeStyle = "#1d5fc4";
  pen.strokeRect(step * width + 0.5, 0.5, width - 1, height - 1);
  frame.setAttribute("aria-label", `${variant}, ${position.getAttribute("aria-valuetext")}`);
  frame.closest("figure").querySelector("figcaption").textContent = variant;
}

function drawPaths() {
  const share = Math.round((100 * Number(position.value)) / (steps - 1));
  position.setAttribute("aria-valuetext", `${share}% of the way from ${labelOf("from")} to ${labelOf("to")}`);
  return Promise.all(chosen().map((variant, i) => drawPath(sides[i], variant)));
}
paths.oninput = drawPaths;
for (const strip of all("canvas.strip"))
  strip.onpointerdown = strip.onpointermove = (event) => {
    if (!event.buttons) return;
    const box = strip.getBoundingClientRect();
    position.value = Math.floor((steps * (event.clientX - box.left)) / box.width);
    drawPaths();
  };

// Maps: the chosen image is marked in both, and shown beside its point.
const maps = JSON.parse(document.getElementById("maps").textContent), sheetOfImages = document.getElementById("map-images");
const image = document.getElementById("image");

const pointsOf = (variant) => maps.maps[variant].positions.map(([x, y], i) => ({ x, y, label: maps.labels[i], image: i }));

async function pictureOf(number) {
  await sheetOfImages.decode();
  const [, height, width] = maps.image_shape, canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [width, height];
  const left = (number % maps.columns) * width, top = Math.floor(number / maps.columns) * height;
  canvas.getContext("2d").drawImage(sheetOfImages, left, top, width, height, 0, 0, width, height);
  return canvas.toDataURL();
}

async function choose(number) {
  image.value = number;
  const text = `${number + 1} of ${maps.labels.length}${image.dataset.labelled ? `, label ${maps.labels[number]}` : ""}`;
  image.setAttribute("aria-valuetext", text);
  image.parentElement.querySelector("output").value = text;
  const picture = await pictureOf(number);
  for (const { group, view } of views) if (group === "map") view.signal("chosen", number).signal("picture", picture).runAsync();
}
image.oninput = () => choose(Number(image.value));

const followLatents = (...variants) => {
  variants.forEach((variant, i) => {
    const name = `map-${sides[i]}`, { view } = views.find((each) => each.name === name);
    view.data("points", pointsOf(variant)).runAsync();
    const share = (100 * maps.maps[variant].share).toFixed(0);
    document.getElementById(name).closest("figure").querySelector("figcaption").textContent = `${variant}: ${share}% of the variance is on these axes`;
  });
  return drawPaths();
};
window.drawn = window.drawn.then(async () => {
  for (const { group, view } of views)
    if (group === "map") view.addEventListener("pointermove", (_, item) => item?.datum?.image >= 0 && item.datum.image !== Number(image.value) && choose(item.datum.image));
  await follow(followLatents);
  await choose(0);
});
