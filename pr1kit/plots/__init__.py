"""Every plot of the kit, as `plot_x(data, *, ax=None) -> Axes`, each of them a public name of `pr1kit`.

Truth is blue and dashed, a prediction orange and solid, better green, worse vermillion (Okabe-Ito). Each function draws
into `ax`, or into a new figure where it is None, and returns what it drew into; nothing is shown and no global setting
is touched. Charts of experiments over seeds are in `pr1kit.experiments.charts`.
"""
