"""The sample of the demo and of the page: a small model, a picture and a video that moves it, and more."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SAMPLE = {
    "config": ROOT / "config" / "puppets-128.yaml",
    "checkpoint": ROOT / "sup-mat" / "puppets-128.pth.tar",
    "source_image": ROOT / "sup-mat" / "source.png",
    "driving_video": ROOT / "sup-mat" / "driving.mp4",
}

# Pairs of a picture and a driving video, with a word for each.
MORE = ROOT / "sup-mat" / "examples"
EXAMPLES = {
    "bob": (SAMPLE["source_image"], SAMPLE["driving_video"]),
    "curls and glasses": (MORE / "curls.png", MORE / "beard.mp4"),
    "turtleneck": (MORE / "turtleneck.png", MORE / "laugh.mp4"),
    "long hair": (MORE / "long-hair.png", SAMPLE["driving_video"]),
    "a drawing by hand": (MORE / "drawing.png", MORE / "beard.mp4"),
}
