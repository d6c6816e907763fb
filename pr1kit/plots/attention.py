"""A map of attention over the picture that it is on."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from pr1kit.plots.drawing import draw_picture, style
from pr1kit.plots.pictures import plot_boxes


@style()
def plot_attention(sample, attention: np.ndarray, *, completion: str | None = None, frame: Any = "pixel", ax=None):
    """A grid `(H, W)` of attention over the sample's picture, brighter where it is greater; returns the Axes.

    `completion` is drawn as boxes over it, in `frame`. The title says which share of all attention the picture has.

    >>> from pr1kit.data.scenes import make_scenes
    >>> sample, = make_scenes("counting", 1, seed=0)
    >>> plot_attention(sample, np.full((4, 4), 0.02)).get_title("left")
    'on the picture: 0.32'
    """
    ax = ax or plt.subplots(figsize=(3.2, 3.4))[1]
    picture = sample.load_image()
    if completion is None:
        draw_picture(ax, picture)
    else:
        plot_boxes(sample, completion=completion, frame=frame, legend=False, ax=ax)
    brightest = float(np.max(attention)) or 1.0
    ax.imshow(
        attention, extent=(0, picture.width, picture.height, 0), cmap="inferno", alpha=0.55, vmin=0, vmax=brightest,
        interpolation="bilinear", zorder=2, gid="attention",
    )  # fmt: skip
    ax.set_title(f"on the picture: {float(np.sum(attention)):.2f}", fontsize=9)
    return ax
