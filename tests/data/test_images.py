"""What the model sees of an image: upright, RGB, nothing black that was clear; boxes that turn with their image."""

import io
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from pr1kit.data import images
from pr1kit.data.images import ORIENTATION, orientation, probe, to_rgb, upright_boxes, upright_size
from pr1kit.data.records import StoredImage
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


def grey(values, mode: str, folder) -> Sample:
    path = folder / "x.tiff"
    Image.fromarray(np.asarray(values)).save(path)
    with Image.open(path) as image:
        assert image.mode == mode
    return Sample(path, "ocr", "", Target(text="x"), "s")


@pytest.mark.parametrize(
    ("values", "mode", "seen"),
    [
        (np.float32([[0, 0.5, 1]]), "F", [0, 127, 255]),
        (np.float32([[0, 100.2, 255]]), "F", [0, 100, 255]),
        (np.int32([[0, 100, 255]]), "I", [0, 100, 255]),
        (np.int32([[0, 32896, 65535]]), "I", [0, 128, 255]),
        (np.uint16([[0, 200, 65535]]), "I;16", [0, 0, 255]),
    ],
)
def test_grey_of_16_and_32_bits_keeps_its_white(tmp_path, values, mode, seen):
    """A float TIFF in 0..1 was black, one of whole numbers of 8 bits too."""
    loaded = grey(values, mode, tmp_path).load_image()
    assert np.asarray(loaded)[0, :, 0].tolist() == seen


@pytest.mark.parametrize("values", [[-1, 1], [0, 300], [0, np.nan], [0, np.inf]])
def test_grey_whose_white_is_not_known_is_refused(tmp_path, values):
    sample = grey(np.float32([values]), "F", tmp_path)
    for look in (sample.load_image, lambda: probe(sample.image)):
        with pytest.raises(ValueError, match=r"x\.tiff.* cannot be read as an image \(its F pixels run from"):
            look()


def test_one_limit_of_pixels_holds_for_every_image(tmp_path, monkeypatch):
    path = tmp_path / "large.png"
    Image.new("L", (300, 200)).save(path)
    sample = Sample(path, "ocr", "", Target(text="x"), "s")
    assert sample.load_image().size == (300, 200)
    monkeypatch.setattr(images, "MAX_PIXELS", 59_999)
    in_memory = Sample(Image.new("L", (300, 200)), "ocr", "", Target(text="x"), "s")
    stored = Sample(StoredImage("cell", path.read_bytes()), "ocr", "", Target(text="x"), "s")
    for look in (sample.load_image, in_memory.load_image, stored.load_image, lambda: images.image_size(path)):
        with pytest.raises(ValueError, match=r"300x200 is more than the limit of 59,999 pixels.*PR1KIT_MAX_PIXELS"):
            look()


def test_a_decompression_bomb_is_one_sentence_and_never_decoded(tmp_path):
    path = tmp_path / "bomb.png"
    head = b"\x89PNG\r\n\x1a\n"
    for kind, data in ((b"IHDR", (50_000).to_bytes(4, "big") * 2 + bytes([8, 0, 0, 0, 0])), (b"IEND", b"")):
        head += len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")
    path.write_bytes(head)
    with pytest.raises(ValueError, match=r"bomb\.png' of sample 's' cannot be read as an image \(it has more than"):
        Sample(path, "ocr", "", Target(text="x"), "s").load_image()


def test_the_size_of_an_upright_image_is_read_from_its_header(tmp_path):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    path = tmp_path / "turned.jpg"
    Image.effect_noise((200, 100), 60).save(path, exif=exif)
    path.write_bytes(path.read_bytes()[:2000])
    assert images.image_size(path) == (100, 200)


@pytest.mark.parametrize("damage", ["tail", "head", "middle", "empty"])
@pytest.mark.parametrize("ending", ["png", "jpg", "gif", "tiff", "webp", "bmp"])
def test_damaged_files_are_pictures_or_one_sentence(tmp_path, damage, ending):
    path = tmp_path / f"x.{ending}"
    Image.effect_noise((64, 64), 60).save(path)
    content = bytearray(path.read_bytes())
    rng = np.random.default_rng(0)
    for _ in range(20):
        start = {"tail": len(content) * 3 // 4, "head": 2, "middle": len(content) // 3, "empty": 0}[damage]
        broken = bytearray() if damage == "empty" else bytearray(content)
        broken[start : start + 40] = rng.bytes(40) if broken else b""
        path.write_bytes(broken)
        said = ""
        try:
            Sample(path, "ocr", "", Target(text="x"), "s").load_image()
        except ValueError as error:
            said = str(error)
        assert said == "" or said.startswith(f"Image '{path}' of sample 's' cannot be read as an image (")
