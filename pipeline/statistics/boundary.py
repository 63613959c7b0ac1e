"""Critical t for looks that have an end: exact for normal differences, by recursion.

A study whose seeds can't exceed a number spends its errors on the looks up to there. All looks have
the same level: Student's t at a level that is found so that, without an effect, one of them reaches
it with just the allowed probability (Pocock 1977, Biometrika 64, 191-199, for unknown variance).

With S the sum of n differences and Q that of their squares, r = S / sqrt(Q) says as much as t:
t² = (n - 1) r² / (n - r²). Without an effect, r is a Markov chain, whatever the variance: the
direction of normal differences is independent of their length. The next difference x turns it by
an angle a, with sqrt(n) tan(a) = x sqrt(n / Q) distributed as t with n degrees of freedom:
r' = sqrt(1 + r²) sin(a + arctan r).
"""

from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy import interpolate, optimize, special, stats

Floats = npt.NDArray[np.float64]

# With so many points, probabilities are off by at most 1 % at levels from 1e-5 to 0.1, also between
# LEVELS (tests/statistics/test_boundary.py).
GRID, NODES = 240, 100  # values of r, and angles from each
LEVELS = np.geomspace(1e-7, 0.5, 16)
NEGLIGIBLE = 1e-15  # probability of larger angles


def critical_t(seeds: int, alpha: float, first: int, last: int) -> float:
    """How many standard errors an interval reaches at one of the looks from `first` to `last`.

    alpha: how often one of them may be wrong.
    """
    log_level = _log_level(first, last)(np.log(alpha))
    return float(stats.t.isf(np.exp(log_level) / 2, seeds - 1))


def crossing_probability(t: float, seeds: int, first: int, last: int) -> float:
    """How often, without an effect, one of the looks is as extreme as `t` after so many seeds."""
    log_level = _log_level(first, last)
    least, most = log_level.x[0], log_level.x[-1]
    wanted = np.clip(
        np.log(max(2 * stats.t.sf(abs(t), seeds - 1), LEVELS[0])), log_level(least), log_level(most)
    )
    return float(np.exp(optimize.brentq(lambda x: log_level(x) - wanted, least, most)))


@lru_cache(maxsize=64)
def _log_level(first: int, last: int) -> interpolate.PchipInterpolator:
    """The level of each look by the probability that one of them reaches it, both as logarithms."""
    return interpolate.PchipInterpolator(np.log(_probabilities(first, last)), np.log(LEVELS))


def _probabilities(first: int, last: int) -> Floats:
    """By level, the probability that one of the looks reaches it."""
    later = np.zeros((len(LEVELS), GRID))  # of reaching it after n seeds, for r from 0 to the bound
    for n in range(last - 1, first - 1, -1):
        later = _one_earlier(n, _bound(n), _bound(n + 1), later)
    # The direction of the first differences is uniform: as a step from nothing.
    widest = np.arcsin(_bound(first) / np.sqrt(first))[:, None]
    nodes, weights = special.roots_legendre(NODES)
    angles = widest * (nodes + 1) / 2
    inside = _interpolate(later, np.sqrt(first) * np.sin(angles), _bound(first)[:, None])
    return np.asarray(LEVELS + (_density(angles, first - 1) * inside) @ weights * widest[:, 0])


def _one_earlier(n: int, limit: Floats, step: Floats, later: Floats) -> Floats:
    """The probability of reaching the bound after n seeds, from that after n + 1."""
    r = limit[:, None] * np.sin(np.linspace(0, np.pi / 2, GRID))  # dense near the bound
    turned, longer = np.arctan(r), np.sqrt(1 + np.square(r))
    reach = np.arcsin(np.minimum(1, step[:, None] / longer))
    end = np.arctan(stats.t.isf(NEGLIGIBLE, n) / np.sqrt(n))
    # It stays inside if the sine is small enough: at angles up to `reach`, or beyond pi - `reach`.
    parts = [(-reach - turned, reach - turned), (np.pi - reach - turned, np.full_like(r, end))]
    nodes, weights = special.roots_legendre(NODES)
    result = np.ones_like(r)
    for low, high in parts:
        low, high = np.clip(low, -end, end), np.clip(high, -end, end)
        result -= np.where(high < end, special.stdtr(n, np.sqrt(n) * np.tan(high)), 1)
        result += np.where(low > -end, special.stdtr(n, np.sqrt(n) * np.tan(low)), 0)
        half = (high - low)[..., None] / 2
        angles = low[..., None] + half * (nodes + 1)
        after = np.abs(longer[..., None] * np.sin(angles + turned[..., None]))
        inside = _interpolate(later, after, step[:, None, None])
        result += (_density(angles, n) * inside * half) @ weights
    return np.clip(result, 0, 1)


def _bound(n: int) -> Floats:
    """The r at which Student's t is significant, for each level."""
    t = stats.t.isf(LEVELS / 2, n - 1)
    return np.asarray(np.sqrt(n / (1 + (n - 1) / np.square(t))))


def _density(angle: Floats, freedom: int) -> Floats:
    """Of the angle whose tangent, times sqrt(freedom), has a t distribution."""
    log = special.gammaln((freedom + 1) / 2) - special.gammaln(freedom / 2) - np.log(np.pi) / 2
    return np.asarray(np.exp(log) * np.cos(angle) ** (freedom - 1))


def _interpolate(values: Floats, r: Floats, limit: Floats) -> Floats:
    """Values at r, of those at `limit` times the sine of equally spaced angles, row by row."""
    place = np.arcsin(np.clip(r / limit, 0, 1)) * (2 / np.pi * (GRID - 1))
    left = np.minimum(place.astype(np.int64), GRID - 2)
    rows = np.arange(len(values)).reshape(-1, *[1] * (r.ndim - 1))
    below, above = values[rows, left], values[rows, left + 1]
    return np.asarray(below + (place - left) * (above - below))
