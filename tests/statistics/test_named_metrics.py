"""Metrics by name against torchmetrics and pycocotools on random cases; what each says of data that does not fit."""

import io
from contextlib import redirect_stdout
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torchmetrics import functional as peer

from edgewright.artifact import ModelTask
from edgewright.data import NAMED_METRICS, DataSpec
from edgewright.errors import InputError
from edgewright.statistics.class_metrics import CLASSES, SCORES
from edgewright.statistics.named_metrics import figured, prepared

pytestmark = pytest.mark.filterwarnings("ignore")
SEEDS = range(4)


def figure(name: str, outputs: dict[str, np.ndarray], answers: np.ndarray) -> float:
    return figured(name, prepared(name, outputs, answers, outputs))


def classifier(chance: np.random.Generator, classes: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    truth = chance.integers(0, classes, 90)
    # Whole numbers, so that there are ties; the last class never occurs where there are several.
    scores = np.rint(3 * chance.normal(size=(90, classes)) + 4 * (np.arange(classes) == truth[:, None]))
    if classes > 2:
        truth = np.where(truth == classes - 1, 0, truth)
    return {SCORES: scores, CLASSES: scores.argmax(axis=1)}, truth


@pytest.mark.parametrize("seed", SEEDS)
def test_two_classes(seed: int) -> None:
    outputs, truth = classifier(np.random.default_rng(seed), 2)
    margin = torch.from_numpy(outputs[SCORES][:, 1] - outputs[SCORES][:, 0]).sigmoid()
    answers, predicted = torch.from_numpy(truth), torch.from_numpy(outputs[CLASSES])
    expected = {
        "roc_auc": peer.classification.binary_auroc(margin, answers),
        "average_precision": peer.classification.binary_average_precision(margin, answers),
        "f1": peer.classification.binary_f1_score(predicted, answers),
        "macro_f1": peer.classification.multiclass_f1_score(predicted, answers, 2, average="macro"),
    }
    for name, value in expected.items():
        assert figure(name, outputs, truth) == pytest.approx(float(value), abs=1e-6), name


@pytest.mark.parametrize("seed", SEEDS)
def test_several_classes(seed: int) -> None:
    outputs, truth = classifier(np.random.default_rng(seed), 9)
    scores, answers = torch.from_numpy(outputs[SCORES]), torch.from_numpy(truth)
    occurring = np.unique(truth)
    each = [peer.classification.binary_auroc(scores[:, c].sigmoid(), (answers == c).long()) for c in occurring]
    assert figure("roc_auc", outputs, truth) == pytest.approx(float(np.mean(each)), abs=1e-6)
    predicted = torch.from_numpy(outputs[CLASSES])
    f1 = peer.classification.multiclass_f1_score(predicted, answers, 9, average="macro")
    assert figure("macro_f1", outputs, truth) == pytest.approx(float(f1), abs=1e-6)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_true_class_among_five(seed: int) -> None:
    chance = np.random.default_rng(seed)
    scores, truth = chance.normal(size=(90, 9)), chance.integers(0, 9, 90)
    expected = peer.classification.multiclass_accuracy(
        torch.from_numpy(scores), torch.from_numpy(truth), 9, top_k=5, average="micro"
    )
    assert figure("top5_accuracy", {SCORES: scores}, truth) == pytest.approx(float(expected), abs=1e-6)
    assert figure("top5_accuracy", {SCORES: np.zeros((90, 9))}, truth) == 0, "an output that is constant is no answer"


@pytest.mark.parametrize("seed", SEEDS)
def test_several_labels_a_row(seed: int) -> None:
    chance = np.random.default_rng(seed)
    truth = (chance.random((80, 5)) < 0.3).astype(np.int64)
    logits = np.round(chance.normal(size=(80, 5)) + 1.5 * truth - 0.5, 1)
    logits[logits == 0] = 0.1
    probabilities, answers = torch.from_numpy(logits).sigmoid(), torch.from_numpy(truth)
    f1 = peer.classification.multilabel_f1_score(probabilities, answers, 5, average="macro")
    area = peer.classification.multilabel_auroc(probabilities, answers, 5, average="macro")
    for scores in (logits, probabilities.numpy()):
        assert figure("multilabel_f1", {"y": scores}, truth) == pytest.approx(float(f1), abs=1e-6)
        assert figure("multilabel_roc_auc", {"y": scores}, truth) == pytest.approx(float(area), abs=1e-6)


@pytest.mark.parametrize("shape", [(70,), (70, 1), (70, 3)])
def test_values(shape: tuple[int, ...]) -> None:
    chance = np.random.default_rng(0)
    truth, given = chance.normal(size=shape) * 10, chance.normal(size=shape)
    flat = [torch.from_numpy(array.reshape(70, -1)) for array in (given, truth)]
    mae = peer.mean_absolute_error(*flat)
    rmse = torch.stack(
        [peer.mean_squared_error(*columns, squared=False) for columns in zip(*(t.T for t in flat), strict=True)]
    )
    assert figure("mae", {"y": given}, truth) == pytest.approx(float(mae), rel=1e-6)
    assert figure("rmse", {"y": given}, truth) == pytest.approx(float(rmse.mean()), rel=1e-6)


def test_vectors_that_point_alike() -> None:
    chance = np.random.default_rng(0)
    truth, given = chance.normal(size=(2, 40, 6))
    expected = peer.cosine_similarity(torch.from_numpy(given), torch.from_numpy(truth), reduction="mean")
    assert figure("cosine", {"y": given}, truth) == pytest.approx(float(expected), abs=1e-6)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("form", ["channels first", "channels last", "classes"])
def test_overlap_of_pixels(seed: int, form: str) -> None:
    chance = np.random.default_rng(seed)
    truth = chance.integers(0, 3 + seed % 2, (12, 7, 5))
    scores = chance.normal(size=(12, 5, 7, 5)) + 1.5 * (np.arange(5)[None, :, None, None] == truth[:, None])
    truth[chance.random(truth.shape) < 0.1] = 255
    predicted = scores.argmax(axis=1)
    output = {"channels first": scores, "channels last": np.moveaxis(scores, 1, 3), "classes": predicted.astype(float)}
    expected = peer.jaccard_index(
        torch.from_numpy(predicted), torch.from_numpy(truth), "multiclass", num_classes=5, ignore_index=255
    )
    assert figure("mean_iou", {"mask": output[form]}, truth) == pytest.approx(float(expected), abs=1e-6)


@pytest.mark.parametrize("shape", [(12, 1, 7, 5), (12, 7, 5, 1), (12, 7, 5)])
def test_overlap_of_one_score_a_pixel(shape: tuple[int, ...]) -> None:
    chance = np.random.default_rng(0)
    truth = chance.integers(0, 2, (12, 7, 5))
    logits = chance.normal(size=(12, 7, 5)) + 2 * truth - 1
    predicted = torch.from_numpy((logits > 0).astype(np.int64))
    expected = peer.jaccard_index(predicted, torch.from_numpy(truth), "multiclass", num_classes=2)
    for scores in (logits, 1 / (1 + np.exp(-logits))):
        assert figure("mean_iou", {"mask": scores.reshape(shape)}, truth) == pytest.approx(float(expected), abs=1e-6)


def test_points_near_enough() -> None:
    # Of a box 10 wide, points within 2 are right; one is not in the second picture.
    truth = np.array([[[0, 0], [10, 0], [5, 8]], [[0, 0], [np.nan, np.nan], [0, 10]]])
    given = truth + np.array([[[1, 1], [2.1, 0], [0, 1.9]], [[0, 0], [0, 0], [3, 0]]])
    assert figure("pck", {"points": np.nan_to_num(given)}, truth) == pytest.approx(3 / 5)
    assert figure("pck", {"points": np.nan_to_num(given).reshape(2, 6)}, truth) == pytest.approx(3 / 5)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("nearest", [1, 5])
def test_neighbours_of_the_same_identity(seed: int, nearest: int) -> None:
    chance = np.random.default_rng(seed)
    kinds = chance.integers(0, 4, 60)
    kinds[0] = 4  # alone
    vectors = chance.normal(size=(60, 8)) + 1.5 * chance.normal(size=(5, 8))[kinds]
    similar = peer.pairwise_cosine_similarity(torch.from_numpy(vectors), zero_diagonal=False)
    hits = []
    for row in range(1, 60):
        others = np.arange(60) != row
        same = torch.from_numpy(kinds[others] == kinds[row])
        hits.append(float(peer.retrieval.retrieval_hit_rate(similar[row][others], same, nearest)))
    assert figure(f"recall_at_{nearest}", {"y": vectors}, np.array([*"abcde"])[kinds]) == pytest.approx(np.mean(hits))


@pytest.mark.parametrize("seed", SEEDS)
def test_tokens(seed: int) -> None:
    chance = np.random.default_rng(seed)
    truth = chance.integers(0, 11, (9, 6))
    logits = 3 * chance.normal(size=(9, 6, 11)) + 2 * (np.arange(11) == truth[..., None])
    truth[:, -2:] = -100
    scores, answers = torch.from_numpy(logits), torch.from_numpy(truth)
    accuracy = peer.classification.multiclass_accuracy(
        scores.argmax(2), answers, 11, ignore_index=-100, average="micro"
    )
    perplexity = peer.text.perplexity(scores, answers, ignore_index=-100)
    for given in (scores, scores.softmax(2)):
        assert figure("token_accuracy", {"y": given.numpy()}, truth) == pytest.approx(float(accuracy), abs=1e-6)
        assert figure("perplexity", {"y": given.numpy()}, truth) == pytest.approx(float(perplexity), rel=1e-4)


def test_pixels_are_read_as_the_source_s_are() -> None:
    chance = np.random.default_rng(0)
    truth = chance.integers(0, 2, (12, 7, 5))
    reference = {"mask": 3.0 * (2 * truth - 1) + chance.normal(size=truth.shape)}
    for candidate in (np.where(truth, 3.0, -3.0), np.where(truth, 3.0, 0.0), np.rint(reference["mask"])):
        assert figured("mean_iou", prepared("mean_iou", {"mask": candidate}, truth, reference)) > 0.97
    classes = {"mask": chance.integers(0, 4, truth.shape).astype(float)}
    answers = classes["mask"].astype(np.int64)
    assert figured("mean_iou", prepared("mean_iou", {"mask": classes["mask"] + 1e-6}, answers, classes)) == 1


def scene(chance: np.random.Generator, images: int, boxes_each: int = 12) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Detections of three classes and true boxes, some of them near, some missed, images without any."""
    truth = np.full((images, 6, 5), -1.0)
    boxes, scores, labels = (np.zeros((images, boxes_each, *tail)) for tail in ((4,), (), ()))
    for image in range(images):
        count = int(chance.integers(0, 7))
        low = chance.random((count, 2)) * 50
        truth[image, :count] = np.concatenate(
            [low, low + 5 + chance.random((count, 2)) * 30, chance.integers(0, 3, (count, 1))], axis=1
        )
        for at in range(boxes_each):
            like = truth[image, chance.integers(0, count)] if count and chance.random() < 0.7 else None
            box = like[:4] + chance.normal(size=4) * 2 if like is not None else np.sort(chance.random(4) * 60)
            boxes[image, at] = [min(box[0], box[2]), min(box[1], box[3]), max(box[0], box[2]), max(box[1], box[3])]
            labels[image, at] = like[4] if like is not None and chance.random() < 0.9 else chance.integers(0, 3)
            scores[image, at] = np.round(chance.random(), 2)
    return {"boxes": boxes, "scores": scores, "labels": labels}, truth


def coco(outputs: dict[str, np.ndarray], truth: np.ndarray) -> float:
    annotations = [
        {
            "id": 1 + 10 * image + at, "image_id": image, "category_id": int(label), "iscrowd": 0,
            "bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1),
        }
        for image, rows in enumerate(truth)
        for at, (x1, y1, x2, y2, label) in enumerate(rows.tolist())
        if label >= 0
    ]  # fmt: skip
    found = [
        {
            "image_id": image, "category_id": int(outputs["labels"][image, at]), "score": outputs["scores"][image, at],
            "bbox": [x1, y1, x2 - x1, y2 - y1],
        }
        for image, rows in enumerate(outputs["boxes"])
        for at, (x1, y1, x2, y2) in enumerate(rows.tolist())
    ]  # fmt: skip
    with redirect_stdout(io.StringIO()):
        known = COCO()
        known.dataset = {
            "info": {},
            "images": [{"id": image} for image in range(len(truth))],
            "annotations": annotations,
            "categories": [{"id": label} for label in range(3)],
        }
        known.createIndex()
        judged = COCOeval(known, known.loadRes(found), "bbox")
        judged.evaluate()
        judged.accumulate()
        judged.summarize()
    return float(judged.stats[0])


@pytest.mark.parametrize("seed", range(8))
def test_boxes(seed: int) -> None:
    outputs, truth = scene(np.random.default_rng(seed), 15)
    assert figure("mean_average_precision", outputs, truth) == pytest.approx(coco(outputs, truth), abs=1e-9)


def test_a_hundred_boxes_of_each_class_count() -> None:
    outputs, truth = scene(np.random.default_rng(0), 4, boxes_each=400)
    outputs["labels"][0, 0] = 1e12  # no class of the answers, and no table of that width
    assert figure("mean_average_precision", outputs, truth) == pytest.approx(coco(outputs, truth), abs=1e-9)


def test_boxes_of_drawn_images_are_those_of_such_images() -> None:
    outputs, truth = scene(np.random.default_rng(0), 20)
    drawn = np.random.default_rng(1).permutation(20)[:11]
    rows = prepared("mean_average_precision", outputs, truth, outputs)
    expected = coco({name: array[drawn] for name, array in outputs.items()}, truth[drawn])
    assert figured("mean_average_precision", tuple(array[drawn] for array in rows)) == pytest.approx(expected)


def test_boxes_with_scores_of_each_class() -> None:
    outputs, truth = scene(np.random.default_rng(3), 10)
    each = outputs["scores"][..., None] * (np.arange(4) == outputs["labels"][..., None])
    wide = {"out_boxes": outputs["boxes"], "probabilities": each}
    # Four classes look like boxes: the name tells.
    assert figure("mean_average_precision", wide, truth) == pytest.approx(
        figure("mean_average_precision", outputs, truth), abs=0.02
    )


Y = np.zeros((30, 4))


@pytest.mark.parametrize(
    ("name", "outputs", "answers", "said"),
    [
        ("mean_iou", {"y": Y}, np.zeros(30), r"answers are not a class for each pixel; needed: answers \(N, H, W\)"),
        ("mean_iou", {"y": Y}, np.zeros((30, 5, 5)), r"no output fits; .*outputs y \[30, 4\]"),
        ("mean_iou", {"y": np.zeros((30, 5, 5))}, np.full((30, 5, 5), -1), "classes below 0"),
        ("multilabel_f1", {"y": Y}, Y + 2, "answers are not 0 and 1 for each label"),
        ("multilabel_roc_auc", {"y": Y, "z": Y}, Y, "outputs y, z fit alike"),
        ("pck", {"y": Y}, Y, "answers are not points"),
        ("recall_at_1", {"y": Y}, Y, "answers are not one identity a row"),
        ("recall_at_5", {"y": Y[:, 0]}, Y[:, 0], "no output fits"),
        ("token_accuracy", {"y": np.zeros((30, 4, 7))}, Y + 9, "answers from 9.0 to 9.0 for 7 scores a token"),
        ("perplexity", {"y": Y}, Y[:, 0], "answers are not one class a token"),
        ("mean_average_precision", {"y": Y}, Y, "answers are not boxes with a class"),
        ("mean_average_precision", {"y": Y}, np.zeros((30, 3, 5)), "no output is boxes"),
        ("mean_average_precision", {"y": np.zeros((30, 6, 4))}, np.zeros((30, 3, 5)), "beside the boxes there are not"),
        ("mae", {"y": Y}, np.zeros((30, 3)), "no output has the answers' shape"),
        ("cosine", {"y": Y}, np.zeros((30, 3)), "no output fits"),
        ("f1", {SCORES: Y, CLASSES: Y[:, 0]}, Y[:, 0], "more than two classes"),
        ("roc_auc", {CLASSES: Y[:, 0]}, Y[:, 0], "the model answers with classes, without scores"),
    ],
)
def test_what_does_not_fit_is_one_line(name: str, outputs: Any, answers: np.ndarray, said: str) -> None:
    with pytest.raises(InputError, match=f"^metric {name}: .*{said}") as caught:
        figure(name, outputs, answers)
    assert "\n" not in str(caught.value)
    assert "found: answers [30" in str(caught.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"metric": "mae", "task": "classification"}, "mae has task: regression; found task: classification"),
        ({"metric": "mean_iou", "task": "regression"}, "mean_iou has no task: the metric itself reads the answers"),
        ({"metric": "perplexity", "metric_better": "higher"}, "of perplexity lower is better"),
    ],
)
def test_what_contradicts_a_metric_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        DataSpec(path="d.npz", **options)


def test_a_metric_brings_its_task_and_its_direction() -> None:
    found = DataSpec(path="d.npz", metric="rmse")
    assert found.task is ModelTask.REGRESSION
    assert found.chosen_metric is not None
    assert found.chosen_metric.better == "lower"
    assert DataSpec(path="d.npz", metric="mean_iou", task="none").has_answers


@pytest.mark.parametrize("name", sorted(NAMED_METRICS))
def test_every_metric_is_documented(name: str) -> None:
    from edgewright.project import project_folder

    page = (project_folder() / "docs" / "reference" / "metrics.md").read_text()
    assert f"| `{name}` |" in page
