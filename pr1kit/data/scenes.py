"""The synthetic world: seeded pictures of coloured shapes and of rendered text, with exact truth.

A scene is made of objects, each a colour and a shape in a square box, on a background whose tint changes from left to
right and from top to bottom (so that a small vision tower with relative positions can tell where it looks). Every
scene is drawn from its own random stream `(seed, split, task, index)`: the first ten of a thousand are the ten that
`n=10` gives, and train, validation and test never meet.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pr1kit.data.boxes import centers
from pr1kit.data.sample import IMAGE_TASKS, Sample, Target

COLOURS = {
    "red": (213, 40, 40),
    "green": (24, 140, 60),
    "blue": (38, 70, 205),
    "yellow": (245, 215, 40),
    "purple": (140, 50, 160),
    "black": (30, 30, 30),
}
SHAPES = ("circle", "square", "triangle", "cross")
CONSONANTS, VOWELS = "bdfghklnprstvz", "aeiou"
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Difficulty:
    """The knobs of the world; ranges are inclusive.

    `num_objects`: objects in a scene (for counting: objects to count, `distractors` come on top); `size`: side in
    pixels; `overlap`: largest share of the smaller object that another may cover; `distractors`: grounding, the chance
    that another object shares its colour or shape with the one asked for; counting, the largest number of objects of
    another shape; `text_length`: words on a page; `text_height`: of a line, in pixels; `image_size`: side of the square
    image in pixels.
    """

    num_objects: tuple[int, int] = (2, 5)
    size: tuple[int, int] = (10, 24)
    overlap: float = 0.1
    distractors: float = 0.5
    text_length: tuple[int, int] = (2, 4)
    text_height: int = 16
    image_size: int = 64

    def __post_init__(self):
        for name in ("num_objects", "size", "text_length"):
            low, high = getattr(self, name)
            if not 0 <= low <= high:
                raise ValueError(f"Difficulty {name} must be a range (low, high), got {(low, high)}.")
        if not 0 < self.size[0] <= self.size[1] < self.image_size:
            raise ValueError(f"Difficulty size {self.size} does not fit an image of {self.image_size} pixels.")


# What a task looks like unless the caller says otherwise.
DEFAULTS = {
    "grounding": Difficulty(),
    "counting": Difficulty(num_objects=(1, 5), size=(9, 18), distractors=3),
    "detection": Difficulty(num_objects=(1, 4)),
    "ocr": Difficulty(),
}


@dataclass(frozen=True)
class Scene:
    """A drawing and what is in it: `image` (H, W, 3) uint8, `boxes` (N, 4) xyxy pixels, `colours`, `shapes`, `text`.

    `glyphs` has a row `(x1, y1, x2, y2, character code)` for each rendered letter of a page.
    """

    image: np.ndarray
    boxes: np.ndarray
    colours: tuple[str, ...] = ()
    shapes: tuple[str, ...] = ()
    text: str = ""
    glyphs: np.ndarray | None = None


@lru_cache(maxsize=256)
def shape_mask(shape: str, side: int) -> np.ndarray:
    """`(side, side)` bool: the shape, touching all four sides of its box."""
    centre = (np.arange(side) + 0.5) * 2 / side - 1
    u, v = centre[None, :], centre[:, None]
    if shape == "circle":
        return u**2 + v**2 <= 1.0
    if shape == "square":
        return np.ones((side, side), bool)
    if shape == "triangle":
        return np.abs(u) <= (v + 1) / 2 + 1 / side
    return (np.abs(u) <= 0.36) | (np.abs(v) <= 0.36)


@lru_cache(maxsize=8)
def background(size: int) -> np.ndarray:
    """`(size, size, 3)` float: red grows to the right, blue to the bottom."""
    ramp = np.linspace(150, 235, size)
    image = np.full((size, size, 3), 205.0)
    image[..., 0], image[..., 2] = ramp[None, :], ramp[:, None]
    return image


def _place(rng: np.random.Generator, count: int, knobs: Difficulty) -> list[tuple[int, int, int, int]]:
    """Up to `count` boxes that overlap no more than allowed; a crowded scene may end with fewer, never with none."""
    low, high = knobs.size
    tries = max(count, 1) * 24
    sides = rng.integers(low, high + 1, tries).tolist()
    places = rng.random((tries, 2)).tolist()
    boxes: list[tuple[int, int, int, int]] = []
    for side, (px, py) in zip(sides, places, strict=True):
        if len(boxes) == count:
            break
        x, y = int(px * (knobs.image_size - side + 1)), int(py * (knobs.image_size - side + 1))
        for a in boxes:
            width, height = min(a[2], x + side) - max(a[0], x), min(a[3], y + side) - max(a[1], y)
            if width > 0 and height > 0 and width * height > knobs.overlap * min(side, a[2] - a[0]) ** 2:
                break
        else:
            boxes.append((x, y, x + side, y + side))
    return sorted(boxes, key=lambda box: (box[1], box[0]))  # reading order: top to bottom, left to right


def _draw(rng: np.random.Generator, boxes, colours, shapes, size: int) -> np.ndarray:
    image = background(size) + rng.normal(0, 6, (size, size, 1))
    for (x1, y1, x2, y2), colour, shape in zip(boxes, colours, shapes, strict=True):
        image[y1:y2, x1:x2][shape_mask(shape, x2 - x1)] = COLOURS[colour]
    return np.clip(image, 0, 255).astype(np.uint8)


def draw_shapes(task: str, rng: np.random.Generator, knobs: Difficulty) -> tuple[Scene, str]:
    """One scene of shapes and the question that `task` asks about it."""
    count = int(rng.integers(knobs.num_objects[0], knobs.num_objects[1] + 1))
    extra = int(rng.integers(0, int(knobs.distractors) + 1)) if task == "counting" else 0
    boxes = _place(rng, count + extra, knobs)
    n = len(boxes)
    names = list(COLOURS)
    colours = [names[i] for i in rng.integers(0, len(names), n)]
    shapes = [SHAPES[i] for i in rng.integers(0, len(SHAPES), n)]
    question = ", ".join(SHAPES)
    if task == "grounding":
        asked = int(rng.integers(0, n))
        for i in range(n):
            if i == asked:
                continue
            if rng.random() < knobs.distractors:  # look like it in one of the two respects
                if rng.random() < 0.5:
                    colours[i] = colours[asked]
                else:
                    shapes[i] = shapes[asked]
            if (colours[i], shapes[i]) == (colours[asked], shapes[asked]):
                shapes[i] = SHAPES[(SHAPES.index(shapes[i]) + int(rng.integers(1, len(SHAPES)))) % len(SHAPES)]
        question = f"{colours[asked]} {shapes[asked]}"
    elif task == "counting":
        question = SHAPES[int(rng.integers(0, len(SHAPES)))]
        others = [shape for shape in SHAPES if shape != question]
        counted = set(rng.permutation(n)[: min(count, n)].tolist())
        shapes = [question if i in counted else others[int(rng.integers(0, len(others)))] for i in range(n)]
    image = _draw(rng, boxes, colours, shapes, knobs.image_size)
    return Scene(image, np.array(boxes, float).reshape(-1, 4), tuple(colours), tuple(shapes)), question


@lru_cache(maxsize=8)
def _font(height: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size=height * 3 // 4)


def draw_page(rng: np.random.Generator, knobs: Difficulty) -> Scene:
    """A page of made-up words (consonant, vowel, twice), two on a line: nothing to guess, everything to read."""
    count = int(rng.integers(knobs.text_length[0], knobs.text_length[1] + 1))
    syllables = [
        CONSONANTS[c] + VOWELS[v]
        for c, v in zip(rng.integers(0, 14, 2 * count).tolist(), rng.integers(0, 5, 2 * count).tolist(), strict=True)
    ]
    words = ["".join(pair) for pair in zip(syllables[::2], syllables[1::2], strict=True)]
    lines = [" ".join(words[i : i + 2]) for i in range(0, count, 2)]
    size, height, font = knobs.image_size, knobs.text_height, _font(knobs.text_height)
    if len(lines) * height > size:
        raise ValueError(f"{count} words do not fit a page of {size} pixels: lower text_length or raise image_size.")
    top = int(rng.integers(0, size - len(lines) * height + 1))
    ink = Image.new("L", (size, size))
    draw, glyphs = ImageDraw.Draw(ink), []
    for row, line in enumerate(lines):
        x, y = int(rng.integers(1, max(2, size - int(draw.textlength(line, font)) - 1))), top + row * height
        draw.text((x, y), line, fill=255, font=font)
        for i, letter in enumerate(line):
            if letter != " ":
                left, right = (draw.textlength(line[:j], font) for j in (i, i + 1))
                glyphs.append((x + left, y, x + right, y + height, ord(letter)))
    shade = np.asarray(ink, float)[..., None] / 255
    paper = background(size) + rng.normal(0, 6, (size, size, 1))
    image = np.clip(paper * (1 - shade) + 25 * shade, 0, 255).astype(np.uint8)
    return Scene(image, np.zeros((0, 4)), text="\n".join(lines), glyphs=np.array(glyphs, float).reshape(-1, 5))


def draw_scene(task: str, rng: np.random.Generator, knobs: Difficulty) -> tuple[Scene, str]:
    """One scene and its question, for any of the four tasks."""
    return (draw_page(rng, knobs), "") if task == "ocr" else draw_shapes(task, rng, knobs)


def _knobs(task: str, difficulty: dict) -> Difficulty:
    known = {f.name for f in fields(Difficulty)}
    if unknown := set(difficulty) - known:
        raise ValueError(f"Unknown difficulty {', '.join(sorted(unknown))}: the knobs are {', '.join(sorted(known))}.")
    return Difficulty(**{**vars(DEFAULTS[task]), **difficulty})


def scene_rng(task: str, seed: int, split: str, index: int) -> np.random.Generator:
    """The random stream of one scene."""
    return np.random.default_rng([seed, SPLITS.index(split), IMAGE_TASKS.index(task), index])


def make_scenes(
    task: str, n: int, seed: int = 0, *, split: str = "train", start: int = 0, **difficulty
) -> list[Sample]:
    """`n` samples of `task`, the same for the same arguments; `difficulty` are fields of `Difficulty`.

    Boxes are xyxy pixels of the image. Raises ValueError for an unknown task, split or knob.

    >>> sample = make_scenes("counting", 1, seed=7)[0]
    >>> sample.question, len(sample.target.boxes) == len(sample.target.labels)
    ('square', True)
    """
    if task not in IMAGE_TASKS:
        raise ValueError(f"Unknown task {task!r}: choose one of {', '.join(IMAGE_TASKS)}.")
    if split not in SPLITS:
        raise ValueError(f"Unknown split {split!r}: choose one of {', '.join(SPLITS)}.")
    knobs, samples = _knobs(task, difficulty), []
    for index in range(start, start + n):
        scene, question = draw_scene(task, scene_rng(task, seed, split, index), knobs)
        keep = list(range(len(scene.boxes)))
        if task == "grounding":
            keep = [i for i in keep if f"{scene.colours[i]} {scene.shapes[i]}" == question]
        elif task == "counting":
            keep = [i for i in keep if scene.shapes[i] == question]
        boxes = scene.boxes[keep]
        target = Target(
            boxes=boxes,
            labels=[question if task == "grounding" else scene.shapes[i] for i in keep],
            points=centers(boxes),
            text=scene.text,
            image_size=(knobs.image_size, knobs.image_size),
        )
        name = f"scenes/{task}/{split}/{seed}/{index}"
        samples.append(Sample(Image.fromarray(scene.image), task, question, target, name))
    return samples
