"""Pngs that are decoded without Pillow, damaged and large pictures, and what `write_image` promises."""

from __future__ import annotations

import io
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from media.clips import open_clip
from media.pictures import read_image, read_image_size, write_image
from media.png import decode_plain_png, read_plain_png
from media.tensors import to_pixels, to_tensor
from tests.media_files import halves, moving
from utils.errors import MediaError


def test_a_strip_is_read_where_a_picture_of_its_size_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    frames = moving(12)
    write_image(tmp_path / "long.png", np.concatenate(frames, axis=1))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4 * frames[0][..., 0].size)  # Pillow refuses twice as many
    assert np.array_equal(open_clip(tmp_path / "long.png", frames[0].shape).read(range(12)), frames)
    with pytest.raises(MediaError, match="decompression bomb"):
        read_image(tmp_path / "long.png")


def png_bytes(pixels: np.ndarray, **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png", **options)
    return file.getvalue()


def plain_pictures() -> list[np.ndarray]:
    """Flat, smooth and random pictures of several sizes, so that pngs of every row filter are among them.

    The last two are one stored block, and two.
    """
    rng, pictures = np.random.default_rng(0), []
    for height, width in ((1, 1), (7, 3), (8, 8), (33, 130), (15, 1456), (15, 1457)):
        slopes = rng.integers(0, 9, (4, 2, 3))
        pictures += [
            np.uint8(np.arange(height)[:, None, None] * a + np.arange(width)[:, None] * b) for a, b in slopes
        ]
        pictures += [np.full((height, width, 3), level, np.uint8) for level in (1, 2, 255)]
        pictures.append(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
    return pictures


def test_plain_pngs_come_out_exactly_one_after_the_other_and_in_threads(tmp_path):
    pictures = plain_pictures()
    paths = [tmp_path / f"{number}.png" for number in range(len(pictures))]
    for path, pixels in zip(paths, pictures, strict=True):
        path.write_bytes(png_bytes(pixels))
        assert decode_plain_png(read_plain_png(path)) is not None  # so it is not Pillow that is tested
        np.testing.assert_array_equal(read_image(path), pixels)
        assert read_image_size(path) == pixels.shape[:2]
    with ThreadPoolExecutor(4) as pool:
        for pixels, found in zip(pictures * 5, pool.map(read_image, paths * 5), strict=True):
            np.testing.assert_array_equal(found, pixels)


def test_a_damaged_png_is_an_error_or_has_all_its_pixels(tmp_path):
    pixels = moving(1)[0]
    whole, path, refused = png_bytes(pixels, compress_level=1), tmp_path / "a.png", 0
    places = [*range(64), *range(64, len(whole), 97)]  # all of the header, some of the pixels
    flipped = [whole[:n] + bytes([whole[n] ^ 4]) + whole[n + 1 :] for n in places]
    for data in [whole[:n] for n in places] + flipped:
        path.write_bytes(data)
        try:
            np.testing.assert_array_equal(read_image(path), pixels)
        except MediaError:
            refused += 1
    assert refused > len(places)


def test_write_image_is_whole_or_absent(tmp_path):
    write_image(tmp_path / "a.png", halves())
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), halves())
    with pytest.raises(MediaError, match=r"\.png"):
        write_image(tmp_path / "b.jpg", halves())
    with pytest.raises(MediaError, match="folder exists"):
        write_image(tmp_path / "none" / "b.png", halves())
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.png"]


# ---- Values and tensors -----------------------------------------------------


def test_pixels_survive_the_way_to_a_tensor_and_back():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 5, 7, 3), dtype=np.uint8)
    tensor = to_tensor(pixels)
    assert tensor.shape == (2, 3, 5, 7) and tensor.dtype == torch.float32
    assert torch.equal(tensor, torch.from_numpy(pixels.transpose(0, 3, 1, 2) / np.float32(255)))
    assert torch.equal(to_tensor(pixels / 255), tensor)
    np.testing.assert_array_equal(to_pixels(tensor), pixels)
    np.testing.assert_array_equal(to_pixels(tensor[0].bfloat16()), to_pixels(tensor[0].bfloat16().float()))


def test_what_lies_outside_becomes_black_or_white():
    tensor = torch.tensor([-0.5, 0.5, 1.5]).view(3, 1, 1)
    assert to_pixels(tensor).tolist() == [[[0, 128, 255]]]


def test_media_and_the_tools_around_it_need_no_pytorch():
    script = (
        "import sys, crop_video, utils.progress, data.prepare, media.writer; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


# ---- Pictures of phones --------------------------------------------------------


def test_heic_is_read_where_its_package_is_installed(tmp_path: Path) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    pixels = np.zeros((64, 96, 3), np.uint8)
    pixels[:, 48:] = (200, 40, 40)
    pillow_heif.from_pillow(Image.fromarray(pixels)).save(tmp_path / "photo.heic", quality=95)
    assert read_image_size(tmp_path / "photo.heic") == (64, 96)
    assert np.abs(read_image(tmp_path / "photo.heic").astype(int) - pixels).mean() < 5


def test_without_its_package_heic_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (tmp_path / "photo.HEIC").write_bytes(b"whatever")
    for read in (read_image, read_image_size):
        with pytest.raises(MediaError, match=r"photo\.HEIC: needs the package pillow-heif: pip install"):
            read(tmp_path / "photo.HEIC")
