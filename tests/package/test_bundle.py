import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from edgewright.artifact import Precision, digest_of
from edgewright.errors import InputError, MissingLibraryError, UnsupportedError
from edgewright.export.stored import StoredModel
from edgewright.monitor import MonitoringPlan
from edgewright.package import Bundle, read_bundle
from edgewright.package.golden import _tolerance
from edgewright.package.snippet import write_snippet
from edgewright.pipeline.inspection import describe_path
from edgewright.profile import ExportOptions
from edgewright_runtime.__main__ import main
from edgewright_runtime.backends import run_rows
from edgewright_runtime.bundle import processor
from edgewright_runtime.bundle.manifest import MANIFEST_NAME, Column, Preprocessing, Processor, Words
from edgewright_runtime.bundle.opening import open_bundle
from edgewright_runtime.errors import IntegrityError
from edgewright_runtime.predict.predictor import Predictor
from edgewright_runtime.update.golden import check_bundle, load_golden
from tests.bundles import COLUMNS, LABELS, softmax, table_parts


def test_same_inputs_give_the_same_bytes_in_another_place_and_time(tmp_path: Path, table_bundle: Bundle) -> None:
    again = table_parts(tmp_path / "elsewhere").build()

    assert again.artifact.path != table_bundle.artifact.path
    assert again.artifact.digest == table_bundle.artifact.digest
    assert again.manifest_digest == table_bundle.manifest_digest
    assert str(tmp_path) not in "".join(
        p.read_text(errors="replace") for p in again.artifact.path.rglob("*") if p.is_file()
    )


def test_other_weights_give_another_digest(table_bundle: Bundle, newer_bundle: Bundle) -> None:
    assert newer_bundle.manifest_digest != table_bundle.manifest_digest


def test_bundle_lists_every_file_and_says_what_the_model_is(table_bundle: Bundle) -> None:
    content = read_bundle(table_bundle.artifact.path)

    manifest = content.manifest
    listed = {entry.path for entry in manifest.files}
    assert listed == {"churn.onnx", "golden.npz", "example.json", "example.py", "report.html", "report.json"}
    assert content.bundle == table_bundle
    assert manifest.labels == LABELS
    assert manifest.preprocessing.columns == COLUMNS
    assert manifest.scores.kind == "probabilities"
    assert manifest.measurements.accuracy == content.report.candidate.accuracy.value
    assert manifest.lineage.model == digest_of(table_bundle.artifact.path / "churn.onnx")


def _shown(folder: Path) -> dict[str, str]:
    table = describe_path(folder)
    names, values = ([str(cell) for cell in column.cells] for column in table.columns)
    return dict(zip(names, values, strict=True))


def test_a_bundle_is_described_with_its_lineage_and_its_model(
    table_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = table_bundle.artifact.path
    rows = _shown(folder)
    lineage = asdict(read_bundle(folder).manifest.lineage)
    assert {name: rows[f"lineage: {name}"] for name in lineage} == lineage
    assert rows["format"] == "onnx"

    def lacking(_: Path) -> StoredModel:
        raise MissingLibraryError("reading churn.onnx: No module named 'onnx'")

    monkeypatch.setattr("edgewright.pipeline.inspection.describe", lacking)
    assert _shown(folder)["model file"].startswith("not looked into: reading churn.onnx: No module named 'onnx';")


def test_golden_vectors_are_real_rows_with_the_files_own_answers(table_bundle: Bundle) -> None:
    folder = table_bundle.artifact.path

    inputs, outputs = load_golden(folder / "golden.npz")

    assert len(inputs["x"]) == 16
    np.testing.assert_allclose(outputs["scores"].sum(axis=1), 1, atol=1e-6)
    assert check_bundle(folder) == {"scores": 0.0}


def test_golden_vectors_allow_what_the_export_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another processor's kernels stray from these as a sound file from its model: by the model's own rounding."""
    real = run_rows
    strayed = {"scores": np.float32(5e-4)}
    monkeypatch.setattr(
        "edgewright_runtime.update.golden.run_rows", lambda *a: {n: v + strayed[n] for n, v in real(*a).items()}
    )
    parts = table_parts(tmp_path)
    with pytest.raises(IntegrityError, match=r"differs by 0\.0005\d*, allowed are 9"):
        check_bundle(parts.build().artifact.path)

    wide = replace(parts, exported=parts.exported.model_copy(update={"tolerance": (("scores", 8e-4),)}))

    folder = wide.build().artifact.path
    assert read_bundle(folder).manifest.golden.tolerance == {"scores": 8e-4}
    assert check_bundle(folder)["scores"] == pytest.approx(5e-4, rel=1e-3)


def test_a_file_for_another_processor_says_so_where_it_does_not_fit(
    tmp_path: Path, table_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(table_bundle.artifact.path, folder)
    manifest = open_bundle(folder)
    made_for = Processor("x86_64", dot_products=True, largest_pair_sum=60_000)
    other = replace(manifest, runtime=replace(manifest.runtime, processor=made_for))
    (folder / MANIFEST_NAME).write_bytes(other.to_json())
    assert open_bundle(folder).runtime.processor == made_for
    monkeypatch.setattr(processor, "saturates", lambda: False)
    assert main(["check", str(folder)]) == 0
    assert json.loads(capsys.readouterr().out)["warning"] == ""
    monkeypatch.setattr(processor, "saturates", lambda: True)
    assert main(["check", str(folder)]) == 0
    said = "the file was made for x86_64 with 8-bit dot products: its 8-bit sums reach 60,000"
    assert said in json.loads(capsys.readouterr().out)["warning"]
    golden = replace(other.golden, tolerance={"scores": 0.0})
    real = run_rows
    monkeypatch.setattr("edgewright_runtime.update.golden.run_rows", lambda *a: {n: v + 1 for n, v in real(*a).items()})
    (folder / MANIFEST_NAME).write_bytes(replace(other, golden=golden).to_json())
    with pytest.raises(IntegrityError, match=f"does not run this model correctly here: {said}"):
        check_bundle(folder)


def test_litert_bundle_keeps_the_models_names_and_its_logits(image_bundle: Bundle) -> None:
    folder = image_bundle.artifact.path
    manifest = read_bundle(folder).manifest

    predictor = Predictor(folder)
    raw = np.load(folder / "example.npy")
    answer = predictor.predict(raw)

    assert manifest.scores.kind == "logits"
    assert raw.max() > 1, "the example holds raw values, not scaled ones"
    _, golden = load_golden(folder / "golden.npz")
    np.testing.assert_allclose(answer.scores, softmax(golden["scores"][:1]), atol=1e-5)


def test_plan_in_the_manifest_takes_open_limits_from_the_figures(tmp_path: Path) -> None:
    parts = table_parts(tmp_path)

    manifest = read_bundle(parts.build(MonitoringPlan(window_s=60, max_memory_mb=99)).artifact.path).manifest

    assert manifest.monitoring.window_s == 60
    assert manifest.monitoring.max_memory_mb == 99
    assert manifest.monitoring.max_latency_p95_ms == pytest.approx(1.5 * parts.report.candidate.latency.p95_ms)
    assert manifest.monitoring.min_accuracy == pytest.approx(parts.report.candidate.accuracy.low)


@pytest.mark.parametrize("name", ["churn.onnx", "golden.npz", "report.html", "report.json", "example.py"])
def test_changed_file_is_found(tmp_path: Path, table_bundle: Bundle, name: str) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(table_bundle.artifact.path, folder)
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)

    with pytest.raises(InputError, match=name):
        read_bundle(folder)


def test_file_that_nobody_listed_is_found(tmp_path: Path, table_bundle: Bundle) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(table_bundle.artifact.path, folder)
    (folder / "extra.bin").write_bytes(b"x")

    with pytest.raises(InputError, match=r"extra\.bin"):
        read_bundle(folder)


def test_folder_without_a_manifest_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"manifest\.json"):
        read_bundle(tmp_path)


def test_dataset_without_test_rows_of_the_input_is_refused(tmp_path: Path) -> None:
    parts = table_parts(tmp_path)
    np.savez(parts.dataset.artifact.path, **{"test.predicted": np.zeros(3), "test.reference.scores": np.zeros((3, 3))})

    with pytest.raises(InputError, match=r"test\.x\.x"):
        parts.build()


def test_example_row_is_a_raw_row_that_the_device_accepts(table_bundle: Bundle) -> None:
    row = json.loads((table_bundle.artifact.path / "example.json").read_text())

    assert set(row) == {column.name for column in COLUMNS}
    assert Predictor(table_bundle.artifact.path).predict(row).labels[0] in LABELS


@pytest.mark.parametrize("platform", ["ios", "android", "edge_device"])
@pytest.mark.parametrize("kind", ["table", "image"])
def test_snippet_names_what_the_model_needs(
    tmp_path: Path, platform: str, kind: str, table_bundle: Bundle, image_bundle: Bundle
) -> None:
    bundle = table_bundle if kind == "table" else image_bundle
    manifest = read_bundle(bundle.artifact.path).manifest

    text = write_snippet(tmp_path, replace(manifest, platform=platform), ExportOptions()).read_text()

    assert "__" not in text.replace("__file__", "")
    assert text.count("{") == text.count("}")
    assert text.count("(") == text.count(")")
    if platform != "edge_device":
        assert all(f'"{label}"' in text for label in LABELS)
        assert f'"{manifest.inputs[0].name}"' in text
    if kind == "table":
        assert all(column.name in text for column in COLUMNS)


@pytest.mark.parametrize("platform", ["ios", "android", "edge_device"])
def test_snippet_counts_the_terms_of_a_text(tmp_path: Path, platform: str, table_bundle: Bundle) -> None:
    manifest = read_bundle(table_bundle.artifact.path).manifest
    words = Words("word", lowercase=True, strip_accents="", pattern=r"(?u)\b\w\w+\b", ngrams=(1, 2))
    said = Column("said", "text", (("good", 0), ("bad", 1), ("good bad", 2)), words=words)
    columns = (*COLUMNS, said)
    counting = replace(manifest, platform=platform, preprocessing=Preprocessing(columns=columns))

    text = write_snippet(tmp_path, counting, ExportOptions()).read_text()

    assert "__" not in text.replace("__file__", "")
    for opening, closing in ("{}", "()", "[]"):
        assert text.count(opening) == text.count(closing)
    if platform != "edge_device":
        assert "private fun terms(" in text or "private func terms(" in text
        assert "6" in text  # three columns, and three terms
    own = replace(said, words=replace(words, pattern=r"[\w']+"))
    other = replace(counting, preprocessing=Preprocessing(columns=(own,)))
    if platform == "edge_device":
        write_snippet(tmp_path, other, ExportOptions())
    else:
        with pytest.raises(UnsupportedError, match="token_pattern"):
            write_snippet(tmp_path, other, ExportOptions())


def test_example_row_is_the_first_raw_row_where_the_dataset_holds_it(tmp_path: Path) -> None:
    parts = table_parts(tmp_path)
    path = parts.dataset.artifact.path
    row = {"tenure": 1.5, "charges": None, "contract": "never seen"}
    with np.load(path) as stored:
        arrays = dict(stored)
    np.savez(path, **arrays, **{"test.raw": np.array([json.dumps(row)])})

    written = json.loads((parts.build().artifact.path / "example.json").read_text())

    assert written == row


@pytest.mark.parametrize(
    ("platform", "quoted"),
    [("android", r'"a\"\$b", "c\\d", "e\u0007"'), ("ios", r'"a\"$b", "c\\d", "e\u{7}"')],
)
def test_labels_are_valid_literals_of_the_language(
    tmp_path: Path, table_bundle: Bundle, platform: str, quoted: str
) -> None:
    manifest = read_bundle(table_bundle.artifact.path).manifest

    text = write_snippet(
        tmp_path, replace(manifest, platform=platform, labels=('a"$b', "c\\d", "e\a")), ExportOptions()
    ).read_text()

    assert quoted in text


def test_a_mask_makes_no_tolerance_infinite() -> None:
    """A share of the largest magnitude: of an infinity it would allow every answer."""
    output = np.array([[2.0, -np.inf, np.nan]], np.float32)
    assert _tolerance(output, Precision.FLOAT32) == pytest.approx(2e-4)
    assert _tolerance(np.array([-3, 2], np.int8), Precision.INT8) == 2
