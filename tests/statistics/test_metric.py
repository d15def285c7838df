"""A metric of the user's own: found, called, judged; and each way in which it can be wrong."""

from pathlib import Path

import numpy as np
import pytest

from edgewright.artifact import Metric
from edgewright.data import DataSpec
from edgewright.errors import InputError
from edgewright.statistics.metric import MetricFigures, judged_by, load_metric
from edgewright_runtime.bench.spec import write_arrays
from tests.plugin_sites import installed

MODULE = """
import numpy as np

def error(outputs, answers):
    return np.abs(outputs["y"] - answers).mean()

def share(outputs, answers):
    return float((outputs["y"].argmax(-1) == answers.argmax(-1)).mean())

def broken(outputs, answers):
    return outputs["z"].mean()

def undefined(outputs, answers):
    return float("nan")

no_function = 3
"""


@pytest.fixture
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    # A module of its own for each test: Python keeps what was imported once under a name.
    (tmp_path / f"own_{request.node.name.partition('[')[0]}.py").write_text(MODULE)
    return tmp_path


@pytest.fixture
def module(request: pytest.FixtureRequest) -> str:
    return f"own_{request.node.name.partition('[')[0]}"


def judged(metric: Metric, folder: Path, noise: float) -> MetricFigures:
    chance = np.random.default_rng(0)
    truth = chance.normal(size=(200, 5, 3))
    source = truth + 0.1 * chance.normal(size=truth.shape)
    write_arrays(folder / "reference.npz", {"y": source})
    write_arrays(folder / "outputs.npz", {"y": source + noise * chance.normal(size=truth.shape)})
    write_arrays(folder / "answers.npz", {"y": truth})
    return judged_by(metric, *(folder / f"{name}.npz" for name in ("reference", "outputs", "answers")))


def test_more_of_an_error_is_a_loss(folder: Path, module: str) -> None:
    found = judged(Metric(name=f"{module}:error", better="lower", folder=str(folder)), folder, 0.1)
    assert found.candidate is not None
    assert found.loss is not None
    assert found.source.value == pytest.approx(0.1 * (2 / np.pi) ** 0.5, rel=0.05)
    assert found.candidate.low < found.candidate.value < found.candidate.high
    assert found.loss.value == pytest.approx(2**0.5 - 1, rel=0.1)
    assert found.p_value is not None
    assert found.p_value < 0.01


def test_a_changed_function_is_another_metric(folder: Path, module: str) -> None:
    spec = DataSpec(path=folder / "d.npz", metric=f"{module}:error", folder=str(folder))
    before = spec.chosen_metric
    (folder / f"{module}.py").write_text(MODULE.replace("np.abs", "np.square"))
    assert before is not None
    assert before.code
    assert spec.chosen_metric != before


def test_a_gain_is_no_loss(folder: Path, module: str) -> None:
    found = judged(Metric(name=f"{module}:error", better="higher", folder=str(folder)), folder, 0.1)
    assert found.loss is not None
    assert found.loss.value < 0
    assert found.p_value == 1


def test_the_same_outputs_lose_nothing(folder: Path, module: str) -> None:
    found = judged(Metric(name=f"{module}:share", folder=str(folder)), folder, 0.0)
    assert found.loss is not None
    assert (found.loss.value, found.p_value) == (0, 1)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("broken", "fails on 200 rows: KeyError: nothing is known of 'z'; it is called with"),
        ("undefined", "gives nan on 200 rows; a finite number is needed"),
        ("no_function", "is of type int, not a function"),
        ("missing", "cannot be imported: AttributeError"),
    ],
)
def test_a_wrong_metric_is_one_line(folder: Path, module: str, name: str, said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        judged(Metric(name=f"{module}:{name}", folder=str(folder)), folder, 0.1)
    assert "\n" not in str(caught.value)


def test_a_name_without_a_function_must_be_a_plugin_s() -> None:
    with pytest.raises(InputError, match=r"give package\.module:function, or one of top5_accuracy, .*perplexity"):
        load_metric(Metric(name="psnr"))


def test_the_example_s_plugin_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(installed("metric_plugin", tmp_path / "site"))
    truth = np.zeros((4, 2))
    assert load_metric(Metric(name="psnr"))({"y": truth + 0.1}, truth) == pytest.approx(20)


SOMETIMES = """
def share(outputs, answers):
    if not 0 < answers.sum() < len(answers):
        raise ValueError("only one class")
    return float(outputs["y"][answers == 1].mean())

def rarely(outputs, answers):
    return float("nan") if len(set(outputs["y"].tolist())) < len(answers) else 1.0
"""


def judged_classes(folder: Path, metric: Metric) -> MetricFigures:
    answers = np.zeros(50)
    answers[:3] = 1
    write_arrays(folder / "answers.npz", {"y": answers})
    write_arrays(folder / "reference.npz", {"y": np.arange(50.0)})
    write_arrays(folder / "outputs.npz", {"y": np.arange(50.0) - 1})
    return judged_by(metric, *(folder / f"{name}.npz" for name in ("reference", "outputs", "answers")))


def test_a_draw_without_a_figure_is_drawn_anew(tmp_path: Path) -> None:
    """In one of twenty draws none of the three positives is among fifty rows."""
    (tmp_path / "own_sometimes.py").write_text(SOMETIMES)
    found = judged_classes(tmp_path, Metric(name="own_sometimes:share", folder=str(tmp_path)))
    assert found.source.value == 1
    assert 0 <= found.source.low < 1 < found.source.high <= 2
    assert found.loss is not None
    assert found.p_value is not None


def test_a_metric_that_most_draws_have_no_figure_for_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "own_rarely.py").write_text(SOMETIMES)
    with pytest.raises(InputError, match=r"gives nan on 50 rows.* \(no interval: 201 of 201 random draws"):
        judged_classes(tmp_path, Metric(name="own_rarely:rarely", folder=str(tmp_path)))
