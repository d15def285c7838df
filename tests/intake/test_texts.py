"""Texts go to the device as texts: tokenization and vocabulary stand in the manifest, the weights in the graph."""

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import TruncatedSVD
from sklearn.ensemble import RandomForestClassifier, VotingClassifier
from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer, TfidfTransformer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.naive_bayes import MultinomialNB
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import LinearSVC

from edgewright.artifact import Precision
from edgewright.data import DataSpec
from edgewright.errors import InputError, UnsupportedError, UntrustedModelError
from edgewright.export import export
from edgewright.intake import term_weights
from edgewright.profile import Platform
from edgewright.store import Store
from tests.intake.table_models import assert_device_agrees, taken

pytestmark = pytest.mark.filterwarnings("ignore")
WORDS = ["good", "bad", "fine", "poor", "great", "Café", "naïve", "don't", "it's", "x", "1999", "日本語", "straße"]


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    chance = np.random.default_rng(1)
    said = [" ".join(chance.choice(WORDS, chance.integers(1, 9))) + chance.choice(["!", "  ", "…"]) for _ in range(400)]
    frame = pd.DataFrame(
        {"said": said, "area": chance.normal(120, 30, 400).round(1), "city": chance.choice([*"abc"], 400)}
    )
    label = np.where(frame["said"].str.contains("good|great") ^ (frame["area"] > 160), "pos", "neg")
    path = tmp_path_factory.mktemp("texts") / "texts.csv"
    frame.assign(label=label).to_csv(path, index=False)
    return pd.read_csv(path), path


def linear():
    return LogisticRegression(max_iter=1000)


MODELS = {
    "tf-idf": make_pipeline(TfidfVectorizer(), linear()),
    "counts": make_pipeline(CountVectorizer(ngram_range=(1, 2)), MultinomialNB()),
    "counts, weighed apart": make_pipeline(CountVectorizer(max_features=8), TfidfTransformer(norm="l1"), LinearSVC()),
    "logarithms of counts": make_pipeline(TfidfVectorizer(sublinear_tf=True, use_idf=False, norm=None), linear()),
    "pieces of words": make_pipeline(TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4)), linear()),
    "without accents": make_pipeline(TfidfVectorizer(strip_accents="unicode", stop_words="english"), linear()),
    "two ways": make_pipeline(
        FeatureUnion([("w", TfidfVectorizer()), ("c", CountVectorizer(analyzer="char"))]), linear()
    ),
    "trees over topics": make_pipeline(TfidfVectorizer(), TruncatedSVD(4, random_state=0), RandomForestClassifier(5)),
    "searched": GridSearchCV(make_pipeline(TfidfVectorizer(), linear()), {"logisticregression__C": [0.1, 1]}),
    "calibrated": CalibratedClassifierCV(make_pipeline(TfidfVectorizer(), LinearSVC())),
    "voting": VotingClassifier(
        [("a", make_pipeline(TfidfVectorizer(), linear())), ("b", make_pipeline(CountVectorizer(), MultinomialNB()))],
        voting="soft",
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_of_texts_agrees_on_every_row(name, table, tmp_path):
    frame, path = table
    model = MODELS[name].fit(frame["said"][:300], frame["label"][:300])
    intake = taken(model, tmp_path, DataSpec(path=path, target="label", text_column="said"))
    assert_device_agrees(intake, model, frame["said"], frame[["said"]])
    stored = np.load(intake.dataset.artifact.path)
    assert json.loads(stored["test.raw"][0]).keys() == {"said"}
    assert all(column.kind == "text" for column in intake.model.preprocessing.columns)


def test_texts_beside_numbers_and_categories(table, tmp_path):
    frame, path = table
    parts = [
        ("t", TfidfVectorizer(min_df=2), "said"),
        ("n", StandardScaler(), ["area"]),
        ("c", OneHotEncoder(handle_unknown="ignore"), ["city"]),
    ]
    columns = ["city", "said", "area"]
    model = make_pipeline(ColumnTransformer(parts), linear()).fit(frame[columns], frame["label"])
    intake = taken(model, tmp_path, DataSpec(path=path, target="label"))
    assert_device_agrees(intake, model, frame[columns], frame[columns])
    assert [c.name for c in intake.model.preprocessing.columns] == columns
    assert intake.model.inputs[0].shape == (-1, intake.model.preprocessing.width)


def test_which_column_holds_the_text_is_asked_for(table, tmp_path):
    frame, path = table
    model = make_pipeline(TfidfVectorizer(), linear()).fit(frame["said"], frame["label"])
    with pytest.raises(InputError, match=r"which column holds the text\? .* write text_column: NAME in the data file"):
        taken(model, tmp_path, DataSpec(path=path, target="label"))
    with pytest.raises(InputError, match="no column 'words'"):
        taken(model, tmp_path, DataSpec(path=path, target="label", text_column="words"))
    frame[["said", "label"]].to_csv(tmp_path / "only.csv", index=False)
    intake = taken(model, tmp_path, DataSpec(path=tmp_path / "only.csv", target="label"))
    assert_device_agrees(intake, model, frame["said"], frame[["said"]])
    np.savez(tmp_path / "d.npz", x=np.zeros((20, 3)), y=np.arange(20) % 2)
    with pytest.raises(InputError, match=r"the model takes texts; give a \.csv or \.parquet table"):
        taken(model, tmp_path, DataSpec(path=tmp_path / "d.npz"))


def first_words(text):
    return text.split()[:3]


@pytest.mark.parametrize(
    ("vectorizer", "error", "words"),
    [
        (HashingVectorizer(n_features=32), UnsupportedError, "HashingVectorizer has no vocabulary that a device could"),
        (TfidfVectorizer(analyzer=first_words), UntrustedModelError, "first_words, which is outside the allow-list"),
        (TfidfVectorizer(tokenizer=np.square, token_pattern=None), UnsupportedError, "with a tokenizer of its own"),
        (
            TfidfVectorizer(token_pattern=r"(?:\w+)+"),  # noqa: S106 - of words, not of access
            UnsupportedError,
            r"^TfidfVectorizer: the token pattern .* may take a time without limit",
        ),
    ],
)
def test_what_a_device_cannot_do_is_refused_by_its_reason(vectorizer, error, words, table, tmp_path):
    frame, path = table
    model = make_pipeline(vectorizer, linear())
    if vectorizer.__class__ is TfidfVectorizer and vectorizer.tokenizer is np.square:
        vectorizer.tokenizer = str.split
        model.fit(frame["said"], frame["label"])
        vectorizer.tokenizer = np.square
    else:
        model.fit(frame["said"], frame["label"])
    with pytest.raises(error, match=words):
        taken(model, tmp_path, DataSpec(path=path, target="label", text_column="said"))


def test_a_vocabulary_beyond_what_a_manifest_holds_is_refused(table, tmp_path, monkeypatch):
    frame, path = table
    monkeypatch.setattr(term_weights, "_MAX_TERMS", 5)
    model = make_pipeline(TfidfVectorizer(), linear()).fit(frame["said"], frame["label"])
    with pytest.raises(UnsupportedError, match=r"TfidfVectorizer with \d+ terms; a device takes 5: set max_features"):
        taken(model, tmp_path, DataSpec(path=path, target="label", text_column="said"))


def test_a_token_pattern_that_phones_read_otherwise_is_for_edge_devices(table, tmp_path):
    frame, path = table
    vectorizer = TfidfVectorizer(token_pattern=r"[\w']+")  # noqa: S106 - of words, not of access
    model = make_pipeline(vectorizer, linear()).fit(frame["said"], frame["label"])
    intake = taken(model, tmp_path, DataSpec(path=path, target="label", text_column="said"))
    store = Store(tmp_path / "store")
    assert export(intake.model, intake.dataset, Platform.EDGE_DEVICE, Precision.FLOAT32, store).artifact.size_bytes
    with pytest.raises(UnsupportedError, match=r"token_pattern .* has no path to android"):
        export(intake.model, intake.dataset, Platform.ANDROID, Precision.FLOAT32, store)
