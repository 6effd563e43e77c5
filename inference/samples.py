"""The sample of the demo and of the page: a small model, a picture and a video that moves it."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SAMPLE = {
    "config": ROOT / "config" / "puppets-128.yaml",
    "checkpoint": ROOT / "sup-mat" / "puppets-128.pth.tar",
    "source_image": ROOT / "sup-mat" / "source.png",
    "driving_video": ROOT / "sup-mat" / "driving.mp4",
}
