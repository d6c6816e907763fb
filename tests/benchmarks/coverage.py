"""How often does a 95 % interval cover the population's value? Simulated, as a Markdown table.

    OMP_NUM_THREADS=1 python tests/benchmarks/coverage.py    # 300 trials a row
    OMP_NUM_THREADS=1 python tests/benchmarks/coverage.py --trials 50

Shares and means are drawn from known distributions. For AP, images differ in difficulty, which makes objects missed and
false boxes frequent together; classes are as unequal as Zipf's law; the population is 60,000 images. "ties" gives every
box the score 1.0, as generated boxes have it. `percentile` is the percentile bootstrap of AP as pycocotools computes
it, for comparison; both kinds include the number itself. Of seeds, t-intervals of the mean of three.
The committed table is `data/benchmarks/interval_coverage.md`.
"""

import argparse

import numpy as np
from scipy import stats

from pr1kit.evaluation.average_precision import _average_precision, stable_precision
from pr1kit.evaluation.intervals import corrected_interval, mean_interval, share_interval

POPULATION, RESAMPLES = 60_000, 200
IOU = np.array([0.5, 0.75])[:, None]


def draw_curves(rng, images, classes, ties):
    """Images with about three objects each and their detections: one class's sorted curve for each class."""
    share = np.arange(1, classes + 1) ** -0.7
    ease = rng.normal(size=images)
    owner = np.repeat(np.arange(images), rng.poisson(3, images))
    kind = rng.choice(classes, len(owner), p=share / share.sum())
    found = rng.random(len(owner)) < 1 / (1 + np.exp(-0.8 - ease[owner]))
    overlap = rng.beta(6, 2, len(owner))
    false_owner = np.repeat(np.arange(images), rng.poisson(0.8 * np.exp(-0.6 * ease)))
    false_kind = rng.choice(classes, len(false_owner), p=share / share.sum())
    curves = []
    for each in range(classes):
        true, false = (kind == each) & found, false_kind == each
        objects = np.bincount(owner[kind == each], minlength=images).astype(float)
        image = np.concatenate([owner[true], false_owner[false]])
        hits = np.concatenate([overlap[true] >= IOU, np.zeros((len(IOU), false.sum()), bool)], axis=1)
        scores = np.concatenate([rng.normal(1, 1, true.sum()) + overlap[true], rng.normal(0, 1, false.sum())])
        scores = np.ones(len(image)) if ties else scores
        order = np.lexsort((image, -scores))
        if objects.any():
            curves.append((image[order], scores[order], hits[:, order], ~hits[:, order], objects))
    return curves


def mean_ap(curves, weights, measure):
    return float(np.nanmean([measure(*curve, weights) for curve in curves]))


def ap_coverage(images, classes, ties, trials, seed=0):
    """Coverage of ours and of the percentile bootstrap, and by how much pycocotools' AP is too high on average."""
    population = draw_curves(np.random.default_rng(99), POPULATION, classes, ties)
    truth = mean_ap(population, np.ones(POPULATION), stable_precision)
    rng, ours, percentile, excess = np.random.default_rng(seed), [], [], []
    for trial in range(trials):
        curves = draw_curves(rng, images, classes, ties)
        weights = rng.multinomial(images, np.full(images, 1 / images), RESAMPLES).astype(float)
        shown = mean_ap(curves, np.ones(images), _average_precision)
        value = mean_ap(curves, np.ones(images), stable_precision)
        drawn = np.array([mean_ap(curves, row, stable_precision) for row in weights])
        low, high = corrected_interval(value, drawn, images)
        ours.append(min(low, shown) <= truth <= max(high, shown))
        excess.append(shown - truth)
        if trial < trials // 3:  # for comparison only
            drawn = [mean_ap(curves, row, _average_precision) for row in weights[:100]]
            percentile.append(np.quantile(drawn, 0.025) <= truth <= np.quantile(drawn, 0.975))
    return np.mean(ours), np.mean(percentile), np.mean(excess)


def share_rows(trials):
    def hits(p):
        return lambda rng, n: (rng.random(n) < p).astype(float), p

    cases = {
        "share 0.5": hits(0.5),
        "share 0.9": hits(0.9),
        "share 0.98": hits(0.98),
        "IoU, a fifth missed": (lambda rng, n: (rng.random(n) < 0.8) * rng.beta(6, 2, n), 0.8 * 0.75),
        "F1 near 1": (lambda rng, n: np.where(rng.random(n) < 0.7, 1.0, rng.beta(20, 1, n)), 0.7 + 0.3 * 20 / 21),
        "mean of 4 answers": (lambda rng, n: rng.binomial(4, rng.beta(2, 1, n)) / 4, 2 / 3),
    }
    for name, (draw, truth) in cases.items():
        for n in (20, 50, 200, 600):
            rng = np.random.default_rng(n)
            spans = [share_interval(draw(rng, n)) for _ in range(10 * trials)]
            yield f"| {name} | {n} | Wilson | {_percent(np.mean([a <= truth <= b for a, b in spans]))} | |"
    for n in (20, 50, 200):
        rng, covered = np.random.default_rng(n), []
        for _ in range(3 * trials):
            values = rng.geometric(0.5, n) - 1.0
            drawn = rng.multinomial(n, np.full(n, 1 / n), 1000) @ values / n
            low, high = mean_interval(values, drawn)
            covered.append(low <= 1 <= high)
        yield f"| count error, mean 1 | {n} | BCa | {_percent(np.mean(covered))} | |"


def seed_rows(trials):
    """The t-interval of the mean of three seeds, normal and not."""
    draws = {
        "normal": lambda rng, size: rng.normal(size=size),
        "skewed (exponential)": lambda rng, size: rng.exponential(size=size) - 1,
        "one seed in five fails": lambda rng, size: rng.normal(size=size) - 5 * (rng.random(size) < 0.2) + 1,
    }
    for name, draw in draws.items():
        values = draw(np.random.default_rng(0), (100 * trials, 3))
        half = stats.t.ppf(0.975, 2) * values.std(1, ddof=1) / np.sqrt(3)
        covered = np.abs(values.mean(1)) <= half
        yield f"| mean of 3 seeds, {name} | 3 | t | {_percent(covered.mean())} | |"


def _percent(share):
    return f"{100 * share:.1f} %"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=300)
    trials = parser.parse_args().trials
    print("| what | n | interval | covers | percentile bootstrap covers; pycocotools' AP too high by |")
    print("|---|---|---|---|---|")
    print("\n".join([*share_rows(trials), *seed_rows(trials)]), flush=True)
    for ties in (True, False):
        for classes in (3, 20):
            for images in (50, 200, 600):
                ours, percentile, excess = ap_coverage(images, classes, ties, trials)
                name = f"AP, {classes} classes, {'all scores 1.0' if ties else 'distinct scores'}"
                print(
                    f"| {name} | {images} | ours | {_percent(ours)} | {_percent(percentile)}; {excess:+.3f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
