"""Every plot of the kit, as `plot_x(data, *, ax=None) -> Axes`.

Truth is blue and dashed, a prediction orange and solid, better green, worse vermillion (Okabe-Ito). Each function draws
into `ax`, or into a new figure where it is None, and returns what it drew into; nothing is shown and no global setting
is touched. Charts of experiments over seeds are in `pr1kit.experiments.charts`.
"""

from pr1kit.plots.charts import (
    plot_metric_intervals,
    plot_pass_at_k,
    plot_reward_curves,
    plot_reward_histogram,
)
from pr1kit.plots.drawing import style
from pr1kit.plots.pictures import plot_before_after, plot_boxes, plot_matching, plot_rollout_group

__all__ = [
    "plot_before_after",
    "plot_boxes",
    "plot_matching",
    "plot_metric_intervals",
    "plot_pass_at_k",
    "plot_reward_curves",
    "plot_reward_histogram",
    "plot_rollout_group",
    "style",
]
