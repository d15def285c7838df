"""A table as people have it, models over it, and the device's way from a raw row to an answer."""

import json
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
import torch

from edgewright.artifact import Intake
from edgewright.data import DataSpec
from edgewright.intake import child, torch_graph
from edgewright.intake.sklearn_source import answers
from edgewright_runtime.predict.encoding import as_json, encode

ROWS = 400


def written(folder: Path) -> Path:
    """A table with blanks in text, in whole numbers and in booleans, and a label that hangs on all of it."""
    chance = np.random.default_rng(7)
    frame = pd.DataFrame(
        {
            "garage": chance.choice(["attached", "detached", None], ROWS, p=[0.4, 0.3, 0.3]),
            "city": chance.choice([*"abcdef", "rare", "rarer"], ROWS, p=[0.25, 0.2, 0.2, 0.15, 0.1, 0.06, 0.03, 0.01]),
            "rooms": np.where(chance.random(ROWS) < 0.15, np.nan, chance.integers(1, 7, ROWS)),
            "area": chance.normal(120, 30, ROWS).round(1),
            "new": chance.random(ROWS) < 0.5,
            "lift": np.array([True, False, None], dtype=object)[chance.integers(0, 3, ROWS)],
            "zip": chance.choice(["01234", "12345", "98765"], ROWS),
            "id": chance.choice([16777216, 16777217, 99999999], ROWS),
            "heat": chance.choice(["NA", "None", "gas"], ROWS),
        }
    )
    score = (
        (frame.garage == "attached") * 1.5
        - frame.garage.isna() * 2.0
        + frame.city.isin(list("ace")) * 1.5
        + frame.rooms.fillna(8) / 4
        + (frame.area - 120) / 40
        + frame.new * 1.0
        + (frame.lift == True) * 1.5  # noqa: E712 - an object column
        + (frame.zip == "01234") * 2.0
        + (frame.id == 16777217) * 2.0
        + (frame.heat == "NA") * 1.5
    )
    noisy = score + chance.normal(0, 0.4, ROWS)
    path = folder / "table.csv"
    frame.assign(sold=np.where(noisy > noisy.median(), "yes", "no"), price=(noisy * 10).round(2)).to_csv(
        path, index=False
    )
    return path


def taken(model: Any, folder: Path, spec: DataSpec) -> Intake:
    """Through intake, in this process."""
    file = folder / "model.pkl"
    file.write_bytes(pickle.dumps(model))
    return child.take_in(file, spec, folder / "store", "model")


def raw_rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as an application sends them: JSON, what is missing left out."""
    rows = []
    for row in frame.to_dict("records"):
        kept = {k: as_json(v) for k, v in row.items() if not (v is None or (isinstance(v, float) and math.isnan(v)))}
        rows.append(json.loads(json.dumps(kept)))
    return rows


def on_device(intake: Intake, rows: list[dict[str, Any]]) -> list[np.ndarray]:
    """What the ONNX graph and the torch graph answer to raw rows."""
    features = encode(rows, intake.model.inputs, intake.model.preprocessing)["features"]
    session = onnxruntime.InferenceSession(intake.model.onnx.path, providers=["CPUExecutionProvider"])
    assert intake.model.graph is not None, intake.model.graph_refusal
    graph = torch_graph.load(intake.model.graph.path)
    constants = graph.state_dict().values()
    assert not any(t.isnan().any() for t in constants if t.is_floating_point()), "Core ML takes no NaN for a constant"
    with torch.no_grad():
        answered = graph(torch.from_numpy(features)).numpy()
    return [session.run(None, {"features": features})[0], answered]


def assert_device_agrees(intake: Intake, model: Any, given: Any, frame: pd.DataFrame, tolerance: float = 1e-5) -> None:
    """``given`` is what the model takes, ``frame`` the same rows with the columns that a device sends."""
    expected = answers(model, given)[0]
    for got in on_device(intake, raw_rows(frame)):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=tolerance * max(1.0, np.abs(expected).max()))
