// Camera to server to screen, one frame at a time. A frame that comes while one is on its way is dropped:
// the next one to be sent is always the newest.
const MAX_AGE = 500, MAX_HIDDEN = 30000; // ms of a picture that is shown; behind another tab of the browser
const SMOOTHING = 0.9, COUNTDOWN = 3; // of the figures, per frame; s before a reference is taken
const live = element.querySelector(".live"), find = (name) => element.querySelector(`.live-${name}`);
const address = `${(window.gradio_config?.root || "").replace(/\/$/, "")}/live/frame`;

let session = null, stream = null, recorder = null;
let picture = 0, wantReference = false, busy = false, run = 0;
let newest = null; // when the frame that waits was captured, or null
let shift = [0, 0]; // of what is cut out of the camera's frame, in its pixels
let hint = "", opacity = 1, counted = 0, counting, hiding; // the last two are timers
let interval = 0, latency = 0, lastShown = 0, shown = 0;
const video = Object.assign(document.createElement("video"), { muted: true, playsInline: true });
const frame = document.createElement("canvas"); // what is sent

function tell(error) {
  live.hidden = false;
  find("error").textContent = error;
  if (error) find("error").scrollIntoView({ block: "nearest" });
}

// ---- What is sent ----

function choose(number) {
  if (!(number in session.pictures)) return;
  picture = number;
  find("overlay").src = session.pictures[picture];
  find("pictures").replaceChildren(...session.pictures.map((src, index) => {
    const button = Object.assign(document.createElement("button"), { onclick: () => choose(index) });
    button.setAttribute("aria-pressed", index === picture);
    button.append(Object.assign(new Image(), { src, alt: `Picture ${index + 1}` }));
    return button;
  }));
}

// The side of a pixel of the model in pixels of the camera.
const unit = () => Math.min(video.videoWidth / session.size[0], video.videoHeight / session.size[1]) / find("zoom").value;

// Draw what is cut out of the camera's frame, in the model's size, on both canvases.
function capture() {
  const [width, height] = session.size, cut = [width * unit(), height * unit()];
  const spare = [video.videoWidth - cut[0], video.videoHeight - cut[1]].map((length) => length / 2);
  shift = shift.map((length, axis) => Math.min(Math.max(length, -spare[axis]), spare[axis]));
  const context = frame.getContext("2d");
  context.setTransform(...(find("mirror").checked ? [-1, 0, 0, 1, width, 0] : [1, 0, 0, 1, 0, 0]));
  context.drawImage(video, spare[0] + shift[0], spare[1] + shift[1], ...cut, 0, 0, width, height);
  find("camera").getContext("2d").drawImage(frame, 0, 0);
}

async function send() {
  const captured = newest, mine = run, headers = { "x-live-token": session.token, "content-type": "image/jpeg" };
  const query = new URLSearchParams({ picture, reference: Number(wantReference) });
  for (const name of ["smooth", "strength"]) query.set(name, find(name).value);
  for (const name of ["auto", "relative"]) query.set(name, Number(find(name).checked));
  [newest, busy, wantReference] = [null, true, false];
  capture();
  try {
    const body = await new Promise((done) => frame.toBlob(done, "image/jpeg", 0.9));
    if (mine !== run) throw new Error("stopped"); // which nobody is told
    const answer = await fetch(`${address}?${query}`, { method: "POST", body, headers }).catch(() => null);
    if (!answer?.ok) throw new Error(answer ? await answer.text() : "the server does not answer");
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
  newest = metadata.captureTime ?? now;
  if (!busy) send();
  video.requestVideoFrameCallback(onFrame);
}

// ---- What is shown ----

// The outline of the picture, and what to do: hints are of what the viewer sees.
function guide() {
  const guided = counted > 0 || find("show-overlay").checked, other = { left: "right", right: "left" };
  const told = find("mirror").checked ? hint : hint.replace(/left|right/, (side) => other[side]);
  find("overlay").hidden = !guided;
  find("overlay").style.opacity = opacity;
  find("told").textContent = [counted || "", guided ? told : ""].filter(Boolean).join(" · ");
}

function countDown(seconds = COUNTDOWN) {
  clearTimeout(counting);
  counted = seconds;
  wantReference ||= !seconds;
  if (seconds) counting = setTimeout(countDown, 1000, seconds - 1);
  guide();
}

function show(image, captured, headers) {
  const age = performance.now() - captured, mine = run;
  if (age > MAX_AGE) return find("figures").replaceChildren(`too late to be shown: after ${age.toFixed(0)} ms`);
  find("result").getContext("2d").drawImage(image, 0, 0);
  hint = headers.get("x-hint");
  guide();
  requestAnimationFrame(() => {
    if (mine !== run) return; // stopped in the meantime
    const now = performance.now(), smooth = (old, value) => (old ? SMOOTHING * old + (1 - SMOOTHING) * value : value);
    latency = smooth(latency, now - captured);
    if (lastShown) interval = smooth(interval, now - lastShown);
    lastShown = now;
    shown += 1;
    const rate = interval ? 1000 / interval : 0;
    Object.assign(live.dataset, { rate, latency, shown, age: Math.max(age, live.dataset.age) });
    find("figures").textContent = `${rate.toFixed(1)} frames/s, ${latency.toFixed(0)} ms from camera to screen; ` +
      `your pose differs by ${headers.get("x-distance")} from the picture's`;
  });
}

function save(blob, download) {
  const href = URL.createObjectURL(blob);
  Object.assign(document.createElement("a"), { href, download }).click();
  setTimeout(() => URL.revokeObjectURL(href), 60000);
}

function record() {
  if (recorder) return recorder.stop();
  if (!window.MediaRecorder?.isTypeSupported("video/webm")) return tell("this browser can't record webm");
  recorder = new MediaRecorder(find("result").captureStream(), { mimeType: "video/webm" });
  recorder.ondataavailable = ({ data }) => save(data, "live.webm"); // all of it, at its end
  recorder.onstop = () => { [recorder, find("record").textContent] = [null, "Record"]; };
  recorder.start();
  find("record").textContent = "Stop recording";
}

// ---- From start to stop ----

// Begin a session; or change it, where the camera runs already.
function start(value) {
  if (!session && !value.begins) return; // stopped in the meantime
  tell(value.error || "");
  if (value.error) return;
  const goes = session?.token === value.token;
  session = value;
  if (`${[frame.width, frame.height]}` !== `${value.size}`) {
    recorder?.stop();
    for (const canvas of [frame, find("camera"), find("result")]) [canvas.width, canvas.height] = value.size;
  }
  choose(goes && picture in value.pictures ? picture : 0);
  if (!goes) openCamera();
}

async function openCamera() {
  closeCamera();
  const mine = run, deviceId = find("device").value;
  [shown, lastShown, interval, latency] = [0, 0, 0, 0];
  Object.assign(live.dataset, { shown, age: 0 });
  try {
    if (!navigator.mediaDevices) throw new Error("the browser gives a camera to https and localhost only");
    const wanted = { width: 640, height: 480, frameRate: 30, ...(deviceId && { deviceId: { exact: deviceId } }) };
    const opened = await navigator.mediaDevices.getUserMedia({ video: wanted });
    if (mine !== run) return opened.getTracks().forEach((track) => track.stop()); // stopped in the meantime
    stream = video.srcObject = opened;
  } catch (error) {
    return mine === run && stop(`no camera: ${error.message}`);
  }
  const [track] = stream.getTracks(), devices = await navigator.mediaDevices.enumerateDevices(); // with names now
  const cameras = devices.filter((device) => device.kind === "videoinput");
  find("device").replaceChildren(...cameras.map((camera) => new Option(camera.label, camera.deviceId)));
  find("device").value = track.getSettings().deviceId;
  track.onended = () => stop("the camera has gone");
  await video.play();
  if (mine !== run) return;
  live.dataset.state = "running";
  live.scrollIntoView({ block: "nearest", behavior: "smooth" });
  video.requestVideoFrameCallback(onFrame);
  countDown();
}

function closeCamera() {
  run += 1;
  stream?.getTracks().forEach((track) => track.stop());
  stream = newest = null;
}

function stop(error = "") {
  closeCamera();
  clearTimeout(counting);
  recorder?.stop();
  const headers = { "x-live-token": session?.token };
  if (session) fetch(address, { method: "DELETE", keepalive: true, headers }).catch(() => {});
  [session, counted, hint] = [null, 0, ""];
  guide();
  fill(false);
  live.dataset.state = find("figures").textContent = "stopped";
  tell(error);
}

// ---- Controls, with the keys of avatarify ----

function fade(step) {
  opacity = Math.min(Math.max(opacity + step, 0), 1);
  find("show-overlay").checked = opacity > 0;
  guide();
}

const move = (x, y) => { shift = [shift[0] + (find("mirror").checked ? -x : x), shift[1] + y]; };
const zoom = (factor) => { find("zoom").value *= factor; };
const fill = (on) => find("result").classList.toggle("live-full", on);
const KEYS = {
  x: () => countDown(), a: () => choose(picture - 1), d: () => choose(picture + 1), w: () => zoom(1.1),
  u: (step) => move(0, -step), j: (step) => move(0, step), h: (step) => move(-step, 0), k: (step) => move(step, 0),
  s: () => zoom(1 / 1.1), c: () => fade(0.1),
  z: (step) => (step === 1 ? ([find("zoom").value, shift] = [1, [0, 0]]) : fade(-0.1)), // 1 is with Shift
  f: () => find("auto").click(), r: () => find("mirror").click(), escape: () => fill(false),
};
document.addEventListener("keydown", (event) => {
  const typing = event.target.closest?.("input:not([type=checkbox]):not([type=range]), textarea, select");
  if (!session || typing || event.ctrlKey || event.metaKey || event.altKey || !element.offsetParent) return;
  if (/^[1-9]$/.test(event.key)) choose(event.key - 1);
  else KEYS[event.key.toLowerCase()]?.(event.shiftKey ? 1 : 5);
});
find("camera").onpointermove = (event) => {
  const scale = session && event.buttons ? (unit() * session.size[0]) / event.target.clientWidth : 0;
  move(-event.movementX * scale, -event.movementY * scale);
};
const whenLive = (act) => () => session && act();
find("reference").onclick = whenLive(countDown);
find("snapshot").onclick = whenLive(() => find("result").toBlob((blob) => save(blob, "live.png")));
find("record").onclick = whenLive(record);
find("window").onclick = whenLive(() => fill(true));
find("result").onclick = () => fill(false);
find("stop").onclick = whenLive(stop);
find("device").onchange = whenLive(openCamera);
find("show-overlay").onchange = guide;
window.addEventListener("pagehide", () => stop());
document.addEventListener("visibilitychange", () => {
  clearTimeout(hiding);
  if (document.hidden && session) hiding = setTimeout(stop, MAX_HIDDEN, "stopped behind another tab");
});
watch("value", () => props.value && start(props.value));
