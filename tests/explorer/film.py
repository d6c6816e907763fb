"""A page of `explore --export` as an animated GIF: `python tests/explorer/film.py site/index.html replay.gif`.

Shows what the page shows first: its first run, its first picture. Needs Chromium.
"""

import io
import shutil
import sys
from pathlib import Path

from matplotlib.colors import to_rgb
from PIL import Image

from pr1kit.data.scenes import COLOURS
from pr1kit.plots.drawing import BETTER, INK, PREDICTION, TRUTH

WIDTH, HEIGHT, SHADES = 1000, 730, 110  # pixels; colours of the GIF besides those that have a meaning
REST, LAST = 650, 2400  # ms that a step stays, and the last one
GLIDE = (90, 180, 270)  # ms after a step, at which the moving boxes are taken


def film(page: Path, out: Path) -> int:
    """Write the GIF; returns its size in bytes."""
    from playwright.sync_api import sync_playwright

    shots, times = [], []
    with sync_playwright() as playwright:
        chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        tab = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
        tab.clock.install()  # so that a slow machine takes the same pictures
        tab.goto(page.resolve().as_uri())
        tab.clock.pause_at(tab.evaluate("Date.now()") + 1000)
        slider = tab.get_by_role("slider", name="training step")
        last = int(slider.get_attribute("max"))

        def take(milliseconds: int) -> None:
            tab.evaluate("document.activeElement.blur()")
            shots.append(Image.open(io.BytesIO(tab.screenshot())).convert("RGB"))
            times.append(milliseconds)

        take(REST)
        for step in range(1, last + 1):
            slider.fill(str(step))
            for before, moment in zip((0, *GLIDE), GLIDE, strict=False):
                tab.clock.run_for(moment - before)
                take(moment - before)
            tab.clock.run_for(1000)
            take(LAST if step == last else REST)
        browser.close()
    palette = Image.new("P", (1, 1))
    palette.putpalette(_colours(shots[0]))
    frames = [shot.quantize(palette=palette, dither=Image.Dither.NONE) for shot in shots]
    frames[0].save(out, save_all=True, append_images=frames[1:], duration=times, loop=0, optimize=True, disposal=1)
    return out.stat().st_size


def _colours(shot: Image.Image) -> list[int]:
    """A palette: the colours that have a meaning, and those of the picture that are not nearly one of them."""
    meant = ("white", "#f4f4f4", "#dcdcdc", TRUTH, PREDICTION, BETTER, INK)
    kept = [*(tuple(round(255 * part) for part in to_rgb(colour)) for colour in meant), *COLOURS.values()]
    own = shot.quantize(SHADES).getpalette()[: 3 * SHADES]
    for colour in zip(own[::3], own[1::3], own[2::3], strict=True):
        if all(max(abs(a - b) for a, b in zip(colour, other, strict=True)) > 5 for other in kept):
            kept.append(colour)
    return [part for colour in kept for part in colour]


if __name__ == "__main__":
    print(f"{sys.argv[2]}: {film(Path(sys.argv[1]), Path(sys.argv[2])):,} bytes")
