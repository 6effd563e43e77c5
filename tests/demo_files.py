"""Models, pictures and videos for the demo, its command line, and what the published demo makes of them."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
import torch

import demo
from inference.animator import normalize_kp
from media.clips import open_clip
from media.pictures import write_image
from modules.build import build_generator, build_kp_detector
from tests.small import error_of, randomize, small_config, write_config
from tests.small import pixels as picture

FRAMES, FPS, SIZE = 7, 30, 32
MODEL = ["--config", "good.yaml", "--checkpoint", "good.pth.tar", "--cpu"]
INPUTS = ["--source_image", "source.png", "--driving_video", "driving"]


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


def trained(config: dict, seed: int = 0) -> dict[str, torch.nn.Module]:
    torch.manual_seed(seed)
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


def write_model(path: Path, seed: int = 0) -> None:
    networks = trained(small_config(), seed)
    torch.save({name: network.state_dict() for name, network in networks.items()}, path)


def run(result: Path, *options: str, inputs: list[str] = INPUTS) -> np.ndarray:
    """The frames (N, H, W, 3) that the demo writes."""
    demo.main([*MODEL, *inputs, "--result_video", str(result), *options])
    return np.stack(list(open_clip(result)))


def assert_refused(place: Path, capsys: pytest.CaptureFixture, arguments: list[str], message: str) -> None:
    """The demo ends with one line that holds the message, and leaves every file as it was."""
    capsys.readouterr()
    before = {path: path.lstat().st_mtime_ns for path in place.rglob("*")}
    err = error_of(capsys, lambda: demo.main(arguments))
    assert message in err and "Traceback" not in err
    assert len([line for line in err.splitlines() if "error:" in line]) == 1
    assert {path: path.lstat().st_mtime_ns for path in place.rglob("*")} == before


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


def write_inputs(place: Path) -> None:
    """Fill a folder with a good model, source and driving video, and bad ones of each."""
    write_config(place / "good.yaml", small_config())
    write_config(place / "typo.yaml", small_config({"train_params.num_epoch": 3}))
    write_config(place / "other.yaml", small_config({"model_params.common_params.num_kp": 5}))
    write_config(place / "odd.yaml", small_config({"dataset_params.frame_shape": [30, 30, 3]}))
    one_channel = {"dataset_params.frame_shape": [32, 32, 1], "model_params.common_params.num_channels": 1}
    write_config(place / "one_channel.yaml", small_config(one_channel))
    write_model(place / "good.pth.tar")
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
