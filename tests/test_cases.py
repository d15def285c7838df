"""What `make cases` takes for right: a refusal by its whole phrase, int8 by what a deployment would release."""

from types import SimpleNamespace

import pytest

from benchmarks import cases
from edgewright.artifact import ModelTask, Precision
from edgewright.errors import UnsupportedError
from edgewright.profile import Platform

TAKEN = SimpleNamespace(model=SimpleNamespace(task=ModelTask.CLASSIFICATION, name="m"), dataset=None)


def evaluation(relative: float, percent: float, p_value: float) -> SimpleNamespace:
    drop = SimpleNamespace(
        percent=percent,
        low_percent=percent - 1,
        high_percent=percent + 1,
        p_value=p_value,
        test="paired",
        unit="percentage points",
    )
    return SimpleNamespace(
        source_accuracy=SimpleNamespace(value=0.9), parity=SimpleNamespace(max_relative=relative), drop=drop
    )


@pytest.mark.parametrize(
    ("on_test", "on_validation", "rule", "holds", "said"),
    [
        ((0.05, 5.0, 0.001), None, cases.Rule(), True, "5.0e-02 off"),
        ((0.5, 0.3, 0.5), None, cases.Rule(), True, "loses 0.30 points"),
        ((0.5, 9.0, 0.001), (0.5, 8.0, 0.001), cases.Rule(), True, "not released: accuracy falls by 8.00"),
        ((0.5, 9.0, 0.001), (0.5, 0.5, 0.5), cases.Rule(), False, "would be released"),
        ((0.5, 9.0, 0.001), (0.5, 8.0, 0.3), cases.Rule(), False, "would be released"),
        ((0.5, 9.0, 0.001), (0.5, 8.0, 0.001), cases.Rule(is_int8_judged=True), False, "not released"),
    ],
)
def test_int8_holds_where_it_is_right_or_held_back(monkeypatch, on_test, on_validation, rule, holds, said):
    splits = {"test": on_test, "validation": on_validation}
    monkeypatch.setattr(cases.export, "export", lambda *_: SimpleNamespace())
    monkeypatch.setattr(cases.validate, "evaluate", lambda *given: evaluation(*splits[[*given, "test"][3]]))
    found, why = cases._measured(TAKEN, Platform.ANDROID, Precision.INT8, None, rule)
    assert found is holds
    assert said in why


def test_float32_is_never_excused_by_the_gate(monkeypatch):
    monkeypatch.setattr(cases.export, "export", lambda *_: SimpleNamespace())
    monkeypatch.setattr(cases.validate, "evaluate", lambda *_: evaluation(0.01, 0.0, 1.0))
    assert not cases._measured(TAKEN, Platform.ANDROID, Precision.FLOAT32, None, cases.Rule())[0]


@pytest.mark.parametrize(
    ("case", "model", "precision", "said", "right"),
    [
        ("onehot_infrequent", "drop", None, "OneHotEncoder has no path", False),
        ("text_column_with_blanks", "imputed", None, "SimpleImputer failed", False),
        ("log_target_and_log_features", "ttr", None, "log has no path", False),
        (
            "log_target_and_log_features",
            "quantile_normal",
            None,
            "QuantileTransformer with output_distribution='normal' has no path; fit it with 'uniform', or take a "
            "PowerTransformer",
            True,
        ),
        ("single_sigmoid_output", "three", None, "an output is wrong", False),
        (
            "conv_transpose_zoo",
            "a",
            Precision.INT8,
            "a: int8 has no benefit here: no weight has more than 256 elements",
            True,
        ),
        ("conv_transpose_zoo", "a", Precision.INT8, "no benefit", False),
        (
            "conv_transpose_zoo",
            "a",
            Precision.FLOAT32,
            "a: int8 has no benefit here: no weight has more than 256 elements",
            False,
        ),
    ],
)
def test_a_refusal_is_right_by_its_whole_phrase(case, model, precision, said, right):
    rule = cases._RULES.get(case, cases.Rule())
    assert cases._rightly_refused(rule, model, UnsupportedError(said), precision) is right
