"""What the model sees of an image: upright, RGB, nothing black that was clear; boxes that turn with their image."""

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from pr1kit.data.images import ORIENTATION, orientation, probe, to_rgb, upright_boxes, upright_size
from pr1kit.data.sample import Sample, Target

BOX, SIZE = (30, 10, 55, 18), (80, 60)


def stored(turn: int | None, mode: str = "RGB") -> Image.Image:
    """A picture of one red box on white, as a camera that was held sideways stores it, read back from a file."""
    image = Image.new("RGB", SIZE, "white")
    image.paste((255, 0, 0), BOX)
    exif = Image.Exif()
    if turn is not None:
        exif[ORIENTATION] = turn
    file = io.BytesIO()
    image.convert(mode).save(file, "PNG", exif=exif)
    return Image.open(io.BytesIO(file.getvalue()))


def red_box(image: Image.Image) -> list[int]:
    pixels = np.asarray(image)
    ys, xs = np.nonzero((pixels[..., 0] > 200) & (pixels[..., 1] < 60))
    return [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]


@pytest.mark.parametrize("turn", range(1, 9))
def test_a_box_turns_with_its_image(turn):
    image = stored(turn)
    assert orientation(image) == turn
    upright = to_rgb(image)
    assert upright.size == upright_size(SIZE, turn) == ImageOps.exif_transpose(image).size
    assert upright_boxes(np.array([BOX]), turn, SIZE).tolist() == [red_box(upright)]


def test_without_exif_and_with_damaged_exif_an_image_stays_as_it_is():
    assert red_box(to_rgb(stored(None))) == list(BOX)
    assert orientation(stored(99)) == 1
    file = io.BytesIO()
    stored(None).save(file, "PNG", exif=b"no EXIF at all")
    broken = Image.open(file)
    with pytest.raises(SyntaxError):
        broken.getexif()
    assert red_box(to_rgb(broken)) == list(BOX)


@pytest.mark.parametrize("mode", ["L", "P", "1", "CMYK", "LA", "RGBA", "I;16", "YCbCr"])
def test_every_mode_becomes_rgb_with_light_and_dark_where_they_were(mode, tmp_path):
    image = Image.new("L", (8, 4), 255)
    image.paste(0, (0, 0, 4, 4))
    if mode == "I;16":
        image = Image.fromarray((np.asarray(image).astype(np.uint16)) * 257)
    else:
        image = image.convert("RGB").convert(mode)
    path = tmp_path / ("x.jpg" if mode in ("CMYK", "YCbCr") else "x.png")
    image.save(path, **({"quality": 100} if path.suffix == ".jpg" else {}))
    loaded = Sample(path, "ocr", "", Target(text="x")).load_image()
    assert loaded.mode == "RGB"
    pixels = np.asarray(loaded).astype(int)
    assert pixels[:, :3].max() < 40
    assert pixels[:, 5:].min() > 215


def test_what_is_transparent_is_white():
    """A page whose paper is transparent: a plain conversion would put its black letters on black."""
    page = Image.new("RGBA", (8, 4), (0, 0, 0, 0))
    page.paste((0, 0, 0, 255), (0, 0, 4, 4))
    assert page.convert("RGB").getpixel((7, 0)) == (0, 0, 0)
    assert to_rgb(page).getpixel((7, 0)) == (255, 255, 255)
    palette = page.convert("LA").convert("P")
    palette.info["transparency"] = palette.getpixel((7, 0))
    assert to_rgb(palette).getpixel((7, 0)) == (255, 255, 255)


def test_a_file_cut_short_is_found_when_decoded_and_named(tmp_path):
    path = tmp_path / "cut.jpg"
    Image.effect_noise((200, 200), 60).save(path)
    assert probe(path) == ((200, 200), 1)
    path.write_bytes(path.read_bytes()[:-4000])
    assert probe(path, decode=False) == ((200, 200), 1)
    with pytest.raises(ValueError, match=r"cut\.jpg cannot be read as an image"):
        probe(path)
    (tmp_path / "text.jpg").write_text("not a picture")
    for name, error in (("text.jpg", ValueError), ("absent.jpg", FileNotFoundError)):
        with pytest.raises(error, match=name):
            probe(tmp_path / name)
        with pytest.raises(error, match=f"{name}.*sample 's'"):
            Sample(tmp_path / name, "ocr", "", Target(text="x"), "s").load_image()
