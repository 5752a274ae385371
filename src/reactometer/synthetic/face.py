"""Draw one image of a talking face from given facial actions.

The head is an egg without perspective. Eyes, brows, nose and mouth are painted on a flat skin texture for
every frame; the texture is wrapped around the head, lit, and composited over hair, neck, shoulders and room.

Images are planar in this file, (3, H, W) float32 in [0, 255]. Lengths are in face units: half of the face's
width at the cheekbones is 1 (about 7 cm); u runs to the image's right, v down, and the origin lies between
the eyes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt

from reactometer.types import ByteArray, FloatArray

Reals = npt.NDArray[np.floating[Any]]

ACTIONS = ("AU1", "AU2", "AU4", "AU5", "AU6", "AU9", "AU10", "AU12", "AU15", "AU20", "AU26", "AU45")
"""Action units from 0 (rest) to 1 (maximum), as in FACS (Ekman, Friesen & Hager 2002): inner and outer brow
raised, brows lowered and drawn together, upper lid raised, cheek raised, nose wrinkled, upper lip raised, lip
corners up, lip corners down, lips stretched, jaw dropped, eyes closed."""

_CROWN_V, _CHIN_V = -1.70, 1.56
_TEXTURE_BOUNDS = (-1.3, -1.85, 1.3, 1.9)  # left, top, right, bottom in face units
_BACKGROUND_BOUNDS = (-2.9, -2.1, 2.9, 3.6)
_SKIN_TONES = np.array(
    [(238, 206, 188), (222, 182, 156), (192, 146, 116), (152, 106, 80), (106, 74, 58)], np.float32
)
_HAIR_TONES = np.array(
    [(38, 30, 28), (72, 48, 34), (110, 76, 48), (176, 136, 84), (140, 134, 130)], np.float32
)
_IRIS_TONES = np.array([(58, 38, 26), (92, 66, 38), (84, 104, 72), (84, 116, 146)], np.float32)


@dataclass(frozen=True)
class Appearance:
    """One person's appearance and room; colours are (3,) float32 RGB in [0, 255], lengths in face units."""

    skin: FloatArray
    hair: FloatArray
    iris: FloatArray
    cloth: FloatArray
    wall: FloatArray
    hair_style: Literal["short", "long", "bald"]
    hairline_v: float
    jaw: float  # exponent of the jaw's outline: 2 pointed, 3 square
    length: float  # face height relative to the average
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
    light: (
        FloatArray  # (3,) direction to the light: right, down, towards the camera; its length is its strength
    )
    light_tint: FloatArray  # (3,) RGB gains
    grain_seed: int  # of the random patterns of room, skin and hair


@dataclass(frozen=True)
class Pose:
    """Position of the head in one frame, in shares of the frame's side, and angles in radians."""

    x: float  # of the point between the eyes
    y: float
    scale: float  # of one face unit
    yaw: float = 0.0  # positive: towards the frame's right
    pitch: float = 0.0  # positive: nods down
    roll: float = 0.0  # positive: clockwise in the frame
    gaze: float = 0.0  # sideways direction of the eyes, -1 to 1


@dataclass(frozen=True)
class Canvas:
    """Planar image with its position in face units."""

    planes: FloatArray  # (C, h, w)
    u: FloatArray  # (w,) of the columns
    v: FloatArray  # (h,) of the rows

    def transposed(self) -> Canvas:
        """Return a view with u and v exchanged, to paint vertical bands."""
        return Canvas(self.planes.swapaxes(1, 2), self.v, self.u)


@dataclass(frozen=True)
class Scene:
    """Constant parts of a clip's frames."""

    person: Appearance
    room: FloatArray  # (3, H, W) the empty room
    skin: Canvas  # bare skin and front hair, without moving parts
    background: (
        FloatArray  # (h, w, 4) hair, ears, neck and shoulders, already multiplied by the opacity in channel 3
    )


def random_appearance(rng: np.random.Generator) -> Appearance:
    """Sample a person: skin over the whole range of human tones, features within natural bounds."""
    tone = float(rng.uniform(0, len(_SKIN_TONES) - 1))
    fair = tone < 2
    light = np.array([rng.uniform(-0.55, 0.55), rng.uniform(-0.6, -0.1), 1.0])
    return Appearance(
        skin=_interpolate_tone(_SKIN_TONES, tone) + rng.normal(0, 4, 3).astype(np.float32),
        hair=_interpolate_tone(_HAIR_TONES, rng.uniform(0, 4 if fair else 1)),
        iris=_interpolate_tone(_IRIS_TONES, rng.uniform(0, 3 if fair else 0.8)),
        cloth=(rng.uniform(40, 190) + rng.normal(0, 30, 3)).clip(15, 235).astype(np.float32),
        wall=(rng.uniform(70, 205) + rng.normal(0, 16, 3)).astype(np.float32),
        hair_style=("short", "long", "bald")[int(rng.choice(3, p=[0.5, 0.4, 0.1]))],
        hairline_v=rng.uniform(-1.05, -0.85),
        jaw=rng.uniform(2.1, 2.9),
        length=rng.uniform(0.94, 1.04),
        eye_u=rng.uniform(0.42, 0.48),
        eye_size=rng.uniform(0.95, 1.15),
        eye_tilt=rng.uniform(-0.03, 0.03),
        brow_v=rng.uniform(-0.36, -0.30),
        brow_thickness=rng.uniform(0.045, 0.085),
        nose_width=rng.uniform(0.85, 1.2),
        nose_v=rng.uniform(0.56, 0.64),
        mouth_v=rng.uniform(0.96, 1.03),
        mouth_width=rng.uniform(0.36, 0.43),
        lip_fullness=rng.uniform(0.8, 1.25),
        beard=rng.uniform(0.2, 0.6) * (rng.uniform() < 0.2),
        light=(light / np.linalg.norm(light) * rng.uniform(0.7, 0.95)).astype(np.float32),
        light_tint=rng.uniform(0.95, 1.05, 3).astype(np.float32),
        grain_seed=int(rng.integers(2**31)),
    )


def build_scene(person: Appearance, size_px: int) -> Scene:
    """Build the constant parts of a clip, for square frames of ``size_px``."""
    rng = np.random.default_rng(person.grain_seed)
    density = _density(size_px)
    return Scene(
        person, _room(person, size_px, rng), _bare_skin(person, density, rng), _background(person, density)
    )


def draw_frame(
    scene: Scene,
    pose: Pose,
    actions: Mapping[str, float],
    blur_px: float = 0.0,
    noise: FloatArray | None = None,
) -> ByteArray:
    """Draw the person, (H, W, 3) uint8 RGB, with ``actions`` (as in ``ACTIONS``, 0 to 1) at ``pose``.

    ``blur_px`` is the sigma of a Gaussian; ``noise``, (H, W, 1), is added in grey levels.
    """
    texture = Canvas(scene.skin.planes.copy(), scene.skin.u, scene.skin.v)
    paint_features(texture, scene.person, actions, pose.yaw, pose.gaze)
    planes = _composite_background(scene, pose)
    _wrap_head(planes, scene.person, texture, pose, _CHIN_V + 0.26 * actions["AU26"])
    frame = cv2.merge(list(planes))  # (H, W, 3)
    if blur_px > 0.2:
        frame = cv2.GaussianBlur(frame, (0, 0), blur_px)
    if noise is not None:
        frame = frame + noise
    return np.asarray(frame.clip(0, 255), np.uint8)


# --- constant parts
# ---------------------------------------------------------------------------------------------------


def _room(person: Appearance, size_px: int, rng: np.random.Generator) -> FloatArray:
    """Draw a wall under uneven light and a few objects out of focus, (3, H, W)."""
    v, u = np.mgrid[0:size_px, 0:size_px].astype(np.float32) / size_px
    room = person.wall * (1.08 - 0.3 * np.hypot(u - rng.uniform(), v - rng.uniform()))[..., None]
    for _ in range(rng.integers(1, 5)):
        box = rng.uniform([-0.2, -0.2, 0.1, 0.1], [0.9, 0.9, 0.4, 0.4]) * size_px
        left, top, wide, high = box.astype(int).tolist()
        colour = person.wall * rng.uniform(0.5, 1.3) + rng.normal(0, 10, 3)
        cv2.rectangle(room, (left, top), (left + wide, top + high), colour.tolist(), -1)
    blurred = cv2.GaussianBlur(room, (0, 0), size_px * 0.012)
    return np.ascontiguousarray(blurred.transpose(2, 0, 1), np.float32)


def _bare_skin(person: Appearance, density: float, rng: np.random.Generator) -> Canvas:
    canvas = blank_canvas(3, _TEXTURE_BOUNDS, density)
    skin = person.skin
    blotches, strands = (_grain(canvas, rng, *blur) for blur in ((0.09, 0.09), (0.014, 0.15)))
    canvas.planes[:] = skin[:, None, None] + rgb(5, 4, 3.5)[:, None, None] * blotches
    blob(canvas, (0, -0.62), (0.55, 0.28), skin * 1.08 + 5, 0.6)
    blob(canvas, (0, 1.38), (0.22, 0.14), skin * 1.06 + 4, 0.5)
    for side in (-1, 1):
        blob(canvas, (side * person.eye_u * 0.98, -0.05), (0.31, 0.20), skin * 0.67, 0.85)
        blob(canvas, (side * 0.2, -0.04), (0.10, 0.16), skin * 0.68, 0.6)
        blob(canvas, (side * 0.56, 0.48), (0.26, 0.2), skin * 1.07 + rgb(9, 1, 0), 0.7)
        blob(canvas, (side * 0.80, 0.85), (0.18, 0.40), skin * 0.78, 0.5)
    u, v = np.abs(canvas.u)[None, :], canvas.v[:, None]
    paint(canvas, person.beard * ramp(v - 0.72 - 0.25 * np.cos(2.2 * u), 0.3), person.hair * 0.8)
    if person.hair_style != "bald":
        fringe = ramp(person.hairline_v + 0.55 * u**3.2 + 0.03 * strands - v, 0.06)
        sideburn = ramp(u - 0.95, 0.05) * ramp(0.35 - v, 0.2)
        paint(canvas, np.maximum(fringe, sideburn), person.hair[:, None, None] * (1 + 0.22 * strands))
    return canvas


def _background(person: Appearance, density: float) -> FloatArray:
    """Draw hair, neck, shoulders and ears, (h, w, 4), premultiplied by the opacity in channel 3."""
    canvas = blank_canvas(4, _BACKGROUND_BOUNDS, density)
    u, v = np.abs(canvas.u)[None, :], canvas.v[:, None]
    hair_ellipse = (u / 1.12) ** 2.4 + np.where(v < 0, np.abs(v / 1.84) ** 2.6, np.abs(v / 1.9) ** 4)
    if person.hair_style == "long":
        paint(canvas, ramp(1 - hair_ellipse, 0.08), _opaque(person.hair * 0.75))
    neck = ramp(0.52 + 0.1 * (v - 1.7).clip(0, 1) ** 2 - u, 0.05) * ramp(v - 0.6, 0.1)
    paint(canvas, neck, _opaque(person.skin * 0.68))
    blob(canvas, (0, 1.5), (0.5, 0.3), _opaque(person.skin * 0.4), 0.6)
    shoulder = 2.05 + 0.55 * (u - 0.45).clip(0, None) ** 1.3 + 0.15 * np.exp(-((u / 0.5) ** 2))
    paint(canvas, ramp(v - shoulder, 0.05), _opaque(person.cloth * 0.85))
    if person.hair_style != "long":
        paint(
            canvas,
            ramp(1 - ((u - 1.0) / 0.14) ** 2 - ((v - 0.16) / 0.33) ** 2, 0.3),
            _opaque(person.skin * 0.82),
        )
    if person.hair_style == "short":
        paint(canvas, ramp(1 - hair_ellipse, 0.08) * ramp(-v, 0.1), _opaque(person.hair * 0.85))
    return np.ascontiguousarray(canvas.planes.transpose(1, 2, 0))


# --- the camera's view
# ------------------------------------------------------------------------------------------------


def _composite_background(scene: Scene, pose: Pose) -> FloatArray:
    """Composite the room with hair, neck and shoulders, (3, H, W), without the face."""
    size_px = scene.room.shape[1]
    density = _density(size_px)
    zoom = pose.scale * size_px / density
    cos = np.cos(pose.roll)
    sin = np.sin(pose.roll)
    linear = zoom * np.array([[cos, -sin], [sin, cos]])
    origin = density * np.array([-_BACKGROUND_BOUNDS[0] + 0.2 * np.sin(pose.yaw), -_BACKGROUND_BOUNDS[1]])
    shift = size_px * np.array([pose.x, pose.y]) - linear @ origin
    *planes, opacity = cv2.split(
        cv2.warpAffine(scene.background, np.column_stack([linear, shift]), (size_px, size_px))
    )
    return scene.room * (1 - opacity) + np.stack(planes)


def _wrap_head(planes: FloatArray, person: Appearance, texture: Canvas, pose: Pose, chin_v: float) -> None:
    """Wrap the texture around the egg, light it, and composite it over ``planes``, (3, H, W), in place."""
    size_px = planes.shape[1]
    unit = pose.scale * size_px
    middle_x = pose.x * size_px
    middle_y = pose.y * size_px
    left, right = (int(np.clip(middle_x + reach * unit, 0, size_px)) for reach in (-1.25, 1.25))
    above, below = (int(np.clip(middle_y + reach * unit, 0, size_px)) for reach in (-1.85, 2.0))
    if left >= right or above >= below:
        return
    offset_x = ((np.arange(left, right, dtype=np.float32) - np.float32(middle_x)) / np.float32(unit))[None, :]
    offset_y = ((np.arange(above, below, dtype=np.float32) - np.float32(middle_y)) / np.float32(unit))[
        :, None
    ]
    cos = np.float32(np.cos(pose.roll))
    sin = np.float32(np.sin(pose.roll))
    x = offset_x * cos + offset_y * sin
    y = (offset_y * cos - offset_x * sin) / np.float32(person.length)
    width, slope = _outline(person, chin_v, y)
    sin_lon = (x / np.maximum(width, np.float32(1e-3))).clip(
        -1, 1
    )  # sine of the longitude relative to the camera
    cos_lon = np.sqrt(1 - sin_lon**2)  # cosine of the longitude
    cos = np.float32(np.cos(pose.yaw))
    sin = np.float32(np.sin(pose.yaw))
    u = np.where(cos_lon * cos + sin_lon * sin > 0, (sin_lon * cos - cos_lon * sin) * width, 1.2)
    v = y - np.float32(0.9 * np.sin(pose.pitch)) * cos_lon
    density = _density(size_px)
    columns = (u - texture.u[0]) * np.float32(density)
    rows = (v - texture.v[0]) * np.float32(density)
    skin = cv2.remap(
        cv2.merge(list(texture.planes)), columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    steepness = np.sqrt(1 + slope**2)
    tilt = np.float32(0.7) * slope.clip(-1.5, 1.5)
    facing = sin_lon * person.light[0] + cos_lon * person.light[2] - tilt * person.light[1]
    light = (
        np.float32(0.36)
        + np.float32(1.56) * (facing / (1 + steepness)).clip(0)
        - np.float32(0.12) * sin_lon**4
    )
    opacity = ((width - np.abs(x)) / steepness * np.float32(unit) + np.float32(0.5)).clip(0, 1) * (
        width > 1e-3
    )
    lit = np.stack(cv2.split(skin)) * light * person.light_tint[:, None, None]
    patch = planes[:, above:below, left:right]
    patch += opacity * (lit - patch)


def _outline(person: Appearance, chin_v: float, v: Reals) -> tuple[Reals, Reals]:
    """Return half of the head's width at each height, 0 above the crown and below the chin, and its slope."""
    heights = np.linspace(_CROWN_V - 0.02, chin_v + 0.02, 256, dtype=np.float32)
    crown = 1 - ((0.1 - heights).clip(0) / (0.1 - _CROWN_V)) ** 2.7
    jaw = 1 - ((heights - 0.1).clip(0) / (chin_v - 0.1)) ** person.jaw
    widths = np.sqrt((crown * jaw).clip(0))
    slopes = np.gradient(widths, heights).astype(np.float32)
    position = ((v - heights[0]) * np.float32(255 / (heights[-1] - heights[0]))).clip(0, 255)
    lower = np.minimum(position.astype(np.int32), 254)
    return widths[lower] + (position - lower).astype(np.float32) * (
        widths[lower + 1] - widths[lower]
    ), slopes[lower]


def _density(size_px: int) -> float:
    """Return canvas pixels per face unit, a little finer than the frame."""
    return 0.28 * size_px


def _grain(canvas: Canvas, rng: np.random.Generator, blur_u: float, blur_v: float) -> FloatArray:
    """Sample smooth noise of standard deviation 1, (h, w); blurs are in face units."""
    density = 1 / float(canvas.u[1] - canvas.u[0])
    white = rng.standard_normal(canvas.planes.shape[1:], np.float32)
    smooth = cv2.GaussianBlur(white, (0, 0), sigmaX=blur_u * density, sigmaY=blur_v * density)
    return np.asarray(smooth / smooth.std())


def _opaque(colour: FloatArray) -> FloatArray:
    return np.append(colour, np.float32(1))


def _interpolate_tone(tones: FloatArray, position: float) -> FloatArray:
    """Interpolate linearly between rows of ``tones`` at a fractional row."""
    return np.array([np.interp(position, np.arange(len(tones)), channel) for channel in tones.T], np.float32)


# --- eyes, brows, nose, cheeks and mouth
# ------------------------------------------------------------------------------


def paint_features(
    canvas: Canvas, person: Appearance, actions: Mapping[str, float], yaw: float, gaze: float
) -> None:
    """Paint eyes, brows, nose and mouth over the bare skin; ``actions`` are named as in ``ACTIONS``, 0 to 1.

    ``yaw`` in radians shifts the protruding nose; ``gaze`` turns the eyes sideways, -1 to 1.
    """
    _paint_nose(canvas, person, actions, 0.16 * float(np.sin(yaw)))
    for side in (-1, 1):
        _paint_eye(canvas, person, side, actions, gaze)
        _paint_brow(canvas, person, side, actions)
        _paint_cheek(canvas, person, side, actions)
    _paint_mouth(canvas, person, actions)


def _paint_eye(
    canvas: Canvas, person: Appearance, side: int, actions: Mapping[str, float], gaze: float
) -> None:
    centre = side * person.eye_u
    half = 0.215 * person.eye_size
    openness = person.eye_size * (1 - actions["AU45"])
    rise = (0.115 + 0.10 * actions["AU5"] - 0.055 * actions["AU6"]) * openness - 0.05 * actions["AU45"]
    sink = (0.065 + 0.02 * actions["AU5"] - 0.07 * actions["AU6"] - 0.04 * actions["AU9"]) * openness
    sink = sink + 0.055 * actions["AU45"]
    t = band_positions(canvas, centre, half)
    arch = (1 - t**2) ** np.float32(0.65)
    upper = person.eye_tilt * side * t - rise * arch
    lower = person.eye_tilt * side * t + sink * arch
    window = crop(canvas, centre - half, centre + half, -0.35, 0.25)
    v = window.v[:, None]
    opening = ramp(v - upper, 0.025) * ramp(lower - v, 0.025)
    radius = np.hypot(window.u - np.float32(centre + 0.05 * gaze), v + np.float32(0.022))
    glint = np.hypot(window.u - np.float32(centre + 0.05 * gaze - 0.035), v + np.float32(0.06))
    paint(window, opening, rgb(226, 220, 214) * (0.62 + 0.0018 * float(person.skin.mean())))
    paint(window, opening * ramp(0.112 - radius, 0.03), person.iris)
    paint(window, opening * ramp(0.052 - radius, 0.03), rgb(12, 12, 12))
    paint(window, opening * ramp(0.026 - glint, 0.03), rgb(245, 245, 245))
    paint(window, opening * np.float32(0.45) * ramp(0.06 - (v - upper), 0.06), rgb(30, 30, 30))
    fold, bag = upper - 0.105 + 0.035 * actions["AU5"], lower + 0.075
    fill_band(canvas, centre, half, upper - 0.034, upper + 0.014, person.skin * 0.18, 0.9)
    fill_band(canvas, centre, half, lower - 0.006, lower + 0.018, person.skin * 0.5, 0.5)
    fill_band(canvas, centre, half, fold - 0.012, fold + 0.012, person.skin * 0.55, 0.5)
    fill_band(canvas, centre, half, bag, bag + 0.045, person.skin * 0.55, 0.1 + 0.7 * actions["AU6"], 0.04)


def _paint_brow(canvas: Canvas, person: Appearance, side: int, actions: Mapping[str, float]) -> None:
    inner = actions["AU1"]
    outer = actions["AU2"]
    frown = actions["AU4"]
    centre = side * (person.eye_u + 0.02 - 0.05 * frown)
    outward = side * band_positions(canvas, centre, 0.29)
    to_nose, to_temple = (1 - outward) / 2, (1 + outward) / 2
    lift = 0.19 * inner * to_nose + 0.17 * outer * to_temple
    press = frown * (0.05 + 0.15 * to_nose) + 0.09 * actions["AU9"] * to_nose
    line = person.brow_v - 0.02 + 0.055 * (outward - 0.2) ** 2 - lift + press
    thickness = person.brow_thickness * (0.62 - 0.33 * outward)
    fill_band(canvas, centre, 0.29, line - thickness, line + thickness, person.hair * 0.65, 0.88, 0.035)
    furrow = np.full_like(band_positions(canvas.transposed(), -0.3, 0.12), side * 0.07)
    fill_band(
        canvas.transposed(), -0.3, 0.12, furrow - 0.016, furrow + 0.016, person.skin * 0.45, 0.8 * frown
    )
    for height in (-0.29, -0.39, -0.49):
        wrinkle = person.brow_v + height + 0.03 * band_positions(canvas, side * 0.3, 0.3) ** 2
        fill_band(
            canvas,
            side * 0.3,
            0.3,
            wrinkle - 0.012,
            wrinkle + 0.014,
            person.skin * 0.6,
            0.28 * (inner + outer),
        )


def _paint_nose(canvas: Canvas, person: Appearance, actions: Mapping[str, float], middle: float) -> None:
    wrinkle, skin = actions["AU9"], person.skin
    base = person.nose_v - 0.12 * wrinkle
    width = person.nose_width * (1 + 0.2 * wrinkle)
    dark_side = -1 if person.light[0] > 0 else 1
    blob(canvas, (middle + 0.17 * dark_side, 0.30), (0.10, 0.32), skin * 0.72, 0.6)
    blob(canvas, (middle - 0.17 * dark_side, 0.30), (0.08, 0.30), skin * 0.85, 0.5)
    blob(canvas, (middle, 0.18), (0.085, 0.36), skin * 1.13 + 6, 0.75)
    blob(canvas, (middle, base + 0.12), (0.26 * width, 0.07), skin * 0.62, 0.65)
    blob(canvas, (middle, base - 0.04), (0.13 * width, 0.10), skin * 1.14 + 8, 0.8)
    for side in (-1, 1):
        blob(canvas, (middle + side * 0.185 * width, base - 0.01), (0.07, 0.085), skin * 0.92, 0.8)
        blob(canvas, (middle + side * 0.265 * width, base), (0.03, 0.07), skin * 0.6, 0.6)
        blob(canvas, (middle + side * 0.095 * width, base + 0.065), (0.062, 0.034), skin * 0.22, 0.95)
    arch = 0.06 * band_positions(canvas, middle, 0.2) ** 2
    for height in (-0.05, 0.05, 0.15):
        fill_band(
            canvas, middle, 0.2, height - arch - 0.02, height - arch + 0.02, skin * 0.42, 0.85 * wrinkle
        )


def _paint_cheek(canvas: Canvas, person: Appearance, side: int, actions: Mapping[str, float]) -> None:
    """Paint the cheek, and the fold from the nose to the lip's corner."""
    smile = actions["AU12"]
    sneer = max(actions["AU9"], actions["AU10"])
    lift = max(0.7 * smile, actions["AU6"])
    blob(
        canvas,
        (side * 0.55, 0.48 - 0.1 * lift),
        (0.20, 0.15),
        person.skin * 1.14 + rgb(16, 0, 0),
        0.2 + 0.6 * lift,
    )
    start = 0.24 * person.nose_width
    end = person.mouth_width * (1 + 0.24 * smile) + 0.07
    downward = (band_positions(canvas.transposed(), person.nose_v + 0.19, 0.23) + 1) / 2
    line = side * (start + (end - start) * downward**0.8)
    opacity = min(0.85, 0.15 + 0.45 * smile + 0.6 * sneer)
    fold_v, colour = person.nose_v + 0.19, person.skin * 0.55
    fill_band(canvas.transposed(), fold_v, 0.23, line - 0.022, line + 0.022, colour, opacity, 0.04)


def _paint_mouth(canvas: Canvas, person: Appearance, actions: Mapping[str, float]) -> None:
    smile = actions["AU12"]
    sad = actions["AU15"]
    stretch = actions["AU20"]
    jaw = actions["AU26"]
    sneer = max(actions["AU10"], 0.6 * actions["AU9"])
    half = person.mouth_width * (1 + 0.24 * smile + 0.38 * stretch - 0.12 * jaw - 0.05 * sad)
    middle = person.mouth_v + 0.02 * smile + 0.05 * jaw
    open_up = 0.012 + 0.05 * smile + 0.11 * sneer + 0.05 * jaw
    open_down = 0.010 + 0.035 * smile + 0.07 * stretch + 0.36 * jaw
    bend = 0.20 * sad - 0.24 * smile + 0.05 * stretch - 0.03
    t = band_positions(canvas, 0, half)
    bulge = (1 - t**2) ** np.float32(0.7)
    line = middle + bend * (np.abs(t) ** 1.8 - 0.25)
    top, bottom = line - open_up * bulge, line + open_down * bulge
    fullness = person.lip_fullness * (1 - 0.25 * smile - 0.35 * stretch) * bulge
    bow = 0.085 * fullness * (1 - 0.25 * np.exp(-((t / 0.16) ** 2)))
    lip = person.skin * rgb(0.80, 0.56, 0.56) + rgb(14, 4, 6)
    for side in (-1, 1):
        opacity = 0.4 + 0.25 * max(sad, smile)
        blob(canvas, (side * half, middle + 0.75 * bend), (0.06, 0.06), person.skin * 0.45, opacity)
    blob(canvas, (0, middle + open_down + 0.24), (0.22, 0.06), person.skin * 0.72, 0.6)
    fill_band(canvas, 0, half, top - bow, top + 0.01, lip * 0.86, 0.92)
    fill_band(canvas, 0, half, bottom - 0.01, bottom + 0.115 * fullness, lip, 0.92, 0.04)
    blob(canvas, (0, middle + open_down + 0.055), (0.16, 0.025), lip * 1.2 + 16, 0.5)
    fill_band(canvas, 0, half, top, bottom, rgb(48, 18, 18), 0.97)
    teeth = min(0.09, 0.6 * (open_up + open_down)) * min(1.0, 1.4 * smile + 1.2 * sneer + stretch + 0.5 * jaw)
    fill_band(canvas, 0, half, top, top + teeth * bulge**2, rgb(228, 222, 210), min(1.0, teeth / 0.03))


# --- drawing on a canvas
# ----------------------------------------------------------------------------------------------


def blank_canvas(channels: int, bounds: tuple[float, float, float, float], density: float) -> Canvas:
    """Return a canvas of zeros over ``bounds`` (left, top, right, bottom; face units), ``density`` pixels per
    unit."""
    left, top, right, bottom = bounds
    u = (np.arange(round((right - left) * density), dtype=np.float32) + 0.5) / np.float32(
        density
    ) + np.float32(left)
    v = (np.arange(round((bottom - top) * density), dtype=np.float32) + 0.5) / np.float32(
        density
    ) + np.float32(top)
    return Canvas(np.zeros((channels, len(v), len(u)), np.float32), u, v)


def paint(canvas: Canvas, mask: Reals, colour: Reals) -> None:
    """Blend ``colour``, (C,) or (C, h, w), into the canvas by ``mask``, (h, w) in [0, 1]."""
    if colour.ndim == 1:
        colour = colour[:, None, None]
    canvas.planes[:] += mask * (colour - canvas.planes)


def blob(
    canvas: Canvas, centre: tuple[float, float], radii: tuple[float, float], colour: Reals, opacity: float
) -> None:
    """Paint a Gaussian spot."""
    (u, v), (radius_u, radius_v) = centre, radii
    window = crop(canvas, u - 2.3 * radius_u, u + 2.3 * radius_u, v - 2.3 * radius_v, v + 2.3 * radius_v)
    across = (window.u - np.float32(u)) / np.float32(radius_u)
    down = (window.v - np.float32(v)) / np.float32(radius_v)
    paint(window, np.float32(opacity) * np.exp(-(down**2))[:, None] * np.exp(-(across**2)), colour)


def band_positions(canvas: Canvas, centre: float, half: float) -> Reals:
    """Return the canvas's columns inside ``centre`` ± ``half``, as t in [-1, 1]."""
    left, right = np.searchsorted(canvas.u, (centre - half, centre + half))
    return (canvas.u[left:right] - np.float32(centre)) / np.float32(half)


def fill_band(
    canvas: Canvas,
    centre: float,
    half: float,
    upper: Reals,
    lower: Reals,
    colour: Reals,
    opacity: float = 1.0,
    soft: float = 0.03,
) -> None:
    """Fill between two curves over ``band_positions(canvas, centre, half)``, with ``soft`` edges."""
    if opacity <= 0.01 or not len(upper):
        return
    window = crop(canvas, centre - half, centre + half, float(upper.min()) - soft, float(lower.max()) + soft)
    v = window.v[:, None]
    t = (window.u - np.float32(centre)) / np.float32(half)
    edge_opacity = np.float32(opacity) * (6 - 6 * np.abs(t)).clip(0, 1)
    paint(window, edge_opacity * ramp(v - upper, soft) * ramp(lower - v, soft), colour)


def crop(canvas: Canvas, left: float, right: float, top: float, bottom: float) -> Canvas:
    """Return the part of the canvas inside bounds, as a view."""
    (first, last) = canvas.u.searchsorted((left, right))
    (above, below) = canvas.v.searchsorted((top, bottom))
    return Canvas(canvas.planes[:, above:below, first:last], canvas.u[first:last], canvas.v[above:below])


def ramp(distance: Reals, soft: float) -> Reals:
    """Return 0 outside (negative distance), 1 inside, linear over ``soft``."""
    return (distance * np.float32(1 / soft) + np.float32(0.5)).clip(0, 1)


def rgb(red: float, green: float, blue: float) -> FloatArray:
    """Return a colour, (3,) float32."""
    return np.array([red, green, blue], np.float32)
