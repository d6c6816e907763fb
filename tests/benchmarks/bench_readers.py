"""How long, and in how much memory, is a large COCO file read? `python tests/benchmarks/bench_readers.py [IMAGES]`.

Writes a million boxes on IMAGES images (default 10,000) to a temporary folder, reads all of it, and 10 images of it.
"""

import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

BOXES = 1_000_000


def write(folder: Path, images: int) -> Path:
    rng = random.Random(0)
    Image.new("RGB", (640, 480)).save(folder / "a.jpg")
    named = [{"id": i, "file_name": "a.jpg", "width": 640, "height": 480} for i in range(images)]
    notes = (
        {
            "id": i,
            "image_id": i % images,
            "category_id": i % 80,
            "bbox": [round(rng.uniform(0, 500), 2), round(rng.uniform(0, 400), 2), 20.5, 30.25],
            "area": 500.5,
            "iscrowd": 0,
        }
        for i in range(BOXES)
    )
    path = folder / "instances.json"
    with path.open("w") as file:
        file.write(f'{{"images": {json.dumps(named)}, "annotations": [')
        for i, note in enumerate(notes):
            file.write(("," if i else "") + json.dumps(note))
        file.write(f'], "categories": {json.dumps([{"id": i, "name": f"class {i}"} for i in range(80)])}}}')
    return path


def read(path: str, limit: str) -> None:
    from pr1kit.data.load import load_dataset

    start, cpu = time.perf_counter(), time.process_time()
    samples = load_dataset(path, limit=int(limit) or None)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(
        f"{len(samples):,} images, {sum(len(s.target.boxes) for s in samples):,} boxes: "
        f"{time.perf_counter() - start:.1f} s, {time.process_time() - cpu:.1f} s of one core, {memory} MB"
    )


if __name__ == "__main__":
    if len(sys.argv) == 3:
        read(*sys.argv[1:])
    else:
        with tempfile.TemporaryDirectory() as folder:
            file = write(Path(folder), int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
            for limit in ("0", "10"):  # a process each: memory is the most that it had
                subprocess.run([sys.executable, __file__, str(file), limit], check=True)
