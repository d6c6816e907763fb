"""JSON and YAML under limits: what is whole is read as Python reads it, all else is one sentence with its file."""

import json
import tracemalloc

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pr1kit.data import safe_files
from pr1kit.data.safe_files import parse_json, parse_yaml, read_json, read_yaml, stream_json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=20,
)


def streamed(path, **options):
    """The value of a file put together again from its parts."""
    pairs = [(key, list(value) if hasattr(value, "__next__") else value) for key, value in stream_json(path, **options)]
    return pairs[0][1] if [key for key, _ in pairs] == [None] else dict(pairs)


@settings(max_examples=150, deadline=None)
@given(value=VALUES, chunk=st.integers(1, 12), indent=st.none() | st.integers(0, 2))
def test_what_is_streamed_is_what_json_reads_wherever_the_chunks_end(tmp_path_factory, value, chunk, indent):
    path = tmp_path_factory.mktemp("json") / "x.json"
    path.write_text(json.dumps(value, indent=indent), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(safe_files, "CHUNK", chunk)
        assert streamed(path) == value


@pytest.mark.parametrize("chunk", [1, 7, 40, 2**20])
def test_polygons_are_dropped_and_nothing_else(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(safe_files, "CHUNK", chunk)
    polygon = [[1.5, 2, 3], [4, 5e-3, 6]]
    notes = [
        {"segmentation": polygon, "id": 1},
        {"id": 2, "segmentation": polygon},
        {"id": 3, "segmentation": []},
        {"id": 4, "segmentation": {"counts": [1, 2], "size": [3, 4]}},
        {"id": 5, "caption": '"segmentation": [[1, 2]], "id": 6', "bbox": [1, 2, 3, 4]},
        {"segmentations": polygon, "my segmentation": polygon},
    ]
    path = tmp_path / "x.json"
    for indent in (None, 2):
        path.write_text(json.dumps({"annotations": notes}, indent=indent))
        read = streamed(path, drop="segmentation")["annotations"]
        assert read == [{**n, "segmentation": 0} if isinstance(n.get("segmentation"), list) else n for n in notes]


def test_a_long_list_is_streamed_in_the_memory_of_one_item(tmp_path):
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"info": {}, "rows": [{"id": i, "text": "x" * 100} for i in range(100_000)]}))
    tracemalloc.start()
    count = sum(1 for key, value in stream_json(path) if key == "rows" for _ in value)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 100_000
    assert most < path.stat().st_size


def test_only_as_much_is_read_as_is_asked_for(tmp_path):
    path = tmp_path / "x.json"
    path.write_text('[{"a": 1}, {"a": 2}, ' + " " * 3 * 2**20 + "and no more JSON")
    ((_, items),) = [next(iter(stream_json(path)))]
    assert [next(items), next(items)] == [{"a": 1}, {"a": 2}]


BROKEN = {
    "empty": "",
    "a word": "hello",
    "cut in a list": '{"images": [{"id": 1}, {"id"',
    "no comma": '[{"a": 1} {"a": 2}]',
    "comma at the end": '[{"a": 1},]',
    "no colon": '{"a" 1}',
    "two values": "[1] [2]",
    "too deep": "[" * 100_000,
    "deep within": '{"images": [{"id": ' + "[" * 100_000,
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_json_is_one_sentence_that_names_the_file(tmp_path, name):
    path = tmp_path / "broken.json"
    path.write_text(BROKEN[name])
    for read in (streamed, read_json):
        with pytest.raises(ValueError, match=r"broken\.json' is no JSON: ") as error:
            read(path)
        assert len(str(error.value)) < 400 + len(str(path))
        assert "\n" not in str(error.value)


def test_numbers_of_any_length_and_infinities_are_read(tmp_path):
    path = tmp_path / "x.json"
    path.write_text('[{"a": Infinity}, {"a": ' + "9" * 400 + '}, {"a": ' + "9" * 5000 + "}, 1e999]")
    for value in (streamed(path), read_json(path)):
        assert value == [{"a": float("inf")}, {"a": int("9" * 400)}, {"a": float("inf")}, float("inf")]


def test_bytes_that_are_no_text_and_files_beyond_the_limit_are_named(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    path.write_bytes(b'["caf\xe9"]')
    for read in (streamed, read_json):
        with pytest.raises(ValueError, match=r"x\.json' is no .*not written in UTF-8"):
            read(path)
    path.write_text('["' + "x" * 100 + '"]')
    monkeypatch.setattr(safe_files, "MAX_RECORD", 20)
    monkeypatch.setattr(safe_files, "CHUNK", 10)
    with pytest.raises(ValueError, match=r"x\.json' is no JSON: one value goes on for more than 20 characters"):
        streamed(path)
    monkeypatch.setattr(safe_files, "MAX_YAML", 100)
    with pytest.raises(ValueError, match=r"x\.json' has 104 bytes, more than the 100"):
        read_yaml(path)
    with pytest.raises(FileNotFoundError, match=r"absent\.json"):
        read_json(tmp_path / "absent.json")
    assert parse_json("\ufeff[1]".lstrip("\ufeff"), "It is") == [1]


def bomb(levels: int, each: int) -> str:
    lines = [f"a0: &a0 [{', '.join(['lol'] * each)}]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * each)}]" for i in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (bomb(10, 10), "more than 50 levels or 10 aliases"),
        (
            "\n".join(["a0: &a0 {x: 1}", *(f"a{i}: &a{i} {{<<: [{f'*a{i - 1}, ' * 9}]}}" for i in range(1, 9))]),
            "10 al",
        ),
        ("a: &a [1, *a]", "its anchor 'a' holds itself"),
        ("[" * 10_000, "more than 50 levels"),
        ("a: [1", "expected"),
        ("a: !!python/object/apply:os.system ['true']", "could not determine a constructor"),
        ("a: " + "9" * 5000, "4300 digits"),
        ("a: 2020-13-45", "month"),
        ("a: \x00", "special characters are not allowed"),
    ],
    ids=["bomb", "merge bomb", "ring", "deep", "cut", "code", "digits", "date", "nul"],
)
def test_hostile_yaml_is_one_sentence(tmp_path, text, words):
    path = tmp_path / "my.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"my\.yaml' is no YAML that the kit reads: .*{words}") as error:
        read_yaml(path)
    assert "\n" not in str(error.value)


def test_plain_yaml_is_read_as_it_is_written():
    text = "task: grounding\nlr: 1e-6\nlora: &l {r: 16}\nother: *l\nlist: [1, 2.5, null]\n"
    assert parse_yaml(text, "It is") == yaml.safe_load(text)
