"""Which geoms of a scene a camera sees. On a CPU an image costs what its triangles cost, and MuJoCo draws all of them, seen or not.

A geom counts as unseen only where geometry proves it: its bounding sphere is out of the frame, or all of it lies behind one opaque box,
and nothing that is seen reflects it. So an image without unseen geoms is the same, bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np

_PLANE, _BOX = int(mujoco.mjtGeom.mjGEOM_PLANE), int(mujoco.mjtGeom.mjGEOM_BOX)
_CORNERS = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
# Of the size of a frame or box: more than rounding, less than a pixel.
_MARGIN = 1e-3
_LARGE = 0.1  # metres, half of the second longest side of a box that may hide much


def seen_geoms(
    model: mujoco.MjModel, data: mujoco.MjData, camera: int, aspect: float, drawn: np.ndarray
) -> tuple[np.ndarray, bool]:  # fmt: skip
    """Return which geoms a fixed camera may see, directly, in a mirror, or by their shadow: [ngeom] bool; and whether it sees a mirror.

    A mirror is the first reflecting plane or box of the model, the only one that MuJoCo draws as such. Who leaves an unseen one out must
    switch reflections off, or the next would take its place.

    Args:
        camera: its number.
        aspect: width of the image over its height.
        drawn: those that are drawn at all, [ngeom] bool.
    """
    planes = model.geom_type == _PLANE
    mirror = _Mirror.of(model, data, drawn)
    if mirror and ((data.cam_xpos[camera] - mirror.point) @ mirror.normal <= 0 or _alpha(model)[mirror.geom] < 1):
        return drawn, True  # MuJoCo does not say what reflects then
    if (model.light_castshadow & model.light_active).any():
        return drawn, True  # what is not seen may throw a shadow on what is; no light of robosuite's scenes does that
    view = _View.of(model, data, camera, aspect)
    large = np.sort(model.geom_size, axis=1)[:, 1] > _LARGE
    boxes = _Boxes.of(model, data, view, drawn & large & (_alpha(model) > 0.999) & (model.geom_type == _BOX))
    rects, depths = view.spheres(data.geom_xpos, model.geom_rbound)
    for plane in np.flatnonzero(planes):
        rects[plane] = view.frame
        depths[plane] = view.depth_of_plane(data.geom_xpos[plane], _normal(data, plane))
    directly = drawn & boxes.leave_uncovered(*view.clipped(rects), depths)
    if mirror is None or not directly[mirror.geom]:
        return directly, False
    image_rects, image_depths = view.spheres(mirror.images(data.geom_xpos), model.geom_rbound)
    image_rects[planes] = view.frame
    image_depths[planes] = 0
    clipped = view.clipped(image_rects, rects[mirror.geom])
    return directly | (drawn & boxes.above(mirror.point, mirror.normal).leave_uncovered(*clipped, image_depths)), True


@dataclass(frozen=True)
class _Mirror:
    """What MuJoCo draws as a mirror."""

    geom: int
    point: np.ndarray  # on the upper side, the one that reflects
    normal: np.ndarray

    @classmethod
    def of(cls, model: mujoco.MjModel, data: mujoco.MjData, drawn: np.ndarray) -> _Mirror | None:
        candidates = np.flatnonzero(drawn & (_reflectance(model) > 0) & np.isin(model.geom_type, (_PLANE, _BOX)))
        if not len(candidates):
            return None
        geom = int(candidates[0])
        normal = _normal(data, geom)
        height = 0.0 if model.geom_type[geom] == _PLANE else model.geom_size[geom, 2]
        return cls(geom, data.geom_xpos[geom] + height * normal, normal)

    def images(self, points: np.ndarray) -> np.ndarray:
        """Return where points [N, 3] appear in the mirror."""
        return points - 2 * np.outer((points - self.point) @ self.normal, self.normal)


@dataclass(frozen=True)
class _View:
    """A camera. On its screen, at depth 1 before the eye, a rectangle is [[left, bottom], [right, top]]."""

    eye: np.ndarray
    axes: np.ndarray  # [3, 3]: columns to the right, up and backwards
    frame: np.ndarray

    @classmethod
    def of(cls, model: mujoco.MjModel, data: mujoco.MjData, camera: int, aspect: float) -> _View:
        half = np.tan(np.radians(model.cam_fovy[camera]) / 2) * np.array([aspect, 1.0]) * (1 + _MARGIN)
        return cls(data.cam_xpos[camera], data.cam_xmat[camera].reshape(3, 3), np.array([-half, half]))

    def spheres(self, centres: np.ndarray, radii: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return rectangles around spheres [N, 2, 2] and the least depth of each [N]."""
        points = (centres - self.eye) @ self.axes
        across, depth = points[:, :2], -points[:, 2:]
        distance = np.hypot(across, depth)
        outside = distance > radii[:, None]
        spread = np.arcsin(np.divide(radii[:, None], distance, out=np.ones_like(distance), where=outside))
        angle = np.arctan2(across, depth)
        low, high = (np.clip(angle + sign * spread, -np.pi / 2, np.pi / 2) for sign in (-1, 1))
        # Behind the eye, or around it.
        low, high = np.where(outside, low, -np.pi / 2), np.where(outside, high, np.pi / 2)
        with np.errstate(over="ignore"):
            return np.stack([np.tan(low), np.tan(high)], axis=1), depth[:, 0] - radii

    def clipped(self, rects: np.ndarray, to: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return what of rectangles [N, 2, 2] lies in the frame, and in the rectangle `to`, and of which there is something [N]."""
        low, high = (self.frame[0], self.frame[1]) if to is None else (np.maximum(self.frame[0], to[0]), np.minimum(self.frame[1], to[1]))
        inside = np.stack([np.maximum(rects[:, 0], low), np.minimum(rects[:, 1], high)], axis=1)
        return inside, (inside[:, 0] < inside[:, 1]).all(axis=1)

    def directions(self, corners: np.ndarray) -> np.ndarray:
        """Return the rays [..., 3] through points of the screen [..., 2], of depth 1 each."""
        return corners @ self.axes[:, :2].T - self.axes[:, 2]

    def depth_of_plane(self, point: np.ndarray, normal: np.ndarray) -> float:
        """Return the least depth at which the frame shows a plane."""
        towards = self.directions(_corners(self.frame)) @ normal
        away = (point - self.eye) @ normal
        return float(np.min(np.divide(away, towards, out=np.full(4, np.inf), where=away * towards > 0)))


@dataclass(frozen=True)
class _Boxes:
    """Opaque boxes that may hide something."""

    view: _View
    centres: np.ndarray  # [B, 3]
    axes: np.ndarray  # [B, 3, 3]
    halves: np.ndarray  # [B, 3]
    depths: np.ndarray  # [B], of the furthest corner of each

    @classmethod
    def of(cls, model: mujoco.MjModel, data: mujoco.MjData, view: _View, chosen: np.ndarray) -> _Boxes:
        centres, axes = data.geom_xpos[chosen], data.geom_xmat[chosen].reshape(-1, 3, 3)
        halves = model.geom_size[chosen] * (1 - _MARGIN)
        backwards = view.axes[:, 2]
        depths = -(centres - view.eye) @ backwards + np.abs(np.einsum("bij,i->bj", axes, backwards) * model.geom_size[chosen]).sum(axis=1)
        return cls(view, centres, axes, halves, depths)

    def above(self, point: np.ndarray, normal: np.ndarray) -> _Boxes:
        """Return those that lie above a plane, all of each."""
        heights = (self.centres - point) @ normal - (np.abs(np.einsum("bij,i->bj", self.axes, normal)) * self.halves).sum(axis=1)
        chosen = heights > 0
        return _Boxes(self.view, self.centres[chosen], self.axes[chosen], self.halves[chosen], self.depths[chosen])

    def leave_uncovered(self, rects: np.ndarray, exist: np.ndarray, depths: np.ndarray) -> np.ndarray:
        """Return which of the rectangles [N, 2, 2] that exist [N], each no nearer than its depth [N], are not behind one of the boxes.

        Rays that meet a convex body make a convex cone: where those through the corners do, all of the rectangle's do.
        """
        uncovered = exist.copy()
        numbers = np.flatnonzero(exist)
        if len(self.centres) and len(numbers):
            rays = self.view.directions(_corners(rects[numbers]))  # [N, 4, 3]
            directions = np.einsum("bij,nci->nbcj", self.axes, rays)
            start = np.einsum("bij,bi->bj", self.axes, self.view.eye - self.centres)[None, :, None]
            with np.errstate(divide="ignore", invalid="ignore"):
                one, other = ((sign * self.halves[None, :, None] - start) / directions for sign in (-1, 1))
            enters, leaves = np.fmin(one, other).max(axis=-1), np.fmax(one, other).min(axis=-1)
            met = ((enters < leaves) & (enters > 0)).all(axis=-1)  # [N, B]
            uncovered[numbers] = ~(met & (self.depths < depths[numbers, None])).any(axis=1)
        return uncovered


def _corners(rects: np.ndarray) -> np.ndarray:
    """[..., 2, 2] -> [..., 4, 2]"""
    return np.stack([rects[..., _CORNERS[:, 0], 0], rects[..., _CORNERS[:, 1], 1]], axis=-1)


def _normal(data: mujoco.MjData, geom: int) -> np.ndarray:
    return data.geom_xmat[geom].reshape(3, 3)[:, 2]


def _reflectance(model: mujoco.MjModel) -> np.ndarray:
    return np.where(model.geom_matid >= 0, model.mat_reflectance[model.geom_matid], 0.0)


def _alpha(model: mujoco.MjModel) -> np.ndarray:
    return np.where(model.geom_matid >= 0, np.minimum(model.mat_rgba[model.geom_matid, 3], model.geom_rgba[:, 3]), model.geom_rgba[:, 3])
