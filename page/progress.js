// How far a video is: a line, which ends with three dots as long as it is being made. A screen reader hears what
// is done and what came out, but not each step.
const bar = element.querySelector("progress"), find = (name) => element.querySelector(`.progress${name}`);

watch("value", () => {
  const line = props.value || "", [, done, total] = line.match(/(\d+)\/(\d+)/) ?? [], busy = line.endsWith("…");
  find("").hidden = !line;
  bar.hidden = !busy;
  if (total) Object.assign(bar, { max: total, value: done });
  else bar.removeAttribute("value");
  const what = busy ? line.split(/:| about| …/)[0] : line;
  if (find("-what").textContent !== what) find("-what").textContent = what;
  find("-line").textContent = line;
});
