"""How alike are two texts? Edit distance, word sets, BLEU, METEOR; words of Chinese text by jieba where installed."""

from __future__ import annotations

import re
import unicodedata
import warnings
from functools import cache
from types import SimpleNamespace

_OFFICIAL_CHINESE = re.compile("[\u4e00-\u9fa5]")
_CHINESE = re.compile("[\u3400-\u9fff\uf900-\ufaff]")


def collapse(text: str) -> str:
    """`text` trimmed, every run of white space one blank.

    >>> collapse("  a\\n\\n b ")
    'a b'
    """
    return " ".join(text.split())


def normalize(text: str) -> str:
    """`collapse` after Unicode composition (NFC), so that é is é whether typed as one code point or two.

    >>> normalize("cafe\\u0301") == "café"
    True
    """
    return collapse(text if text.isascii() else unicodedata.normalize("NFC", text))


def edit_distance(a: str, b: str) -> float:
    """Levenshtein distance by code points over the longer length, in [0, 1]; two empty texts give 0.

    >>> edit_distance("kitten", "sitting")
    0.42857142857142855
    """
    from rapidfuzz.distance import Levenshtein

    return Levenshtein.normalized_distance(a, b)


def words(text: str) -> list[str]:
    """Words between blanks; text with Chinese characters by jieba, or character by character where it is missing.

    >>> words("to be or not")
    ['to', 'be', 'or', 'not']
    """
    if not _CHINESE.search(text):
        return text.split()
    return [word for word in _segmenter()(text) if word.strip()]


def official_words(said: str, truth: str) -> tuple[list[str], list[str]]:
    """The words of both texts as the official evaluation has them: by jieba, blanks among them, if either is Chinese.

    >>> official_words("to be", "to  do")
    (['to', 'be'], ['to', 'do'])
    """
    if not _OFFICIAL_CHINESE.search(said + truth):
        return said.split(), truth.split()
    segment = _segmenter()
    return list(segment(said)), list(segment(truth))


@cache
def _segmenter():
    try:
        import jieba
    except ImportError:
        warnings.warn("jieba is not installed: Chinese text is compared by characters.", stacklevel=3)
        return list
    return jieba.lcut


def word_set_scores(said: list[str], truth: list[str]) -> tuple[float, float, float]:
    """Precision, recall and F1 of the sets of words, as the official OCR evaluation has them; empty against empty is 1.

    >>> word_set_scores(["a", "b"], ["a", "c", "d"])
    (0.5, 0.3333333333333333, 0.4)
    """
    a, b = set(said), set(truth)
    if not a or not b:
        return (1.0, 1.0, 1.0) if not a and not b else (0.0, 0.0, 0.0)
    both = len(a & b)
    return both / len(a), both / len(b), 2 * both / (len(a) + len(b))


def bleu(said: list[str], truth: list[str]) -> float:
    """BLEU-4 of one text, unsmoothed as in the official evaluation: below four words it is about 0. Empty pair: 1.

    >>> round(bleu("the cat sat on the mat".split(), "the cat sat on a mat".split()), 3)
    0.537
    """
    if not said or not truth:
        return float(not said and not truth)
    from nltk.translate.bleu_score import sentence_bleu

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "0 counts of 4-gram overlaps": known, and said above
        return float(sentence_bleu([truth], said))


@cache
def _wordnet():
    """WordNet where its data is installed; else a stand-in without synonyms, so METEOR matches exactly and by stem."""
    from nltk.corpus import wordnet

    try:
        wordnet.synsets("word")
    except LookupError:
        return SimpleNamespace(synsets=lambda word: ())
    return wordnet


def meteor(said: list[str], truth: list[str]) -> float:
    """METEOR (Banerjee and Lavie 2005) in [0, 1]; without WordNet's data, exact and stem matches only. Empty pair: 1.

    >>> round(meteor("the cat sat".split(), "the cats sat".split()), 3)
    0.981
    """
    if not said or not truth:
        return float(not said and not truth)
    from nltk.translate.meteor_score import meteor_score

    return float(meteor_score([truth], said, wordnet=_wordnet()))


def compare_texts(truth: str, answer: str) -> list[tuple[str, str]]:
    """Runs `(text, mark)` that spell `answer` beside `truth`: "same", "wrong" (said, not so), "missing" (not said).

    Both are normalised first, as the OCR reward does.

    >>> compare_texts("kilo mega", "kila meg")
    [('kil', 'same'), ('a', 'wrong'), (' meg', 'same'), ('a', 'missing')]
    """
    from rapidfuzz.distance import Levenshtein

    truth, answer = normalize(truth), normalize(answer)
    runs = []
    for step in Levenshtein.opcodes(truth, answer):
        mark = {"equal": "same", "delete": "missing"}.get(step.tag, "wrong")
        source, start, end = (
            (truth, step.src_start, step.src_end) if mark == "missing" else (answer, step.dest_start, step.dest_end)
        )
        runs.append((source[start:end], mark))
    return runs
