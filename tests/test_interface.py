"""The Python interface: pictures in any form, best frame, and streams in several threads."""

from __future__ import annotations

import io
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data.puppets.identity import Puppet
from data.puppets.motion import Pose
from data.puppets.render import render
from inference.interface import animate_stream, load_checkpoints, make_animation, sample_networks
from inference.live import LiveAnimation, pose_hint
from inference.networks import InferenceNetworks
from media.clips import open_clip
from media.pictures import as_pixels, fit
from tests.demo_files import FRAMES, driving_frames, picture, trained
from tests.small import small_config
from utils.errors import MediaError, UserError


@pytest.fixture(scope="module")
def networks() -> InferenceNetworks:
    parts = trained(small_config())
    return parts["generator"], parts["kp_detector"]


def encoded(frame: np.ndarray, file_format: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(frame).save(file, format=file_format)
    return file.getvalue()


# ---- Pictures ----------------------------------------------------------------


def test_a_picture_in_any_form_is_the_same(tmp_path: Path) -> None:
    frame = picture(0)
    path = tmp_path / "picture.png"
    path.write_bytes(encoded(frame, "PNG"))
    opaque = np.dstack([frame, np.full(frame.shape[:2], 255, np.uint8)])
    forms = [frame, path, str(path), path.read_bytes(), Image.fromarray(frame), opaque, opaque / 255]
    for form in forms:
        np.testing.assert_array_equal(as_pixels(form), frame)
    np.testing.assert_allclose(as_pixels(frame / 255), frame / 255, atol=1e-6)


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_grey_becomes_three_channels(kind: type) -> None:
    grey = picture(0)[..., 0] if kind is np.uint8 else picture(0)[..., 0].astype(np.float32) / 255
    for form in (grey, grey[..., None]):
        np.testing.assert_array_equal(as_pixels(form), np.repeat(grey[..., None], 3, axis=2))


def test_transparent_pixels_are_white() -> None:
    np.testing.assert_array_equal(as_pixels(np.zeros((4, 4, 4), np.uint8)), np.full((4, 4, 3), 255))


def test_a_turned_photo_is_upright() -> None:
    image, file = Image.fromarray(picture(0)[:16]), io.BytesIO()
    exif = Image.Exif()
    exif[274] = 6
    image.save(file, format="PNG", exif=exif)
    assert as_pixels(file.getvalue()).shape == (32, 16, 3)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (picture(0).astype(np.float32), r"from 0 to 255: must be in \[0, 1\]; divide by 255"),
        (np.full((8, 8, 3), np.nan), "from nan to nan"),
        (picture(0).astype(np.int64), "a picture of int64"),
        (np.zeros((8, 8, 2), np.uint8), r"shape \(8, 8, 2\)"),
        (np.zeros((0, 8, 3), np.uint8), r"shape \(0, 8, 3\)"),
        (b"no picture", "can't be read as a picture"),
    ],
)
def test_wrong_pictures_are_refused(
    networks: InferenceNetworks, wrong: np.ndarray | bytes, told: str
) -> None:
    for source, driving in ((wrong, picture(1)), (picture(1), wrong)):
        with pytest.raises(MediaError, match=told):
            make_animation(source, [driving], *networks)


# ---- Animation ---------------------------------------------------------------


@pytest.mark.parametrize("how", ["stretch", "crop", "pad"])
def test_pictures_of_other_sizes_are_fitted(networks: InferenceNetworks, how: str) -> None:
    source, frames = picture(0, 64)[:48], [frame[:, :24] for frame in driving_frames()]
    by_hand = [fit(frame, (32, 32), how) for frame in (source, *frames)]
    expected = make_animation(by_hand[0], by_hand[1:], *networks)
    np.testing.assert_array_equal(make_animation(source, frames, *networks, fit=how), expected)


def test_a_video_by_its_path(networks: InferenceNetworks, inputs: Path) -> None:
    expected = make_animation(inputs / "source.png", open_clip(inputs / "talk.mp4"), *networks)
    by_path = make_animation(str(inputs / "source.png"), str(inputs / "talk.mp4"), *networks)
    np.testing.assert_array_equal(by_path, expected)
    assert len(by_path) == FRAMES


def test_best_frame(networks: InferenceNetworks) -> None:
    frames = [*driving_frames(), picture(0)]
    found = make_animation(picture(0), iter(frames), *networks, find_best_frame=True)
    given = make_animation(picture(0), iter(frames), *networks, best_frame=FRAMES)
    np.testing.assert_array_equal(found, given)
    assert not np.array_equal(found, make_animation(picture(0), frames, *networks))
    with pytest.raises(UserError, match="best_frame=8: the driving video has the frames 0 to 7"):
        make_animation(picture(0), frames, *networks, best_frame=8)


def test_plain_networks_are_not_in_their_fast_form(inputs: Path) -> None:
    def is_fast(plain: bool) -> bool:
        loaded = load_checkpoints(inputs / "good.yaml", inputs / "good.pth.tar", cpu=True, plain=plain)
        return not any(parameter.requires_grad for parameter in loaded[0].parameters())

    assert is_fast(plain=False) and not is_fast(plain=True)


# ---- Streams -----------------------------------------------------------------


def test_a_stream_gives_what_a_video_gives(networks: InferenceNetworks) -> None:
    expected = make_animation(picture(0), driving_frames(), *networks)
    streamed = list(animate_stream(picture(0), iter(driving_frames()), networks))
    assert streamed[0].dtype == np.uint8
    np.testing.assert_allclose(np.array(streamed) / 255, expected, atol=0.51 / 255)


def test_a_stream_takes_one_frame_at_a_time(networks: InferenceNetworks) -> None:
    taken: list[int] = []
    frames = (taken.append(number) or frame for number, frame in enumerate(driving_frames()))
    stream = animate_stream(picture(0), frames, networks)
    next(stream), next(stream)
    assert taken == [0, 1]


def test_streams_of_several_threads_share_networks(networks: InferenceNetworks) -> None:
    def stream(number: int) -> list[np.ndarray]:
        return list(animate_stream(picture(number), driving_frames() * 3, networks))

    expected = [stream(number) for number in range(4)]
    with ThreadPoolExecutor(4) as pool:
        np.testing.assert_array_equal(list(pool.map(stream, range(4))), expected)


def test_live_reference_and_pictures(networks: InferenceNetworks) -> None:
    live = LiveAnimation(networks, [picture(0), picture(1)])
    first, other = driving_frames()[:2]
    live.animate(first)
    before = live.animate(other)
    live.set_reference()
    np.testing.assert_array_equal(live.animate(other), make_animation_frame(networks, other, other))
    live.set_reference()
    live.animate(first)
    np.testing.assert_array_equal(live.animate(other), before)
    live.show(1)
    assert not np.array_equal(live.animate(other), before)


def make_animation_frame(networks: InferenceNetworks, reference: np.ndarray, frame: np.ndarray) -> np.ndarray:
    predictions = make_animation(picture(0), [reference, frame], *networks)
    return np.rint(predictions[1] * 255).astype(np.uint8)


def test_automatic_reference_is_the_closest_pose_so_far(networks: InferenceNetworks) -> None:
    live = LiveAnimation(networks, [picture(0)], auto_reference=True)
    frames = [*driving_frames(), picture(0), *driving_frames()]
    shown, distances = [], []
    for frame in frames:
        shown.append(live.animate(frame))
        distances.append(live.distance)
    assert np.argmin(distances) == FRAMES  # the picture itself
    np.testing.assert_array_equal(shown[-1], make_animation_frame(networks, picture(0), frames[-1]))


def test_live_pictures_and_transfer_can_be_changed(networks: InferenceNetworks) -> None:
    first, other = driving_frames()[:2]
    live = LiveAnimation(networks, [picture(1), picture(0)])
    live.show(1)
    live.animate(first)
    live.set_pictures([picture(0)])  # the reference stays
    np.testing.assert_array_equal(live.animate(other), make_animation_frame(networks, first, other))
    live.set_transfer(relative=False, adapt_scale=False)
    absolute = LiveAnimation(networks, [picture(0)], relative=False, adapt_scale=False)
    np.testing.assert_array_equal(live.animate(other), absolute.animate(other))
    live.set_transfer(True, True, strength=0)
    still = live.animate(first)
    np.testing.assert_array_equal(still, live.animate(other))


@pytest.mark.parametrize(
    ("part", "amount", "hints"),
    [
        ("x", 0.2, ("move left", "move right")),
        ("y", 0.2, ("move up", "move down")),
        ("scale", 0.3, ("move away", "come closer")),
        ("roll", 0.3, ("tilt left", "tilt right")),
        ("yaw", 0.6, ("turn left", "turn right")),
    ],
)
def test_hints_undo_how_a_pose_differs(part: str, amount: float, hints: tuple[str, str]) -> None:
    """With the model that ships and puppets of its kind, whose poses are known."""
    puppet = Puppet.random(np.random.default_rng(5))
    live = LiveAnimation(sample_networks(), [render(puppet, Pose(), 128)])
    live.animate(render(puppet, Pose(), 128))
    assert live.hint == ""
    for sign, hint in zip((1, -1), hints, strict=True):
        live.animate(render(puppet, replace(Pose(), **{part: getattr(Pose(), part) + sign * amount}), 128))
        assert live.hint == hint


def test_the_outermost_keypoint_has_no_depth() -> None:
    """The squares of its radius, computed in two ways, can differ in their last bit; here they would."""
    keypoints = torch.from_numpy(np.random.default_rng(1956).random((1, 15, 2)))
    assert pose_hint(keypoints, keypoints) == ""


def test_live_smoothing_can_be_changed(networks: InferenceNetworks) -> None:
    live = LiveAnimation(networks, [picture(0)], relative=False, smooth=10)
    first, other = driving_frames()[:2]
    live.animate(first)
    time.sleep(0.01)
    smoothed = live.animate(other)
    live.set_smoothing(None)
    assert not np.array_equal(smoothed, live.animate(other))
