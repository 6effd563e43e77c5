"""Samples of each kind of picture and video with their bytes changed: frames, or one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import strategies as st
from PIL import Image

import demo
from media.clips import open_clip
from media.pictures import read_image, read_image_size
from tests.fuzzing import assert_one_line, emptied, files_of, fuzz, limited_time, needs_unix, outcome
from tests.media_files import encode, halves, moving, with_sound
from utils.errors import MediaError

SAMPLES = Path(__file__).parents[1] / "sup-mat"
MAX_DECODED = 10**6  # pixels of a frame; reading larger ones takes the time, not the care

# name: codec, pixel format, options of the container
VIDEOS: dict[str, tuple[str, str, dict[str, str]]] = {
    "a.mkv": ("libx264", "yuv420p", {}),
    "a.webm": ("libvpx", "yuv420p", {}),
    "a.gif": ("gif", "rgb8", {}),
    "a.avi": ("mpeg4", "yuv420p", {}),
    "a.mp4": ("libx264", "yuv420p", {}),
    "fast.mp4": ("libx264", "yuv420p", {"movflags": "+faststart"}),
    "pieces.mp4": ("libx264", "yuv420p", {"movflags": "+frag_keyframe+empty_moov"}),
    "vp9.webm": ("libvpx-vp9", "yuv420p", {}),
    "a.mov": ("mjpeg", "yuvj420p", {}),
}


def write_samples(folder: Path) -> dict[str, bytes]:
    """A small file of each kind, and the two that people start from."""
    for name, (codec, pix_fmt, options) in VIDEOS.items():
        encode(folder / name, moving(6, 32, 32), codec, pix_fmt, container_options=options)
    with_sound(folder / "sound.mp4", "aac", 0.2)
    for name in ("a.png", "a.jpg", "a.webp", "a.bmp"):
        Image.fromarray(halves()).save(folder / name)
    Image.fromarray(halves()).convert("P").save(folder / "palette.png", transparency=1)
    Image.fromarray(halves()).save(folder / "tiff.png", "TIFF")
    frames = [Image.fromarray(np.roll(halves(), 8 * i, axis=1)) for i in range(3)]
    for name, kind in (("moving.png", "PNG"), ("moving.gif", "GIF")):
        frames[0].save(folder / name, kind, save_all=True, append_images=frames[1:])
    found = {path.name: path.read_bytes() for path in folder.iterdir()}
    return found | {name: (SAMPLES / name).read_bytes() for name in ("driving.mp4", "source.png")}


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return write_samples(tmp_path_factory.mktemp("originals"))


def changed(data: st.DataObject, originals: dict[str, bytes], name: str) -> bytes:
    """The file `name` with up to five changes: bytes, bits, cuts, repeats, foreign parts and numbers."""
    content = bytearray(originals[name])
    for _ in range(data.draw(st.integers(1, 5), "changes")):
        # Half of them at the start, where most of what can go wrong is said.
        header = st.integers(0, min(len(content), 600))
        start = data.draw(st.one_of(header, st.integers(0, len(content))), "at")
        length = data.draw(st.one_of(st.integers(1, 8), st.integers(1, 4000)), "length")
        match data.draw(st.sampled_from(["bytes", "bit", "cut", "end", "repeat", "splice", "number"]), "how"):
            case "bytes":
                new = data.draw(st.binary(min_size=1, max_size=8), "new")
                content[start : start + len(new)] = new
            case "bit" if start < len(content):
                content[start] ^= 1 << data.draw(st.integers(0, 7), "bit")
            case "cut":
                del content[start : start + length]
            case "end":
                del content[max(start, 1) :]
            case "repeat":
                content[start:start] = content[start : start + length]
            case "splice":  # the head of another file, or a part of it
                other = originals[data.draw(st.sampled_from(sorted(originals)), "other")]
                there = data.draw(st.integers(0, min(len(other), 600)), "there")
                content[start : start + length] = other[there : there + length]
            case "number":
                size = data.draw(st.sampled_from([2, 4, 8]), "size")
                number = data.draw(
                    st.sampled_from([0, 1, 2 ** (8 * size - 1), 2 ** (8 * size) - 1]), "number"
                )
                order = data.draw(st.sampled_from(["big", "little"]), "order")
                content[start : start + size] = number.to_bytes(size, order)
    return bytes(content)


@needs_unix
def test_media_with_changed_bytes_give_frames_or_one_line(
    originals: dict[str, bytes], tmp_path: Path
) -> None:
    def check(data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(originals)), "name")
        path = tmp_path / name
        path.write_bytes(changed(data, originals, name))
        try:
            with limited_time():
                read_all(path)
        except MediaError as error:
            assert str(error).startswith(f"{path}: ") and len(str(error)) > len(str(path)) + 10
        path.unlink()

    fuzz(check, 2000)


def read_all(path: Path) -> None:
    """Read a file in each of the ways that programs do, and compare what they give."""
    clip = open_clip(path)
    if clip.size[0] * clip.size[1] > MAX_DECODED:
        return
    frames = list(clip) if len(clip) < 100 else []
    assert all(frame.shape == (*clip.size, 3) and frame.dtype == np.uint8 for frame in frames)
    chosen = clip.read([len(clip) - 1, 0])
    assert not frames or chosen.shape[0] == 2
    if path.suffix in (".png", ".jpg", ".webp", ".bmp"):
        assert read_image_size(path) == read_image(path).shape[:2] == clip.size
        assert np.array_equal(chosen[0], frames[0])


@needs_unix
def test_the_demo_with_changed_media_gives_a_result_or_one_line(
    originals: dict[str, bytes], inputs: Path, tmp_path: Path
) -> None:
    """What a file gets past the reader also gets past the networks, the sound and the writer."""

    def check(data: st.DataObject) -> None:
        arguments = ["--config", f"{inputs}/good.yaml", "--checkpoint", f"{inputs}/good.pth.tar", "--cpu"]
        pictures = sorted(name for name in originals if name.endswith((".png", ".jpg", ".webp", ".bmp")))
        videos = sorted(name for name in originals.keys() - set(pictures) if name != "driving.mp4")
        folder = emptied(tmp_path / "work")
        for option, names in (("source_image", pictures), ("driving_video", videos)):
            name = data.draw(st.sampled_from(names), option)
            path = folder / f"{option}-{name}"
            path.write_bytes(changed(data, originals, name))
            arguments += [f"--{option}", str(path)]
        result, before = folder / "out.mp4", files_of(folder)
        done = outcome(demo.main, [*arguments, "--result_video", str(result), "--audio"])
        assert_one_line(done)
        assert result.exists() == (done.status == 0), done
        after = files_of(folder)
        after.pop(str(result), None)
        assert after == before
        if done.status == 0:
            assert len(list(open_clip(result))) == len(open_clip(result)) > 0

    fuzz(check, 100)


def test_samples_are_read_as_they_are(originals: dict[str, bytes], tmp_path: Path) -> None:
    for name, content in originals.items():
        (tmp_path / name).write_bytes(content)
        read_all(tmp_path / name)
