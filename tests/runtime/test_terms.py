"""Terms are counted as scikit-learn counts them, for every way of cutting a text that a vectorizer offers."""

import itertools

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer

from edgewright.intake.term_weights import terms_of, words_of
from edgewright_runtime.bundle.preprocessing import Words
from edgewright_runtime.predict.terms import counted, terms

TEXTS = [
    "Good phone, GOOD price!  Don't  return it.",
    "naïve café, straße; Ünïcödé ÅNGSTRÖM",
    "a b c 1 22 333 snake_case x_ _y",
    "tabs\tand\nnew lines \u00a0 and   spaces",
    "日本語 テキスト 中文字符 한국어",
    "हिन्दी की किताब",
    "e\u0301te\u0301 (decomposed) ﬁne ½ ² Ⅷ İstanbul",
    "",
    "   ",
    "?!…",
    "the and of is",
    "one-letter a I o",
]
OPTIONS = {
    "analyzer": ["word", "char", "char_wb"],
    "ngram_range": [(1, 1), (1, 3), (2, 4)],
    "strip_accents": [None, "ascii", "unicode"],
    "lowercase": [True, False],
}


@pytest.mark.parametrize(
    "options", [dict(zip(OPTIONS, chosen, strict=True)) for chosen in itertools.product(*OPTIONS.values())], ids=str
)
def test_counts_are_those_of_count_vectorizer(options):
    vectorizer = CountVectorizer(**options).fit(TEXTS)
    words, vocabulary = words_of(vectorizer), dict(terms_of(vectorizer))
    expected = vectorizer.transform(TEXTS).toarray()
    got = np.stack([counted(text, words, vocabulary) for text in TEXTS])
    np.testing.assert_array_equal(got, expected)
    assert list(terms(TEXTS[0], words)) == list(vectorizer.build_analyzer()(TEXTS[0]))


@pytest.mark.parametrize(
    "options",
    [
        {"token_pattern": r"(?u)\b\w+\b"},
        {"token_pattern": r"(?u)\b(\w+)s\b"},
        {"token_pattern": r"[^ ]+"},
        {"stop_words": "english", "ngram_range": (1, 2)},
        {"stop_words": ["good", "price"]},
        {"binary": True},
        {"max_features": 5},
        {"vocabulary": ["price", "good", "never seen"]},
    ],
    ids=str,
)
def test_patterns_stop_words_and_vocabularies(options):
    vectorizer = CountVectorizer(**options).fit(TEXTS)
    words, vocabulary = words_of(vectorizer), dict(terms_of(vectorizer))
    got = np.stack([counted(text, words, vocabulary) for text in TEXTS])
    np.testing.assert_array_equal(got, vectorizer.transform(TEXTS).toarray())


def test_a_text_without_a_known_term_counts_nothing():
    words = Words("word", lowercase=True, strip_accents="", pattern=r"(?u)\b\w\w+\b", ngrams=(1, 1))
    assert counted("nothing of this", words, {"good": 0, "bad": 1}).tolist() == [0, 0]
