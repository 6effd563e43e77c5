"""Colours of videos: matrices and tags, HDR, wide primaries; expected values are those of the standards.

Shapes: `N` colours of a chart, (N, 3) each with R'G'B' in [0, 255].
"""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

import demo
from data import prepare
from inference.samples import SAMPLE
from media.clips import open_clip
from media.writer import VideoWriter
from tests.demo_files import MODEL

PQ, HLG, BT709, UNKNOWN = 16, 18, 1, 2
BT2020, P3 = 9, 12
CHART = np.array(
    [[255, 255, 255], [128, 128, 128], [200, 60, 50], [207, 173, 149], [60, 140, 70], [40, 60, 180]]
)
SIDE = 32  # of a patch


# ---- The standards -------------------------------------------------------------


def to_xyz(*primaries: tuple[float, float]) -> np.ndarray:
    columns = np.array([[x / y, 1, (1 - x - y) / y] for x, y in primaries]).T
    return columns * np.linalg.solve(columns, np.array([0.3127 / 0.3290, 1, 0.3583 / 0.3290]))


XYZ = {
    BT709: to_xyz((0.64, 0.33), (0.30, 0.60), (0.15, 0.06)),
    BT2020: to_xyz((0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),
    P3: to_xyz((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
}


def in_primaries(light: np.ndarray, primaries: int) -> np.ndarray:
    return light @ np.linalg.solve(XYZ[primaries], XYZ[BT709]).T


def pq(nits: np.ndarray) -> np.ndarray:
    """The inverse EOTF of BT.2100."""
    root = (nits.clip(0, 10000) / 10000) ** (2610 / 16384)
    return ((3424 / 4096 + 2413 / 128 * root) / (1 + 2392 / 128 * root)) ** (2523 / 32)


def hlg(nits: np.ndarray) -> np.ndarray:
    """The inverse OOTF of a display of 1,000 cd/m² and the OETF of BT.2100."""
    display = nits / 1000
    luminance = (display @ [0.2627, 0.6780, 0.0593])[..., None]
    scene = display * luminance.clip(1e-9) ** (1 / 1.2 - 1)
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return np.where(scene <= 1 / 12, np.sqrt(3 * scene), a * np.log((12 * scene - b).clip(1e-9)) + c)


def hdr_signal(chart: np.ndarray, transfer: int, white: float) -> np.ndarray:
    """What HDR stores of ordinary colours (BT.1886) whose white has `white` cd/m²."""
    nits = in_primaries((chart / 255) ** 2.4, BT2020) * white
    return (pq if transfer == PQ else hlg)(nits)


# ---- Videos of a chart ---------------------------------------------------------


def write_signal(
    path: Path, frames: np.ndarray, tags: tuple[int, int, int], weights: tuple[float, float], bits: int = 10
) -> Path:
    """Write a signal (T, H, W, 3) in [0, 1] without loss; `tags`: matrix, transfer and primaries.

    `weights`: of red and blue in the luma.
    """
    red, blue = weights
    with av.open(str(path), "w") as container:
        options = {"x265-params": "lossless=1:log-level=error"} if bits == 10 else {"qp": "0"}
        stream = container.add_stream("libx265" if bits == 10 else "libx264", rate=25, options=options)
        stream.pix_fmt = "yuv420p10le" if bits == 10 else "yuv420p"
        stream.height, stream.width = frames.shape[1:3]
        context = stream.codec_context
        context.colorspace, context.color_trc, context.color_primaries = tags
        context.color_range = 1
        for signal in frames:
            luma = signal @ [red, 1 - red - blue, blue]
            small = signal.reshape(stream.height // 2, 2, stream.width // 2, 2, 3).mean((1, 3))
            small_luma = small @ [red, 1 - red - blue, blue]
            levels = [
                16 + 219 * luma,
                128 + 224 * (small[..., 2] - small_luma) / (2 - 2 * blue),
                128 + 224 * (small[..., 0] - small_luma) / (2 - 2 * red),
            ]
            frame = av.VideoFrame(stream.width, stream.height, stream.pix_fmt)
            for plane, values in zip(frame.planes, levels, strict=True):
                kind = np.uint16 if bits == 10 else np.uint8
                pixels = np.zeros((plane.height, plane.line_size // kind().nbytes), kind)
                pixels[:, : plane.width] = np.rint(2 ** (bits - 8) * values)
                plane.update(pixels.tobytes())
            frame.colorspace, frame.color_trc, frame.color_primaries = tags
            frame.color_range = 1
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_chart(
    path: Path,
    signal: np.ndarray,
    tags: tuple[int, int, int],
    weights: tuple[float, float],
    bits: int = 10,
    height: int = SIDE,
) -> Path:
    """Write patches of a signal (N, 3) beside each other, for five frames."""
    row = np.repeat(signal, SIDE, axis=0)
    return write_signal(path, np.broadcast_to(row, (5, height, *row.shape)), tags, weights, bits)


def read_chart(path: Path, colours: int = len(CHART)) -> np.ndarray:
    """The middles of the patches (N, 3)."""
    frame = open_clip(path).read([2])[0]
    return frame[frame.shape[0] // 2, SIDE // 2 :: SIDE][:colours].astype(int)


# ---- HDR -----------------------------------------------------------------------


@pytest.mark.parametrize("white", [203, 100])
@pytest.mark.parametrize("transfer", [PQ, HLG])
def test_hdr_comes_out_as_the_ordinary_video_that_went_in(tmp_path: Path, transfer: int, white: int) -> None:
    """White has 203 cd/m² by BT.2408, and 100 where ordinary video was copied into HDR."""
    signal = hdr_signal(CHART, transfer, white)
    path = write_chart(tmp_path / "a.mp4", signal, (9, transfer, BT2020), (0.2627, 0.0593))
    assert np.abs(read_chart(path) - CHART).max() <= 2
    assert open_clip(path).hdr == ("PQ" if transfer == PQ else "HLG")


def test_highlights_are_rolled_off(tmp_path: Path) -> None:
    nits = np.array([20, 203, 400, 700, 1000.0])
    signal = pq(np.repeat(nits[:, None], 3, 1))
    path = write_chart(tmp_path / "a.mp4", signal, (9, PQ, BT2020), (0.2627, 0.0593))
    levels = read_chart(path, len(nits))[:, 1]
    assert abs(levels[0] - 255 * (20 / 203) ** (1 / 2.4)) <= 2  # what is dark stays
    assert 205 < levels[1] < 235 and levels[-1] >= 254 and (np.diff(levels) > 0).all()


def test_hdr_without_primaries_is_bt2020(tmp_path: Path) -> None:
    signal = hdr_signal(CHART, HLG, 203)
    path = write_chart(tmp_path / "a.mkv", signal, (UNKNOWN, HLG, UNKNOWN), (0.2627, 0.0593))
    assert np.abs(read_chart(path) - CHART).max() <= 2


def test_demo_and_prepare_name_the_hdr_video(place: Path, capsys: pytest.CaptureFixture) -> None:
    signal = hdr_signal(CHART, HLG, 203)
    (place / "phone").mkdir()
    path = write_chart(place / "phone" / "a.mp4", signal, (9, HLG, BT2020), (0.2627, 0.0593))
    result = ["--result_video", str(place / "r.mp4")]
    demo.main([*MODEL, "--source_image", "source.png", "--driving_video", str(path), *result])
    err = capsys.readouterr().err
    assert err.count("a.mp4 is HDR (HLG)") == 1
    prepare.main([str(place / "phone"), str(place / "set"), "--size", "32", "--test_share", "0"])
    assert capsys.readouterr().err.count("a.mp4 is HDR (HLG)") == 1
    made = open_clip(place / "set" / "train" / "a").read([0])[0]
    assert np.abs(made.mean((0, 1)) - CHART[2:4].mean(0)).max() < 6  # the middle two of the chart


@pytest.mark.parametrize("transfer", [PQ, HLG])
def test_hdr_copies_of_the_sample_drive_as_the_sample_does(tmp_path: Path, transfer: int) -> None:
    frames = np.stack(list(open_clip(SAMPLE["driving_video"])))[::18]
    with VideoWriter(tmp_path / "ordinary", 25) as writer:
        for frame in frames:
            writer.write(frame)
    signal = hdr_signal(frames, transfer, 100)
    path = write_signal(tmp_path / "hdr.mp4", signal, (9, transfer, BT2020), (0.2627, 0.0593))
    results = []
    for driving in (tmp_path / "ordinary", path):
        result = tmp_path / f"{driving.stem}-result"
        demo.main(["--driving_video", str(driving), "--result_video", str(result)])
        results.append(np.stack(list(open_clip(result))).astype(float))
    assert np.abs(results[1] - results[0]).mean() < 2
    read = np.stack(list(open_clip(path)))
    assert np.abs(read.mean((0, 1, 2)) - frames.mean((0, 1, 2))).max() < 1


# ---- Ordinary video ------------------------------------------------------------


def test_display_p3_becomes_srgb(tmp_path: Path) -> None:
    light = in_primaries((CHART / 255) ** 2.4, P3)
    path = write_chart(tmp_path / "a.mp4", light ** (1 / 2.4), (1, BT709, P3), (0.2126, 0.0722), bits=8)
    assert np.abs(read_chart(path) - CHART).max() <= 3


@pytest.mark.parametrize(
    ("matrix", "height", "weights"),
    [
        (6, SIDE, (0.299, 0.114)),
        (1, SIDE, (0.2126, 0.0722)),
        (UNKNOWN, SIDE, (0.299, 0.114)),
        (UNKNOWN, 720, (0.2126, 0.0722)),
        (6, 720, (0.299, 0.114)),
    ],
)
def test_the_matrix_is_as_tagged_or_goes_by_the_size(
    tmp_path: Path, matrix: int, height: int, weights: tuple[float, float]
) -> None:
    tags = (matrix, UNKNOWN, UNKNOWN)
    path = write_chart(tmp_path / "a.mp4", CHART / 255, tags, weights, bits=8, height=height)
    assert np.abs(read_chart(path) - CHART).max() <= 2


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv", "a.webm"])
@pytest.mark.parametrize(("height", "matrix"), [(64, 6), (720, 1)])
def test_colours_survive_our_writer_and_are_tagged(
    tmp_path: Path, name: str, height: int, matrix: int
) -> None:
    chart = np.repeat(np.repeat(CHART.astype(np.uint8)[None], SIDE, 1), height, 0)
    with VideoWriter(tmp_path / name, 25) as writer:
        for _ in range(3):
            writer.write(chart)
    assert np.abs(read_chart(tmp_path / name) - CHART).max() <= 2
    with av.open(str(tmp_path / name)) as container:
        frame = next(container.decode(video=0))
    tags = frame.colorspace, frame.color_range, frame.color_trc, frame.color_primaries
    assert tags == (matrix, 1, BT709, BT709)


def test_nothing_gets_darker_on_the_way(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    colours = rng.integers(30, 226, (40, 3)).astype(np.uint8)
    with VideoWriter(tmp_path / "a.mp4", 25) as writer:
        for colour in colours:
            writer.write(np.broadcast_to(colour, (32, 32, 3)))
    errors = np.stack(list(open_clip(tmp_path / "a.mp4")))[:, 16, 16].astype(float) - colours
    assert np.abs(errors.mean(0)).max() < 0.35
