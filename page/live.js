// Camera to server to screen, one frame at a time. A frame that comes while one is on its way is dropped:
// the next one to be sent is always the newest.
const MAX_AGE = 500; // ms; an older picture is not shown
const SMOOTHING = 0.9; // of the figures, per frame
const find = (name) => element.querySelector(name);

let session = null, stream = null;
let picture = 0, wantReference = true, busy = false, run = 0;
let newest = null; // when the frame that waits was captured, or null
let interval = 0, latency = 0, lastShown = 0, shown = 0, dropped = 0;
const video = document.createElement("video");
video.muted = true;
video.playsInline = true;
const frame = document.createElement("canvas"); // what is sent

function tellError(text) {
  find(".live-error").textContent = text;
}

function choose(number) {
  if (!session || number >= session.pictures.length) return;
  picture = number;
  find(".live-overlay").src = session.pictures[number];
  find(".live-pictures").replaceChildren(
    ...session.pictures.map((url, index) => {
      const button = document.createElement("button"), image = document.createElement("img");
      button.type = "button";
      button.setAttribute("aria-pressed", String(index === number));
      button.onclick = () => choose(index);
      image.src = url;
      image.alt = `Picture ${index + 1}`;
      button.append(image);
      return button;
    }),
  );
}

// The middle of the camera's frame in the model's size, on both canvases.
function capture() {
  const [width, height] = session.size;
  const scale = Math.min(video.videoWidth / width, video.videoHeight / height);
  const x = (video.videoWidth - width * scale) / 2, y = (video.videoHeight - height * scale) / 2;
  const context = frame.getContext("2d");
  context.save();
  if (find(".live-mirror").checked) context.setTransform(-1, 0, 0, 1, width, 0);
  context.drawImage(video, x, y, width * scale, height * scale, 0, 0, width, height);
  context.restore();
  find(".live-camera").getContext("2d").drawImage(frame, 0, 0);
}

function query() {
  const values = {
    picture, smooth: find(".live-smooth").value,
    auto: find(".live-auto").checked ? 1 : 0, reference: wantReference ? 1 : 0,
  };
  wantReference = false;
  return new URLSearchParams(values);
}

async function send() {
  const captured = newest, mine = run;
  newest = null;
  busy = true;
  capture();
  try {
    const body = await new Promise((done) => frame.toBlob(done, "image/jpeg", 0.9));
    const root = (window.gradio_config?.root || "").replace(/\/$/, "");
    const answer = await fetch(`${root}/live/frame?${query()}`, {
      method: "POST", body, headers: { "x-live-token": session.token, "content-type": "image/jpeg" },
    });
    if (!answer.ok) throw new Error(await answer.text());
    const image = await createImageBitmap(await answer.blob());
    if (mine === run) show(image, captured, answer.headers.get("x-distance"));
    image.close();
  } catch (error) {
    if (mine === run) stop(error.message);
  }
  busy = false;
  if (newest !== null && session) send();
}

function show(image, captured, distance) {
  const age = performance.now() - captured;
  if (age > MAX_AGE) return;
  find(".live-result").getContext("2d").drawImage(image, 0, 0);
  const mine = run;
  requestAnimationFrame(() => {
    if (mine !== run) return; // stopped in the meantime
    const now = performance.now(), old = shown ? SMOOTHING : 0;
    latency = old * latency + (1 - old) * (now - captured);
    if (lastShown) interval = (interval ? SMOOTHING : 0) * interval + (interval ? 1 - SMOOTHING : 1) * (now - lastShown);
    lastShown = now;
    shown += 1;
    const rate = interval ? 1000 / interval : 0;
    Object.assign(find(".live").dataset, { rate, latency, shown, dropped, age: Math.max(age, find(".live").dataset.age || 0) });
    find(".live-figures").textContent =
      `${rate.toFixed(1)} frames/s, ${latency.toFixed(0)} ms from camera to screen; your pose differs by ${distance} from the picture's`;
  });
}

function onFrame(now, metadata) {
  if (!stream) return;
  if (newest !== null) dropped += 1;
  newest = metadata.captureTime ?? now;
  if (!busy) send();
  video.requestVideoFrameCallback(onFrame);
}

function stop(message = "") {
  run += 1;
  for (const track of stream ? stream.getTracks() : []) track.stop();
  stream = session = newest = null;
  find(".live").dataset.state = "stopped";
  find(".live-figures").textContent = "stopped";
  tellError(message);
}

async function start(value) {
  stop();
  session = value;
  [picture, wantReference, shown, dropped, lastShown, interval] = [0, true, 0, 0, 0, 0];
  delete find(".live").dataset.age;
  find(".live").hidden = false;
  for (const canvas of [frame, find(".live-camera"), find(".live-result")]) [canvas.width, canvas.height] = value.size;
  choose(0);
  const mine = run;
  try {
    if (!navigator.mediaDevices) throw new Error("the browser gives a camera to https and localhost only");
    stream = await navigator.mediaDevices.getUserMedia({ video: { width: 640, height: 480, frameRate: 30 } });
  } catch (error) {
    return stop(`no camera: ${error.message}`);
  }
  video.srcObject = stream;
  await video.play();
  if (mine !== run) return;
  find(".live").dataset.state = "running";
  find(".live").scrollIntoView({ block: "nearest", behavior: "smooth" });
  video.requestVideoFrameCallback(onFrame);
}

find(".live-reference").onclick = () => { wantReference = true; };
find(".live-stop").onclick = () => stop();
find(".live-show-overlay").onchange = (event) => { find(".live-overlay").hidden = !event.target.checked; };
document.addEventListener("keydown", (event) => {
  const typing = event.target.closest?.("input:not([type=checkbox]):not([type=range]), textarea, select");
  if (!session || typing || event.ctrlKey || event.metaKey || event.altKey || !element.offsetParent) return;
  if (event.key.toLowerCase() === "x") wantReference = true;
  if (/^[1-9]$/.test(event.key)) choose(Number(event.key) - 1);
});
watch("value", () => { if (props.value && props.value.token) start(props.value); });
