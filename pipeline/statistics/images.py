"""What the test images contribute to an effect's uncertainty.

An accuracy is a mean over seeds and images, and both are samples. The comparison's own interval
treats the images as fixed. To allow for other images too, the two half-widths are added in
quadrature (Howe 1974, JASA 69, 789-794), so the result is never shorter than the original interval.
The share of the images is estimated as in a two-way table with random rows and columns.
"""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
from scipy import stats

from pipeline.statistics.comparisons import Comparison
from pipeline.statistics.intervals import Interval


def with_other_images(
    comparison: Comparison, differences: npt.ArrayLike, alpha: float
) -> Comparison:
    """Fill in `images`.

    differences: `[seeds, images]`, treatment minus control of whether each image is classified
    correctly; its mean is the comparison's difference. alpha: as of the comparison's interval.
    """
    if comparison.interval is None:
        return comparison
    half = (comparison.interval.high - comparison.interval.low) / 2
    error = images_error(np.asarray(differences, dtype=np.float64))
    whole = float(np.hypot(half, stats.norm.isf(alpha / 2) * error))
    mean = comparison.difference
    return replace(comparison, images=Interval(mean - whole, mean + whole))


def images_error(differences: npt.NDArray[np.float64]) -> float:
    """Standard error of the mean of `[seeds, images]` that is due to the choice of images."""
    seeds, images = differences.shape
    by_image, by_seed = differences.mean(axis=0), differences.mean(axis=1, keepdims=True)
    rest = differences - by_image - by_seed + differences.mean()
    noise = np.square(rest).sum() / ((seeds - 1) * (images - 1))  # of one seed and image
    return float(np.sqrt(max(0.0, by_image.var(ddof=1) - noise / seeds) / images))
