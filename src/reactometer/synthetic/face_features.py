"""Paint what moves in a face - eyes, brows, nose and mouth - on a flat canvas in face units.

Face units: half of the face's width at the cheekbones is 1 (about 7 cm); u runs to the picture's right, v down,
and the zero lies between the eyes. Canvases are planar, (channels, h, w) float32, colours in [0, 255].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from reactometer.types import FloatArray

Reals = npt.NDArray[np.floating[Any]]

ACTIONS: dict[str, str] = {
    "AU1": "inner brow raised",
    "AU2": "outer brow raised",
    "AU4": "brows lowered and drawn together",
    "AU5": "upper lid raised",
    "AU6": "cheek raised, lids narrowed",
    "AU9": "nose wrinkled",
    "AU10": "upper lip raised",
    "AU12": "lip corners pulled up",
    "AU15": "lip corners pulled down",
    "AU20": "lips stretched sideways",
    "AU26": "jaw dropped",
    "AU45": "eyes closed (blink)",
}
"""What can move, each from 0 (rest) to 1 (maximum), numbered as in FACS (Ekman, Friesen & Hager 2002)."""


@dataclass(frozen=True)
class Look:
    """One person's appearance and room; colours are (3,) float32 RGB in [0, 255], lengths in face units."""

    skin: FloatArray
    hair: FloatArray
    iris: FloatArray
    cloth: FloatArray
    wall: FloatArray
    hair_style: Literal["short", "long", "bald"]
    hairline_v: float
    jaw: float  # exponent of the jaw's outline: 2 pointed, 3 square
    length: float  # face height over its usual height
    eye_u: float
    eye_size: float
    eye_tilt: float
    brow_v: float
    brow_thickness: float
    nose_width: float
    nose_v: float
    mouth_v: float
    mouth_width: float
    lip_fullness: float
    beard: float  # 0 shaved, 1 full
    light: FloatArray  # (3,) direction to the light: right, down, towards the camera; its length is its strength
    light_tint: FloatArray  # (3,) RGB gains
    grain_seed: int  # of the room's and the hair's pattern


@dataclass(frozen=True)
class Canvas:
    """A planar picture and where it lies in face units."""

    planes: FloatArray  # (C, h, w)
    u: FloatArray  # (w,) of the columns
    v: FloatArray  # (h,) of the rows

    def turned(self) -> Canvas:
        """The same canvas (a view) with u and v exchanged, to paint upright strips."""
        return Canvas(self.planes.swapaxes(1, 2), self.v, self.u)


def blank_canvas(channels: int, size: tuple[float, float, float, float], density: float) -> Canvas:
    """A canvas of zeros over ``size`` (left, top, right, bottom in face units), ``density`` pixels a unit."""
    left, top, right, bottom = size
    u = (np.arange(round((right - left) * density), dtype=np.float32) + 0.5) / np.float32(density) + np.float32(left)
    v = (np.arange(round((bottom - top) * density), dtype=np.float32) + 0.5) / np.float32(density) + np.float32(top)
    return Canvas(np.zeros((channels, len(v), len(u)), np.float32), u, v)


# --- brushes ---------------------------------------------------------------------------------------------------------


def paint(canvas: Canvas, mask: Reals, colour: Reals) -> None:
    """Lay ``colour``, (C,) or (C, h, w), over the canvas where ``mask``, (h, w) in [0, 1], says so."""
    if colour.ndim == 1:
        colour = colour[:, None, None]
    canvas.planes[:] += mask * (colour - canvas.planes)


def blob(
    canvas: Canvas, centre: tuple[float, float], radii: tuple[float, float], colour: Reals, opacity: float
) -> None:
    """A soft spot that fades as a Gaussian."""
    (u, v), (radius_u, radius_v) = centre, radii
    window = crop(canvas, u - 2.3 * radius_u, u + 2.3 * radius_u, v - 2.3 * radius_v, v + 2.3 * radius_v)
    across, down = (window.u - np.float32(u)) / np.float32(radius_u), (window.v - np.float32(v)) / np.float32(radius_v)
    paint(window, np.float32(opacity) * np.exp(-(down**2))[:, None] * np.exp(-(across**2)), colour)


def across(canvas: Canvas, centre: float, half: float) -> Reals:
    """The canvas's columns inside ``centre`` ± ``half``, as t in [-1, 1]."""
    left, right = np.searchsorted(canvas.u, (centre - half, centre + half))
    return (canvas.u[left:right] - np.float32(centre)) / np.float32(half)


def strip(
    canvas: Canvas,
    centre: float,
    half: float,
    upper: Reals,
    lower: Reals,
    colour: Reals,
    opacity: float = 1.0,
    soft: float = 0.03,
) -> None:
    """Fill, with ``soft`` edges, between two curves over ``across(canvas, centre, half)``."""
    if opacity <= 0.01 or not len(upper):
        return
    window = crop(canvas, centre - half, centre + half, float(upper.min()) - soft, float(lower.max()) + soft)
    v, t = window.v[:, None], (window.u - np.float32(centre)) / np.float32(half)
    ends = np.float32(opacity) * (6 - 6 * np.abs(t)).clip(0, 1)
    paint(window, ends * ramp(v - upper, soft) * ramp(lower - v, soft), colour)


def crop(canvas: Canvas, left: float, right: float, top: float, bottom: float) -> Canvas:
    """The part of the canvas inside these bounds, as a view."""
    (first, last), (above, below) = canvas.u.searchsorted((left, right)), canvas.v.searchsorted((top, bottom))
    return Canvas(canvas.planes[:, above:below, first:last], canvas.u[first:last], canvas.v[above:below])


def ramp(distance: Reals, soft: float) -> Reals:
    """0 outside (negative distance), 1 inside, linear over ``soft``."""
    return (distance * np.float32(1 / soft) + np.float32(0.5)).clip(0, 1)


def rgb(red: float, green: float, blue: float) -> FloatArray:
    """A colour, (3,) float32."""
    return np.array([red, green, blue], np.float32)


# --- features --------------------------------------------------------------------------------------------------------


def paint_features(canvas: Canvas, look: Look, actions: Mapping[str, float], yaw: float, gaze: float) -> None:
    """Paint eyes, brows, nose and mouth over the bare skin; ``actions`` are named as in ``ACTIONS``, 0 to 1.

    ``yaw`` in radians shifts the nose, which stands out; ``gaze`` turns the eyes sideways, -1 to 1.
    """
    _paint_nose(canvas, look, actions, 0.16 * float(np.sin(yaw)))
    for side in (-1, 1):
        _paint_eye(canvas, look, side, actions, gaze)
        _paint_brow(canvas, look, side, actions)
        _paint_cheek(canvas, look, side, actions)
    _paint_mouth(canvas, look, actions)


def _paint_eye(canvas: Canvas, look: Look, side: int, actions: Mapping[str, float], gaze: float) -> None:
    centre, half, awake = side * look.eye_u, 0.215 * look.eye_size, look.eye_size * (1 - actions["AU45"])
    rise = (0.115 + 0.10 * actions["AU5"] - 0.055 * actions["AU6"]) * awake - 0.05 * actions["AU45"]
    sink = (0.065 + 0.02 * actions["AU5"] - 0.07 * actions["AU6"] - 0.04 * actions["AU9"]) * awake
    sink = sink + 0.055 * actions["AU45"]
    t = across(canvas, centre, half)
    arch = (1 - t**2) ** np.float32(0.65)
    upper, lower = look.eye_tilt * side * t - rise * arch, look.eye_tilt * side * t + sink * arch
    window = crop(canvas, centre - half, centre + half, -0.35, 0.25)
    v = window.v[:, None]
    opening = ramp(v - upper, 0.025) * ramp(lower - v, 0.025)
    radius = np.hypot(window.u - np.float32(centre + 0.05 * gaze), v + np.float32(0.022))
    glint = np.hypot(window.u - np.float32(centre + 0.05 * gaze - 0.035), v + np.float32(0.06))
    paint(window, opening, rgb(226, 220, 214) * (0.62 + 0.0018 * float(look.skin.mean())))
    paint(window, opening * ramp(0.112 - radius, 0.03), look.iris)
    paint(window, opening * ramp(0.052 - radius, 0.03), rgb(12, 12, 12))
    paint(window, opening * ramp(0.026 - glint, 0.03), rgb(245, 245, 245))
    paint(window, opening * np.float32(0.45) * ramp(0.06 - (v - upper), 0.06), rgb(30, 30, 30))
    fold, bag = upper - 0.105 + 0.035 * actions["AU5"], lower + 0.075
    strip(canvas, centre, half, upper - 0.034, upper + 0.014, look.skin * 0.18, 0.9)
    strip(canvas, centre, half, lower - 0.006, lower + 0.018, look.skin * 0.5, 0.5)
    strip(canvas, centre, half, fold - 0.012, fold + 0.012, look.skin * 0.55, 0.5)
    strip(canvas, centre, half, bag, bag + 0.045, look.skin * 0.55, 0.1 + 0.7 * actions["AU6"], 0.04)


def _paint_brow(canvas: Canvas, look: Look, side: int, actions: Mapping[str, float]) -> None:
    inner, outer, frown = actions["AU1"], actions["AU2"], actions["AU4"]
    centre = side * (look.eye_u + 0.02 - 0.05 * frown)
    outward = side * across(canvas, centre, 0.29)
    to_nose, to_temple = (1 - outward) / 2, (1 + outward) / 2
    lift = 0.19 * inner * to_nose + 0.17 * outer * to_temple
    press = frown * (0.05 + 0.15 * to_nose) + 0.09 * actions["AU9"] * to_nose
    line = look.brow_v - 0.02 + 0.055 * (outward - 0.2) ** 2 - lift + press
    thickness = look.brow_thickness * (0.62 - 0.33 * outward)
    strip(canvas, centre, 0.29, line - thickness, line + thickness, look.hair * 0.65, 0.88, 0.035)
    furrow = np.full_like(across(canvas.turned(), -0.3, 0.12), side * 0.07)
    strip(canvas.turned(), -0.3, 0.12, furrow - 0.016, furrow + 0.016, look.skin * 0.45, 0.8 * frown)
    for height in (-0.29, -0.39, -0.49):
        wrinkle = look.brow_v + height + 0.03 * across(canvas, side * 0.3, 0.3) ** 2
        strip(canvas, side * 0.3, 0.3, wrinkle - 0.012, wrinkle + 0.014, look.skin * 0.6, 0.28 * (inner + outer))


def _paint_nose(canvas: Canvas, look: Look, actions: Mapping[str, float], middle: float) -> None:
    wrinkle, skin = actions["AU9"], look.skin
    base, width = look.nose_v - 0.12 * wrinkle, look.nose_width * (1 + 0.2 * wrinkle)
    dark_side = -1 if look.light[0] > 0 else 1
    blob(canvas, (middle + 0.17 * dark_side, 0.30), (0.10, 0.32), skin * 0.72, 0.6)
    blob(canvas, (middle - 0.17 * dark_side, 0.30), (0.08, 0.30), skin * 0.85, 0.5)
    blob(canvas, (middle, 0.18), (0.085, 0.36), skin * 1.13 + 6, 0.75)
    blob(canvas, (middle, base + 0.12), (0.26 * width, 0.07), skin * 0.62, 0.65)
    blob(canvas, (middle, base - 0.04), (0.13 * width, 0.10), skin * 1.14 + 8, 0.8)
    for side in (-1, 1):
        blob(canvas, (middle + side * 0.185 * width, base - 0.01), (0.07, 0.085), skin * 0.92, 0.8)
        blob(canvas, (middle + side * 0.265 * width, base), (0.03, 0.07), skin * 0.6, 0.6)
        blob(canvas, (middle + side * 0.095 * width, base + 0.065), (0.062, 0.034), skin * 0.22, 0.95)
    arch = 0.06 * across(canvas, middle, 0.2) ** 2
    for height in (-0.05, 0.05, 0.15):
        strip(canvas, middle, 0.2, height - arch - 0.02, height - arch + 0.02, skin * 0.42, 0.85 * wrinkle)


def _paint_cheek(canvas: Canvas, look: Look, side: int, actions: Mapping[str, float]) -> None:
    """The cheek, and the fold from the nose to the lip's corner."""
    smile, sneer = actions["AU12"], max(actions["AU9"], actions["AU10"])
    lift = max(0.7 * smile, actions["AU6"])
    blob(canvas, (side * 0.55, 0.48 - 0.1 * lift), (0.20, 0.15), look.skin * 1.14 + rgb(16, 0, 0), 0.2 + 0.6 * lift)
    start, end = 0.24 * look.nose_width, look.mouth_width * (1 + 0.24 * smile) + 0.07
    downward = (across(canvas.turned(), look.nose_v + 0.19, 0.23) + 1) / 2
    line = side * (start + (end - start) * downward**0.8)
    depth = min(0.85, 0.15 + 0.45 * smile + 0.6 * sneer)
    strip(canvas.turned(), look.nose_v + 0.19, 0.23, line - 0.022, line + 0.022, look.skin * 0.55, depth, 0.04)


def _paint_mouth(canvas: Canvas, look: Look, actions: Mapping[str, float]) -> None:
    smile, sad, stretch, jaw = actions["AU12"], actions["AU15"], actions["AU20"], actions["AU26"]
    sneer = max(actions["AU10"], 0.6 * actions["AU9"])
    half = look.mouth_width * (1 + 0.24 * smile + 0.38 * stretch - 0.12 * jaw - 0.05 * sad)
    middle = look.mouth_v + 0.02 * smile + 0.05 * jaw
    open_up = 0.012 + 0.05 * smile + 0.11 * sneer + 0.05 * jaw
    open_down = 0.010 + 0.035 * smile + 0.07 * stretch + 0.36 * jaw
    bend = 0.20 * sad - 0.24 * smile + 0.05 * stretch - 0.03
    t = across(canvas, 0, half)
    bulge = (1 - t**2) ** np.float32(0.7)
    line = middle + bend * (np.abs(t) ** 1.8 - 0.25)
    top, bottom = line - open_up * bulge, line + open_down * bulge
    fullness = look.lip_fullness * (1 - 0.25 * smile - 0.35 * stretch) * bulge
    bow = 0.085 * fullness * (1 - 0.25 * np.exp(-((t / 0.16) ** 2)))
    lip = look.skin * rgb(0.80, 0.56, 0.56) + rgb(14, 4, 6)
    for side in (-1, 1):
        corner = 0.4 + 0.25 * max(sad, smile)
        blob(canvas, (side * half, middle + 0.75 * bend), (0.06, 0.06), look.skin * 0.45, corner)
    blob(canvas, (0, middle + open_down + 0.24), (0.22, 0.06), look.skin * 0.72, 0.6)
    strip(canvas, 0, half, top - bow, top + 0.01, lip * 0.86, 0.92)
    strip(canvas, 0, half, bottom - 0.01, bottom + 0.115 * fullness, lip, 0.92, 0.04)
    blob(canvas, (0, middle + open_down + 0.055), (0.16, 0.025), lip * 1.2 + 16, 0.5)
    strip(canvas, 0, half, top, bottom, rgb(48, 18, 18), 0.97)
    teeth = min(0.09, 0.6 * (open_up + open_down)) * min(1.0, 1.4 * smile + 1.2 * sneer + stretch + 0.5 * jaw)
    strip(canvas, 0, half, top, top + teeth * bulge**2, rgb(228, 222, 210), min(1.0, teeth / 0.03))
