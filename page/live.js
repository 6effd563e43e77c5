// Camera to server to screen, one frame at a time. A frame that comes while one is on its way is dropped:
// the next one to be sent is always the newest.
const MAX_AGE = 500; // ms; an older picture is not shown
const SMOOTHING = 0.9; // of the figures, per frame
const COUNTDOWN = 3; // s before a reference is taken
const MAX_HIDDEN = 30000; // ms in another tab of the browser, after which the camera stops
const find = (name) => element.querySelector(`.live-${name}`);
const root = (window.gradio_config?.root || "").replace(/\/$/, "");

let session = null, stream = null, recorder = null;
let picture = 0, wantReference = false, busy = false, run = 0, hint = "";
let counted = 0, counting, hiding; // seconds that are left, and two timers
let shift = [0, 0], opacity = 1; // of what is cut out of the camera's frame, in its pixels; of the overlay
let newest = null; // when the frame that waits was captured, or null
let interval = 0, latency = 0, lastShown = 0, shown = 0, dropped = 0;
const video = document.createElement("video");
video.muted = true;
video.playsInline = true;
const frame = document.createElement("canvas"); // what is sent

function tellError(text) {
  element.querySelector(".live").hidden = false;
  find("error").textContent = text;
  if (text) find("error").scrollIntoView({ block: "nearest" });
}

// ---- What is sent ----

function choose(number) {
  const count = session ? session.pictures.length : 0;
  if (number >= count && number !== picture + 1) return; // a key of no picture
  picture = (number + count) % count;
  find("overlay").src = session.pictures[picture];
  find("pictures").replaceChildren(
    ...session.pictures.map((url, index) => {
      const button = document.createElement("button"), image = document.createElement("img");
      button.type = "button";
      button.setAttribute("aria-pressed", String(index === picture));
      button.onclick = () => choose(index);
      image.src = url;
      image.alt = `Picture ${index + 1}`;
      button.append(image);
      return button;
    }),
  );
}

// The side of a pixel of the model in pixels of the camera, without zoom.
const unit = () => Math.min(video.videoWidth / session.size[0], video.videoHeight / session.size[1]);

// What is cut out of the camera's frame, in the model's size, on both canvases.
function capture() {
  const [width, height] = session.size, scale = unit() / find("zoom").value;
  const spare = [video.videoWidth - width * scale, video.videoHeight - height * scale];
  shift = shift.map((length, axis) => Math.min(Math.max(length, -spare[axis] / 2), spare[axis] / 2));
  const [x, y] = spare.map((length, axis) => length / 2 + shift[axis]);
  const context = frame.getContext("2d");
  context.save();
  if (find("mirror").checked) context.setTransform(-1, 0, 0, 1, width, 0);
  context.drawImage(video, x, y, width * scale, height * scale, 0, 0, width, height);
  context.restore();
  find("camera").getContext("2d").drawImage(frame, 0, 0);
}

function query() {
  const values = { picture, smooth: find("smooth").value, strength: find("strength").value };
  for (const name of ["auto", "relative"]) values[name] = find(name).checked ? 1 : 0;
  values.reference = wantReference ? 1 : 0;
  wantReference = false;
  return new URLSearchParams(values);
}

// Send a canvas to a route of the server; its answer is an error, or what is asked for.
async function post(canvas, route) {
  const body = await new Promise((done) => canvas.toBlob(done, "image/jpeg", 0.9));
  const headers = { "x-live-token": session?.token, "content-type": "image/jpeg" };
  const answer = await fetch(`${root}/live/${route}`, { method: "POST", body, headers }).catch(() => null);
  if (!answer) throw new Error("the server does not answer; start the camera again when it does");
  if (!answer.ok) throw new Error(await answer.text());
  return answer;
}

async function send() {
  const captured = newest, mine = run;
  newest = null;
  busy = true;
  capture();
  try {
    const answer = await post(frame, `frame?${query()}`);
    const image = await createImageBitmap(await answer.blob());
    if (mine === run) show(image, captured, answer.headers);
    image.close();
  } catch (error) {
    if (mine === run) stop(error.message);
  }
  busy = false;
  if (newest !== null && session) send();
}

function onFrame(now, metadata) {
  if (!stream) return;
  if (!element.offsetParent) return stop(); // another tab of the page is open
  if (newest !== null) dropped += 1;
  newest = metadata.captureTime ?? now;
  if (!busy) send();
  video.requestVideoFrameCallback(onFrame);
}

// Zoom and shift so that the face in the camera is cut out as a face in a picture is.
async function followFace() {
  const whole = document.createElement("canvas");
  [whole.width, whole.height] = [video.videoWidth, video.videoHeight];
  whole.getContext("2d").drawImage(video, 0, 0);
  try {
    const [x, y, height] = await (await post(whole, "face")).json();
    find("zoom").value = (unit() * session.size[1]) / height;
    shift = [x - whole.width / 2, y - whole.height / 2];
  } catch (error) {
    tellError(error.message);
  }
}

// ---- What is shown ----

function guide() {
  const guided = counted > 0 || find("show-overlay").checked;
  const told = find("mirror").checked ? hint : hint.replace(/left|right/, (side) => (side === "left" ? "right" : "left"));
  find("overlay").hidden = !guided;
  find("overlay").style.opacity = opacity;
  find("told").textContent = [counted || "", guided ? told : ""].filter(Boolean).join(" · ");
}

function countDown() {
  clearInterval(counting);
  counted = COUNTDOWN;
  counting = setInterval(() => {
    counted -= 1;
    if (!counted) clearInterval(counting);
    wantReference ||= !counted;
    guide();
  }, 1000);
  guide();
}

function show(image, captured, headers) {
  const age = performance.now() - captured;
  if (age > MAX_AGE) return;
  find("result").getContext("2d").drawImage(image, 0, 0);
  hint = headers.get("x-hint") || "";
  guide();
  const mine = run;
  requestAnimationFrame(() => {
    if (mine !== run) return; // stopped in the meantime
    const now = performance.now(), old = shown ? SMOOTHING : 0, data = element.querySelector(".live").dataset;
    latency = old * latency + (1 - old) * (now - captured);
    if (lastShown) interval = (interval ? SMOOTHING : 0) * interval + (interval ? 1 - SMOOTHING : 1) * (now - lastShown);
    lastShown = now;
    shown += 1;
    const rate = interval ? 1000 / interval : 0;
    Object.assign(data, { rate, latency, shown, dropped, age: Math.max(age, data.age || 0) });
    find("figures").textContent =
      `${rate.toFixed(1)} frames/s, ${latency.toFixed(0)} ms from camera to screen; your pose differs by ${headers.get("x-distance")} from the picture's`;
  });
}

function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

function record() {
  if (recorder) return recorder.stop();
  const parts = [], mimeType = "video/webm";
  if (!window.MediaRecorder?.isTypeSupported(mimeType)) return tellError("this browser can't record webm");
  recorder = new MediaRecorder(find("result").captureStream(), { mimeType });
  recorder.ondataavailable = (event) => parts.push(event.data);
  recorder.onstop = () => {
    recorder = null;
    find("record").textContent = "Record";
    save(new Blob(parts, { type: mimeType }), "live.webm");
  };
  recorder.start();
  find("record").textContent = "Stop recording";
}

// ---- From start to stop ----

async function openCamera() {
  const mine = (run += 1), chosen = find("device").value;
  closeCamera();
  try {
    if (!navigator.mediaDevices) throw new Error("the browser gives a camera to https and localhost only");
    const wanted = { width: 640, height: 480, frameRate: 30, ...(chosen && { deviceId: { exact: chosen } }) };
    const opened = await navigator.mediaDevices.getUserMedia({ video: wanted });
    if (mine !== run) return opened.getTracks().forEach((track) => track.stop()); // stopped in the meantime
    stream = opened;
  } catch (error) {
    if (mine === run) stop(`no camera: ${error.message}`);
    return;
  }
  stream.getVideoTracks()[0].onended = () => stop("the camera has gone");
  video.srcObject = stream;
  await video.play();
  if (mine !== run) return;

  // Which cameras are there? They have names from now on.
  const devices = (await navigator.mediaDevices.enumerateDevices()).filter((device) => device.kind === "videoinput");
  const used = stream?.getVideoTracks()[0].getSettings().deviceId;
  find("device").replaceChildren(
    ...devices.map((device) => new Option(device.label, device.deviceId, false, device.deviceId === used)));
  if (session?.faces) await followFace();
  if (mine !== run) return;
  element.querySelector(".live").dataset.state = "running";
  element.querySelector(".live").scrollIntoView({ block: "nearest", behavior: "smooth" });
  video.requestVideoFrameCallback(onFrame);
  countDown();
}

function closeCamera() {
  for (const track of stream ? stream.getTracks() : []) track.stop();
  stream = newest = null;
}

function stop(message = "") {
  run += 1;
  closeCamera();
  clearInterval(counting);
  recorder?.stop();
  if (session) {
    const headers = { "x-live-token": session.token };
    fetch(`${root}/live/frame`, { method: "DELETE", keepalive: true, headers }).catch(() => {});
  }
  session = null;
  [counted, hint] = [0, ""];
  guide();
  find("result").classList.remove("live-full");
  element.querySelector(".live").dataset.state = "stopped";
  find("figures").textContent = "stopped";
  tellError(message);
}

// Begin a session; or change it, where the camera runs already.
function start(value) {
  if (value.error) return tellError(value.error);
  const goes = session?.token === value.token;
  session = value;
  tellError("");
  if (String([frame.width, frame.height]) !== String(value.size)) {
    recorder?.stop();
    for (const canvas of [frame, find("camera"), find("result")]) [canvas.width, canvas.height] = value.size;
  }
  picture = Math.min(goes ? picture : 0, value.pictures.length - 1);
  choose(picture);
  if (goes) return;
  [shown, dropped, lastShown, interval] = [0, 0, 0, 0];
  delete element.querySelector(".live").dataset.age;
  openCamera();
}

// ---- Controls, with the keys of avatarify ----

function move(x, y) {
  shift = [shift[0] + (find("mirror").checked ? -x : x), shift[1] + y];
}

function fade(step) {
  opacity = Math.min(Math.max(opacity + step, 0), 1);
  find("show-overlay").checked = opacity > 0;
  guide();
}

function zoom(step) {
  find("zoom").value = Number(find("zoom").value) * step;
}

function centre() {
  [find("zoom").value, shift] = [1, [0, 0]];
}

const KEYS = {
  x: countDown, o: followFace, a: () => choose(picture - 1), d: () => choose(picture + 1),
  w: () => zoom(1.1), s: () => zoom(1 / 1.1), z: (fine) => (fine ? centre() : fade(-0.1)), c: () => fade(0.1),
  u: (fine) => move(0, fine ? -1 : -5), j: (fine) => move(0, fine ? 1 : 5),
  h: (fine) => move(fine ? -1 : -5, 0), k: (fine) => move(fine ? 1 : 5, 0),
  f: () => find("auto").click(), r: () => find("mirror").click(),
  escape: () => find("result").classList.remove("live-full"),
};
document.addEventListener("keydown", (event) => {
  const typing = event.target.closest?.("input:not([type=checkbox]):not([type=range]), textarea, select");
  if (!session || typing || event.ctrlKey || event.metaKey || event.altKey || !element.offsetParent) return;
  if (/^[1-9]$/.test(event.key)) choose(Number(event.key) - 1);
  else KEYS[event.key.toLowerCase()]?.(event.shiftKey);
});

for (const [name, act] of Object.entries({
  reference: countDown, face: followFace, record, stop: () => stop(),
  snapshot: () => find("result").toBlob((blob) => save(blob, "live.png")),
  window: () => find("result").classList.add("live-full"),
  result: () => find("result").classList.remove("live-full"),
})) find(name).onclick = act;
find("device").onchange = () => session && openCamera();
find("show-overlay").onchange = guide;
find("camera").onpointermove = (event) => {
  const scale = session && event.buttons ? (unit() * session.size[0]) / find("zoom").value / event.target.clientWidth : 0;
  move(-event.movementX * scale, -event.movementY * scale);
};
window.addEventListener("pagehide", () => stop());
document.addEventListener("visibilitychange", () => {
  clearTimeout(hiding);
  if (document.hidden && session) hiding = setTimeout(() => stop("stopped, while another tab was open"), MAX_HIDDEN);
});
watch("value", () => { if (props.value) start(props.value); });
