"""demo.py end to end: what it writes, decoded again; its signals; the functions for pages and notebooks."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import numpy as np
import pytest
import torch

import demo
from inference import animation, inputs
from inference.animator import pose
from inference.options import DemoOptions
from media.clips import open_clip
from media.writer import VideoWriter
from tests.demo_files import (
    FPS,
    FRAMES,
    MODEL,
    SIZE,
    driving_frames,
    picture,
    published_loop,
    run,
    trained,
)
from tests.small import small_config
from utils.progress import Progress

ROOT = Path(__file__).parent.parent


# ---- What is written ---------------------------------------------------------


def test_the_mp4_plays_at_the_drivings_rate_with_its_sound(
    place: Path, capsys: pytest.CaptureFixture
) -> None:
    result = place / "result.mp4"
    run(result, "--audio", inputs=["--source_image", "source.png", "--driving_video", "talk.mp4"])
    with av.open(str(result)) as container:
        video, sound = container.streams.video[0], container.streams.audio[0]
        assert (video.codec_context.name, video.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert (video.width, video.height, video.average_rate) == (SIZE, SIZE, FPS)
        assert sum(1 for _ in container.decode(video)) == FRAMES
        assert sound.codec_context.name == "aac"
        container.seek(0)
        heard = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(sound)])
        assert heard.std() > 0.3  # that of the tone is 0.7
    line = capsys.readouterr().out.splitlines()[-1]
    assert re.fullmatch(rf"{re.escape(str(result))}: {FRAMES} frames in \d+\.\d s, \d+\.\d frames/s", line)
    assert list(place.iterdir()) == [result]


def test_no_sound_is_a_warning(place: Path, capsys: pytest.CaptureFixture) -> None:
    assert len(run(place / "result.mp4", "--audio")) == FRAMES
    assert "warning: " in (err := capsys.readouterr().err) and "because driving has none" in err


@pytest.mark.parametrize("name", ["result.gif", "result"])
def test_gif_or_folder_by_name(place: Path, name: str) -> None:
    frames = run(place / name)
    assert frames.shape == (FRAMES, SIZE, SIZE, 3)
    assert np.abs(frames.astype(int) - run(place / "again")).mean() < 8  # a gif holds 256 colours


def test_a_driving_gif_and_a_single_frame(place: Path) -> None:
    frames = run(place / "first.gif")
    source = ["--source_image", "source.png", "--driving_video"]
    assert len(run(place / "second", inputs=[*source, str(place / "first.gif")])) == len(frames)
    assert len(run(place / "third.mp4", "--relative", "--find_best_frame", inputs=[*source, "one"])) == 1


@pytest.mark.parametrize(
    ("options", "params"),
    [
        ([], {}),
        (["--relative"], {"use_relative_movement": True, "use_relative_jacobian": True}),
        (
            ["--relative", "--adapt_scale", "--batch_size", "3"],
            {"use_relative_movement": True, "use_relative_jacobian": True, "adapt_movement_scale": True},
        ),
    ],
)
def test_frames_are_those_of_the_published_loop(
    place: Path, options: list[str], params: dict[str, bool]
) -> None:
    expected = published_loop(picture(0), driving_frames(), **params) * 255
    assert expected.std(axis=0).mean() > 2  # frames differ
    for result, more in (("fast", []), ("plain", ["--plain"])):
        assert np.abs(run(place / result, *options, *more) - expected).max() <= 1


def test_half_precision_is_close(place: Path) -> None:
    full = run(place / "fp32", "--relative").astype(int)
    for precision in ("bf16", "fp16"):
        frames = run(place / precision, "--relative", "--precision", precision)
        assert 0 < np.abs(frames - full).mean() < 3


def test_side_by_side(place: Path) -> None:
    frames = run(place / "row", "--side_by_side", "--batch_size", "2")
    source, driving, prediction = np.split(frames, 3, axis=2)
    assert (source == picture(0)).all()
    assert (driving == driving_frames()).all()
    assert np.abs(prediction - run(place / "alone").astype(int)).max() <= 1


# ---- Where movement starts from ----------------------------------------------


@pytest.fixture
def with_source(tmp_path: Path) -> list[str]:
    """Options for a driving clip whose frame 4 is the source picture."""
    with VideoWriter(tmp_path / "clip", 25) as writer:
        for frame in frames_with_source():
            writer.write(frame)
    return ["--source_image", "source.png", "--driving_video", str(tmp_path / "clip")]


def frames_with_source() -> list[np.ndarray]:
    frames = driving_frames()
    frames[4] = picture(0)
    return frames


@pytest.mark.parametrize("options", [["--find_best_frame", "--batch_size", "3"], ["--best_frame", "4"]])
def test_movement_is_measured_from_the_best_frame(
    place: Path, with_source: list[str], capsys: pytest.CaptureFixture, options: list[str]
) -> None:
    relative = {"use_relative_movement": True, "use_relative_jacobian": True}
    expected = published_loop(picture(0), frames_with_source(), initial=4, **relative) * 255
    from_first = published_loop(picture(0), frames_with_source(), initial=0, **relative) * 255
    frames = run(place / "result", "--relative", *options, inputs=with_source)
    assert "Best frame: 4\n" in capsys.readouterr().out
    assert np.abs(frames - expected).max() <= 1 and np.abs(from_first - expected).max() > 3


def test_pose_has_neither_place_nor_size() -> None:
    value = torch.rand(2, 5, 2, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(pose(value * 0.3 + torch.tensor([0.5, -0.2])), pose(value))
    assert (pose(value) - pose(value.flip(2))).abs().max() > 0.1
    assert pose(torch.zeros(1, 5, 2)).isfinite().all()


# ---- The sample --------------------------------------------------------------


def test_without_options_the_sample_is_animated(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    names = {
        "config": "good.yaml",
        "checkpoint": "good.pth.tar",
        "source_image": "source.png",
        "driving_video": "talk.mp4",
    }
    folder = Path.cwd()
    monkeypatch.chdir(place)
    monkeypatch.setattr(inputs, "ROOT", folder)
    monkeypatch.setattr(inputs, "SAMPLE", {name: folder / file for name, file in names.items()})
    demo.main([])
    assert len(open_clip("result.mp4")) == FRAMES
    inputs.SAMPLE["checkpoint"] = folder / "sup-mat" / "none.pth.tar"
    capsys.readouterr()
    with pytest.raises(SystemExit):
        demo.main([])
    assert capsys.readouterr().err == (
        "error: sup-mat/none.pth.tar is not in this checkout: "
        "give --config, --checkpoint, --source_image, --driving_video\n"
    )


# ---- Processes ---------------------------------------------------------------


@pytest.mark.parametrize("program", ["demo", "app", "evaluate", "crop_video", "export"])
def test_help_answers_without_pytorch(program: str) -> None:
    """It takes seconds to load."""
    script = (
        f"import runpy, sys\nsys.argv[1:] = ['--help']\n"
        f"try: runpy.run_path('{program}.py', run_name='__main__')\n"
        "except SystemExit: print('torch' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stderr.strip() == "False" and "--debug" in done.stdout


# ---- A page ------------------------------------------------------------------


@pytest.mark.parametrize(("stop_at", "kept"), [(None, FRAMES), (FRAMES + 3, 3), (2, None)])
def test_a_page_animates_with_progress_and_cancels(
    inputs: Path, tmp_path: Path, stop_at: int | None, kept: int | None
) -> None:
    """What a caller without a command line has: its own progress, from any thread, and a way to stop."""
    seen: list[str] = []

    class Bar(Progress):
        def advance(self, count: int, note: str = "") -> None:
            seen.append(self.description)

    def animate() -> animation.Written:
        driving = animation.FittedClip(open_clip(inputs / "driving"), (SIZE, SIZE), "stretch")
        settings = DemoOptions(relative=True, find_best_frame=True, side_by_side=True)
        source = animation.SourcePictures([picture(0)])
        with VideoWriter(tmp_path / "result.mp4", FPS) as writer:
            return animation.write_animation(
                animation.make_animators(networks, source, settings),
                source,
                driving,
                writer,
                settings,
                show=lambda what, total: Bar(total, what, "frames", quiet=True),
                cancelled=lambda: len(seen) == stop_at,
            )

    parts = trained(small_config())
    networks = parts["generator"], parts["kp_detector"]
    with ThreadPoolExecutor() as pool:
        future = pool.submit(animate)
    if kept is None:
        assert isinstance(future.exception(), animation.Cancelled) and not list(tmp_path.iterdir())
    else:
        assert future.result().frames == kept == len(open_clip(tmp_path / "result.mp4"))
        assert seen == ["best frame"] * FRAMES + ["animation"] * kept


def test_ctrl_c_keeps_what_is_done(place: Path, inputs: Path) -> None:
    with VideoWriter(place / "long.mp4", FPS) as writer:
        for number in range(4000):
            writer.write(np.roll(picture(0), number, axis=1))
    result = place / "result.mp4"
    command = [
        sys.executable,
        str(ROOT / "demo.py"),
        *MODEL,
        "--source_image",
        "source.png",
        "--driving_video",
    ]
    process = subprocess.Popen(
        [*command, str(place / "long.mp4"), "--result_video", str(result)],
        cwd=inputs,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert process.stderr.readline().startswith("animation: 1/4000 frames")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in err
    kept = len(list(open_clip(result)))
    assert 0 < kept < 4000
    assert f"{result}: {kept} frames in " in out and f"stopped: {result} holds {kept} of 4000 frames" in err
    assert sorted(path.name for path in place.iterdir()) == ["long.mp4", "result.mp4"]


# ---- Notebooks ---------------------------------------------------------------


def test_functions_for_notebooks(inputs: Path) -> None:
    generator, kp_detector = demo.load_checkpoints(
        inputs / "good.yaml", str(inputs / "good.pth.tar"), cpu=True
    )
    source, driving = picture(0) / 255, [frame / 255 for frame in driving_frames()]
    predictions = demo.make_animation(source, driving, generator, kp_detector, cpu=True)
    switches = ("use_relative_movement", "use_relative_jacobian", "adapt_movement_scale")
    expected = published_loop(picture(0), driving_frames(), **dict.fromkeys(switches, True))
    assert isinstance(predictions, list) and predictions[0].dtype == np.float32
    np.testing.assert_allclose(predictions, expected, atol=1e-3)
    absolute = demo.make_animation(
        source, driving, **trained(small_config()), relative=False, adapt_movement_scale=False
    )
    np.testing.assert_allclose(absolute, published_loop(picture(0), driving_frames()), atol=1e-5)
