"""When a source model's own answers are doubted: intervals decide, so neither luck nor imbalance does."""

import pickle

import numpy as np
import pytest

from edgewright.artifact import Artifact, Dataset, Format, ImportedModel, ModelTask
from edgewright.validate.source_check import doubts, mean_recall, source_doubts
from edgewright_runtime.bundle.manifest import Preprocessing, TensorSpec

CLASSES, VALUES = ModelTask.CLASSIFICATION, ModelTask.REGRESSION


def answered(truth, share, classes, seed=0):
    """Answers of which ``share`` are right, and the rest any class."""
    chance = np.random.default_rng(seed)
    return np.where(chance.random(len(truth)) < share, truth, chance.integers(0, classes, len(truth)))


def classified(rows, classes, test, training, shares=None):
    chance = np.random.default_rng(1)
    truth = chance.choice(classes, rows, p=shares)
    known = chance.choice(classes, rows, p=shares)
    return doubts(
        CLASSES, (truth, answered(truth, test, classes)), (known, answered(known, training, classes)), "abcdef"
    )


def test_a_good_model_is_not_doubted():
    assert classified(300, 4, 0.9, 0.95) == ()


def test_classes_matched_in_the_wrong_order_look_like_chance():
    """Twelve classes of which 0 and 1 alone are where they belong: 16.7% accuracy, significantly above 8.3%."""
    truth = np.repeat(np.arange(12), 60)
    order = np.array([0, 1, *range(4, 12), 2, 3])
    (said,) = doubts(CLASSES, (truth, order[truth]), (truth, order[truth]))
    assert said.startswith(
        "the source model is barely better than chance: of each of the 12 classes it has 16.7% right"
    )
    assert "chance has 8.3%" in said


def test_swapped_classes_are_doubted():
    truth = np.tile([0, 0, 0, 1], 100)
    assert len(doubts(CLASSES, (truth, 1 - truth), (truth, 1 - truth))) == 1


def test_always_the_same_answer_is_doubted_however_accurate():
    truth = np.array([0] * 95 + [1] * 5)
    (said,) = doubts(CLASSES, (truth, np.zeros(100, int)), (truth, np.zeros(100, int)), ["no", "yes"])
    assert "its accuracy is 95.0%, that of always answering 'no' 95.0%" in said


def test_a_balancing_model_of_rare_positives_is_not_doubted():
    """Less accurate than "always no", and of use: four of five positives found."""
    truth = np.array([0] * 950 + [1] * 50)
    answers = np.array([0] * 760 + [1] * 190 + [1] * 40 + [0] * 10)
    assert (truth == answers).mean() < 0.95
    assert doubts(CLASSES, (truth, answers), (truth, answers)) == ()


def test_few_rows_that_cannot_tell_a_model_from_chance_raise_a_doubt():
    truth = np.tile([0, 1], 10)
    answers = truth.copy()
    answers[[0, 1, 2, 3, 4, 5, 6, 7]] ^= 1  # 12 of 20 right
    (said,) = doubts(CLASSES, (truth, answers), (truth, answers))
    assert "95% 3" in said or "95% 4" in said


def test_one_class_among_the_test_rows_tells_nothing():
    truth = np.zeros(50, int)
    assert doubts(CLASSES, (truth, truth), (truth, truth)) == ()


def test_rows_known_by_heart_are_no_doubt_where_something_was_learnt():
    """Trees that fit a noisy table: all of the training rows, 79% of the test rows, 74% by the majority."""
    truth = np.random.default_rng(0).choice(2, 2113, p=[0.735, 0.265])
    answers = truth.copy()
    wrong = np.random.default_rng(1).choice(2113, int(0.21 * 2113), replace=False)
    answers[wrong] = 1 - answers[wrong]
    assert doubts(CLASSES, (truth, answers), (truth, truth)) == ()


def test_test_rows_that_were_prepared_otherwise_are_doubted():
    (said,) = classified(400, 5, 0.3, 0.99)
    assert said.startswith("the source model is far worse on test rows than on training rows: accuracy 0.4")
    assert classified(400, 5, 0.8, 0.99) == ()


def valued(noise, training=0.1, rows=300):
    chance = np.random.default_rng(0)
    truth = chance.normal(size=rows)
    return doubts(
        VALUES,
        (truth, truth + noise * chance.normal(size=rows)),
        (truth, truth + training * chance.normal(size=rows)),
    )


def test_a_regression_is_held_against_the_mean():
    assert valued(0.3) == ()
    barely, far = valued(1.0)
    assert barely.startswith("the source model is barely better than always answering the mean: R²")
    assert "far worse on test rows" in far
    assert len(valued(1.0, training=1.0)) == 1


def test_a_regressor_that_answers_another_scale_is_doubted():
    truth = np.random.default_rng(0).normal(100, 20, 200)
    assert len(doubts(VALUES, (truth, truth / 255), (truth, truth / 255))) == 1


@pytest.mark.parametrize("rows", [10, 100, 1000])
def test_the_interval_of_mean_recall_covers_the_truth(rows):
    """Simulated: 95% intervals that hold the true mean recall in about 95 of 100 cases, and never far fewer."""
    chance = np.random.default_rng(rows)
    recalls = np.array([0.9, 0.6, 0.75])
    truth = np.repeat(np.arange(3), rows)
    held = 0
    for _ in range(400):
        right = chance.random(len(truth)) < recalls[truth]
        found = mean_recall(truth, np.where(right, truth, (truth + 1) % 3))
        held += found.low <= recalls.mean() <= found.high
    assert held / 400 > 0.92


def test_a_model_without_a_graph_is_held_against_its_training_rows(tmp_path):
    """Platforms convert such a model themselves; what it answered to both splits was taken at intake."""
    truth = np.tile([0, 1], 100)
    test = truth.copy()
    test[::3] = 1 - test[::3]
    arrays = {
        "test.x.x": np.zeros((200, 1), np.float32),
        "test.y": truth,
        "test.reference.scores": np.eye(2)[test],
        "test.predicted": test,
        "calibration.x.x": np.zeros((200, 1), np.float32),
        "calibration.y": truth,
        "calibration.reference.scores": np.eye(2)[truth],
    }
    np.savez(tmp_path / "d.npz", **arrays)
    digest = "0" * 64
    file = Artifact(path=tmp_path / "d.npz", format=Format.DATASET, digest=digest, size_bytes=1)
    dataset = Dataset(artifact=file, calibration_rows=200, validation_rows=0, test_rows=200)
    model = ImportedModel(
        name="m",
        source=file,
        onnx=None,
        graph=None,
        graph_refusal="operator MatrixInverse",
        inputs=(TensorSpec("x", (-1, 1), "float32"),),
        outputs=(TensorSpec("scores", (-1, 2), "float32"),),
        task=CLASSES,
        labels=("no", "yes"),
        preprocessing=Preprocessing(),
    )
    (said,) = source_doubts(model, dataset)
    assert said.startswith("the source model is far worse on test rows than on training rows: accuracy 0.6")


def test_training_rows_of_a_table_are_answered_by_the_model_itself(tmp_path):
    from sklearn.linear_model import LogisticRegression

    from edgewright.data import DataSpec
    from edgewright.intake import child

    x = np.random.default_rng(0).normal(size=(300, 3))
    y = (x[:, 0] > 0).astype(int)
    np.savez(tmp_path / "d.npz", x=x.astype(np.float32), y=y)
    fitted = LogisticRegression().fit(x, y)
    (tmp_path / "m.pkl").write_bytes(pickle.dumps(fitted))
    intake = child.take_in(tmp_path / "m.pkl", DataSpec(path=tmp_path / "d.npz"), tmp_path / "s", "m")
    with np.load(intake.dataset.artifact.path) as arrays:
        rows, scores = arrays["calibration.x.features"], arrays["calibration.reference.probabilities"]
    np.testing.assert_allclose(scores, fitted.predict_proba(rows), rtol=1e-12)


@pytest.mark.parametrize("batch", [None, 1, 64], ids=["free", "one", "sixty-four"])
def test_training_rows_of_a_pytorch_program_are_answered_by_the_program(batch, tmp_path):
    """In eager mode at intake, whatever its batch."""
    import torch

    from edgewright.data import DataSpec
    from edgewright.intake import child
    from edgewright.validate.evaluation import source_answers

    x = np.random.default_rng(0).normal(size=(300, 3)).astype(np.float32)
    y = (x[:, 0] > 0).astype(int)
    np.savez(tmp_path / "d.npz", x=x, y=y)
    layer = torch.nn.Linear(3, 2)
    layer.weight.data = torch.tensor([[-1.0, 0, 0], [1, 0, 0]])
    layer.bias.data.zero_()
    shapes = None if batch else ({0: torch.export.Dim("rows")},)
    example = torch.zeros(batch or 2, 3)
    torch.export.save(torch.export.export(layer.eval(), (example,), dynamic_shapes=shapes), tmp_path / "m.pt2")
    spec = DataSpec(path=tmp_path / "d.npz")
    intake = child.take_in(tmp_path / "m.pt2", spec, tmp_path / "s", "m")
    truth, answers = source_answers(intake.model, intake.dataset, "calibration")
    assert len(truth) == intake.dataset.calibration_rows
    np.testing.assert_array_equal(truth, answers)
    assert source_doubts(intake.model, intake.dataset) == ()
