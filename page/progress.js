// How far a video is. A screen reader hears what is done now, and asks for the bar; not each of its steps.
const bar = element.querySelector(".progress"), find = (name) => bar.querySelector(name);
let busy = false;

watch("value", () => {
  const { line, share } = props.value ?? { line: "" };
  busy = Boolean(props.value?.busy);
  const what = busy ? line.split(/:| about/)[0] : line;
  bar.hidden = !line;
  bar.classList.toggle("busy", busy);
  if (find(".progress-what").textContent !== what) find(".progress-what").textContent = what;
  find(".progress-line").textContent = line;
  if (share === null) find("progress").removeAttribute("value");
  else find("progress").value = share ?? 0;
});
window.addEventListener("beforeunload", (event) => { if (busy) event.preventDefault(); });
