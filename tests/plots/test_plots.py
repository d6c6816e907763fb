"""Plots are judged by what they hold: which boxes, in which colour, with which words, and where."""

import json
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.text import Text
from PIL import Image

import pr1kit
from pr1kit import pass_at_k
from pr1kit.data.sample import Sample, Target
from pr1kit.data.scenes import make_scenes
from pr1kit.plots.drawing import BETTER, NEUTRAL, PREDICTION, TRUTH, WORSE
from pr1kit.rewards.results import Answer, RewardResult, Rollout
from pr1kit.rewards.text_similarity import compare_texts

COCO = Path(__file__).resolve().parents[3] / "shared" / "data" / "coco"


@pytest.fixture(autouse=True)
def close_figures():
    matplotlib.use("Agg")
    yield
    plt.close("all")


def boxes_of(ax, kind: str) -> np.ndarray:
    """The xyxy boxes drawn as `kind`, in the order drawn."""
    patches = [patch for patch in ax.patches if patch.get_gid() == kind]
    return np.array([[*p.get_xy(), p.get_x() + p.get_width(), p.get_y() + p.get_height()] for p in patches])


def words(ax) -> list[str]:
    return sorted(text.get_text() for text in ax.texts)


def tag_extents(ax) -> np.ndarray:
    """`(K, 4)` display extents of the tags, after drawing."""
    ax.figure.draw_without_rendering()
    return np.array([tag.get_bbox_patch().get_window_extent().extents for tag in ax.texts])


def assert_tags_are_apart_and_inside(ax):
    extents, frame = tag_extents(ax), ax.get_window_extent()
    for i, a in enumerate(extents):
        assert a[0] >= frame.x0 - 2
        assert a[1] >= frame.y0 - 2
        assert a[2] <= frame.x1 + 2
        assert a[3] <= frame.y1 + 2
        for b in extents[i + 1 :]:
            width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
            assert min(width, height) < 1.5, "two tags overlap"


def boxed(boxes) -> str:
    return "".join(f"<|box_start|>({x1:g},{y1:g}),({x2:g},{y2:g})<|box_end|>" for x1, y1, x2, y2 in boxes)


# ---------------------------------------------------------------- pictures


def test_truth_is_blue_and_dashed_and_a_prediction_orange_and_solid():
    ax = pr1kit.plot_boxes(np.zeros((40, 60, 3)), truth=[[0, 0, 20, 20]], predictions=[[0, 0, 20, 10]])
    (truth,), (prediction,) = ([p for p in ax.patches if p.get_gid() == kind] for kind in ("truth", "prediction"))
    assert to_hex(truth.get_edgecolor()).upper() == TRUTH
    assert truth.get_linestyle() not in ("-", "solid")
    assert to_hex(prediction.get_edgecolor()).upper() == PREDICTION
    assert prediction.get_linestyle() == "-"
    assert truth.get_zorder() > prediction.get_zorder()  # the dashes stay visible where both coincide
    assert ax.get_xlim() == (0, 60)
    assert ax.get_ylim() == (40, 0)
    assert next(text.get_text() for text in ax.get_legend().get_texts()) == "truth"


def test_iou_stands_on_each_matched_prediction_and_a_cross_on_the_others():
    truth = Target(boxes=[[0, 0, 10, 10], [20, 20, 40, 40]], labels=["cat", "dog"])
    found = {"predictions": [[20, 20, 40, 30], [0, 0, 10, 10], [50, 50, 60, 60]], "labels": ["Dog", "bird", "x"]}
    ax = pr1kit.plot_boxes(Image.new("RGB", (64, 64)), truth=truth, **found)
    assert words(ax) == ["Dog 0.50", "bird 1.00", "cat", "x ✕"]  # the truth speaks up only where it differs


def test_given_matches_are_kept_though_others_would_be_better():
    truth, answer = [[0, 0, 10, 10], [0, 0, 10, 5]], Answer(boxes=np.array([[0, 0, 10, 10.0]]))
    image = np.zeros((20, 20), np.uint8)
    assert words(pr1kit.plot_boxes(image, truth=truth, predictions=answer)) == ["1.00"]
    assert words(pr1kit.plot_boxes(image, truth=truth, predictions=answer, matches=[(0, 1, 0.9)])) == ["0.50"]


@pytest.mark.parametrize(
    ("frame", "answer"),
    [("pixel", [64, 24, 128, 48]), ("norm1000", [500, 500, 1000, 1000]), ((64, 24), [32, 12, 64, 24])],
)
def test_predictions_are_drawn_in_pixels_whatever_their_frame(frame, answer):
    sample = Sample(Image.new("RGB", (128, 48)), "grounding", "thing", Target(boxes=[[64, 24, 128, 48]]))
    for given in ({"predictions": [answer]}, {"completion": boxed([answer])}):
        ax = pr1kit.plot_boxes(sample, frame=frame, **given)
        np.testing.assert_allclose(boxes_of(ax, "prediction"), [[64, 24, 128, 48]])
        assert words(ax) == ["1.00"]
        assert "thing" in ax.get_title(loc="left")


def test_a_label_of_another_class_is_no_match_in_detection():
    sample = Sample(Image.new("RGB", (64, 64)), "detection", "a, b", Target(boxes=[[0, 0, 9, 9]], labels=["a"]))
    for said, expected in (("a", ["a 1.00"]), ("b", ["a", "b ✕"])):
        ax = pr1kit.plot_boxes(sample, completion=json.dumps([{"bbox_2d": [0, 0, 9, 9], "label": said}]))
        assert words(ax) == expected


def test_truth_points_without_boxes_are_drawn_and_no_prediction_is_called_unmatched():
    sample = Sample(Image.new("RGB", (64, 64)), "counting", "dot", Target(points=[[5, 5], [30, 40]]))
    ax = pr1kit.plot_boxes(sample, predictions=[[0, 0, 10, 10]])
    assert words(ax) == []
    (points,) = [line for line in ax.lines if line.get_gid() == "truth"]
    np.testing.assert_allclose(points.get_xydata(), [[5, 5], [30, 40]])


def test_tiny_pictures_are_crisp_and_photographs_smooth():
    tiny, photograph = (pr1kit.plot_boxes(np.zeros((side, side, 3))).images[0] for side in (64, 600))
    assert tiny.get_interpolation() == "nearest"
    assert photograph.get_interpolation() == "auto"
    assert list(tiny.get_extent()) == [0, 64, 64, 0]  # pixel edges on whole numbers, as boxes count them


def test_a_box_that_leaves_the_picture_neither_shrinks_it_nor_leaves_it():
    ax = pr1kit.plot_boxes(np.zeros((50, 50, 3)), predictions=[[-30, 10, 90, 20], [200, 200, 300, 300]])
    assert ax.get_xlim() == (0, 50)
    assert ax.get_ylim() == (50, 0)
    assert boxes_of(ax, "prediction").min() >= 0
    assert boxes_of(ax, "prediction").max() <= 50


@pytest.mark.parametrize("figsize", [(1.6, 1.6), (6, 6)])
@pytest.mark.parametrize("task", ["counting", "detection"])
def test_tags_neither_overlap_nor_leave_the_picture(task, figsize):
    for sample in make_scenes(task, 3, seed=11):
        ax = plt.subplots(figsize=figsize, layout="constrained")[1]
        pr1kit.plot_boxes(sample, predictions=sample.target.boxes + 1.0, labels=sample.target.labels, ax=ax)
        assert len(ax.texts) == len(sample.target.boxes)
        assert_tags_are_apart_and_inside(ax)


def test_tags_of_one_crowded_corner_move_apart_with_leaders():
    ax = pr1kit.plot_boxes(
        np.zeros((200, 200, 3)), truth=[[0, 0, 6, 6]] * 8, truth_labels=[f"thing {i}" for i in range(8)]
    )
    assert_tags_are_apart_and_inside(ax)
    assert sum(tag.arrow_patch.get_visible() for tag in ax.texts) >= 3


def test_a_thumbnail_of_a_crowd_shows_boxes_without_tags():
    boxes, labels = [[10 * i, 10 * i, 10 * i + 9, 10 * i + 9] for i in range(10)], ["dining table"] * 10
    for side, legible in ((1.2, False), (8, True)):
        ax = plt.subplots(figsize=(side, side))[1]
        pr1kit.plot_boxes(np.zeros((100, 100, 3)), truth=boxes, truth_labels=labels, legend=False, ax=ax)
        ax.figure.draw_without_rendering()
        assert {tag.get_visible() for tag in ax.texts} == {legible}
        assert len(boxes_of(ax, "truth")) == 10


def test_the_coco_photograph_is_drawn_with_its_19_official_boxes():
    if not COCO.is_dir():
        pytest.skip(f"the COCO photograph is not here: {COCO.resolve()} does not exist")
    official = json.loads((COCO / "instances_val2017_1image.json").read_text())
    names = {category["id"]: category["name"] for category in official["categories"]}
    corners = np.array([item["bbox"] for item in official["annotations"]])
    corners[:, 2:] += corners[:, :2]  # COCO writes x, y, width, height
    labels = [names[item["category_id"]] for item in official["annotations"]]

    ax = pr1kit.plot_boxes(COCO / "000000397133.jpg", truth=corners, truth_labels=labels)
    assert len(corners) == 19
    np.testing.assert_allclose(boxes_of(ax, "truth"), corners)
    assert words(ax) == sorted(labels)
    assert ax.get_xlim() == (0, 640)
    assert ax.get_ylim() == (427, 0)
    assert_tags_are_apart_and_inside(ax)


def test_what_cannot_be_drawn_says_so_in_one_sentence(tmp_path):
    image = np.zeros((9, 9, 3))
    with pytest.raises(FileNotFoundError, match=r"nowhere\.png"):
        pr1kit.plot_boxes(tmp_path / "nowhere.png")
    with pytest.raises(ValueError, match="2 predictions but 1 labels"):
        pr1kit.plot_boxes(image, predictions=[[0, 0, 1, 1]] * 2, labels=["a"])
    with pytest.raises(ValueError, match="not x1 <= x2"):
        pr1kit.plot_boxes(image, predictions=[[0, 0, np.nan, 1]])
    with pytest.raises(ValueError, match="task"):
        pr1kit.plot_boxes(image, completion="(1,1),(2,2)")


def test_texts_are_compared_letter_by_letter():
    assert compare_texts("kilo  mega", "kila meg") == [
        ("kil", "same"), ("a", "wrong"), (" meg", "same"), ("a", "missing"),
    ]  # fmt: skip
    assert compare_texts("ab", "") == [("ab", "missing")]
    assert compare_texts("", "") == []


def test_an_ocr_answer_stands_under_its_picture_with_wrong_letters_marked():
    sample = Sample(Image.new("RGB", (64, 64)), "ocr", "", Target(text="hello world"))
    ax = pr1kit.plot_boxes(sample, completion="hallo word")
    marked = {(text.get_text(), text.get_gid()) for text in ax.texts}
    assert marked >= {("a", "wrong"), ("l", "missing")}
    spelt = "".join(text.get_text() for text in ax.texts if text.get_gid() != "missing")
    assert spelt == "hallo word"
    ax.figure.draw_without_rendering()
    assert all(text.get_window_extent().y1 <= ax.get_window_extent().y0 + 2 for text in ax.texts)
    assert words(pr1kit.plot_boxes(sample)) == ["hello world"]  # without an answer, the truth


def test_a_long_transcript_is_wrapped_and_cut():
    sample = Sample(Image.new("RGB", (64, 64)), "ocr", "", Target(text="word " * 400))
    ax = pr1kit.plot_boxes(sample)
    assert len(ax.texts) <= 6
    assert ax.texts[-1].get_text().endswith("…")
    ax.figure.draw_without_rendering()
    assert max(text.get_window_extent().x1 for text in ax.texts) <= ax.get_window_extent().x1 + 4


def test_matching_lines_join_the_centres_of_each_pair():
    truth, predictions = [[0, 0, 10, 10], [20, 20, 40, 40]], [[20, 20, 40, 30], [2, 2, 4, 4], [0, 30, 5, 35]]
    ax = pr1kit.plot_matching(np.zeros((50, 50, 3)), predictions, [(0, 1, 0.5), (1, 0, 0.04)], truth=truth)
    lines = [line.get_xydata().tolist() for line in ax.lines if line.get_gid() == "pair"]
    assert lines == [[[30, 25], [30, 30]], [[3, 3], [5, 5]]]
    assert words(ax) == ["0.04", "0.50", "p0", "p1", "p2 ✕", "t0", "t1"]
    assert_tags_are_apart_and_inside(ax)


def test_matching_of_boxes_alone_shows_all_of_them_upright():
    ax = pr1kit.plot_matching([[0, 0, 10, 10]], [[100, 50, 120, 70]], [])
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    assert left < 0
    assert right > 120
    assert bottom > 70
    assert top < 0
    assert words(ax) == ["p0 ✕", "t0 ✕"]
    assert not ax.images
    assert pr1kit.plot_matching([], [], []).get_xlim()[0] < 0  # nothing to match is a picture too


# ---------------------------------------------------------------- panels


def captions_of(ax) -> list[Text]:
    return [text for text in ax.texts if text.get_gid() == "caption"]


def test_before_after_has_a_column_for_each_sample_and_says_where_it_got_better():
    samples = make_scenes("grounding", 3, seed=2)
    exact = [boxed(sample.target.boxes) for sample in samples]
    axes = pr1kit.plot_before_after(samples, ["no idea", exact[1], exact[2]], [exact[0], exact[1], "no idea"])
    assert axes.shape == (2, 3)
    said = [text.get_text() for ax in axes.flat for text in captions_of(ax)]
    assert said == ["no box", "IoU 1.00", "IoU 1.00", "IoU 1.00", "IoU 1.00", "no box"]
    first, same, worse = (captions_of(ax)[0].get_color() for ax in axes[1])
    assert (first, worse) == (BETTER, WORSE)
    assert same not in (BETTER, WORSE)
    assert [ax.get_title() for ax in axes[0]] == [sample.question for sample in samples]
    assert [axes[row, 0].get_ylabel() for row in (0, 1)] == ["before RL", "after RL"]


def test_before_after_counts_and_reads_too():
    (scene,) = make_scenes("counting", 1, seed=4)
    (page,) = make_scenes("ocr", 1, seed=4)
    n = len(scene.target.boxes)
    axes = pr1kit.plot_before_after([scene, page], ["None", ""], [boxed(scene.target.boxes), page.target.text])
    said = [[text.get_text() for text in captions_of(ax)] for ax in axes.flat]
    assert said[0] == [f"counted 0, true {n}", "IoU 0.00"]
    assert said[2] == [f"counted {n}, true {n}", "IoU 1.00"]
    assert said[1] == ["{0} of {0} characters off".format(len(" ".join(page.target.text.split())))]
    assert said[3][0].startswith("0 of ")


def test_before_after_colours_the_count_and_the_overlap_each_by_itself():
    scene = Sample(Image.new("RGB", (64, 64)), "counting", "square", Target(boxes=[[0, 0, 9, 9]] * 4))
    one, two, four = (boxed([[0, 0, 9, 9]] * n) for n in (1, 2, 4))
    shifted = boxed([[30, 30, 39, 39]] * 4)
    axes = pr1kit.plot_before_after([scene] * 3, [two, shifted, four], [two, one, shifted])
    colours = [[text.get_color() for text in captions_of(ax)] for ax in axes[1]]
    assert [text.get_text() for text in captions_of(axes[1, 1])] == ["counted 1, true 4", "IoU 0.25"]
    same = colours[0][0]
    assert colours == [[same, same], [WORSE, BETTER], [same, WORSE]]
    assert same not in (BETTER, WORSE)


@pytest.mark.parametrize("count", [1, 4, 7])
def test_no_words_of_a_panel_leave_the_figure(count):
    samples = make_scenes("counting", count, seed=6)
    axes = pr1kit.plot_before_after(samples, ["None"] * count, ["None"] * count)
    figure = axes[0, 0].figure
    figure.draw_without_rendering()
    for ax in axes.flat:
        for text in (ax.title, ax.yaxis.label, *captions_of(ax)):
            x1, y1, x2, y2 = text.get_window_extent().extents
            assert x1 >= 0
            assert y1 >= 0
            assert x2 <= figure.bbox.x1
            assert y2 <= figure.bbox.y1


def test_before_after_wants_one_answer_each():
    with pytest.raises(ValueError, match="2 answers before"):
        pr1kit.plot_before_after(make_scenes("grounding", 1, seed=0), ["", ""], [""])
    with pytest.raises(ValueError, match="0 samples"):
        pr1kit.plot_before_after([], [], [])


def group_of(rewards, completion="(1,1),(9,9)") -> list[Rollout]:
    centred = np.array(rewards) - np.mean(rewards)
    return [Rollout(completion, RewardResult(r, {}), float(a)) for r, a in zip(rewards, centred, strict=True)]


def test_a_rollout_group_is_sorted_and_its_bars_are_coloured_by_advantage():
    (sample,) = make_scenes("grounding", 1, seed=0)
    group = group_of([0.25, 0.75, 0.5, 0.5, 0.5])
    axes = pr1kit.plot_rollout_group(sample, group)
    assert [ax.get_title(loc="left") for ax in axes] == [f"reward {r:.2f}" for r in (0.75, 0.5, 0.5, 0.5, 0.25)]
    assert axes[0].get_title(loc="right") == "A +0.25"
    assert axes[-1].get_title(loc="right") == "A −0.25"
    bars = [ax.child_axes[0].patches[1] for ax in axes]
    assert [bar.get_width() for bar in bars] == [0.75, 0.5, 0.5, 0.5, 0.25]
    assert [to_hex(bar.get_facecolor()).upper() for bar in bars] == [BETTER, NEUTRAL, NEUTRAL, NEUTRAL, WORSE]
    assert all(len(boxes_of(ax, "prediction")) == 1 for ax in axes)
    assert len(axes[0].figure.axes) == 5  # no empty frames in the last row
    assert "mean reward 0.50" in axes[0].figure.get_suptitle()

    as_sampled = pr1kit.plot_rollout_group(sample, group, best_first=False)
    assert [ax.get_title(loc="left") for ax in as_sampled] == [f"reward {r:.2f}" for r in (0.25, 0.75, 0.5, 0.5, 0.5)]


def test_a_rollout_group_takes_the_place_of_an_axes():
    figure, (left, right) = plt.subplots(1, 2, layout="constrained")
    (sample,) = make_scenes("ocr", 1, seed=0)
    axes = pr1kit.plot_rollout_group(sample, group_of([3.0, 1.0], "word"), columns=1, ax=right)
    assert axes.shape == (2,)
    assert right not in figure.axes
    assert left in figure.axes
    assert axes[0].child_axes[0].get_xlim() == (0, 3)  # the track reaches the largest reward
    assert all(ax.get_window_extent().x0 > left.get_window_extent().x1 for ax in axes)
    with pytest.raises(ValueError, match="subplots"):
        pr1kit.plot_rollout_group(sample, group_of([1.0]), ax=figure.add_axes([0, 0, 1, 1]))
    with pytest.raises(ValueError, match="at least one"):
        pr1kit.plot_rollout_group(sample, [])


def test_the_reason_of_a_failed_answer_is_told():
    (sample,) = make_scenes("grounding", 1, seed=0)
    failed = Rollout("hm", RewardResult(0.0, {}, reason="no box in the answer"))
    assert pr1kit.plot_rollout_group(sample, [failed])[0].get_xlabel() == "no box in the answer"


# ---------------------------------------------------------------- charts


def run(values, part=0.5) -> list[dict]:
    return [{"step": i + 1, "reward": value, "reward/iou": part} for i, value in enumerate(values)]


def legend_of(ax) -> list[str]:
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_reward_curve_smooths_over_its_window_and_keeps_the_raw_points():
    ax = pr1kit.plot_reward_curves(run([0.0, 0.3, 0.6, np.nan, 1.0]), window=3)
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [0.15, 0.3, 0.45, 0.8, 1.0])
    raw = np.ma.getdata(ax.collections[0].get_offsets())
    assert raw[[0, 1, 2, 4]].tolist() == [[1, 0], [2, 0.3], [3, 0.6], [5, 1]]
    assert ax.get_xlabel() == "training step"
    assert any("running over 3 steps" in name for name in legend_of(ax))


def test_reward_band_over_three_seeds_is_the_t_interval_by_hand():
    ax = pr1kit.plot_reward_curves([run([0.1]), run([0.2]), run([0.3])], window=1)
    (band,) = [c for c in ax.collections if c.get_label() == "95 % t-interval over seeds"]
    heights = band.get_paths()[0].vertices[:, 1]
    half = 4.302653 * 0.1 / np.sqrt(3)  # t with 2 degrees of freedom
    np.testing.assert_allclose([heights.min(), heights.max()], [0.2 - half, 0.2 + half], rtol=1e-6)
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [0.2])


def test_two_seeds_of_different_length_give_their_range_where_both_are():
    ax = pr1kit.plot_reward_curves([run([0.2, 0.2, 0.2]), run([0.4, 0.4])], window=1)
    (band,) = [c for c in ax.collections if c.get_label() == "min–max over seeds"]
    corners = band.get_paths()[0].vertices
    assert corners[:, 0].max() == 2
    assert (corners[:, 1].min(), corners[:, 1].max()) == (0.2, 0.4)
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [0.3, 0.3, 0.2])


def test_reward_parts_are_drawn_when_asked():
    assert len(pr1kit.plot_reward_curves(run([0.1, 0.2])).lines) == 1
    ax = pr1kit.plot_reward_curves(run([0.1, 0.2]), parts=True)
    assert legend_of(ax)[-1] == "iou"
    assert ax.lines[1].get_ydata().tolist() == [0.5, 0.5]


def test_columns_csv_strings_and_evaluation_rows_are_understood():
    columns = {"step": ["1", "2", "3"], "reward": ["0.5", "", "0.7"]}
    rows = [{"step": 1, "reward": 0.5}, {"step": 2, "eval_accuracy": 0.1}, {"step": 3, "reward": 0.7}]
    for log in (columns, rows):
        line = pr1kit.plot_reward_curves(log, window=1).lines[0]
        np.testing.assert_allclose(line.get_ydata()[[0, -1]], [0.5, 0.7])
    assert any("2 seeds" in name for name in legend_of(pr1kit.plot_reward_curves([columns, columns])))


@pytest.mark.parametrize("nothing", [[], [[]], {}, {"step": [], "reward": []}, [{"step": 1, "loss": 2.0}]])
def test_no_reward_raises_one_clear_sentence(nothing):
    with pytest.raises(ValueError, match="No reward to plot: each log needs rows with the keys 'step' and 'reward'"):
        pr1kit.plot_reward_curves(nothing)


def test_metric_intervals_have_a_row_each_and_say_the_change():
    rows = [
        {"metric": "accuracy", "before": (0.5, 0.4, 0.6), "after": (0.7, (0.6, 0.8))},
        {"metric": "distance", "before": 0.3, "after": 0.2, "lower_is_better": True},
        {"metric": "IoU", "before": 0.5, "after": 0.4},
        {"metric": "AP", "before": 0.5, "after": 0.51, "change": (0.01, -0.02, 0.04)},
    ]
    ax = pr1kit.plot_metric_intervals(rows)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["accuracy", "distance ↓", "IoU", "AP"]
    said = [(text.get_text(), text.get_color()) for text in ax.texts]
    assert said == [("+0.20", BETTER), ("−0.10", BETTER), ("−0.10", WORSE), ("+0.01  [−0.02, +0.04]", NEUTRAL)]
    dots = [line.get_xdata()[0] for line in ax.lines if line.get_gid() == "dot"]
    assert dots == [0.5, 0.7, 0.3, 0.2, 0.5, 0.4, 0.5, 0.51]
    spans = [line.get_xdata() for line in ax.lines if line.get_gid() == "interval"]
    assert [list(span) for span in spans] == [[0.4, 0.6], [0.6, 0.8]]
    assert ax.get_xlim() == (0, 1)
    assert ax.get_ylim() == (3.5, -0.5)
    with pytest.raises(ValueError, match="No metrics"):
        pr1kit.plot_metric_intervals([])


def test_intervals_stand_on_one_scale_and_are_grey_where_they_include_zero():
    rows = {"helps": (0.2, 0.1, 0.3), "hurts": (-0.2, -0.3, -0.1), "unknown": (0.1, -0.1, 0.3)}
    ax = pr1kit.plot_intervals(rows)
    assert [label.get_text() for label in ax.get_yticklabels()] == list(rows)
    assert ax.texts[0].get_text() == "+0.20  [+0.10, +0.30]"
    assert [text.get_color() for text in ax.texts] == [BETTER, WORSE, NEUTRAL]
    assert [line.get_xdata().tolist() for line in ax.lines if line.get_gid() == "interval"] == [
        [0.1, 0.3], [-0.3, -0.1], [-0.1, 0.3],
    ]  # fmt: skip
    with pytest.raises(ValueError, match="No intervals to plot"):
        pr1kit.plot_intervals({})


def test_a_forest_has_one_scale_and_one_order_of_rows():
    rows = {"a": (0.5, 0.4, 0.6), "b": (-0.1, -0.2, 0.0)}
    one, other = pr1kit.plot_forest({"sampled": rows, "greedy": {"a": (0.0, -0.1, 0.1), "b": (0.0, 0.0, 0.0)}})
    assert one.get_xlim() == other.get_xlim()
    assert one.get_ylim() == other.get_ylim()
    assert [ax.get_title(loc="left") for ax in (one, other)] == ["sampled", "greedy"]
    with pytest.raises(ValueError, match="No intervals to plot"):
        pr1kit.plot_forest({})


def test_reward_curves_show_the_parts_that_are_named():
    rows = [{"step": i, "reward": 0.4, "reward/count": 0.2, "reward/format": 1.0} for i in (1, 2, 3)]
    labels = pr1kit.plot_reward_curves(rows, parts=("count",)).get_legend_handles_labels()[1]
    assert "count" in labels
    assert "format" not in labels
    with pytest.raises(ValueError, match=r"'place'.*count, format"):
        pr1kit.plot_reward_curves(rows, parts=("place",))


def test_reward_histogram_counts_every_rollout_and_the_groups_that_teach_nothing():
    groups = [group_of([0.0, 1.0]), [0.5, 0.5], [1.0, 1.0], [0.2, 0.21]]
    ax = pr1kit.plot_reward_histogram(groups)
    assert sum(bar.get_height() for bar in ax.patches) == 8
    grey = [bar for bar in ax.patches if to_hex(bar.get_facecolor()).upper() == NEUTRAL]
    assert sum(bar.get_height() for bar in grey) == 4
    assert {bar.get_y() for bar in grey} == {0}, "they stand on the axis, where few among many are seen"
    assert ax.get_title(loc="left") == "2 of 4 groups (50 %) have no variance, so no gradient"


def test_pass_at_k_equals_counting_all_draws():
    groups = [[1.0, 0.0, 0.0, 0.2], [0.0, 0.0, 0.0, 0.0], [0.6, 0.5, 0.9, 0.1]]
    # by hand: 1, 0 and 3 of 4 pass; a draw of k fails with C(4 - c, k) / C(4, k)
    expected = [[1 / 4, 0, 3 / 4], [1 / 2, 0, 1], [3 / 4, 0, 1], [1, 0, 1]]
    np.testing.assert_allclose(pass_at_k(groups, 0.5), expected, atol=1e-12)
    ax = pr1kit.plot_pass_at_k(groups, 0.5)
    np.testing.assert_allclose(ax.lines[0].get_ydata(), np.mean(expected, axis=1))
    assert ax.lines[0].get_xdata().tolist() == [1, 2, 3, 4]
    np.testing.assert_allclose(ax.lines[1].get_ydata(), np.mean(groups))


def test_pass_at_k_stops_at_the_smallest_group():
    assert pass_at_k([[1.0, 0.0, 0.0], [0.0, 1.0]]).shape == (2, 2)


@pytest.mark.parametrize("plot", [pr1kit.plot_reward_histogram, pr1kit.plot_pass_at_k])
def test_no_rollouts_raise_one_clear_sentence(plot):
    for nothing in ([], [[]]):
        with pytest.raises(ValueError, match="No rollouts to plot"):
            plot(nothing)


def test_plots_draw_into_the_given_axes_and_leave_global_settings_alone():
    before = dict(matplotlib.rcParams)
    (sample,) = make_scenes("grounding", 1, seed=0)
    calls = [
        lambda ax: pr1kit.plot_boxes(sample, ax=ax),
        lambda ax: pr1kit.plot_matching(sample, [[0, 0, 5, 5]], [], ax=ax),
        lambda ax: pr1kit.plot_reward_curves(run([0.1, 0.2]), ax=ax),
        lambda ax: pr1kit.plot_metric_intervals([{"metric": "m", "before": 0, "after": 1}], ax=ax),
        lambda ax: pr1kit.plot_reward_histogram([[0.0, 1.0]], ax=ax),
        lambda ax: pr1kit.plot_pass_at_k([[0.0, 1.0]], ax=ax),
    ]
    for call in calls:
        figure, ax = plt.subplots()
        assert call(ax) is ax
        assert figure.axes == [ax]
        assert call(None).figure is not figure
        assert any(text.get_text() for text in ax.findobj(Text))
    assert {key: value for key, value in matplotlib.rcParams.items() if before[key] != value} == {}
