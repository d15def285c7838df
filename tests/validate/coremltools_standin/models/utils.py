"""Compiling."""

import shutil
from pathlib import Path

WEIGHTS = "stand_in.npz"


def compile_model(model, destination_path=None):
    if not model.endswith(".mlpackage") or not destination_path.endswith(".mlmodelc"):
        raise ValueError(f"Invalid model file path: '{model}'")
    if not (Path(model) / WEIGHTS).is_file():
        raise RuntimeError("Error compiling model: unable to parse the model")
    Path(destination_path).mkdir()
    shutil.copy(Path(model) / WEIGHTS, destination_path)
    return destination_path
