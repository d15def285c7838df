"""Which rows speak for a file of fewer bits: those that no range was taken from."""

from pathlib import Path

import numpy as np
import pytest

from edgewright.artifact import Format
from edgewright.export import parity_check
from edgewright.export.declaration import Declared, File


@pytest.mark.parametrize(("held_out", "decibels"), [(5, 20), (0, 40)])
def test_a_file_of_fewer_bits_is_judged_on_rows_without_a_share_in_its_ranges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held_out: int, decibels: float
) -> None:
    chance = np.random.default_rng(0)
    rows = {"calibration.x.x": chance.normal(size=(30, 8)), "validation.x.x": 100 + chance.normal(size=(held_out, 8))}
    np.savez(tmp_path / "data.npz", **{name: array.astype(np.float32) for name, array in rows.items()})

    def answered(path: Path, form: Format, given: dict[str, np.ndarray], outputs: list[str]) -> dict[str, np.ndarray]:
        # 40 dB on the calibration rows, 20 dB on those that are far from them.
        off = np.where(given["x"] > 50, 0.1, 0.01) if form is Format.TFLITE else 0.0
        return {"y": given["x"] * (1 + off)}

    monkeypatch.setattr(parity_check, "outputs_of", answered)
    monkeypatch.setattr(
        parity_check, "_expected", lambda _, given, outputs, __: answered(_, Format.ONNX, given, outputs)
    )
    monkeypatch.setattr(parity_check, "gpu_report", lambda _: [])
    monkeypatch.setattr("edgewright.export.tflite.tensors", lambda _: Declared((), (), "1.0"))
    found = parity_check.check(
        reference=File(tmp_path / "m.graph", Format.TORCH_GRAPH),
        exported=File(tmp_path / "m.tflite", Format.TFLITE),
        dataset=tmp_path / "data.npz",
        inputs=["x"],
        outputs=["y"],
        limit=None,
        min_snr_db=0.0,
        has_thresholds=False,
    )
    assert found.declared.snr_db == pytest.approx(decibels, abs=0.5)
