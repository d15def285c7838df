"""Tables are read as pandas reads them: source and device meet the same cells, whatever is blank in them."""

import re

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import ColumnTransformer, make_column_selector, make_column_transformer
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    RandomForestClassifier,
    StackingClassifier,
    VotingClassifier,
)
from sklearn.feature_selection import SelectKBest, chi2
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MinMaxScaler,
    OneHotEncoder,
    OrdinalEncoder,
    StandardScaler,
    TargetEncoder,
)
from sklearn.tree import DecisionTreeClassifier

from edgewright.artifact import ModelTask
from edgewright.data import DataSpec
from edgewright.errors import ConversionError, InputError, UnsupportedError
from edgewright.intake import tables
from edgewright_runtime.errors import InputRejectedError
from edgewright_runtime.predict.encoding import encode
from tests.intake.table_models import assert_device_agrees, on_device, taken, written

pytestmark = pytest.mark.filterwarnings("ignore")
IGNORE = {"handle_unknown": "ignore"}
CODED = {"handle_unknown": "use_encoded_value", "unknown_value": -1}


def linear():
    return LogisticRegression(max_iter=2000)


def boosted(**options):
    return HistGradientBoostingClassifier(max_iter=15, random_state=0, **options)


def encoded(encoder, columns, final=None, numbers=("area",)):
    parts = [("c", encoder, list(columns)), ("n", StandardScaler(), list(numbers))]
    return make_pipeline(ColumnTransformer(parts), linear() if final is None else final)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return written(tmp_path_factory.mktemp("tables"))


def fit_and_take(model, columns, path, folder, *, read=None, target="sold", **spec):
    frame = pd.read_csv(path, **(read or {}))
    model.fit(frame[columns], frame[target])
    return frame, taken(model, folder, DataSpec(path=path, target=target, **spec))


MODELS = {
    "one-hot": (encoded(OneHotEncoder(**IGNORE), ["garage", "city"]), ["garage", "city", "area"]),
    "one-hot, strict": (encoded(OneHotEncoder(), ["garage", "city"]), ["garage", "city", "area"]),
    "one-hot, first dropped": (encoded(OneHotEncoder(drop="first"), ["garage", "city"]), ["garage", "city", "area"]),
    "rare together": (
        encoded(OneHotEncoder(min_frequency=0.08, handle_unknown="infrequent_if_exist"), ["garage", "city"]),
        ["garage", "city", "area"],
    ),
    "rare together, at most three": (
        encoded(OneHotEncoder(max_categories=3, **IGNORE), ["garage", "city"]),
        ["garage", "city", "area"],
    ),
    "filled by the most frequent": (
        encoded(make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder(**IGNORE)), ["garage"]),
        ["garage", "area"],
    ),
    "filled by a constant": (
        encoded(make_pipeline(SimpleImputer(strategy="constant", fill_value="none"), OneHotEncoder()), ["garage"]),
        ["garage", "area"],
    ),
    "ordinal, NaN for unknown": (
        encoded(
            OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=np.nan), ["garage", "city"], boosted()
        ),
        ["garage", "city", "area"],
    ),
    "ordinal, a code for missing": (
        encoded(OrdinalEncoder(**CODED, encoded_missing_value=-2), ["garage", "city"], DecisionTreeClassifier()),
        ["garage", "city", "area"],
    ),
    "ordinal, rare together": (
        encoded(OrdinalEncoder(min_frequency=0.08, **CODED), ["city"], RandomForestClassifier(5, random_state=0)),
        ["city", "area"],
    ),
    "target encoded": (encoded(TargetEncoder(random_state=0), ["garage", "city"]), ["garage", "city", "area"]),
    "booleans as numbers": (make_pipeline(StandardScaler(), linear()), ["new", "area"]),
    "booleans as categories": (encoded(OneHotEncoder(), ["new"]), ["new", "area"]),
    "booleans with blanks": (encoded(OneHotEncoder(**IGNORE), ["lift"]), ["lift", "area"]),
    "booleans with blanks as numbers": (boosted(), ["lift", "area", "rooms"]),
    "whole numbers with blanks as categories": (encoded(OneHotEncoder(**IGNORE), ["rooms"]), ["rooms", "area"]),
    "a column twice": (encoded(OneHotEncoder(**IGNORE), ["id"], numbers=["id", "area"]), ["id", "area"]),
    "numbers that float32 cannot tell apart": (encoded(OneHotEncoder(**IGNORE), ["id"]), ["id", "area"]),
    "no ColumnTransformer": (make_pipeline(OneHotEncoder(**IGNORE), linear()), ["garage", "city", "rooms"]),
    "selection behind": (
        make_pipeline(
            ColumnTransformer([("c", OneHotEncoder(**IGNORE), ["garage"]), ("n", MinMaxScaler(), ["area"])]),
            SelectKBest(chi2, k=3),
            linear(),
        ),
        ["garage", "area"],
    ),
    "columns by a selector": (
        make_pipeline(
            make_column_transformer(
                (OneHotEncoder(**IGNORE), make_column_selector(dtype_exclude=np.number)),
                (StandardScaler(), make_column_selector(dtype_include=np.number)),
            ),
            linear(),
        ),
        ["garage", "city", "area"],
    ),
    "two encoders of one column": (
        encoded(FeatureUnion([("a", OneHotEncoder(**IGNORE)), ("b", OrdinalEncoder(**CODED))]), ["city"]),
        ["city", "area"],
    ),
    "voting": (
        VotingClassifier(
            [
                ("a", encoded(OneHotEncoder(**IGNORE), ["city"])),
                ("b", encoded(OrdinalEncoder(), ["city"], RandomForestClassifier(5, random_state=0), ["area", "new"])),
            ],
            voting="soft",
        ),
        ["city", "area", "new"],
    ),
    "stacking": (
        StackingClassifier(
            [("a", encoded(OneHotEncoder(**IGNORE), ["city"])), ("b", encoded(OrdinalEncoder(**CODED), ["city"]))]
        ),
        ["garage", "city", "area"],
    ),
    "searched": (
        GridSearchCV(encoded(OneHotEncoder(**IGNORE), ["garage"]), {"logisticregression__C": [0.1, 1]}),
        ["garage", "area"],
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_device_answers_raw_rows_as_the_model_answers_its_frame(name, path, tmp_path):
    model, columns = MODELS[name]
    frame, intake = fit_and_take(model, columns, path, tmp_path)
    used = list(dict.fromkeys(c.name for c in intake.model.preprocessing.columns))
    assert_device_agrees(intake, model, frame[columns], frame[used])
    stored = np.load(intake.dataset.artifact.path)
    right = (stored["test.predicted"] == stored["test.y"]).mean()
    everywhere = (model.predict(frame[columns]) == frame["sold"]).mean()
    assert abs(right - everywhere) < 0.1, "the source is judged on the frame that it was fitted on"


@pytest.mark.parametrize("target", ["sold", "price"])
def test_a_model_fitted_on_bare_arrays_of_text(target, path, tmp_path):
    """``fit(frame.to_numpy(), y)``: columns have numbers, and the table has no others."""
    parts = [("c", OneHotEncoder(**IGNORE), [0, 1]), ("n", StandardScaler(), [2])]
    model = make_pipeline(ColumnTransformer(parts), linear() if target == "sold" else Ridge())
    frame = pd.read_csv(path)
    x = frame[["garage", "city", "area"]]
    model.fit(x.to_numpy(), frame[target])
    x.assign(y=frame[target]).to_csv(tmp_path / "t.csv", index=False)
    intake = taken(model, tmp_path, DataSpec(path=tmp_path / "t.csv", target="y"))
    assert_device_agrees(intake, model, x.to_numpy(), x)


def test_missing_and_unknown_cells_are_answered_or_refused_as_the_model_does(path, tmp_path):
    model = encoded(make_pipeline(SimpleImputer(strategy="constant", fill_value="none"), OneHotEncoder()), ["garage"])
    _, intake = fit_and_take(model, ["garage", "area"], path, tmp_path)
    rows = [{"garage": text, "area": 100.0} for text in (None, "", "NA", "nan", "none", "attached")]
    given = pd.DataFrame({"garage": [np.nan, np.nan, np.nan, np.nan, "none", "attached"], "area": 100.0})
    for got in on_device(intake, [{"area": 100.0}, *rows]):
        np.testing.assert_allclose(got[1:], model.predict_proba(given), atol=1e-6)
        np.testing.assert_array_equal(got[0], got[1])
    with pytest.raises(InputRejectedError, match="'garage' holds 'barn', which the model was not trained on"):
        on_device(intake, [{"garage": "barn", "area": 1.0}])
    with pytest.raises(InputRejectedError, match="'area' is missing; needed: garage, area"):
        on_device(intake, [{"garage": "attached"}])
    assert any("a device refuses such a row, too" in note for note in intake.model.notes)


def test_an_unknown_category_goes_where_handle_unknown_says(path, tmp_path):
    encoder = OneHotEncoder(min_frequency=0.08, handle_unknown="infrequent_if_exist")
    _, intake = fit_and_take(encoded(encoder, ["city"]), ["city", "area"], path, tmp_path)
    rare, unknown, known = (encode([{"city": c, "area": 1}], intake.model.inputs, intake.model.preprocessing)
                            for c in ("rarer", "never seen", "a"))  # fmt: skip
    np.testing.assert_array_equal(rare["features"], unknown["features"])
    assert (rare["features"] != known["features"]).any()


@pytest.mark.parametrize(
    ("read", "spec"),
    [
        ({"keep_default_na": False}, {"keep_default_na": False}),
        ({"na_values": ["gas"]}, {"na_values": ("gas",)}),
        ({"na_values": {"heat": ["gas"]}}, {"na_values": {"heat": ("gas",)}}),
        ({"dtype": {"heat": "category"}}, {"dtypes": {"heat": "category"}}),
    ],
)
def test_options_of_the_data_file_are_those_of_read_csv(read, spec, path, tmp_path):
    model = encoded(OneHotEncoder(**IGNORE), ["heat", "city"])
    frame, intake = fit_and_take(model, ["heat", "city", "area"], path, tmp_path, read=read, **spec)
    stored = np.load(intake.dataset.artifact.path)
    own = {row.tobytes() for row in model.predict_proba(frame[["heat", "city", "area"]]).round(12)}
    assert {row.tobytes() for row in stored["test.reference.probabilities"].round(12)} <= own, "another frame was read"
    raw = pd.read_csv(path, keep_default_na=False)[["heat", "city", "area"]]  # an application sends what it has
    assert_device_agrees(intake, model, frame[["heat", "city", "area"]], raw)


def test_a_code_with_leading_zeros_needs_its_dtype(path, tmp_path):
    model = encoded(OneHotEncoder(**IGNORE), ["zip"])
    text = {"dtype": {"zip": str}}
    with pytest.raises(InputError, match=r"column 'zip', row 0: \d+ is of another kind .* write dtypes: \{zip: str\}"):
        fit_and_take(model, ["zip", "area"], path, tmp_path, read=text)
    frame, intake = fit_and_take(model, ["zip", "area"], path, tmp_path, read=text, dtypes={"zip": "str"})
    assert_device_agrees(intake, model, frame[["zip", "area"]], frame[["zip", "area"]])


def test_text_where_the_model_knows_numbers_is_refused_with_the_cure(path, tmp_path):
    model = encoded(OneHotEncoder(**IGNORE), ["rooms"])
    frame = pd.read_csv(path)
    model.fit(frame[["rooms", "area"]], frame["sold"])
    frame["rooms"] = frame["rooms"].astype(object).fillna("?")
    frame.to_csv(tmp_path / "marked.csv", index=False)
    with pytest.raises(InputError, match=r"'\?' is of another kind .* na_values: \['\?'\]"):
        taken(model, tmp_path, DataSpec(path=tmp_path / "marked.csv", target="sold"))
    spec = DataSpec(path=tmp_path / "marked.csv", target="sold", na_values=("?",))
    assert_device_agrees(
        taken(model, tmp_path, spec), model, pd.read_csv(path)[["rooms", "area"]], frame[["rooms", "area"]]
    )


def test_blanks_of_a_numeric_column_that_is_text_are_missing(path, tmp_path):
    """What `to_numeric` makes of a column with " " in it, as the code that trained on it did; said in a note."""
    frame = pd.read_csv(path)
    model = make_pipeline(SimpleImputer(), linear()).fit(frame[["rooms", "area"]], frame["sold"])
    text = frame.assign(rooms=frame["rooms"].map(lambda v: " " if np.isnan(v) else f"{v:g}"))
    text.to_csv(tmp_path / "t.csv", index=False)
    intake = taken(model, tmp_path, DataSpec(path=tmp_path / "t.csv", target="sold"))
    blank = int(frame["rooms"].isna().sum())
    assert f"column 'rooms' holds text and was read as numbers, {blank} blank cells as missing" in intake.dataset.notes
    assert_device_agrees(intake, model, frame[["rooms", "area"]], text[["rooms", "area"]])


def test_values_that_no_encoder_knows_are_counted_in_a_note(path, tmp_path):
    frame = pd.read_csv(path)
    model = encoded(OneHotEncoder(**IGNORE), ["city"]).fit(frame[["city", "area"]], frame["sold"])
    frame.loc[::20, "city"] = "atlantis"
    frame.to_csv(tmp_path / "t.csv", index=False)
    intake = taken(model, tmp_path, DataSpec(path=tmp_path / "t.csv", target="sold"))
    assert "column 'city': 20 cells hold what the model was not trained on (atlantis)" in intake.dataset.notes


def test_parquet_keeps_its_own_kinds(path, tmp_path):
    pytest.importorskip("pyarrow")
    frame = pd.read_csv(path).assign(
        city=lambda f: f["city"].astype("category"),
        rooms=lambda f: f["rooms"].astype("Int64"),
        day=pd.date_range("2024-01-01", periods=400, freq="h").floor("D"),
    )
    frame.to_parquet(tmp_path / "t.parquet")
    frame = pd.read_parquet(tmp_path / "t.parquet")
    columns = ["city", "rooms", "day", "area", "new"]
    parts = [("c", OneHotEncoder(**IGNORE), ["city", "day"]), ("n", SimpleImputer(), ["rooms", "area", "new"])]
    model = make_pipeline(ColumnTransformer(parts), linear()).fit(frame[columns], frame["sold"])
    intake = taken(model, tmp_path, DataSpec(path=tmp_path / "t.parquet", target="sold"))
    sent = frame[columns].assign(
        day=frame["day"].astype(str), rooms=frame["rooms"].astype("float64"), city=frame["city"].astype(str)
    )
    assert_device_agrees(intake, model, frame[columns], sent)
    with pytest.raises(InputError, match=r"a \.parquet holds its missing values"):
        tables.read_table(DataSpec(path=tmp_path / "t.parquet", target="sold", na_values=("x",)))


@pytest.mark.parametrize(
    ("model", "columns", "words"),
    [
        (
            make_pipeline(
                ColumnTransformer([("c", SimpleImputer(strategy="most_frequent"), ["city"])], remainder="passthrough"),
                OneHotEncoder(**IGNORE),
                linear(),
            ),
            ["city", "area"],
            r"column 'city', row 0: '\w+' is not a number, and the model takes one there \(SimpleImputer\)",
        ),
        (encoded(FunctionTransformer(np.sqrt, kw_args={"where": True}), ["area"]), ["area"], "kw_args"),
    ],
)
def test_what_has_no_path_is_refused_by_its_reason(model, columns, words, path, tmp_path):
    with pytest.raises((InputError, UnsupportedError), match=words) as error:
        fit_and_take(model, columns, path, tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"dtypes": {"nothing": "str"}}, "no column 'nothing', which dtypes or na_values name"),
        ({"dtypes": {"city": "float64"}}, "cannot be read as a table: could not convert"),
        ({"dtypes": {"city": "flaot"}}, "cannot be read as a table: data type 'flaot' not understood"),
        ({"target": "heat"}, re.escape("is blank in row 0; pandas takes NA, None and nan")),
    ],
)
def test_a_table_that_cannot_be_read_so_is_refused_in_one_line(spec, words, path):
    with pytest.raises(InputError, match=words) as error:
        tables.read_table(DataSpec(path=path, **{"target": "sold", **spec}))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("dtypes", "words"),
    [
        ({"nothing": "str"}, "no column 'nothing', which dtypes or na_values name"),
        ({"city": "float64"}, "cannot be read as a table: could not convert"),
    ],
)
def test_a_parquet_that_cannot_be_read_so_is_refused_in_one_line(dtypes, words, path, tmp_path):
    pytest.importorskip("pyarrow")
    pd.read_csv(path).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(InputError, match=words) as error:
        tables.read_table(DataSpec(path=tmp_path / "t.parquet", target="sold", dtypes=dtypes))
    assert "\n" not in str(error.value)


def two_parquets(folder, first, second):
    for name, cells in (("train", first), ("test", second)):
        pd.DataFrame({"size": cells, "sold": range(len(cells))}).to_parquet(folder / f"{name}.parquet")
    return DataSpec(path=folder / "train.parquet", test_path=folder / "test.parquet", target="sold")


def test_categories_in_different_orders_are_joined(tmp_path):
    pytest.importorskip("pyarrow")
    first = pd.Categorical(["s", "m"], categories=["s", "m"], ordered=True)
    for second in (
        pd.Categorical(["m", "l"], categories=["m", "l"]),
        pd.Categorical(["m", "l"], categories=["l", "m", "s"], ordered=True),
    ):
        table = tables.read_table(two_parquets(tmp_path, first, second))
        assert table.frame["size"].tolist() == ["s", "m", "m", "l"]
        assert set(table.frame["size"].cat.categories) == {"s", "m", "l"}


def test_categories_of_text_and_of_numbers_are_not(tmp_path):
    pytest.importorskip("pyarrow")
    spec = two_parquets(tmp_path, ["s", "m"], [1, 2]).model_copy(update={"dtypes": {"size": "category"}})
    with pytest.raises(InputError, match="column 'size' is of different kinds in the two files"):
        tables.read_table(spec)


def test_train_and_test_files_are_two_frames_of_the_same_kinds(path, tmp_path):
    """Whole numbers without a blank in one file and with blanks in the other."""
    frame = pd.read_csv(path)
    full, rest = frame[frame["rooms"].notna()].copy(), frame
    full["rooms"] = full["rooms"].astype(int)
    full.to_csv(tmp_path / "train.csv", index=False)
    rest.to_csv(tmp_path / "test.csv", index=False)
    model = boosted().fit(full[["rooms", "area"]], full["sold"])
    spec = DataSpec(path=tmp_path / "train.csv", test_path=tmp_path / "test.csv", target="sold")
    intake = taken(model, tmp_path, spec)
    assert intake.dataset.test_rows == len(rest)
    assert_device_agrees(intake, model, rest[["rooms", "area"]], rest[["rooms", "area"]])


def test_a_difference_between_model_and_device_names_rows_and_columns(path, tmp_path, monkeypatch):
    """A vocabulary that gives one city another's code: an error, never a lower accuracy of the source."""
    from edgewright.intake import sklearn_model

    real = sklearn_model.category_column

    def wrong(name, *arguments, **options):
        column = real(name, *arguments, **options)
        codes = dict(column.vocabulary)
        codes["b"] = codes["a"]
        return type(column)(**{**column.__dict__, "vocabulary": tuple(codes.items())})

    monkeypatch.setattr(sklearn_model, "category_column", wrong)
    model = encoded(OneHotEncoder(**IGNORE), ["city"])
    with pytest.raises(ConversionError) as error:
        fit_and_take(model, ["city", "area"], path, tmp_path)
    frame = pd.read_csv(path)
    said = str(error.value)
    assert re.search(r"not what the model's own predict says on \d+ of 120 test rows \(row ", said)
    assert said.endswith("column 'city'")
    first = int(re.search(r"\(row (\d+)", said).group(1))
    assert frame["city"][first] == "b"


def test_a_table_without_answers_is_taken_where_the_data_file_says_so(path, tmp_path):
    frame = pd.read_csv(path)
    model = encoded(OneHotEncoder(**IGNORE), ["garage", "city"]).fit(frame[["garage", "city", "area"]], frame["sold"])
    bare = tmp_path / "bare.csv"
    frame[["garage", "city", "area"]].to_csv(bare, index=False)

    found = taken(model, tmp_path, DataSpec(path=bare, task=ModelTask.NONE))

    assert found.model.task is ModelTask.NONE
    assert_device_agrees(found, model, frame[["garage", "city", "area"]], frame[["garage", "city", "area"]])
    with pytest.raises(InputError, match="task: none needs no answers"):
        taken(model, tmp_path, DataSpec(path=bare))


def test_a_metric_of_the_user_s_own_gets_the_classes_of_a_table_by_their_places(path, tmp_path):
    model = encoded(OneHotEncoder(**IGNORE), ["garage", "city"])
    (tmp_path / "own.py").write_text("def share(outputs, answers):\n    return answers.mean()\n")

    frame, columns = pd.read_csv(path), ["garage", "city", "area"]
    model.fit(frame[columns], frame["sold"])

    found = taken(model, tmp_path, DataSpec(path=path, target="sold", metric="own:share", folder=str(tmp_path)))

    assert (found.model.task, found.model.labels) == (ModelTask.CLASSIFICATION, ("no", "yes"))
    with np.load(found.dataset.artifact.path) as arrays:
        assert arrays["test.y"].mean() == pytest.approx((frame["sold"] == "yes").mean(), abs=0.01)
