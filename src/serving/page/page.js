// The page: takes an image, lets the module classifier.js classify it, and shows the answer.
import { classify, start } from "./classifier.js";
import { decode, place } from "./pixels.js";

const VIEW = 448;  // pixels a side of the shown image
const COLOURS = [[49, 54, 149], [116, 173, 209], [254, 224, 144], [244, 109, 67], [165, 0, 38]];  // from cold to hot
const element = (id) => document.getElementById(id);

let description;
let latest = 0;  // number of the latest image: an answer for an earlier one comes too late

function say(text, isFault = false) {
  element("status").textContent = text;
  element("status").classList.toggle("fault", isFault);
}

async function show(file) {
  const number = ++latest;
  say("Looking …");
  element("result").classList.add("waiting");
  try {
    const answer = await classify(file);
    const image = await decode(file).catch(() => null);  // a browser may not know a format that the server reads
    if (number !== latest) return;
    showImage(image);
    showClasses(answer.classes);
    element("unsure").hidden = !answer.unsure;
    showMap(image ? answer.activation_map : null, answer.classes[0].class);
    const times = Object.entries(answer.milliseconds).map(([name, value]) => `${name} ${value.toFixed(0)} ms`);
    element("time").textContent = times.join(", ");
    element("result").hidden = false;
    say("");
  } catch (error) {
    if (number !== latest) return;
    element("result").hidden = true;
    say(error.message, true);
  } finally {
    if (number === latest) element("result").classList.remove("waiting");
  }
}

// Draws what the model sees: the centre, or the whole image, padded or stretched to a square.
function showImage(image) {
  const canvas = element("photo");
  canvas.width = canvas.height = VIEW;
  element("seen").textContent = image ? "What the model sees of the image."
    : "Your browser cannot show images of this format.";
  if (!image) return;
  const { centre_crop: size, pad_colour: ground } = description.preprocessing;
  const { left, top, width, height } = place(image, description.preprocessing);
  const context = canvas.getContext("2d");
  context.scale(VIEW / size, VIEW / size);
  if (ground) {
    context.fillStyle = `rgb(${ground})`;
    context.fillRect(0, 0, size, size);
  }
  context.fillStyle = "white";  // below what is transparent
  context.fillRect(left, top, width, height);
  context.imageSmoothingQuality = "high";
  context.drawImage(image, left, top, width, height);
}

function showClasses(classes) {
  element("best").textContent = classes[0].class;
  element("classes").replaceChildren(...classes.map(({ class: name, probability }) => {
    const row = document.createElement("li");
    const bar = row.appendChild(document.createElement("span"));
    bar.className = "bar";
    bar.style.width = `${100 * probability}%`;
    const label = row.appendChild(document.createElement("span"));
    label.className = "name";
    label.textContent = name;
    const share = row.appendChild(document.createElement("span"));
    share.className = "share";
    share.textContent = `${(100 * probability).toFixed(1)} %`;
    return row;
  }));
}

// Lays the class activation map over the image: what spoke against the class is left as it is.
function showMap(rows, name) {
  element("map-choice").hidden = !rows;
  element("map").hidden = !rows || !element("show-map").checked;
  if (!rows) return;
  element("map-class").textContent = name;
  const side = rows.length;
  const most = Math.max(1e-6, ...rows.flat());
  const small = new OffscreenCanvas(side, side);
  const pixels = new ImageData(side, side);
  rows.flat().forEach((value, place) => {
    const share = Math.max(0, value / most);
    pixels.data.set([...colour(share), 200 * share], 4 * place);
  });
  small.getContext("2d").putImageData(pixels, 0, 0);
  const canvas = element("map");
  canvas.width = canvas.height = VIEW;
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(small, 0, 0, VIEW, VIEW);
}

function colour(share) {
  const place = share * (COLOURS.length - 1);
  const below = Math.min(Math.floor(place), COLOURS.length - 2);
  return COLOURS[below].map((value, channel) => value + (place - below) * (COLOURS[below + 1][channel] - value));
}

function take(files) {
  if (files.length) show(files[0]);
}

for (const id of ["choose", "camera"]) {
  element(id).addEventListener("change", ({ target }) => {
    take([...target.files]);
    target.value = "";  // so that the same file can be chosen again
  });
}
element("show-map").addEventListener("change", ({ target }) => { element("map").hidden = !target.checked; });
document.addEventListener("dragover", (event) => { event.preventDefault(); element("drop").classList.add("over"); });
document.addEventListener("dragleave", () => element("drop").classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  element("drop").classList.remove("over");
  take([...event.dataTransfer.files]);
});

try {
  description = await start();
  const count = description.classes ? `, ${description.classes.length} classes` : "";
  element("model").textContent = `${description.checkpoint ?? description.file}${count}`;
  say("");
} catch (error) {
  say(error.message, true);
}
