"""Videos from folders, animated pictures and films: which frames, at which seconds; every bad one in one sentence."""

import builtins

import numpy as np
import pytest
from PIL import Image

from pr1kit import Sample, Target
from pr1kit.data.animation import animation_bytes
from pr1kit.data.video import choose_frames, read_video

SIZE = (64, 48)


def grey(level):
    return Image.new("RGB", SIZE, (level,) * 3)


def levels(frames):
    return [int(np.asarray(frame).mean().round()) for frame in frames]


@pytest.fixture
def film(tmp_path):
    """Forty frames at 20 a second, each lighter than the one before; a key frame every ten."""
    import av

    path = tmp_path / "film.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=20, options={"g": "10", "sc_threshold": "1000000000"})
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = *SIZE, "yuv420p", 4_000_000
        for i in range(40):
            for packet in stream.encode(av.VideoFrame.from_image(grey(20 + 5 * i))):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def test_a_film_uniform(film):
    frames, times = read_video(film, 5)
    assert times == pytest.approx((0, 0.5, 1.0, 1.45, 1.95), abs=0.051)
    assert levels(frames) == pytest.approx([20 + 5 * round(20 * t) for t in times], abs=3)
    assert frames[0].size == SIZE
    assert Sample(None, "tracking", "it", Target(), frames=frames, times=times).is_video


def test_a_film_by_fps_and_by_key_frames(film):
    frames, times = read_video(film, 8, fps=4)
    assert times == pytest.approx([i / 4 for i in range(8)], abs=1e-3)
    assert levels(frames) == pytest.approx([20 + 25 * i for i in range(8)], abs=3)
    frames, times = read_video(film, 8, sampling="key")
    assert times == pytest.approx((0, 0.5, 1.0, 1.5), abs=1e-3)
    assert len(read_video(film, 2, sampling="key")[0]) == 2


def test_a_damaged_film_is_one_sentence(film, tmp_path):
    whole = film.read_bytes()
    for content in (whole[: len(whole) // 3], b"no film at all", b""):
        film.write_bytes(content)
        with pytest.raises(ValueError, match=r"film\.mp4' cannot be decoded: .*\.$") as raised:
            read_video(film)
        assert "\n" not in str(raised.value)


def test_without_pyav_the_remedy_is_named(film, monkeypatch):
    real = builtins.__import__

    def absent(name, *rest):
        if name == "av":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(ImportError, match=r"pr1kit\[video\]"):
        read_video(film)


@pytest.mark.parametrize("kind", ["GIF", "PNG"])
def test_an_animated_picture_keeps_its_own_seconds(tmp_path, kind):
    path = tmp_path / f"clip.{kind.lower()}"
    path.write_bytes(animation_bytes([grey(40 * i) for i in range(5)], [0, 0.1, 0.2, 1.2, 1.3], kind))
    frames, times = read_video(path, 3)
    assert times == pytest.approx((0, 0.2, 1.3))
    assert levels(frames) == pytest.approx([0, 80, 160], abs=4)
    assert read_video(path, 8, fps=1.0)[1] == pytest.approx((0, 1.2))
    with pytest.raises(ValueError, match="no key frames"):
        read_video(path, sampling="key")


def test_a_folder_is_read_in_the_order_of_its_numbers(tmp_path):
    for i in range(12):
        grey(20 * i).save(tmp_path / f"f{i}.png")
    (tmp_path / "notes.txt").write_text("no picture")
    frames, times = read_video(tmp_path, 12, source_fps=4)
    assert levels([Image.open(frame) for frame in frames]) == [20 * i for i in range(12)]
    assert times == tuple(i / 4 for i in range(12))
    assert read_video(tmp_path, 3)[1] == (0, 6, 11)


def test_bad_folders_are_one_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_video(tmp_path / "none.mp4")
    with pytest.raises(ValueError, match="has 0 frames"):
        read_video(tmp_path)
    grey(0).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="has 1 frame: it needs two"):
        read_video(tmp_path)
    with pytest.raises(ValueError, match="has 1 frame: it needs two"):
        read_video(tmp_path / "a.png")
    Image.new("RGB", (9, 9)).save(tmp_path / "b.png")
    with pytest.raises(ValueError, match=r"one size: the first has \(64, 48\), .*b\.png' \(9, 9\)"):
        read_video(tmp_path)
    (tmp_path / "c.gif").write_bytes(b"GIF89a and no more")
    with pytest.raises(ValueError, match=r"c\.gif' cannot be read"):
        read_video(tmp_path / "c.gif")
    for frames in (1, 10_000, "8"):
        with pytest.raises(ValueError, match="2 to 1,000 frames"):
            read_video(tmp_path, frames)
    with pytest.raises(ValueError, match="Unknown sampling"):
        read_video(tmp_path, sampling="random")
    with pytest.raises(ValueError, match="fps"):
        read_video(tmp_path, fps=0)
    with pytest.raises(ValueError, match="10,000 frames, more than the 1,000"):
        Sample(None, "tracking", "it", Target(), frames=["a.png"] * 10_000, times=range(10_000))


def test_frames_are_chosen_evenly_and_never_twice():
    for count in range(2, 40):
        times = [i / 7 for i in range(count)]
        chosen = choose_frames(times, 8)
        assert len(chosen) == len(set(chosen)) == min(8, count)
        assert (chosen[0], chosen[-1]) == (0, count - 1)
        assert np.diff(np.diff(chosen)).max(initial=0) <= 1
        by_rate = choose_frames(times, 8, "fps", 2.0)
        assert np.diff([times[i] for i in by_rate]).min(initial=1) > 0.5 - 1 / 7
