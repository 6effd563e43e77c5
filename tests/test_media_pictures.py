"""Pictures: the right pixels of odd ones, bounds on hostile ones, and what `write_image` promises."""

from __future__ import annotations

import contextlib
import os
import struct
import subprocess
import sys
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from media.clips import open_clip
from media.pictures import (
    MAX_FILE_BYTES,
    MAX_STRIP_PIXELS,
    lay_on_white,
    read_image,
    read_image_size,
    write_image,
)
from media.tensors import to_pixels, to_tensor
from tests.media_files import (
    RIGHT,
    cut,
    empty,
    exif_rotated,
    exif_rotated_png,
    grey_16_bit,
    grey_alpha,
    grey_halves,
    halves,
    moving,
    palette_with_transparency,
    picture,
    rgba,
    veiled,
    white_right,
    xmp_rotated_png,
)
from utils.errors import MediaError

# ---- Odd pictures ----------------------------------------------------------------


HALVES, GREY = halves(), np.repeat(grey_halves()[..., None], 3, axis=2)
ONE_BIT = np.array(Image.fromarray(halves()).convert("1").convert("RGB"))
RIGHT_CLEAR = picture("RGB", "a.png", transparency=RIGHT)

# name: builder, what comes out, by how much it may differ
ODD_PICTURES = {
    "grey png": (picture("L", "a.png"), GREY, 0),
    "grey and alpha": (grey_alpha, veiled(), 0),
    "palette": (picture("P", "a.png"), HALVES, 30),
    "palette with transparency": (palette_with_transparency, white_right(), 0),
    "rgba": (rgba, white_right(), 0),
    "cmyk jpg": (picture("CMYK", "a.jpg", quality=95, subsampling=0), HALVES, 8),
    "16 bits": (grey_16_bit, GREY, 0),
    "one bit": (picture("1", "a.bmp"), ONE_BIT, 0),
    "webp": (picture("RGB", "a.webp", lossless=True), HALVES, 0),
    "exif rotation": (exif_rotated, HALVES, 8),
    "exif rotation of a png": (exif_rotated_png, HALVES, 0),
    "xmp rotation of a png": (xmp_rotated_png, HALVES, 0),
    "png with one transparent colour": (RIGHT_CLEAR, white_right(), 0),
    "upper case suffix": (picture("RGB", "A.PNG"), HALVES, 0),
    "png named jpg": (lambda d: picture("RGB", "a.png")(d).rename(d / "a.jpg"), HALVES, 0),
    "unicode and spaces": (picture("RGB", "mänty 木 1:2 %03d.png"), HALVES, 0),
}


@pytest.mark.parametrize("name", ODD_PICTURES)
def test_odd_pictures_have_the_right_pixels(name: str, tmp_path: Path) -> None:
    build, expected, tolerance = ODD_PICTURES[name]
    path = build(tmp_path)
    found = read_image(path)
    assert found.dtype == np.uint8 and found.shape == expected.shape == (*read_image_size(path), 3)
    # Chroma bleeds over the border of the halves, so lossy pictures are compared away from it.
    difference = np.abs(found.astype(int) - expected)
    assert np.quantile(difference, 0.8) <= tolerance if tolerance else not difference.any()


@pytest.mark.parametrize(
    "build",
    [lambda d: empty(d, "a.png"), lambda d: cut(picture("RGB", "a.jpg")(d), 0.6)],
    ids=["empty", "cut"],
)
def test_damaged_pictures_are_one_line(build: Callable[[Path], Path], tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"a\.(png|jpg): can't be read as a picture") as told:
        read_image(build(tmp_path))
    assert "\n" not in str(told.value)


def test_a_damaged_png_is_an_error_or_has_all_its_pixels(tmp_path):
    pixels, path, refused = moving(1)[0], tmp_path / "a.png", 0
    Image.fromarray(pixels).save(path, compress_level=1)
    whole = path.read_bytes()
    places = [*range(64), *range(64, len(whole), 97)]  # all of the header, some of the pixels
    flipped = [whole[:n] + bytes([whole[n] ^ 4]) + whole[n + 1 :] for n in places]
    for data in [whole[:n] for n in places] + flipped:
        path.write_bytes(data)
        try:
            np.testing.assert_array_equal(read_image(path), pixels)
        except MediaError:
            refused += 1
    assert refused > len(places)


# ---- Nothing else is opened or started -------------------------------------------


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n%%EndComments\nshowpage\n%%EOF\n"


@pytest.mark.skipif(sys.platform == "win32", reason="the trap is a shell script")
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "folder/0.png"])
def test_a_picture_starts_no_ghostscript(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trap = tmp_path / "bin" / "gs"
    trap.parent.mkdir()
    trap.write_text(f"#!/bin/sh\ntouch '{tmp_path}/sprung'\n")
    trap.chmod(0o755)
    monkeypatch.setenv("PATH", str(trap.parent), prepend=os.pathsep)
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(EPS)
    with pytest.raises(MediaError, match="can't be read as a picture"):
        read_image(path)
    with pytest.raises(MediaError, match="can't be read as a picture"):
        list(open_clip(path.parent if "/" in name else path))
    assert not (tmp_path / "sprung").exists()
    with contextlib.suppress(OSError):
        Image.open(path).load()  # Pillow itself walks into the trap
    assert (tmp_path / "sprung").exists()


# ---- Sizes -----------------------------------------------------------------------


def png_that_claims(path: Path, width: int, height: int, colour: int = 2, pixels: bytes = b"") -> Path:
    """A png of a few bytes whose header claims any size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(pixels))
        + chunk(b"IEND", b"")
    )
    return path


def test_pixels_beyond_the_claim_are_not_inflated(tmp_path: Path) -> None:
    path = png_that_claims(tmp_path / "a.png", 8, 8, pixels=bytes(2**27))
    tracemalloc.start()
    with contextlib.suppress(MediaError):
        assert not read_image(path).any()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**21


def bmp_that_claims(path: Path, width: int, height: int) -> Path:
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    path.write_bytes(b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + header)
    return path


@pytest.mark.parametrize(
    ("width", "height"), [(20_000, 20_000), (2**31 - 1, 2**31 - 1), (2**31 - 1, 1), (0, 5)]
)
@pytest.mark.parametrize("colour", [0, 2, 6])
def test_a_claim_is_checked_before_memory_is_asked_for(
    width: int, height: int, colour: int, tmp_path: Path
) -> None:
    path = png_that_claims(tmp_path / "a.png", width, height, colour)
    for read in (
        read_image,
        read_image_size,
        open_clip,
        lambda path: open_clip(path, (max(height, 1), 4, 3)),
    ):
        with pytest.raises(MediaError, match=r"a\.png: "):
            read(path)
    with pytest.raises(MediaError, match=r"a\.bmp: "):
        read_image(bmp_that_claims(tmp_path / "a.bmp", width, height))


def test_a_strip_is_read_where_a_picture_of_its_size_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    frames = moving(12)
    write_image(tmp_path / "long.png", np.concatenate(frames, axis=1))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4 * frames[0][..., 0].size)  # Pillow refuses twice as many
    assert np.array_equal(open_clip(tmp_path / "long.png", frames[0].shape).read(range(12)), frames)
    with pytest.raises(MediaError, match="decompression bomb"):
        read_image(tmp_path / "long.png")


def test_a_strip_is_bounded_too(tmp_path: Path) -> None:
    path = png_that_claims(tmp_path / "a.png", MAX_STRIP_PIXELS // 256 + 256, 256, colour=0)
    with pytest.raises(MediaError, match="decompression bomb"):
        open_clip(path, (256, 256, 3))


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.touch()
    os.truncate(path, MAX_FILE_BYTES + 1)  # takes no room on the disk
    for read in (read_image, read_image_size):
        with pytest.raises(MediaError, match=r"more than the 1,073,741,824"):
            read(path)


def test_white_behind_a_picture_is_laid_in_bands() -> None:
    """A picture of more rows than a band has, so that seams would show."""
    rgba = np.random.default_rng(0).integers(0, 256, (9, 2**20, 4), np.uint8)
    rows = [lay_on_white(rgba[row : row + 1]) for row in range(9)]
    assert np.array_equal(lay_on_white(rgba), np.concatenate(rows))


# ---- Pictures of phones ----------------------------------------------------------


def test_heic_is_read_where_its_package_is_installed(tmp_path: Path) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    pixels = np.zeros((64, 96, 3), np.uint8)
    pixels[:, 48:] = (200, 40, 40)
    pillow_heif.from_pillow(Image.fromarray(pixels)).save(tmp_path / "photo.heic", quality=95)
    assert read_image_size(tmp_path / "photo.heic") == (64, 96)
    assert np.abs(read_image(tmp_path / "photo.heic").astype(int) - pixels).mean() < 5


def test_without_its_package_heic_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (tmp_path / "photo.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    for read in (read_image, read_image_size):
        with pytest.raises(MediaError, match=r"photo\.HEIC: needs the package pillow-heif: pip install"):
            read(tmp_path / "photo.HEIC")


# ---- Colour profiles -------------------------------------------------------------


def profile_of(name: str, gamma: float, columns: np.ndarray | None) -> bytes:
    """An ICC profile (version 2) of primaries, columns XYZ for the white of D50, or of grey, and a gamma."""
    white = (0.9642, 1.0, 0.8249)

    def xyz(values) -> bytes:
        return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(value * 65536) for value in values))

    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    text = b"desc\0\0\0\0" + struct.pack(">I", len(name) + 1) + name.encode() + bytes(79)
    tags = {b"desc": text, b"cprt": b"text\0\0\0\0-\0", b"wtpt": xyz(white)}
    if columns is None:
        tags[b"kTRC"] = curve
    else:
        tags |= dict(zip((b"rXYZ", b"gXYZ", b"bXYZ"), map(xyz, columns.T), strict=True))
        tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    table, data, place = b"", b"", 132 + 12 * len(tags)
    for tag, content in tags.items():
        content += bytes(-len(content) % 4)
        table += tag + struct.pack(">II", place + len(data), len(content))
        data += content
    space = b"GRAY" if columns is None else b"RGB "
    head = struct.pack(">I4sI4s4s4s", place + len(data), b"", 0x02100000, b"mntr", space, b"XYZ ")
    head += bytes(12) + b"acsp" + bytes(28) + struct.pack(">3i", *(round(v * 65536) for v in white))
    return head + bytes(128 - len(head)) + struct.pack(">I", len(tags)) + table + data


# Of Display P3 and of Adobe RGB (1998), adapted to D50, as their makers publish them.
P3 = np.array([[0.5151, 0.2920, 0.1571], [0.2412, 0.6922, 0.0666], [-0.0011, 0.0419, 0.7841]])
ADOBE = np.array([[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]])
SRGB_D50 = np.array([[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]])
SKIN = np.array([[207, 173, 149], [128, 128, 128], [180, 90, 70], [60, 120, 90]])


def stored(columns: np.ndarray, gamma: float) -> np.ndarray:
    """What a picture with these primaries stores of the sRGB colours SKIN (IEC 61966-2-1)."""
    signal = SKIN / 255
    light = np.where(signal <= 0.04045, signal / 12.92, ((signal + 0.055) / 1.055) ** 2.4)
    return 255 * (light @ np.linalg.solve(columns, SRGB_D50).T).clip(0, 1) ** (1 / gamma)


@pytest.mark.parametrize(("name", "columns"), [("Display P3", P3), ("Adobe RGB", ADOBE)])
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif", ".avif"])
def test_colours_come_out_as_the_profile_says(
    tmp_path: Path, name: str, columns: np.ndarray, suffix: str
) -> None:
    values = np.rint(stored(columns, 2.2)).astype(np.uint8)
    picture = Image.fromarray(np.repeat(np.repeat(values[None], 16, 0), 16, 1))
    options = {".jpg": {"quality": 100, "subsampling": 0}, ".webp": {"lossless": True}}.get(suffix, {})
    if suffix == ".avif":
        options = {"quality": 100, "subsampling": "4:4:4"}
    path = tmp_path / f"a{suffix}"
    picture.save(path, icc_profile=profile_of(name, 2.2, columns), **options)
    assert np.abs(read_image(path)[8, 8::16].astype(int) - SKIN).max() <= 3


def test_profiles_of_grey_with_transparency_and_damaged_ones(tmp_path: Path) -> None:
    grey = Image.new("LA", (8, 8), (100, 255))
    grey.putpixel((0, 0), (0, 0))
    grey.save(tmp_path / "grey.png", icc_profile=profile_of("Grey", 1.0, None))
    linear = read_image(tmp_path / "grey.png")  # sRGB of the light 100/255
    assert linear[0, 0].tolist() == [255] * 3
    assert np.abs(linear[4, 4].astype(float) - 255 * (1.055 * (100 / 255) ** (1 / 2.4) - 0.055)).max() <= 1
    for number, damage in enumerate([b"x" * 200, profile_of("Grey", 1.0, None)]):  # grey, for colours
        path = tmp_path / f"{number}.png"
        Image.fromarray(halves()).save(path, icc_profile=damage)
        np.testing.assert_array_equal(read_image(path), halves())


# ---- Writing, values and tensors -------------------------------------------------


def test_write_image_is_whole_or_absent(tmp_path):
    write_image(tmp_path / "a.png", halves())
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), halves())
    with pytest.raises(MediaError, match=r"\.png"):
        write_image(tmp_path / "b.jpg", halves())
    with pytest.raises(MediaError, match="folder exists"):
        write_image(tmp_path / "none" / "b.png", halves())
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.png"]


def test_pixels_survive_the_way_to_a_tensor_and_back():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 5, 7, 3), dtype=np.uint8)
    tensor = to_tensor(pixels)
    assert tensor.shape == (2, 3, 5, 7) and tensor.dtype == torch.float32
    assert torch.equal(tensor, torch.from_numpy(pixels.transpose(0, 3, 1, 2) / np.float32(255)))
    assert torch.equal(to_tensor(pixels / 255), tensor)
    np.testing.assert_array_equal(to_pixels(tensor), pixels)
    np.testing.assert_array_equal(to_pixels(tensor[0].bfloat16()), to_pixels(tensor[0].bfloat16().float()))


def test_media_and_the_tools_around_it_need_no_pytorch():
    script = (
        "import sys, crop_video, utils.progress, data.prepare, media.writer; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


@pytest.mark.parametrize("factor", [1, 255])
def test_floating_point_is_no_black(tmp_path: Path, factor: float) -> None:
    ramp = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    Image.fromarray(factor * ramp).save(tmp_path / "a.tif")
    found = read_image(tmp_path / "a.tif")
    assert np.abs(found - 255 * ramp[..., None]).max() <= 0.51 and (found == found[..., :1]).all()


@pytest.mark.parametrize("value", [-1, 60000, np.nan, np.inf])
def test_floating_point_of_another_range_is_one_line(tmp_path: Path, value: float) -> None:
    Image.fromarray(np.full((8, 8), value, np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(MediaError, match=r"a\.tif: .*floating point from"):
        read_image(tmp_path / "a.tif")
