"""Packages that the stand-in for coremltools runs."""

from pathlib import Path

import numpy as np

from edgewright.export import mlpackage


def core_ml_package(path: Path, weights: np.ndarray, *, repeats: int = 1) -> Path:
    """``softmax(x W)`` as a package: the description as Core ML has it, the weights as the stand-in reads them."""
    model = mlpackage._proto("Model_pb2").Model(specificationVersion=8)
    for features, name, width in (
        (model.description.input, "x", len(weights)),
        (model.description.output, "scores", weights.shape[1]),
    ):
        feature = features.add(name=name)
        feature.type.multiArrayType.shape.extend([1, width])
        feature.type.multiArrayType.dataType = feature.type.multiArrayType.FLOAT32
    model.mlProgram.version = 1
    file = path / "Data/com.apple.CoreML/model.mlmodel"
    file.parent.mkdir(parents=True)
    file.write_bytes(model.SerializeToString())
    np.savez(path / "stand_in.npz", w=weights.astype(np.float32), repeats=repeats)
    return path
