"""Text similarity: hand-computed numbers, parity with nltk, Chinese and combining characters."""

import importlib.util
import random

import pytest

from pr1kit.rewards import text_similarity as text


def test_edit_distance_by_hand():
    assert text.edit_distance("", "") == 0
    assert text.edit_distance("", "abc") == 1
    assert text.edit_distance("abc", "axc") == pytest.approx(1 / 3)
    assert text.edit_distance("今天", "今日") == 0.5


def test_edit_distance_agrees_with_nltk():
    from nltk.metrics.distance import edit_distance

    rng = random.Random(0)
    for _ in range(60):
        a, b = ("".join(rng.choices("ab ç", k=rng.randrange(12))) for _ in range(2))
        expected = edit_distance(a, b) / max(len(a), len(b), 1)
        assert text.edit_distance(a, b) == pytest.approx(expected)


def test_word_sets_agree_with_nltk():
    from nltk.metrics.scores import f_measure, precision, recall

    rng = random.Random(1)
    for _ in range(60):
        a, b = (rng.choices("abcdef", k=rng.randrange(1, 9)) for _ in range(2))
        ours = text.word_set_scores(a, b)
        expected = [measure(set(b), set(a)) for measure in (precision, recall, f_measure)]
        assert ours == pytest.approx([value or 0 for value in expected])


def test_empty_against_empty_is_perfect_and_against_words_nothing():
    assert text.word_set_scores([], []) == (1, 1, 1)
    assert text.word_set_scores([], ["a"]) == text.word_set_scores(["a"], []) == (0, 0, 0)
    for measure in (text.bleu, text.meteor):
        assert (measure([], []), measure([], ["a"]), measure(["a"], [])) == (1, 0, 0)


def test_bleu_and_meteor_of_the_same_long_text():
    words = "the quick brown fox jumps over the lazy dog again and again".split()
    assert text.bleu(words, words) == pytest.approx(1)
    assert text.meteor(words, words) == pytest.approx(1, abs=1e-3)
    assert text.meteor(words[::-1], words) < 0.8 < text.meteor(["jumping" if w == "jumps" else w for w in words], words)


def test_meteor_without_wordnet_by_hand():
    """Matches m = 3 in one chunk: F = 1, penalty 0.5 · (1 / 3)³."""
    assert text.meteor(["the", "cat", "sat"], ["the", "cat", "sat"]) == pytest.approx(1 - 0.5 / 27)


def test_white_space_and_composition():
    assert text.collapse(" a\n\t b  ") == "a b"
    assert text.normalize("caf\u0065\u0301") == "café"
    assert len(text.normalize("\u1112\u1161\u11ab")) == 1


def test_chinese_is_segmented_or_split_into_characters():
    said = text.words("今天天气很好")
    assert "".join(said) == "今天天气很好"
    has_jieba = importlib.util.find_spec("jieba") is not None
    assert len(said) < 6 if has_jieba else len(said) == 6
    assert text.words("to be") == ["to", "be"]
