"""Image inputs and class labels: what an app gives and gets, against the tensors of the source model."""

import numpy as np
import pytest

from edgewright.artifact import Format, Precision
from edgewright.errors import UnsupportedError
from edgewright.export import export, mlpackage
from edgewright.export.mil_evaluator import evaluate
from edgewright.export.mil_program import read_program
from edgewright.export.pixels import as_images, as_pixels, as_scores
from edgewright.profile import ExportOptions, Platform
from edgewright_runtime.bundle.manifest import Preprocessing

OPTIONS = ExportOptions(image_inputs=True, class_labels=True)


@pytest.fixture(scope="module")
def classified(pictures_case):
    model, dataset, store = pictures_case
    return export(model, dataset, Platform.IOS, Precision.FLOAT32, store, options=OPTIONS)


def test_declared_tensors_are_those_of_the_source(classified):
    assert [(s.name, s.shape, s.dtype) for s in classified.inputs] == [("image", (1, 1, 8, 8), "float32")]
    assert [(s.name, s.shape, s.dtype) for s in classified.outputs] == [("probabilities", (1, 10), "float32")]
    assert any("8-bit pixels" in note for note in classified.notes)
    assert any("each of 10 labels" in note for note in classified.notes)


def test_xcode_shows_an_image_and_a_class_and_the_answers_stay(classified, pictures_case, digits):
    description = mlpackage.load(classified.artifact.path).description
    image = description.input[0].type.imageType
    assert (image.width, image.height) == (8, 8)
    assert description.predictedFeatureName == "classLabel"
    assert [output.type.WhichOneof("Type") for output in description.output] == ["stringType", "dictionaryType"]
    with np.load(pictures_case[1].artifact.path) as arrays:
        rows = {"image": arrays["calibration.x.image"]}
    plain = evaluate(digits.exported(Platform.IOS, Precision.FLOAT32).artifact.path, rows)
    found = evaluate(classified.artifact.path, rows)
    assert list(found) == ["probabilities"]
    assert np.abs(found["probabilities"] - plain["probabilities"]).max() < 1e-5


def test_core_ml_is_given_images_and_its_scores_become_a_tensor(classified, pictures_case):
    path = classified.artifact.path
    with np.load(pictures_case[1].artifact.path) as arrays:
        row = {"image": arrays["calibration.x.image"][:1]}
    image = as_images(read_program(path).pixels, row)["image"]
    assert (image.mode, image.size) == ("L", (8, 8))
    assert np.array_equal(np.asarray(image), np.rint(255 * row["image"][0, 0]))
    # What Core ML answers on a Mac: the class, and a dictionary of scores in no particular order.
    found = evaluate(path, row)["probabilities"]
    by_label = mlpackage.load(path).description.predictedProbabilitiesName
    scores = {str(i): float(found[0, i]) for i in (3, 1, 2, 0, 9, 8, 7, 6, 5, 4)}
    given = as_scores(mlpackage.load(path).description, {"classLabel": "3", by_label: scores})
    assert list(given) == ["probabilities"]
    assert np.array_equal(given["probabilities"], found)


def test_pixels_undo_the_preprocessing():
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    rows = ((pixels.astype(np.float32) - 127.5) * (1 / 127.5)).astype(np.float32)
    assert np.array_equal(as_pixels(rows, 1 / 127.5, 127.5), pixels)


@pytest.mark.parametrize(
    ("preprocessing", "found"), [(Preprocessing(), "fractional numbers from 0"), (Preprocessing(scale=1 / 510), "510")]
)
def test_rows_that_are_no_pixels_are_refused_before_any_conversion(pictures_case, preprocessing, found, monkeypatch):
    model, dataset, store = pictures_case
    monkeypatch.setattr("edgewright.export.ios.convert_in_child", None)
    wrong = model.model_copy(update={"preprocessing": preprocessing})
    with pytest.raises(
        UnsupportedError, match=rf"whole pixels from 0 to 255.*'image'.*{found}.*leave image_inputs off"
    ):
        export(wrong, dataset, Platform.IOS, Precision.FLOAT16, store, options=OPTIONS)


def test_class_labels_without_classes_are_said_to_have_no_effect(digits):
    model = digits.model.model_copy(update={"labels": ()})
    options = ExportOptions(class_labels=True)
    exported = export(model, digits.dataset, Platform.IOS, Precision.FLOAT32, digits.store, options=options)
    assert [s.name for s in exported.outputs] == ["probabilities"]
    assert exported.notes == ("class_labels has no effect: the model has no class labels",)
    assert mlpackage.load(exported.artifact.path).description.predictedFeatureName == ""


@pytest.fixture(scope="module")
def pictures_case(digits, tmp_path_factory):
    """The digits network over 8-bit pixels: its rows are pixel / 255."""
    path = tmp_path_factory.mktemp("pixels") / "data.npz"
    np.savez(path, **{"calibration.x.image": (np.rint(digits.rows * 255) / 255).astype(np.float32)})
    dataset = digits.dataset.model_copy(update={"artifact": digits.store.put(path, Format.DATASET)})
    return digits.model.model_copy(update={"preprocessing": Preprocessing(scale=1 / 255)}), dataset, digits.store
