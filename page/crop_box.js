// The box of crop_box.py. Coordinates are pixels of the whole picture; the browser's are scaled to them.
const MIN_SIDE = 8;
let view = null; // the value that Python sent, with `text` as in the field beside it
let grip = null; // what is dragged: where the pointer was, the box then, and the corner or undefined

const find = (name) => element.querySelector(name);

function place(node, [left, top, right, bottom, degrees = 0]) {
  const share = (length, axis) => `${(100 * length) / view.size[axis]}%`;
  Object.assign(node.style, { left: share(left, 0), top: share(top, 1), transform: `rotate(${degrees}deg)`,
                              width: share(right - left, 0), height: share(bottom - top, 1) });
  return node;
}

const outline = (className, box, textContent) =>
  place(Object.assign(document.createElement("div"), { className, textContent }), box);

// What is cut: the smallest box of the model's shape around that of the text; without a text, what was found.
function cut() {
  if (!view.text) return view.found[0];
  const numbers = view.text.split(",").map((part) => (part.trim() ? Number(part) : NaN));
  const [left, top, right, bottom, ...turn] = numbers;
  if (numbers.some(Number.isNaN) || turn.length > 1 || !(Math.min(right - left, bottom - top) >= MIN_SIDE)) return null;
  const high = Math.max(bottom - top, (right - left) / view.aspect), wide = high * view.aspect;
  const x = (left + right - wide) / 2, y = (top + bottom - high) / 2;
  return [x, y, x + wide, y + high, ...turn];
}

function draw() {
  find(".crop-box").hidden = !view;
  if (!view) return;
  const box = cut(), others = view.text ? [] : view.found.slice(1);
  Object.assign(find("img"), { src: view.url, alt: view.title });
  find(".crop-stage").style.width = `min(100%, ${(70 * view.size[0]) / view.size[1]}vh)`;
  find("figcaption").textContent = `${view.title}: ` + (box
    ? `${box.map(Math.round).join(",")}. Drag it, or a corner.` : "four numbers, or a fifth to turn it");
  find(".crop-faces").replaceChildren(
    ...view.faces.map((face, index) => outline("face", face, index + 1)), ...others.map((box) => outline("crop", box)));
  find(".crop-handle").hidden = !box;
  if (box) place(find(".crop-handle"), box);
}

// The box moved by (x, y) with its middle in the picture, or with one corner moved so that it keeps its shape.
function changed([left, top, right, bottom, ...turn], x, y, corner) {
  if (!corner) {
    const within = (step, middle, axis) => Math.min(Math.max(step, -middle), view.size[axis] - middle);
    [x, y] = [within(x, (left + right) / 2, 0), within(y, (top + bottom) / 2, 1)];
    return [left + x, top + y, right + x, bottom + y, ...turn];
  }
  const west = corner[1] === "w", north = corner[0] === "n";
  const wide = right - left + (west ? -x : x), high = bottom - top + (north ? -y : y);
  const height = Math.max(MIN_SIDE, MIN_SIDE / view.aspect, (wide / view.aspect + high) / 2);
  const width = height * view.aspect;
  return [west ? right - width : left, north ? bottom - height : top,
          west ? right : left + width, north ? bottom : top + height, ...turn];
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
const drop = () => {
  if (grip && view.text) tell();
  grip = null;
};
window.addEventListener("pointerup", drop);
window.addEventListener("pointercancel", drop);
element.addEventListener("keydown", (event) => {
  const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  if (!view || !(event.key in steps) || !event.target.closest(".crop-handle")) return;
  event.preventDefault();
  const step = Math.max(1, Math.round(view.size[0] / 100)), [x, y] = steps[event.key].map((way) => way * step);
  set(event.shiftKey ? changed(cut(), x || y * view.aspect, y || x / view.aspect, "se") : changed(cut(), x, y));
  tell();
});
watch("value", () => {
  view = props.value && { ...props.value };
  draw();
});
