"""Which benchmarks does Perception-R1 report, how were its answers asked for, and what did they score?

Numbers are of arXiv 2504.07954, in percent, with their table; a place it leaves empty, or that could not be checked, is
empty here. The protocols are those of the paper's text and of the evaluation scripts that its authors released: they
differ, and so would the numbers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from pr1kit.data.layouts.official import PICTURES
from pr1kit.rewards.tasks import get_task


@dataclass(frozen=True)
class Protocol:
    """How answers are asked for: `prompt` with `{question}` in it, and greedy decoding of at most `max_new_tokens`."""

    prompt: str
    max_new_tokens: int
    repetition_penalty: float = 1.0
    thinking: bool = False

    def __str__(self) -> str:
        penalty = f", repetition penalty {self.repetition_penalty:g}" if self.repetition_penalty != 1 else ""
        thinking = ", thinking first" if self.thinking else ""
        return f'prompt "{self.prompt}"{thinking}; greedy, at most {self.max_new_tokens} tokens{penalty}'


TOKENS = {"grounding": 512, "counting": 512, "ocr": 2048, "detection": 4096}
TOKENS |= {"tracking": 2048, "when": 256, "what": 256}  # ours: the paper has no videos
PAPER_PROTOCOLS = {task: Protocol(get_task(task).prompt("{question}"), tokens) for task, tokens in TOKENS.items()}
RELEASED_PROTOCOLS = {
    **PAPER_PROTOCOLS,
    "grounding": Protocol(PAPER_PROTOCOLS["grounding"].prompt, 512, repetition_penalty=1.05),
    "ocr": Protocol("<image>\nOCR this image: ", 2048),
    "detection": Protocol(
        "Locate every item from the category list in the image and output the coordinates in JSON format. "
        "The category set includes {question}.",
        4096,
    ),
}
PROTOCOLS = {"paper": PAPER_PROTOCOLS, "released": RELEASED_PROTOCOLS}

# Metric of `pr1kit.evaluate` -> how a table heads it; shares are shown in percent.
REPORTED = {
    "grounding": {"acc@0.5": "Acc@.5", "acc@0.75": "Acc@.75", "acc@0.95": "Acc@.95", "acc_avg": "Avg"},
    "counting": {"accuracy": "Accuracy"},
    "ocr": {
        "edit_distance": "Edit distance ↓",
        "f1": "F1",
        "precision": "Precision",
        "recall": "Recall",
        "bleu": "BLEU",
        "meteor": "METEOR",
    },
    "detection": {
        "ap": "AP",
        "ap50": "AP50",
        "ap75": "AP75",
        "ap_small": "AP small",
        "ap_medium": "AP medium",
        "ap_large": "AP large",
        "ar100": "AR100",
    },
    "tracking": {"track_iou": "Track IoU", "track@0.5": "IoU >= .5", "identity": "Identity", "frame_iou": "Frame IoU"},
    "when": {"time_iou": "Time IoU", "exact": "Exact"},
    "what": {"attributes": "Attributes", "exact": "Exact"},
}

# Benchmark: (what a file of it is called, its table in the paper, {model: {metric: percent}}).
R1 = "Perception-R1"
BASE, DETECTION_BASE = "Qwen2-VL-2B-Instruct", "Qwen2.5-VL-3B-Instruct"  # what it was trained from
RESULTS = {
    "refcoco_val": ("refcoco_val", "Table 1", {R1: {"acc@0.5": 89.1}, BASE: {"acc@0.5": 86.8}}),
    "refcocop_val": (r"refcoco(p|\+|plus)_val", "Table 1", {R1: {"acc@0.5": 81.7}, BASE: {"acc@0.5": 77.1}}),
    "refcocog_val": ("refcocog_val", "Table 1", {R1: {"acc@0.5": 85.7}, BASE: {"acc@0.5": 83.3}}),
    "en_page_ocr": ("en_page_ocr", "Table 2", {R1: {"f1": 98.2}, BASE: {"f1": 94.4}}),
    "pixmo_val": ("pixmo.*val", "Table 3", {R1: {"accuracy": 78.1}, BASE: {"accuracy": 60.2}}),
    "pixmo_test": ("pixmo.*test", "Table 3", {R1: {"accuracy": 75.6}, BASE: {"accuracy": 50.5}}),
    "coco_val2017": (
        "(coco|instances)_val2017",
        "Table 3",
        {R1: {"ap": 31.9, "ap50": 46.7, "ap75": 33.4}, DETECTION_BASE: {"ap": 16.1}},
    ),
}

# Where the official evaluation folder keeps each benchmark: annotations under `jsons/`, pictures under `images/`.
OFFICIAL = (
    ("grounding/refcoco*.json", "coco"),
    ("counting/pixmo_count_*.jsonl", ""),
    ("ocr/en_page_ocr.json", "ocr/en_pdf_png"),
    ("ocr/cn_page_ocr.json", "ocr/cn_pdf_png"),
    ("detection/*val2017.json", "coco/val2017"),
)


def paper_rows(name: str, task: str) -> list[tuple[str, dict[str, float]]]:
    """What the paper reports for the benchmark file `name`: (model and table, {metric: percent}) pairs.

    >>> paper_rows("refcoco_val", "grounding")[0]
    ('Perception-R1, Table 1', {'acc@0.5': 89.1})
    """
    for pattern, table, models in RESULTS.values():
        known = next(iter(models[R1])) in REPORTED[task]
        if known and re.fullmatch(rf"{pattern}.*", name):
            return [(f"{model}, {table}", values) for model, values in models.items()]
    return []


def official_files(folder: Path) -> list[tuple[Path, Path]]:
    """(annotation file, folder of its pictures) of what is there of the official evaluation folder, in its order.

    Behind them stand scenes in the same layouts (`save_official`), if their name begins with `scenes_`.
    """
    found = []
    for pattern, pictures in OFFICIAL:
        for file in sorted((folder / "jsons").glob(pattern)):
            found.append((file, folder / "images" / pictures))
    for task, pictures in PICTURES.items():
        found += [
            (file, folder / "images" / pictures) for file in sorted((folder / "jsons" / task).glob("scenes_*.json*"))
        ]
    return found
