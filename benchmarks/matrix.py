"""Every kind of source on every platform: what converts, how near it stays to its source, what it costs.

``make matrix`` runs it and writes ``docs/matrix.md`` and ``benchmarks/results/matrix.json``. The models are small and
real: digits and breast cancer (trained here, on data that scikit-learn carries), and, where the reference data lies
beside the checkout, MNIST and customer churn. Parity and accuracy are of the exported file, on test rows that neither
training nor calibration saw.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from edgewright import export, intake, validate
from edgewright.artifact import Intake, Precision
from edgewright.child import deferred, run_in_child
from edgewright.data import DataSpec, load_data_spec
from edgewright.errors import ConversionError, EdgewrightError, UnsupportedError
from edgewright.profile import Platform
from edgewright.store import Store

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"
RESULT, PAGE = ROOT / "benchmarks" / "results" / "matrix.json", ROOT / "docs" / "matrix.md"
PRECISIONS = (Precision.FLOAT32, Precision.FLOAT16, Precision.INT8)
MORE = (
    ("scikit-learn, vote of a linear model and a forest (breast cancer)", "vote"),
    ("scikit-learn, SVC with probabilities (breast cancer)", "svc"),
    ("scikit-learn, nearest neighbours by distance (breast cancer)", "neighbours"),
    ("XGBoost behind a scaler (breast cancer)", "xgboost"),
    ("LightGBM behind a scaler (breast cancer)", "lightgbm"),
)
GATE_PERCENT = 1.0
MNIST_TEST_ROWS = 2000  # Core ML files are evaluated row by row here


@dataclass(frozen=True)
class Source:
    kind: str
    model: Path
    data: DataSpec


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", help="part of a source's kind; then nothing is written")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "store")
        rows = []
        for source in _sources(Path(folder)):
            if not arguments.only or any(part in source.kind for part in arguments.only):
                rows += _row(source, store)
    if arguments.only:
        print(_page(rows))
        return
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(rows, indent=2) + "\n")
    PAGE.write_text(_page(rows))
    print(PAGE)


def _row(source: Source, store: Store) -> list[dict[str, Any]]:
    began = time.perf_counter()
    try:
        taken = intake.take_in(source.model, source.data, store)
    except EdgewrightError as e:
        reason = {"source": source.kind, "model": source.model.name, "refused": str(e)}
        return [{**reason, "platform": p.value, "precision": q.value} for p in Platform for q in PRECISIONS]
    print(source.kind, "taken in", round(time.perf_counter() - began, 1), "s", flush=True)
    return [_cell(source, taken, platform, precision, store) for platform in Platform for precision in PRECISIONS]


def _cell(source: Source, taken: Intake, platform: Platform, precision: Precision, store: Store) -> dict[str, Any]:
    cell: dict[str, Any] = {
        "source": source.kind, "model": source.model.name, "platform": platform.value, "precision": precision.value,
    }  # fmt: skip
    began = time.perf_counter()
    try:
        made = export.export(taken.model, taken.dataset, platform, precision, store)
        cell["seconds"] = round(time.perf_counter() - began, 1)
        found = validate.evaluate(taken.model, taken.dataset, made)
    except (UnsupportedError, ConversionError) as e:
        cell["refused"] = str(e).splitlines()[0]
        print(source.kind, platform, precision, "refused:", cell["refused"], flush=True)
        return cell
    cell |= {
        "size_bytes": made.artifact.size_bytes,
        "parity_max_relative": found.parity.max_relative,
        "agreement": found.parity.agreement,
        "rows": found.parity.rows,
        "checked_by": found.parity.checked_by,
        "accuracy": found.accuracy.value if found.accuracy else None,
        "drop_percent": found.drop.percent if found.drop else None,
        "notes": list(taken.model.notes),
    }
    print(
        source.kind,
        platform,
        precision,
        cell["size_bytes"],
        cell["parity_max_relative"],
        cell["drop_percent"],
        flush=True,
    )
    return cell


def _sources(folder: Path) -> Iterator[Source]:
    for maker in ("edgewright.demo:make_digits_cnn", "edgewright.demo:make_breast_cancer"):
        run_in_child(partial(deferred(maker), folder), what="training a demonstration model", writes=[folder])
    digits = DataSpec(path=folder / "digits.npz")
    yield Source("PyTorch .pt2, CNN (digits)", folder / "digits_cnn.pt2", digits)
    run_in_child(_made("make_onnx", folder), what="exporting to ONNX", writes=[folder])
    yield Source("ONNX, CNN (digits)", folder / "digits_cnn.onnx", digits)
    run_in_child(_made("make_sklearn", folder), what="fitting models", writes=[folder])
    yield Source(
        "scikit-learn, scaler and logistic regression (digits)",
        folder / "logistic.pkl",
        DataSpec(path=folder / "flat.npz"),
    )
    yield Source("scikit-learn, MLP (digits)", folder / "mlp.joblib", DataSpec(path=folder / "flat.npz"))
    breast = load_data_spec(folder / "breast_cancer.yaml")
    yield Source("scikit-learn, boosted trees (breast cancer)", folder / "breast_cancer.pkl", breast)
    run_in_child(_made("make_more", folder), what="training more models", timeout_s=600, writes=[folder])
    for kind, name in MORE:
        if (folder / f"{name}.pkl").exists():
            yield Source(kind, folder / f"{name}.pkl", breast)
    run_in_child(_made("make_keras", folder), what="training a Keras model", timeout_s=600, writes=[folder])
    images = DataSpec(path=folder / "images.npz")
    for kind, name in ((".keras", "digits.keras"), (".h5", "digits.h5"), ("SavedModel", "digits_saved_model")):
        yield Source(f"Keras {kind}, CNN (digits)", folder / name, images)
    if (SHARED / "models").is_dir():
        yield Source("PyTorch .pt2, LeNet-5 (MNIST)", SHARED / "models" / "lenet_5_caffe.pt2", _mnist(folder))
        churn = SHARED / "data" / "telco_customer_churn.csv"
        table = DataSpec(path=churn, target="Churn")
        yield Source("scikit-learn, pipeline with categories (churn)", SHARED / "models" / "customer_churn.pkl", table)


def _mnist(folder: Path) -> DataSpec:
    with np.load(SHARED / "data" / "mnist.npz") as arrays:
        some = {name: arrays[name] for name in arrays.files}
    kept = {name: a[:MNIST_TEST_ROWS] if "test" in name else a[:6000] for name, a in some.items()}
    np.savez(folder / "mnist.npz", **kept)
    return DataSpec(path=folder / "mnist.npz", scale=1 / 255)


def _digits(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "digits.npz") as arrays:
        return {name: arrays[name] for name in arrays.files}


def _made(maker: str, folder: Path) -> "partial[None]":
    return partial(deferred(f"benchmarks.matrix:{maker}"), str(folder))


def make_onnx(folder: str) -> None:
    """In a child: the digits network as an ONNX file."""
    import torch

    program = torch.export.load(Path(folder) / "digits_cnn.pt2")
    torch.onnx.export(program, f=Path(folder) / "digits_cnn.onnx", dynamo=True, external_data=False, verbose=False)


def make_sklearn(folder: str) -> None:
    """In a child: two models on flattened digits."""
    import pickle

    import joblib
    from sklearn.linear_model import LogisticRegression
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    data = {name: a.reshape(len(a), -1) if name[0] == "x" else a for name, a in _digits(Path(folder)).items()}
    np.savez(Path(folder) / "flat.npz", **data)
    logistic = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)).fit(data["x_train"], data["y_train"])
    (Path(folder) / "logistic.pkl").write_bytes(pickle.dumps(logistic))
    joblib.dump(
        MLPClassifier((64,), max_iter=150, random_state=0).fit(data["x_train"], data["y_train"]),
        Path(folder) / "mlp.joblib",
    )


def make_more(folder: str) -> None:
    """In a child: models on the breast cancer table, and those of other libraries where they are installed."""
    import importlib
    import pickle

    import pandas as pd
    from sklearn.ensemble import RandomForestClassifier, VotingClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    table = pd.read_csv(Path(folder) / "breast_cancer_train.csv")
    x, y = table.drop(columns="target"), table["target"]
    forest = RandomForestClassifier(50, max_depth=6, random_state=0)
    vote = VotingClassifier([("linear", LogisticRegression(max_iter=500)), ("trees", forest)], voting="soft")
    finals = {
        "vote": vote,
        "svc": SVC(probability=True, random_state=0),
        "neighbours": KNeighborsClassifier(weights="distance"),
    }
    for library, name in (("xgboost", "XGBClassifier"), ("lightgbm", "LGBMClassifier")):
        try:
            finals[library] = getattr(importlib.import_module(library), name)(n_jobs=1, random_state=0, verbosity=0)
        except ModuleNotFoundError:
            print(library, "is not installed: left out")
    for name, final in finals.items():
        model = make_pipeline(StandardScaler(), final).fit(x, y)
        (Path(folder) / f"{name}.pkl").write_bytes(pickle.dumps(model))


def make_keras(folder: str) -> None:
    """In a child: one network saved in Keras' three formats; images are channels last."""
    import keras

    data = {n: np.moveaxis(a, 1, -1) if n[0] == "x" else a for n, a in _digits(Path(folder)).items()}
    np.savez(Path(folder) / "images.npz", **data)
    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1), name="image"),
            layers.Conv2D(16, 3, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.DepthwiseConv2D(3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(10, activation="softmax", name="probabilities"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(data["x_train"], data["y_train"], epochs=15, batch_size=64, verbose=0)
    model.save(Path(folder) / "digits.keras")
    model.save(Path(folder) / "digits.h5")
    model.export(Path(folder) / "digits_saved_model", verbose=False)


def _page(rows: list[dict[str, Any]]) -> str:
    """The results as a table: one line for each source and precision, a column for each platform."""
    lines = [
        "# Every source on every platform", "",
        "Made by `make matrix` (`benchmarks/matrix.py`); the figures are in `benchmarks/results/matrix.json`.", "",
        "Each cell: size of the file; largest difference from the source's output, over that output's largest",
        "magnitude, on the test rows; loss of accuracy in percentage points (R² points for regressors); seconds to",
        f"convert. A loss above {GATE_PERCENT:g} point, which a budget of that much stops, is marked **over**; a file",
        "that fewer bits made larger, **larger**.", "",
        "The iOS file is checked by this project's evaluator of the saved package, which is not Core ML itself.", "",
        "| source | precision | " + " | ".join(p.value for p in Platform) + " |", "|" + " --- |" * (2 + len(Platform)),
    ]  # fmt: skip
    refusals: list[str] = []
    for source in dict.fromkeys(row["source"] for row in rows):
        for precision in PRECISIONS:
            cells = [
                r
                for p in Platform
                for r in rows
                if (r["source"], r["precision"], r["platform"]) == (source, precision, p)
            ]
            shown = (_shown(cell, rows, refusals) for cell in cells)
            lines.append(f"| {source} | {precision} | " + " | ".join(shown) + " |")
    said = [f"- {s}: {n}" for s, n in dict.fromkeys((r["source"], n) for r in rows for n in r.get("notes", []))]
    lines += ["", "Said when the source was taken in:", "", *said] if said else []
    lines += ["", "Refused, with the reason:", "", *(f"{i}. {reason}" for i, reason in enumerate(refusals, 1))]
    return "\n".join(lines) + "\n"


def _shown(cell: dict[str, Any], rows: list[dict[str, Any]], refusals: list[str]) -> str:
    if "refused" in cell:
        if cell["refused"] not in refusals:
            refusals.append(cell["refused"])
        return f"refused ({refusals.index(cell['refused']) + 1})"
    if cell["checked_by"] is None:
        return f"{_kb(cell['size_bytes'])}, parity not checked"
    parity = f"{cell['parity_max_relative']:.1e}" if cell["parity_max_relative"] is not None else "-"
    over = " **over**" if cell["drop_percent"] > GATE_PERCENT else ""
    larger = " **larger**" if cell["size_bytes"] > _float32_bytes(cell, rows) else ""
    return f"{_kb(cell['size_bytes'])}{larger}, {parity}, {cell['drop_percent']:+.2f}{over}, {cell['seconds']} s"


def _float32_bytes(cell: dict[str, Any], rows: list[dict[str, Any]]) -> int:
    """The size of the same source's float32 file for the same platform; without one, the cell's own."""
    alike = (r for r in rows if (r["source"], r["platform"]) == (cell["source"], cell["platform"]))
    found = (r["size_bytes"] for r in alike if r["precision"] == "float32" and "refused" not in r)
    return int(next(found, cell["size_bytes"]))


def _kb(count: int) -> str:
    return f"{count / 1024:.1f} KB"


if __name__ == "__main__":
    main()
