"""Results that are pictures, and those of sources that are transparent."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from media.clips import open_clip
from media.pictures import lay_on_white, read_image
from tests.demo_files import MODEL, assert_refused, run
from tests.small import pixels

# ---- One picture of one picture --------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind", "tolerance"), [("a.png", "PNG", 0), ("a.jpg", "JPEG", 4), ("a.JPEG", "JPEG", 4)]
)
def test_a_picture_drives_a_picture(place: Path, name: str, kind: str, tolerance: float) -> None:
    inputs = ["--source_image", "source.png", "--driving_video", "driving/0000003.png"]
    frames = run(place / "frames", inputs=inputs)
    (made,) = run(place / name, "--audio", inputs=inputs)
    assert len(frames) == 1 and np.abs(made.astype(int) - frames[0]).mean() <= tolerance
    with Image.open(place / name) as image:
        assert image.format == kind


def test_a_picture_of_a_video_is_refused(place: Path, capsys: pytest.CaptureFixture) -> None:
    arguments = [*MODEL, "--source_image", "source.png", "--driving_video", "driving"]
    arguments += ["--result_video", str(place / "a.png")]
    assert_refused(place, capsys, arguments, "a.png: .png of 7 frames can't be written; use .mp4")


# ---- Transparent sources -----------------------------------------------------------


@pytest.fixture
def veiled(place: Path) -> Path:
    """A picture that is opaque in the middle, clear at the left, and in between elsewhere."""
    alpha = np.full((32, 32), 120, np.uint8)
    alpha[8:24, 8:24], alpha[:, :6] = 255, 0
    Image.fromarray(np.dstack([pixels(0), alpha])).save(place / "veiled.png")
    Image.fromarray(read_image(place / "veiled.png")).save(place / "laid.png")
    return place / "veiled.png"


def frames_with_alpha(path: Path) -> np.ndarray:
    """(N, H, W, 4) of a result."""
    if path.is_dir():
        return np.stack([np.asarray(Image.open(file)) for file in sorted(path.iterdir())])
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        if path.suffix == ".mov":
            return np.stack([frame.to_ndarray(format="rgba") for frame in container.decode(stream)])
        decoder = av.CodecContext.create("libvpx-vp9", "r")  # FFmpeg's own leaves alpha out
        packets = [packet for packet in container.demux(stream) if packet.size]
        frames = [frame for packet in [*packets, None] for frame in decoder.decode(packet)]
        return np.stack([frame.to_ndarray(format="rgba") for frame in frames])


@pytest.mark.parametrize("more", [[], ["--size", "64"], ["--crop_source", "8,8,24,24", "--paste_back"]])
@pytest.mark.parametrize("name", ["frames", "a.mov", "a.webm"])
def test_what_is_clear_in_the_source_is_clear_in_the_result(
    place: Path, veiled: Path, name: str, more: list[str]
) -> None:
    drive = ["--driving_video", "talk.mp4"]
    laid = run(place / "laid", *more, inputs=["--source_image", str(place / "laid.png"), *drive])
    run(place / name, *more, "--audio", inputs=["--source_image", str(veiled), *drive])
    frames = frames_with_alpha(place / name)
    alpha = frames[..., 3]
    assert alpha.shape == laid.shape[:3] and alpha.min() < 3 and alpha.max() > 252
    # On white it looks as the same picture laid on white does, where no more is painted than is opaque.
    seen = np.stack([lay_on_white(frame) for frame in frames])
    possible = (255 - laid).max(axis=3) < alpha
    tolerance = {"frames": 1, "a.mov": 3, "a.webm": 20}[name]  # the grain of these frames is hard to encode
    assert possible.mean() > 0.1 and np.abs(seen.astype(int) - laid)[possible].mean() < tolerance
    if "--paste_back" in more and name == "frames":
        with Image.open(veiled) as image:
            around = np.asarray(image)[..., 3].copy()
        around[8:24, 8:24] = alpha[0, 8:24, 8:24]
        assert (alpha[0] == around).all()


@pytest.mark.parametrize("name", ["a.webm", "a.mov"])
def test_sound_goes_with_transparency(place: Path, veiled: Path, name: str) -> None:
    run(place / name, "--audio", inputs=["--source_image", str(veiled), "--driving_video", "talk.mp4"])
    assert open_clip(place / name).has_audio and frames_with_alpha(place / name)[..., 3].min() < 3


def test_other_results_are_laid_on_white(place: Path, veiled: Path) -> None:
    drive = ["--driving_video", "driving"]
    laid = run(place / "laid.mp4", inputs=["--source_image", str(place / "laid.png"), *drive])
    made = run(place / "veiled.mp4", inputs=["--source_image", str(veiled), *drive])
    # One level of difference in a frame, as two runs may have, can make the encoder choose otherwise.
    assert np.abs(made.astype(int) - laid).mean() < 5
    side_by_side = run(place / "two", "--side_by_side", inputs=["--source_image", str(veiled), *drive])
    assert side_by_side.shape[2] == 96
