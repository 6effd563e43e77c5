// The browser asks before a page is left that makes a video. Gradio, whose scripts come later, would hang up while
// it asks, and whoever stays would lose the video.
addEventListener("beforeunload", (event) => {
  if (!document.querySelector(".progress:not([hidden]) progress:not([hidden])")) return;
  event.preventDefault();
  event.stopImmediatePropagation();
});
