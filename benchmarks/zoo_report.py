"""The figures of the zoo: ours and the peers', by column. Pure but for the versions and the models' descriptions."""

import datetime
import json
import math
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.zoo_cells import (
    COLUMNS,
    DB_FLOOR,
    DB_LIMIT,
    DB_MARGIN,
    FLOAT32_LIMIT,
    OURS,
    ROUNDINGS,
    ROUNDINGS_LIMIT,
    Column,
    Outcome,
    Record,
    figures,
    outcome_of,
)
from benchmarks.zoo_environment import onnx2tf_version
from benchmarks.zoo_peers import PEERS, PLATFORM_INT8

__all__ = ["figures_by_tool", "outcomes_of", "report", "summary"]

_DISTRIBUTIONS = (
    *("torch", "keras", "tensorflow", "transformers", "onnx", "onnxruntime", "onnxscript", "tf2onnx"),
    *("coremltools", "litert-torch", "ai-edge-litert", "ai-edge-quantizer"),
)

Key = tuple[str, str, str]
"""(model, tool, column)"""


def outcomes_of(records: Sequence[Record]) -> dict[Key, Outcome]:
    """Of every record; int8 is judged beside what the platform's own quantizer gives, where that was tried."""
    quantized = {(r.model, r.tool): r.least_decibels for r in records if r.status == "made" and not r.mismatch}
    found = {}
    for record in records:
        own = [quantized.get((record.model, peer)) for peer in PLATFORM_INT8[record.column.platform]]
        best = max((d for d in own if d is not None), default=None)
        found[record.model, record.tool, str(record.column)] = outcome_of(record, best)
    return found


def figures_by_tool(outcomes: Mapping[Key, Outcome]) -> dict[str, Any]:
    """Ours for all cells and each column; each peer's, with ours on the very same models beside it."""
    ours = {key: outcome for key, outcome in outcomes.items() if key[1] == OURS}
    of_ours = {"all": figures(ours.values())}
    for column in COLUMNS:
        of_ours[str(column)] = figures(o for (_, _, c), o in ours.items() if c == str(column))
    found: dict[str, Any] = {OURS: of_ours}
    for peer, direct in PEERS.items():
        column = str(Column(direct.platform, direct.precision))
        theirs = {model: o for (model, tool, _), o in outcomes.items() if tool == peer}
        same = [ours[m, OURS, column] for m in theirs if (m, OURS, column) in ours]
        if theirs:
            found[peer] = {"column": column, **figures(theirs.values()), "ours_on_the_same": figures(same)}
    return found


def report(
    records: Sequence[Record], models: Path, failures: Mapping[str, str], *, wanted: int, earlier: int
) -> dict[str, Any]:
    """All that ``zoo.json`` holds; ``earlier`` of our cells are of earlier code."""
    outcomes = outcomes_of(records)
    found = figures_by_tool(outcomes)
    names = sorted({record.model for record in records})
    return {
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        "processor": _processor(),
        "versions": {**{name: metadata.version(name) for name in _DISTRIBUTIONS}, "onnx2tf": onnx2tf_version()},
        "rules": {
            "float32_relative": FLOAT32_LIMIT,
            "float32_source_roundings": ROUNDINGS,
            "float32_relative_beside_rounding": ROUNDINGS_LIMIT,
            "int8_decibels": DB_LIMIT,
            "int8_decibels_below_own_quantizer": DB_MARGIN,
            "int8_decibels_floor": DB_FLOOR,
        },
        "architectures": {"in_the_roster": wanted, "run": len(names)},
        **found[OURS]["all"],
        "of_earlier_code": earlier,
        "figures": found,
        "not_exportable": dict(sorted(failures.items())),
        "models": {name: _described(models / name) for name in names},
        "records": [_entry(record, outcomes) for record in records],
    }


def _described(folder: Path) -> dict[str, Any]:
    held = json.loads((folder / "model.json").read_text())
    return {
        key: held[key] for key in ("family", "file", "bytes", "parameters", "inputs", "outputs", "note") if key in held
    }


def _entry(record: Record, outcomes: Mapping[Key, Outcome]) -> dict[str, Any]:
    made = record.status == "made" and not record.mismatch
    decibels = record.least_decibels if made else math.nan
    return {
        "model": record.model,
        "tool": record.tool,
        "column": str(record.column),
        "outcome": outcomes[record.model, record.tool, str(record.column)],
        "relative": record.worst_relative if made else None,
        **({} if record.source_rounding is None else {"source_rounding": record.source_rounding}),
        "decibels": round(decibels, 1) if math.isfinite(decibels) else None,
        "size_bytes": record.size_bytes,
        "seconds": record.seconds,
        "intake_seconds": record.intake_seconds,
        "stage": record.stage,
        "message": record.message or record.mismatch,
        "notes": list(record.notes),
    }


def summary(record: Record) -> str:
    """One line of progress; its outcome is judged without the peers."""
    head = f"{record.model:40} {record.tool:14} {record.column!s:20} {outcome_of(record):8} {record.seconds:6.1f} s"
    if record.status != "made":
        return f"{head} {record.stage}: {record.message[:160]}"
    if record.mismatch:
        return f"{head} {record.mismatch}"
    worst = record.worst_relative
    off = "not finite" if worst is None else f"{worst:.1e}, {record.least_decibels:.0f} dB"
    return f"{head} {off}, {record.size_bytes / 1e6:.2f} MB"


def _processor() -> str:
    with Path("/proc/cpuinfo").open() as lines:
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
