"""What demo.py takes: pictures of any kind and size; and its mistakes, which are one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from media.pictures import fit, write_image
from media.writer import VideoWriter
from tests.demo_files import INPUTS, MODEL, assert_refused, driving_frames, picture, run

# ---- Pictures of any kind and size -------------------------------------------


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


# ---- Mistakes ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--source_image absent.png", "absent.png: does not exist"),
        ("--source_image text.png", "text.png: can't be read as a picture"),
        ("--source_image empty", "--source_image empty: holds no pictures; looked for .avif"),
        ("--source_image text.mp4", "--source_image text.mp4: is a video; --source_video animates the face"),
        ("--source_image driving", "several results go into a folder; give a name without suffix"),
        ("--driving_video absent.mp4", "absent.mp4: does not exist"),
        ("--driving_video text.mp4", "text.mp4: "),
        ("--driving_video text.txt", "text.txt: Invalid data found"),
        ("--driving_video empty", "empty: holds no frames"),
        ("--config absent.yaml", "absent.yaml: no such config file"),
        ("--config typo.yaml", "typo.yaml: unknown key 'train_params.num_epoch'"),
        ("--config other.yaml", "good.pth.tar: its 'generator' does not fit other.yaml"),
        ("--config one_channel.yaml", "one_channel.yaml: its model takes pictures of 1 channels"),
        ("--checkpoint absent.pth.tar", "absent.pth.tar: no such checkpoint"),
        ("--checkpoint damaged.pth.tar", "damaged.pth.tar: damaged, or not a checkpoint"),
        ("--checkpoint half.pth.tar", "half.pth.tar: has no 'generator' and 'kp_detector'"),
        ("--result_video nowhere/result.mp4", "nowhere/result.mp4: "),
        ("--result_video good.yaml/result.mp4", "good.yaml/result.mp4: "),
        ("--result_video result.wmv", "result.wmv: .wmv can't be written"),
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
        ("--best_frame -1", "--best_frame: '-1' is not a whole number from 0 to"),
        ("--batch_size 0", "--batch_size: '0' is not a whole number from 1 to 1024"),
        ("--model puppets", "--model stands for a config and a checkpoint"),
        ("--fit squeeze", "invalid choice: 'squeeze'"),
        ("--device mps", "--cpu and --device mps exclude each other"),
    ],
)
def test_a_mistake_is_one_line(
    inputs: Path, place: Path, capsys: pytest.CaptureFixture, options: str, message: str
) -> None:
    arguments = [*MODEL, *INPUTS, "--result_video", str(place / "result.mp4"), *options.split()]
    assert_refused(inputs, capsys, arguments, message)
    assert not list(place.iterdir())


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
