"""demo.py end to end: what it writes, decoded again; its options, its mistakes, its signals; the functions for notebooks."""

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
from PIL import Image

import demo
from animate import Animator, normalize_kp, pose
from media.clips import open_clip
from media.pictures import fit, write_image
from media.tensors import to_tensor
from media.writer import VideoWriter
from modules.build import build_generator, build_kp_detector
from progress import Progress
from tests.small import images, randomize, small_config, write_config

ROOT = Path(__file__).parent.parent
FRAMES, FPS, SIZE = 7, 30, 32
MODEL = ["--config", "good.yaml", "--checkpoint", "good.pth.tar", "--cpu"]
INPUTS = ["--source_image", "source.png", "--driving_video", "driving"]


def picture(seed: int, size: int = SIZE) -> np.ndarray:
    return (images(1, size, seed)[0].permute(1, 2, 0).numpy() * 255).astype(np.uint8)


def write_sound(container: av.container.OutputContainer, stream: av.AudioStream, seconds: float) -> None:
    for start in range(0, int(seconds * 48000), 1024):
        tone = np.sin(np.arange(start, start + 1024) / 20)[None].astype(np.float32)
        frame = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 48000, start
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def write_talk(path: Path) -> None:
    """A video of another size and rate than the model's, with a sound track."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        sound = container.add_stream("aac", rate=48000, layout="mono")
        for number in range(FRAMES):
            frame = np.roll(picture(3, 64)[:48], 2 * number, axis=1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
        write_sound(container, sound, FRAMES / FPS)


def trained(config: dict) -> dict[str, torch.nn.Module]:
    torch.manual_seed(0)
    networks = {"generator": build_generator(config), "kp_detector": build_kp_detector(config)}
    generator, kp_detector = networks["generator"], networks["kp_detector"]
    motion = generator.dense_motion_network
    for head, gain in (
        (kp_detector.kp, 100),
        (motion.mask, 30),
        (motion.occlusion, 30),
        (generator.final, 20),
    ):
        head.weight.data *= gain  # keypoints follow the picture, and the prediction follows them
    return {name: randomize(network).eval() for name, network in networks.items()}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a good model, source and driving video, and bad ones of each."""
    place = tmp_path_factory.mktemp("inputs")
    write_config(place / "good.yaml", small_config())
    write_config(place / "typo.yaml", small_config({"train_params.num_epoch": 3}))
    write_config(place / "other.yaml", small_config({"model_params.common_params.num_kp": 5}))
    write_config(place / "odd.yaml", small_config({"dataset_params.frame_shape": [30, 30, 3]}))
    one_channel = {"dataset_params.frame_shape": [32, 32, 1], "model_params.common_params.num_channels": 1}
    write_config(place / "one_channel.yaml", small_config(one_channel))
    content = {name: network.state_dict() for name, network in trained(small_config()).items()}
    torch.save(content, place / "good.pth.tar")
    torch.save({"generator": {}}, place / "half.pth.tar")
    (place / "damaged.pth.tar").write_bytes((place / "good.pth.tar").read_bytes()[:5000])
    for name in ("text.png", "text.mp4", "text.txt"):
        (place / name).write_text("neither picture nor video")
    for name in ("empty", "holds_source", "driving", "one"):
        (place / name).mkdir()
    write_image(place / "source.png", picture(0))
    write_image(place / "holds_source" / "0000000.png", picture(0))
    for number in range(FRAMES):
        write_image(place / "driving" / f"{number:07d}.png", picture(10 + number))
    write_image(place / "one" / "0000000.png", picture(10))
    write_talk(place / "talk.mp4")
    (place / "link.png").symlink_to("source.png")
    return place


@pytest.fixture
def place(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The inputs as the working folder; results go to the test's own folder, which is returned."""
    monkeypatch.chdir(inputs)
    return tmp_path


def run(result: Path, *options: str, inputs: list[str] = INPUTS) -> np.ndarray:
    """The frames (N, H, W, 3) that the demo writes."""
    demo.main([*MODEL, *inputs, "--result_video", str(result), *options])
    return np.stack(list(open_clip(result)))


def published_loop(
    source: np.ndarray, driving: list[np.ndarray], initial: int = 0, **params: bool
) -> np.ndarray:
    """What the published demo computes, with the plain networks: (N, H, W, 3) in [0, 1]."""
    networks = trained(small_config())
    generator, kp_detector = networks["generator"], networks["kp_detector"]

    def to_tensor(image: np.ndarray) -> torch.Tensor:
        return torch.tensor(image[None].astype(np.float32) / 255).permute(0, 3, 1, 2)

    with torch.no_grad():
        kp_source, kp_initial = kp_detector(to_tensor(source)), kp_detector(to_tensor(driving[initial]))
        predictions = []
        for frame in driving:
            kp = normalize_kp(kp_source, kp_detector(to_tensor(frame)), kp_initial, **params)
            predictions.append(generator(to_tensor(source), kp_source=kp_source, kp_driving=kp)["prediction"])
    return torch.cat(predictions).permute(0, 2, 3, 1).numpy()


def driving_frames() -> list[np.ndarray]:
    return [picture(10 + number) for number in range(FRAMES)]


# What is written


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


def test_frames_are_read_as_they_are_shown() -> None:
    read = []

    def clip():
        for frame in driving_frames() * 100:
            read.append(1)
            yield frame

    networks = trained(small_config())
    animator = Animator(networks["generator"], networks["kp_detector"], images(1), batch_size=2)
    for shown, _ in enumerate(animator.animate(map(to_tensor, clip())), start=1):
        assert len(read) <= shown + 2
        if shown == 10:
            break


# Where movement starts from


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


# Pictures of any kind and size


def test_fit_of_a_wide_picture() -> None:
    thirds = np.zeros((20, 60, 3), np.uint8)
    thirds[:, :20, 0], thirds[:, 20:40, 1], thirds[:, 40:, 2] = 200, 200, 200
    stretched, cropped, padded = (fit(thirds, (30, 30), how) for how in ("stretch", "crop", "pad"))
    assert stretched[15, [2, 15, 27]].tolist() == [[200, 0, 0], [0, 200, 0], [0, 0, 200]]
    assert (cropped[:, 3:-3] == [0, 200, 0]).all()
    assert padded[15, [2, 15, 27]].tolist() == [[200, 0, 0], [0, 200, 0], [0, 0, 200]]
    assert not padded[:9].any() and not padded[-9:].any() and padded[11:19].any(axis=2).all()


@pytest.mark.parametrize("how", ["stretch", "crop", "pad"])
@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (37, 61), (32, 48)])
def test_fit_gives_every_picture_the_size_of_the_model(how: str, size: tuple[int, int]) -> None:
    frame = fit(np.full((*size, 3), 90, np.uint8), (32, 48), how)
    assert frame.shape == (32, 48, 3) and frame.max() == 90
    assert how == "pad" or frame.min() == 90


def test_a_finer_picture_is_averaged() -> None:
    checks = np.repeat((np.indices((256, 256)).sum(axis=0) % 2 * 255)[..., None], 3, axis=2).astype(np.uint8)
    for how in ("stretch", "crop", "pad"):
        assert np.abs(fit(checks, (32, 32), how).astype(int) - 127).max() < 10


def write_source(path: Path, kind: str) -> np.ndarray:
    """A source picture of `kind`; returns the same as RGB."""
    rgb = picture(0)
    grey = rgb[..., 1]
    match kind:
        case "grey":
            Image.fromarray(grey).save(path)
            return np.repeat(grey[..., None], 3, axis=2)
        case "16-bit":
            Image.fromarray(grey.astype(np.uint16) * 257).save(path)
            return np.repeat(grey[..., None], 3, axis=2)
        case "RGBA":
            alpha = np.where(np.arange(SIZE) < 16, 255, 0).astype(np.uint8)
            Image.fromarray(np.dstack([rgb, np.tile(alpha, (SIZE, 1))])).save(path)
            return np.where(np.arange(SIZE)[:, None] < 16, rgb, 255).astype(np.uint8)
        case "1x1":
            Image.new("RGB", (1, 1), (10, 200, 90)).save(path)
            return np.full((SIZE, SIZE, 3), (10, 200, 90), np.uint8)
        case "10,000x10,000":
            Image.new("L", (10_000, 10_000), 77).save(path)
            return np.full((SIZE, SIZE, 3), 77, np.uint8)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("kind", ["grey", "16-bit", "RGBA", "1x1", "10,000x10,000"])
def test_any_source(place: Path, kind: str) -> None:
    write_image(place / "rgb.png", write_source(place / "source.png", kind))
    found, expected = (
        run(place / result, inputs=["--source_image", str(place / source), "--driving_video", "driving"])
        for result, source in (("found", "source.png"), ("expected", "rgb.png"))
    )
    assert (found == expected).all()


def test_distortion_is_hinted_at(place: Path, capsys: pytest.CaptureFixture) -> None:
    wide = ["--source_image", "source.png", "--driving_video", "talk.mp4"]
    run(place / "a", inputs=wide)
    err = capsys.readouterr().err
    assert "hint: talk.mp4 is 64x48 and is stretched to 32x32; --fit crop" in err and "source.png" not in err
    run(place / "b", "--fit", "crop", inputs=wide)
    assert "hint" not in capsys.readouterr().err
    run(place / "c", "--find_best_frame")
    assert (
        "hint: --adapt_scale, --find_best_frame and --best_frame do nothing without --relative"
        in capsys.readouterr().err
    )


# Mistakes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--source_image absent.png", "absent.png: does not exist"),
        ("--source_image text.png", "text.png: can't be read as a picture"),
        ("--source_image driving", "driving: can't be read as a picture"),
        ("--source_image talk.mp4", "talk.mp4: can't be read as a picture"),
        ("--driving_video absent.mp4", "absent.mp4: does not exist"),
        ("--driving_video text.mp4", "text.mp4: "),
        ("--driving_video text.txt", "text.txt: is not a known kind of clip"),
        ("--driving_video empty", "empty: holds no frames"),
        ("--config absent.yaml", "absent.yaml: no such config file"),
        ("--config typo.yaml", "typo.yaml: unknown key 'train_params.num_epoch'"),
        ("--config other.yaml", "good.pth.tar: its 'generator' does not fit other.yaml"),
        ("--config one_channel.yaml", "one_channel.yaml: its model takes pictures of 1 channels"),
        ("--config odd.yaml", "30x30"),
        ("--checkpoint absent.pth.tar", "absent.pth.tar: no such checkpoint"),
        ("--checkpoint empty", "empty: holds no checkpoint"),
        ("--checkpoint damaged.pth.tar", "damaged.pth.tar: damaged, or not a checkpoint"),
        ("--checkpoint half.pth.tar", "half.pth.tar: has no 'generator' and 'kp_detector'"),
        ("--result_video nowhere/result.mp4", "nowhere/result.mp4: "),
        ("--result_video good.yaml/result.mp4", "good.yaml/result.mp4: "),
        ("--result_video result.wmv", "result.wmv: .wmv can't be written"),
        ("--result_video empty.mp4 --driving_video empty.mp4", "empty.mp4: does not exist"),
        ("--result_video source.png", "--result_video source.png would replace --source_image source.png"),
        ("--result_video link.png", "--result_video link.png would replace --source_image source.png"),
        (
            "--result_video ./talk.mp4 --driving_video talk.mp4",
            "talk.mp4 would replace --driving_video talk.mp4",
        ),
        ("--result_video driving", "--result_video driving would replace --driving_video driving"),
        (
            "--result_video holds_source --source_image holds_source/0000000.png",
            "--result_video holds_source would replace --source_image holds_source/0000000.png",
        ),
        (
            "--result_video good.pth.tar",
            "--result_video good.pth.tar would replace --checkpoint good.pth.tar",
        ),
        ("--best_frame 7", "--best_frame 7: driving has the frames 0 to 6"),
        ("--best_frame -1", "--best_frame -1: driving has the frames 0 to 6"),
        ("--batch_size 0", "--batch_size must be at least 1"),
        ("--fit squeeze", "invalid choice: 'squeeze'"),
        ("--device mps", "--cpu and --device mps exclude each other"),
    ],
)
def test_a_mistake_is_one_line(
    inputs: Path, place: Path, capsys: pytest.CaptureFixture, options: str, message: str
) -> None:
    before = {path: path.lstat().st_mtime_ns for path in inputs.rglob("*")}
    with pytest.raises(SystemExit) as stop:
        demo.main([*MODEL, *INPUTS, "--result_video", str(place / "result.mp4"), *options.split()])
    err = capsys.readouterr().err
    assert stop.value.code == 2
    assert message in err
    assert len([line for line in err.splitlines() if "error:" in line]) == 1 and "Traceback" not in err
    assert {path: path.lstat().st_mtime_ns for path in inputs.rglob("*") if path != inputs} == {
        path: time for path, time in before.items() if path != inputs
    }
    assert not list(place.iterdir())


def test_config_and_checkpoint_go_together(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        demo.main(["--config", "good.yaml"])
    assert "--config and --checkpoint go together" in capsys.readouterr().err


def test_a_driving_frame_that_cant_be_read_leaves_an_earlier_result(
    place: Path, capsys: pytest.CaptureFixture
) -> None:
    with VideoWriter(place / "clip", 25) as writer:
        for frame in driving_frames():
            writer.write(frame)
    write_image(place / "clip" / "0000005.png", picture(0, 48))
    (place / "result.mp4").write_text("an earlier result")
    with pytest.raises(SystemExit):
        run(
            place / "result.mp4",
            inputs=["--source_image", "source.png", "--driving_video", str(place / "clip")],
        )
    assert "0000005.png: is 48x48" in capsys.readouterr().err
    assert (place / "result.mp4").read_text() == "an earlier result"
    assert sorted(path.name for path in place.iterdir()) == ["clip", "result.mp4"]


# The sample


def test_without_options_the_sample_is_animated(
    place: Path, inputs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    names = {
        "config": "good.yaml",
        "checkpoint": "good.pth.tar",
        "source_image": "source.png",
        "driving_video": "talk.mp4",
    }
    monkeypatch.chdir(place)
    monkeypatch.setattr(demo, "ROOT", inputs)
    monkeypatch.setattr(demo, "SAMPLE", {name: inputs / file for name, file in names.items()})
    demo.main([])
    assert len(open_clip("result.mp4")) == FRAMES
    demo.SAMPLE["checkpoint"] = inputs / "sup-mat" / "none.pth.tar"
    capsys.readouterr()
    with pytest.raises(SystemExit):
        demo.main([])
    assert capsys.readouterr().err == (
        "error: sup-mat/none.pth.tar is not in this checkout: "
        "give --config, --checkpoint, --source_image, --driving_video\n"
    )


# Processes


def test_help_loads_nothing_slow_that_it_can_do_without() -> None:
    """PyTorch takes the most of the three seconds that --help may take; torchvision alone would double them."""
    script = "import sys, demo, run\ntry: demo.main(['--help'])\nexcept SystemExit: pass\n"
    script += "print({'torchvision', 'torchmetrics', 'face_alignment'} & set(sys.modules), file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stderr.strip() == "set()" and "--source_image" in done.stdout


# A page


def test_a_page_animates_with_progress_and_cancels(inputs: Path, tmp_path: Path) -> None:
    """What a caller without a command line has: its own progress, from any thread, and a way to stop."""
    networks = tuple(trained(small_config()).values())
    driving = demo.FittedClip(open_clip(inputs / "driving"), (SIZE, SIZE), "stretch")
    settings = demo.Settings(relative=True, find_best_frame=True, side_by_side=True)
    for stop_at, kept in ((None, FRAMES), (FRAMES + 3, 3), (2, None)):
        seen: list[str] = []

        class Bar(Progress):
            def advance(self, count: int, note: str = "") -> None:
                seen.append(self.description)

        def animate() -> demo.Written:
            with VideoWriter(result, FPS) as writer:
                return demo.write_animation(
                    networks,
                    picture(0),
                    driving,
                    writer,
                    settings,
                    show=lambda what, total: Bar(total, what, "frames", quiet=True),
                    cancelled=lambda: len(seen) == stop_at,
                )

        result = tmp_path / f"{stop_at}.mp4"
        with ThreadPoolExecutor() as pool:
            future = pool.submit(animate)
            if kept is None:
                assert isinstance(future.exception(), demo.Cancelled) and not result.exists()
                continue
            assert future.result().frames == kept == len(open_clip(result))
        assert seen == ["best frame"] * FRAMES + ["animation"] * kept
    assert sorted(path.name for path in tmp_path.iterdir()) == ["10.mp4", "None.mp4"]


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


# Notebooks


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
