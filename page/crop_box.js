// The box of crop_box.py. Coordinates are pixels of the whole picture; the browser's are scaled to them.
const MIN_SIDE = 8;
let view = null; // the value that Python sent, and as `text` that of the field beside it
let grip = null; // what is dragged: where the pointer was, the box then, and the corner or null

const find = (name) => element.querySelector(name);

function place(node, [left, top, right, bottom, degrees = 0]) {
  const [width, height] = view.size;
  node.style.left = `${(100 * left) / width}%`;
  node.style.top = `${(100 * top) / height}%`;
  node.style.width = `${(100 * (right - left)) / width}%`;
  node.style.height = `${(100 * (bottom - top)) / height}%`;
  node.style.transform = degrees ? `rotate(${degrees}deg)` : "";
  return node;
}

// What is cut: the smallest box of the model's shape around that of the text; without a text, what was found.
function cut() {
  if (!view.text) return view.found[0];
  const [left, top, right, bottom, ...turn] = view.text.split(",").map((part) => (part.trim() ? Number(part) : NaN));
  const high = Math.max(bottom - top, (right - left) / view.aspect), wide = high * view.aspect;
  const x = (left + right - wide) / 2, y = (top + bottom - high) / 2;
  const box = [x, y, x + wide, y + high, ...turn];
  return box.length < 6 && box.every(Number.isFinite) && Math.min(right - left, bottom - top) >= MIN_SIDE ? box : null;
}

function draw() {
  find(".crop-box").hidden = !view;
  if (!view) return;
  const box = cut(), [width, height] = view.size;
  find("img").src = view.url;
  find("img").alt = view.title;
  find(".crop-stage").style.width = `min(100%, ${(70 * width) / height}vh)`;
  find("figcaption").textContent =
    `${view.title}: ${box ? box.map(Math.round).join(",") : `"${view.text}" is no box`}. Drag it, or a corner.`;
  const outline = (kind) => (face, index) => {
    const node = document.createElement("div");
    node.className = kind;
    node.textContent = kind === "face" ? index + 1 : "";
    return place(node, face);
  };
  find(".crop-faces").replaceChildren(
    ...view.faces.map(outline("face")), ...(view.text ? [] : view.found.slice(1)).map(outline("crop")));
  find(".crop-handle").hidden = !box;
  if (box) place(find(".crop-handle"), box);
}

// The box moved by (x, y), or with one corner moved so that it keeps the model's shape.
function changed([left, top, right, bottom, ...turn], x, y, corner) {
  if (!corner) return [...keepInside([left + x, top + y, right + x, bottom + y]), ...turn];
  const west = corner[1] === "w", north = corner[0] === "n";
  const wide = right - left + (west ? -x : x), high = bottom - top + (north ? -y : y);
  const height = Math.max(MIN_SIDE, MIN_SIDE / view.aspect, (wide / view.aspect + high) / 2);
  const width = height * view.aspect;
  return [west ? right - width : left, north ? bottom - height : top,
          west ? right : left + width, north ? bottom : top + height, ...turn];
}

// A box may reach over the edge, but its middle stays in the picture.
function keepInside([left, top, right, bottom]) {
  const [width, height] = view.size;
  const shift = (start, end, length) => {
    const middle = (start + end) / 2;
    return Math.min(Math.max(middle, 0), length) - middle;
  };
  const x = shift(left, right, width), y = shift(top, bottom, height);
  return [left + x, top + y, right + x, bottom + y];
}

function set(box) {
  view.text = box.map(Math.round).join(",");
  draw();
}

function tell() {
  props.value = { ...view };
  trigger("input");
}

element.addEventListener("pointerdown", (event) => {
  if (!view || !event.target.closest(".crop-handle")) return;
  event.preventDefault();
  find(".crop-handle").focus();
  grip = { x: event.clientX, y: event.clientY, box: cut(), corner: event.target.dataset.corner };
});
window.addEventListener("pointermove", (event) => {
  if (!grip) return;
  const scale = view.size[0] / find("img").clientWidth;
  set(changed(grip.box, (event.clientX - grip.x) * scale, (event.clientY - grip.y) * scale, grip.corner));
});
for (const end of ["pointerup", "pointercancel"]) {
  window.addEventListener(end, () => {
    if (grip && view.text) tell();
    grip = null;
  });
}
element.addEventListener("keydown", (event) => {
  const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  if (!view || !(event.key in steps) || !event.target.closest(".crop-handle")) return;
  event.preventDefault();
  const step = Math.max(1, Math.round(view.size[0] / 100));
  const [x, y] = steps[event.key].map((direction) => direction * step);
  set(changed(cut(), x || (event.shiftKey ? y * view.aspect : 0), y || (event.shiftKey ? x / view.aspect : 0),
              event.shiftKey ? "se" : null));
  tell();
});

function receive() {
  view = props.value && props.value.url ? { ...props.value } : null;
  draw();
}
watch("value", receive);
receive();
