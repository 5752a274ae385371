"""Draw one image of a talking face from known facial actions.

The head is an egg without perspective. Its skin is a flat texture, which is painted for every frame, wrapped around the
head, lit, and laid over hair, neck, shoulders and room. Images are planar in this file, (3, H, W) float32 in [0, 255].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np

from reactometer.synthetic.face_features import (
    Canvas,
    Look,
    Reals,
    blank_canvas,
    blob,
    paint,
    paint_features,
    ramp,
    rgb,
)
from reactometer.types import ByteArray, FloatArray

_CROWN_V, _CHIN_V = -1.70, 1.56
_TEXTURE = (-1.3, -1.85, 1.3, 1.9)  # left, top, right, bottom in face units
_BEHIND = (-2.9, -2.1, 2.9, 3.6)
_SKIN_TONES = np.array([(238, 206, 188), (222, 182, 156), (192, 146, 116), (152, 106, 80), (106, 74, 58)], np.float32)
_HAIR_TONES = np.array([(38, 30, 28), (72, 48, 34), (110, 76, 48), (176, 136, 84), (140, 134, 130)], np.float32)
_IRIS_TONES = np.array([(58, 38, 26), (92, 66, 38), (84, 104, 72), (84, 116, 146)], np.float32)


@dataclass(frozen=True)
class Pose:
    """Where the head is in one frame: places in fractions of the picture's side, angles in radians."""

    x: float  # of the point between the eyes
    y: float
    scale: float  # of one face unit
    yaw: float = 0.0  # positive: towards the picture's right
    pitch: float = 0.0  # positive: nods down
    roll: float = 0.0  # positive: clockwise in the picture
    gaze: float = 0.0  # the eyes' own sideways look, -1 to 1


@dataclass(frozen=True)
class Scene:
    """What stays the same over a clip."""

    look: Look
    room: FloatArray  # (3, H, W) the empty room
    skin: Canvas  # bare skin and the hair's front; nothing that moves
    behind: FloatArray  # (h, w, 4) hair, ears, neck and shoulders, already multiplied by the opacity in channel 3


def random_look(rng: np.random.Generator) -> Look:
    """A person drawn at random: skin over the whole range of human tones, features within natural bounds."""
    tone = float(rng.uniform(0, len(_SKIN_TONES) - 1))
    fair = tone < 2
    light = np.array([rng.uniform(-0.55, 0.55), rng.uniform(-0.6, -0.1), 1.0])
    return Look(
        skin=_tone(_SKIN_TONES, tone) + rng.normal(0, 4, 3).astype(np.float32),
        hair=_tone(_HAIR_TONES, rng.uniform(0, 4 if fair else 1)),
        iris=_tone(_IRIS_TONES, rng.uniform(0, 3 if fair else 0.8)),
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


def build_scene(look: Look, size_px: int) -> Scene:
    """Everything of a clip that no frame changes, for square pictures of ``size_px``."""
    rng = np.random.default_rng(look.grain_seed)
    density = _density(size_px)
    return Scene(look, _room(look, size_px, rng), _bare_skin(look, density, rng), _behind(look, density))


def draw_frame(
    scene: Scene, pose: Pose, actions: Mapping[str, float], blur_px: float = 0.0, noise: FloatArray | None = None
) -> ByteArray:
    """Draw the person, (H, W, 3) uint8 RGB, with ``actions`` (as in ``ACTIONS``, 0 to 1) at ``pose``.

    ``blur_px`` is the sigma of a Gaussian; ``noise``, (H, W, 1), is added in grey levels.
    """
    texture = Canvas(scene.skin.planes.copy(), scene.skin.u, scene.skin.v)
    paint_features(texture, scene.look, actions, pose.yaw, pose.gaze)
    planes = _lay_behind(scene, pose)
    _wrap_head(planes, scene.look, texture, pose, _CHIN_V + 0.26 * actions["AU26"])
    frame = cv2.merge(list(planes))  # (H, W, 3)
    if blur_px > 0.2:
        frame = cv2.GaussianBlur(frame, (0, 0), blur_px)
    if noise is not None:
        frame = frame + noise
    return np.asarray(frame.clip(0, 255), np.uint8)


# --- what stays ------------------------------------------------------------------------------------------------------


def _room(look: Look, size_px: int, rng: np.random.Generator) -> FloatArray:
    """(3, H, W) a wall under uneven light, and a few things out of focus."""
    v, u = np.mgrid[0:size_px, 0:size_px].astype(np.float32) / size_px
    room = look.wall * (1.08 - 0.3 * np.hypot(u - rng.uniform(), v - rng.uniform()))[..., None]
    for _ in range(rng.integers(1, 5)):
        box = rng.uniform([-0.2, -0.2, 0.1, 0.1], [0.9, 0.9, 0.4, 0.4]) * size_px
        left, top, wide, high = box.astype(int).tolist()
        colour = look.wall * rng.uniform(0.5, 1.3) + rng.normal(0, 10, 3)
        cv2.rectangle(room, (left, top), (left + wide, top + high), colour.tolist(), -1)
    blurred = cv2.GaussianBlur(room, (0, 0), size_px * 0.012)
    return np.ascontiguousarray(blurred.transpose(2, 0, 1), np.float32)


def _bare_skin(look: Look, density: float, rng: np.random.Generator) -> Canvas:
    canvas, skin = blank_canvas(3, _TEXTURE, density), look.skin
    blotches, strands = (_grain(canvas, rng, *blur) for blur in ((0.09, 0.09), (0.014, 0.15)))
    canvas.planes[:] = skin[:, None, None] + rgb(5, 4, 3.5)[:, None, None] * blotches
    blob(canvas, (0, -0.62), (0.55, 0.28), skin * 1.08 + 5, 0.6)
    blob(canvas, (0, 1.38), (0.22, 0.14), skin * 1.06 + 4, 0.5)
    for side in (-1, 1):
        blob(canvas, (side * look.eye_u * 0.98, -0.05), (0.31, 0.20), skin * 0.67, 0.85)
        blob(canvas, (side * 0.2, -0.04), (0.10, 0.16), skin * 0.68, 0.6)
        blob(canvas, (side * 0.56, 0.48), (0.26, 0.2), skin * 1.07 + rgb(9, 1, 0), 0.7)
        blob(canvas, (side * 0.80, 0.85), (0.18, 0.40), skin * 0.78, 0.5)
    u, v = np.abs(canvas.u)[None, :], canvas.v[:, None]
    paint(canvas, look.beard * ramp(v - 0.72 - 0.25 * np.cos(2.2 * u), 0.3), look.hair * 0.8)
    if look.hair_style != "bald":
        fringe = ramp(look.hairline_v + 0.55 * u**3.2 + 0.03 * strands - v, 0.06)
        sideburn = ramp(u - 0.95, 0.05) * ramp(0.35 - v, 0.2)
        paint(canvas, np.maximum(fringe, sideburn), look.hair[:, None, None] * (1 + 0.22 * strands))
    return canvas


def _behind(look: Look, density: float) -> FloatArray:
    """(h, w, 4) hair, neck, shoulders and ears, seen around the head; premultiplied by the opacity in channel 3."""
    canvas = blank_canvas(4, _BEHIND, density)
    u, v = np.abs(canvas.u)[None, :], canvas.v[:, None]
    around = (u / 1.12) ** 2.4 + np.where(v < 0, np.abs(v / 1.84) ** 2.6, np.abs(v / 1.9) ** 4)
    if look.hair_style == "long":
        paint(canvas, ramp(1 - around, 0.08), _opaque(look.hair * 0.75))
    neck = ramp(0.52 + 0.1 * (v - 1.7).clip(0, 1) ** 2 - u, 0.05) * ramp(v - 0.6, 0.1)
    paint(canvas, neck, _opaque(look.skin * 0.68))
    blob(canvas, (0, 1.5), (0.5, 0.3), _opaque(look.skin * 0.4), 0.6)
    shoulder = 2.05 + 0.55 * (u - 0.45).clip(0, None) ** 1.3 + 0.15 * np.exp(-((u / 0.5) ** 2))
    paint(canvas, ramp(v - shoulder, 0.05), _opaque(look.cloth * 0.85))
    if look.hair_style != "long":
        paint(canvas, ramp(1 - ((u - 1.0) / 0.14) ** 2 - ((v - 0.16) / 0.33) ** 2, 0.3), _opaque(look.skin * 0.82))
    if look.hair_style == "short":
        paint(canvas, ramp(1 - around, 0.08) * ramp(-v, 0.1), _opaque(look.hair * 0.85))
    return np.ascontiguousarray(canvas.planes.transpose(1, 2, 0))


# --- the camera's view -----------------------------------------------------------------------------------------------


def _lay_behind(scene: Scene, pose: Pose) -> FloatArray:
    """(3, H, W) the room with hair, neck and shoulders, before the face itself."""
    size_px = scene.room.shape[1]
    density = _density(size_px)
    zoom, cos, sin = pose.scale * size_px / density, np.cos(pose.roll), np.sin(pose.roll)
    turn = zoom * np.array([[cos, -sin], [sin, cos]])
    origin = density * np.array([-_BEHIND[0] + 0.2 * np.sin(pose.yaw), -_BEHIND[1]])
    shift = size_px * np.array([pose.x, pose.y]) - turn @ origin
    *planes, opacity = cv2.split(cv2.warpAffine(scene.behind, np.column_stack([turn, shift]), (size_px, size_px)))
    return scene.room * (1 - opacity) + np.stack(planes)


def _wrap_head(planes: FloatArray, look: Look, texture: Canvas, pose: Pose, chin_v: float) -> None:
    """Wrap the texture around the egg, light it, and lay it over ``planes``, (3, H, W), in place."""
    size_px = planes.shape[1]
    unit, middle_x, middle_y = pose.scale * size_px, pose.x * size_px, pose.y * size_px
    left, right = (int(np.clip(middle_x + reach * unit, 0, size_px)) for reach in (-1.25, 1.25))
    above, below = (int(np.clip(middle_y + reach * unit, 0, size_px)) for reach in (-1.85, 2.0))
    if left >= right or above >= below:
        return
    right_of = ((np.arange(left, right, dtype=np.float32) - np.float32(middle_x)) / np.float32(unit))[None, :]
    below_of = ((np.arange(above, below, dtype=np.float32) - np.float32(middle_y)) / np.float32(unit))[:, None]
    cos, sin = np.float32(np.cos(pose.roll)), np.float32(np.sin(pose.roll))
    x, y = right_of * cos + below_of * sin, (below_of * cos - right_of * sin) / np.float32(look.length)
    width, slope = _outline(look, chin_v, y)
    side = (x / np.maximum(width, np.float32(1e-3))).clip(-1, 1)  # sine of the longitude seen from the camera
    front = np.sqrt(1 - side**2)  # and its cosine
    cos, sin = np.float32(np.cos(pose.yaw)), np.float32(np.sin(pose.yaw))
    u = np.where(front * cos + side * sin > 0, (side * cos - front * sin) * width, 1.2)
    v = y - np.float32(0.9 * np.sin(pose.pitch)) * front
    density = _density(size_px)
    columns, rows = (u - texture.u[0]) * np.float32(density), (v - texture.v[0]) * np.float32(density)
    skin = cv2.remap(cv2.merge(list(texture.planes)), columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    steep = np.sqrt(1 + slope**2)
    facing = side * look.light[0] + front * look.light[2] - np.float32(0.7) * slope.clip(-1.5, 1.5) * look.light[1]
    light = np.float32(0.36) + np.float32(1.56) * (facing / (1 + steep)).clip(0) - np.float32(0.12) * side**4
    opacity = ((width - np.abs(x)) / steep * np.float32(unit) + np.float32(0.5)).clip(0, 1) * (width > 1e-3)
    lit = np.stack(cv2.split(skin)) * light * look.light_tint[:, None, None]
    patch = planes[:, above:below, left:right]
    patch += opacity * (lit - patch)


def _outline(look: Look, chin_v: float, v: Reals) -> tuple[Reals, Reals]:
    """Half of the head's width at each height, 0 above the crown and below the chin, and its slope."""
    heights = np.linspace(_CROWN_V - 0.02, chin_v + 0.02, 256, dtype=np.float32)
    crown = 1 - ((0.1 - heights).clip(0) / (0.1 - _CROWN_V)) ** 2.7
    jaw = 1 - ((heights - 0.1).clip(0) / (chin_v - 0.1)) ** look.jaw
    widths = np.sqrt((crown * jaw).clip(0))
    slopes = np.gradient(widths, heights).astype(np.float32)
    place = ((v - heights[0]) * np.float32(255 / (heights[-1] - heights[0]))).clip(0, 255)
    below = np.minimum(place.astype(np.int32), 254)
    return widths[below] + (place - below).astype(np.float32) * (widths[below + 1] - widths[below]), slopes[below]


def _density(size_px: int) -> float:
    """Canvas pixels in one face unit: a little finer than the picture."""
    return 0.28 * size_px


def _grain(canvas: Canvas, rng: np.random.Generator, blur_u: float, blur_v: float) -> FloatArray:
    """(h, w) smooth noise of deviation 1; the blurs are in face units."""
    density = 1 / float(canvas.u[1] - canvas.u[0])
    white = rng.standard_normal(canvas.planes.shape[1:], np.float32)
    smooth = cv2.GaussianBlur(white, (0, 0), sigmaX=blur_u * density, sigmaY=blur_v * density)
    return np.asarray(smooth / smooth.std())


def _opaque(colour: FloatArray) -> FloatArray:
    return np.append(colour, np.float32(1))


def _tone(tones: FloatArray, place: float) -> FloatArray:
    """The colour at ``place``, counted in rows, linearly between its neighbours."""
    return np.array([np.interp(place, np.arange(len(tones)), channel) for channel in tones.T], np.float32)
