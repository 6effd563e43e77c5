"""From the colours of a video to those of pictures: YUV matrices, HDR and wide primaries to BT.709.

A signal is R'G'B' in [0, 1] as stored, light is linear, in cd/m² of a display. Shapes: `H, W` size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, Colorspace, ColorTrc, Interpolation, VideoReformatter

# Without these three, colours come out darker by a level, and by three at times.
EXACT = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
HD_LINES = 720  # from here on a video is BT.709, below it is BT.601, where nothing else is written

# FFmpeg's numbers of the matrices that swscale knows; for others one is guessed. 0 is RGB, 2 is unknown.
_MATRICES = {0, 1, 4, 5, 6, 7, 9}
_LUMA = {Colorspace.ITU709: (0.2126, 0.0722), Colorspace.BT2020: (0.2627, 0.0593)}  # of red and blue
_VIDEO_RANGE, _DEEP = 1, "yuv444p16le"  # swscale's own way to RGB of more than 8 bits loses 0.4%

# x and y of red, green and blue; the white of all is D65.
_BT709 = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
_WIDE = {
    ColorPrimaries.BT2020: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),
    ColorPrimaries.SMPTE432: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),  # Display P3
}
_HDR = {ColorTrc.SMPTE2084: "PQ", ColorTrc.ARIB_STD_B67: "HLG"}

_GAMMA = 2.4  # of the display of ordinary video, BT.1886
_WHITE = 203.0  # cd/m² of white paper in HDR, BT.2408
_SDR_WHITE = 100.0  # of ordinary video, also where it was only copied into HDR
_COPIED = (80.0, 105.0)  # the brightest white of such a copy
_STEPS = 4095  # of the tables
_BAND = 2**15  # pixels that are converted together, so that they stay in the processor's cache


class Colours(NamedTuple):
    """What the frames of a video hold, by FFmpeg's numbers, and the light of the brightest white in HDR."""

    matrix: int
    transfer: int
    primaries: int
    brightest: float = _SDR_WHITE

    @classmethod
    def of(cls, frame: av.VideoFrame, others: Callable[[], Iterable[av.VideoFrame]]) -> Colours:
        """Find out from the first frame, and from `others` of an HDR video."""
        is_hd = frame.height >= HD_LINES or frame.width >= 16 / 9 * HD_LINES
        matrix: int = Colorspace.ITU709 if is_hd else Colorspace.ITU601
        primaries = frame.color_primaries
        if frame.color_trc in _HDR:
            matrix, primaries = Colorspace.BT2020, primaries if primaries != 2 else ColorPrimaries.BT2020
        if frame.colorspace in _MATRICES - {0}:
            matrix = frame.colorspace
        colours = cls(matrix, frame.color_trc, primaries)
        if colours.hdr is None:
            return colours
        light_of, size = colours.light(), (frame.height, frame.width)
        looks = [colours.pixels(VideoReformatter(), look, size, _DEEP) for look in (frame, *others())]
        whites = [np.percentile(light_of(look).min(axis=2), 99.9) for look in looks]
        return colours._replace(brightest=float(max(whites)))

    @property
    def hdr(self) -> str | None:
        """The name of the HDR transfer function, None for ordinary video."""
        return _HDR.get(self.transfer)  # type: ignore[call-overload]

    def reader(self, size: tuple[int, int]) -> Callable[[av.VideoFrame], np.ndarray]:
        """Make a function from a frame to RGB, or RGBA, uint8 of `size` (height, width), for one thread."""
        reformatter = VideoReformatter()
        to_ordinary = self._converter() if self.hdr is not None or self.primaries in _WIDE else None

        def read(frame: av.VideoFrame) -> np.ndarray:
            if any(component.is_alpha for component in frame.format.components):
                return self.pixels(reformatter, frame, size, "rgba")
            if to_ordinary is None:
                return self.pixels(reformatter, frame, size, "rgb24")
            return to_ordinary(self.pixels(reformatter, frame, size, _DEEP))

        return read

    def pixels(
        self, reformatter: VideoReformatter, frame: av.VideoFrame, size: tuple[int, int], kind: str
    ) -> np.ndarray:
        """Return the pixels of a frame in FFmpeg's format `kind`, resized to `size` (height, width)."""
        source = None if frame.colorspace in _MATRICES else self.matrix
        target, levels = (self.matrix, _VIDEO_RANGE) if kind == _DEEP else (None, None)
        height, width = size
        return reformatter.reformat(
            frame, width, height, kind, source, target, EXACT, None, levels, threads=1
        ).to_ndarray()

    def _converter(self) -> Callable[[np.ndarray], np.ndarray]:
        """Make a function from Y'CbCr of 16 bits (H, W, 3) to RGB uint8 of ordinary video."""
        is_copy = _COPIED[0] <= self.brightest <= _COPIED[1]
        light_of, white = self.light(), _SDR_WHITE if is_copy else _WHITE
        most = max(self.brightest, white)
        # The square root gives dark colours as many steps as they need.
        curve = _tone(np.linspace(0, 1, _STEPS + 1) ** 2 * most / white, most / white)

        def convert(pixels: np.ndarray) -> np.ndarray:
            converted = np.empty(pixels.shape, np.uint8)
            rows = max(1, _BAND // pixels.shape[1])
            for top in range(0, len(pixels), rows):
                light = light_of(pixels[top : top + rows])
                steps = np.sqrt((light / np.float32(most)).clip(0, 1)) * np.float32(_STEPS)
                converted[top : top + rows] = curve[(steps + np.float32(0.5)).astype(np.uint16)]
            return converted

        return convert

    def light(self) -> Callable[[np.ndarray], np.ndarray]:
        """Make a function from Y'CbCr of 16 bits, in the range of video, to the light of BT.709.

        Both are (H, W, 3), light is float32.
        """
        red, blue = _LUMA.get(self.matrix, (0.299, 0.114))  # type: ignore[call-overload]
        luma = np.array([[red, 1 - red - blue, blue]])
        chroma = (np.eye(3)[[2, 0]] - luma) / (2 - 2 * np.array([[blue], [red]]))
        scale = _STEPS / 256 / np.array([219, 224, 224])  # signals are counted in steps of the table
        to_rgb = (np.linalg.inv(np.vstack([luma, chroma])) * scale).T.astype(np.float32)
        functions = {"PQ": _pq, "HLG": _hlg, None: lambda signal: _SDR_WHITE * signal**_GAMMA}
        table = functions[self.hdr](np.arange(_STEPS + 1) / _STEPS).astype(np.float32)
        wide = _to_xyz(_WIDE.get(self.primaries, _BT709))  # type: ignore[call-overload]
        to_bt709 = (np.linalg.inv(_to_xyz(_BT709)) @ wide).T.astype(np.float32)

        def light_of(pixels: np.ndarray) -> np.ndarray:
            signal = (pixels - np.array([16, 128, 128], np.float32) * 256) @ to_rgb
            light = table[(signal + np.float32(0.5)).clip(0, _STEPS).astype(np.uint16)]
            if self.hdr == "HLG":  # from the scene to a display of 1,000 cd/m² (BT.2100, OOTF)
                light *= 1000 * (light @ wide[1].astype(np.float32))[..., None] ** np.float32(0.2)
            return light @ to_bt709

        return light_of


def _pq(signal: np.ndarray) -> np.ndarray:
    """Return the light of a PQ signal (BT.2100, table 4)."""
    root = signal ** (32 / 2523)
    return 10000 * (np.maximum(root - 107 / 128, 0) / (2413 / 128 - 2392 / 128 * root)) ** (16384 / 2610)


def _hlg(signal: np.ndarray) -> np.ndarray:
    """Return the light of the scene in [0, 1] of an HLG signal (BT.2100, table 5)."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)


def _to_xyz(primaries: tuple[tuple[float, float], ...]) -> np.ndarray:
    """Return the matrix from light of these primaries to CIE XYZ, in which white, D65, has Y = 1."""
    columns = np.array([(x / y, 1, (1 - x - y) / y) for x, y in (*primaries, (0.3127, 0.3290))]).T  # (3, 4)
    return columns[:, :3] * np.linalg.solve(columns[:, :3], columns[:, 3])


def _tone(light: np.ndarray, most: float) -> np.ndarray:
    """Return the signal, uint8, of light in units of white, of which there is at most `most`.

    Highlights are rolled off by the spline of BT.2390 (EETF), in the signal of the display. Without any,
    nothing changes.
    """
    signal, top = (light / most) ** (1 / _GAMMA), most ** (-1 / _GAMMA)
    knee = 1.5 * top - 0.5
    t = (signal - knee) / max(1 - knee, 1e-9)
    spline = (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee)
    spline += (3 * t**2 - 2 * t**3) * top
    return np.rint(255 * (np.where(t < 0, signal, spline) / top).clip(0, 1)).astype(np.uint8)
