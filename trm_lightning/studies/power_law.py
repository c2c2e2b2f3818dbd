"""Least squares for nats per token as a power law in blocks and loops.

    L = E + A * (n * r^phi)^(-alpha)

E and A, at least 0, are solved for. Alpha and phi are searched on a grid, then followed along
their narrow, bent valley by the Levenberg-Marquardt method. Many weightings of the same
runs are fitted at once.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
# Search range of phi and alpha, far wider than any value observed for loss over depth.
LIMITS = {"phi": (-2.0, 3.0), "alpha": (0.01, 8.0)}
_LOW, _HIGH = np.array([np.log(LIMITS["alpha"]), LIMITS["phi"]]).T
_N_GRID, _N_STEPS = 21, 60


@dataclass(frozen=True)
class Runs:
    """The runs to fit, one loss each.

    Attributes:
        shapes: (P, 2) the distinct blocks n and loops r.
        shape_of: (K,) row of ``shapes`` that each run has.
        nats: (K,) per token.
        seeds: (K,).
    """

    shapes: Floats
    shape_of: NDArray[np.int64]
    nats: Floats
    seeds: NDArray[np.int64]

    @classmethod
    def of(cls, points: list[dict[str, Any]]) -> "Runs":
        """Make runs of points with ``blocks``, ``loops`` and nats ``by_seed``."""
        rows = [
            (point["blocks"], point["loops"], nats, seed)
            for point in points
            for seed, nats in point["by_seed"].items()
        ]
        table = np.array(rows, dtype=np.float64)
        shapes, shape_of = np.unique(table[:, :2], axis=0, return_inverse=True)
        return cls(shapes, shape_of.ravel(), table[:, 2], table[:, 3].astype(np.int64))


@dataclass(frozen=True)
class Curve:
    """A fitted power law.

    Attributes:
        phi: r loops of a block are worth r^phi blocks.
        alpha: how fast loss falls with depth.
        floor: E, nats per token.
        amplitude: A, nats per token above E of one block run once.
    """

    phi: float
    alpha: float
    floor: float
    amplitude: float

    def at(self, blocks: Any, loops: Any) -> Any:
        """Return the nats per token of nets of so many blocks and loops, numbers or arrays."""
        return self.floor + self.amplitude * (blocks * loops**self.phi) ** -self.alpha

    def residual(self, runs: Runs) -> float:
        """Return the root of the mean squared error over ``runs``, nats per token."""
        blocks, loops = runs.shapes[runs.shape_of].T
        return float(np.sqrt(np.mean((self.at(blocks, loops) - runs.nats) ** 2)))


def fit_all(runs: Runs, weights: Floats) -> list[Curve]:
    """Fit the power law once for each row of weights.

    Args:
        runs: what to fit.
        weights: (B, K) how often each run counts; a shape may be without any weight.
    """
    one_hot = np.eye(len(runs.shapes))[runs.shape_of]
    weight = weights @ one_hot
    mean = (weights * runs.nats) @ one_hot / np.maximum(weight, 1e-300)
    means = Means(np.log(runs.shapes), weight / weight.sum(axis=1, keepdims=True), mean)
    found = _follow(means, _best_of_grid(means))
    floor, amplitude, _ = means.solve(found[:, None])
    columns = (found[:, 1], np.exp(found[:, 0]), floor[:, 0], amplitude[:, 0])
    return [Curve(*map(float, row)) for row in zip(*columns, strict=True)]


@dataclass(frozen=True)
class Means:
    """The weighted mean loss of each shape, for B weightings of the runs.

    Attributes:
        log_shapes: (P, 2) logarithms of blocks and loops.
        weight: (B, P) of the shapes; each row sums to 1.
        nats: (B, P) per token.
    """

    log_shapes: Floats
    weight: Floats
    nats: Floats

    def solve(self, tried: Floats) -> tuple[Floats, Floats, Floats]:
        """Return E and A (B, G), and weighted deviations (B, G, P), for given exponents.

        Args:
            tried: (B, G, 2) log alpha and phi.
        """
        blocks, loops = self.log_shapes.T
        x = np.exp(-np.exp(tried[..., :1]) * (blocks + tried[..., 1:] * loops))
        w, y = self.weight[:, None], self.nats[:, None]
        x_mean, y_mean = (w * x).sum(-1), (w * y).sum(-1)
        centred = x - x_mean[..., None]
        spread = np.maximum((w * centred**2).sum(-1), 1e-300)
        amplitude = np.maximum((w * centred * y).sum(-1) / spread, 0)
        floor = y_mean - amplitude * x_mean
        # Where the free solution is negative, the best allowed one has that number at 0.
        through_zero = (w * x * y).sum(-1) / (w * x**2).sum(-1)
        amplitude = np.where(floor < 0, through_zero, amplitude)
        floor = np.maximum(floor, 0)
        return floor, amplitude, np.sqrt(w) * (floor[..., None] + amplitude[..., None] * x - y)


def _best_of_grid(means: Means) -> Floats:
    """Return the log alpha and phi (B, 2) of the least error on a grid over ``LIMITS``."""
    axes = np.linspace(_LOW, _HIGH, _N_GRID).T
    grid = np.stack(np.meshgrid(*axes), axis=-1).reshape(1, -1, 2)
    error = (means.solve(grid)[2] ** 2).sum(-1)
    best: Floats = grid[0, np.argmin(error, axis=1)]
    return best


def _follow(means: Means, start: Floats) -> Floats:
    """Return where the error is least near ``start`` (B, 2), within ``LIMITS``."""
    nudge = 1e-6 * np.array([[0, 0], [1, 0], [-1, 0], [0, 1], [0, -1]])
    at, damping = start, np.full(len(start), 1e-3)
    for _ in range(_N_STEPS):
        deviations = means.solve(at[:, None] + nudge)[2]
        here = deviations[:, 0]
        slope = (deviations[:, 1::2] - deviations[:, 2::2]) / 2e-6  # (B, 2, P)
        square = slope @ slope.transpose(0, 2, 1)
        # The small constant keeps directions without any slope solvable.
        damped = square * (1 + damping[:, None, None] * np.eye(2)) + 1e-14 * np.eye(2)
        step = np.linalg.solve(damped, slope @ here[:, :, None])[..., 0]
        tried = np.clip(at - step, _LOW, _HIGH)
        error = (means.solve(tried[:, None])[2] ** 2).sum(-1)[:, 0]
        if np.abs(tried - at).max() < 1e-12:
            break
        better = error < (here**2).sum(-1)
        at = np.where(better[:, None], tried, at)
        damping = np.where(better, damping / 5, damping * 5).clip(1e-12, 1e9)
    return at
