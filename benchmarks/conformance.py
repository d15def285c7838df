"""How much of ONNX the importer knows, by a suite that is not ours: the ONNX project's own backend tests.

    python benchmarks/conformance.py            # prints the figures, writes docs/conformance.md and the JSON
    python benchmarks/conformance.py --check    # fails when a figure is below the one on record

A node test gives every operand as a graph input, also those that real models hold as constants (weights, shapes, axes).
So a case may pass in three ways, counted apart: *free*, all operands stay inputs; *constant*, all but the first are
constants; *folded*, all are, and the result is computed at import.
"""

import argparse
import json
import sys
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, numpy_helper

from edgewright.errors import EdgewrightError
from edgewright.intake.onnx_graph import HANDLERS, ML_HANDLERS, import_onnx

ROOT = Path(__file__).parents[1]
PAGE, RECORD = ROOT / "docs/conformance.md", ROOT / "benchmarks/results/conformance.json"
OPSET = 13
_TYPES = {
    TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BOOL,
    TensorProto.INT8, TensorProto.INT16, TensorProto.INT32, TensorProto.INT64,
    TensorProto.UINT8, TensorProto.UINT16, TensorProto.UINT32, TensorProto.UINT64,
}  # fmt: skip
WAYS = ("free", "constant", "folded")


@dataclass(frozen=True)
class Verdict:
    """What became of one case; ``way`` is None where it failed, with the reason."""

    name: str
    operator: str
    way: str | None
    reason: str = ""


def node_cases() -> Iterator[Any]:
    """Every node test at opset 13 or later (or of ai.onnx.ml) whose tensors are numbers or booleans."""
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = load_model_tests(kind="node")
    for case in sorted(cases, key=lambda c: c.name):
        domains = {o.domain: o.version for o in case.model.opset_import}
        if domains.get("", OPSET) >= OPSET and not set(domains) - {"", "ai.onnx.ml"} and _is_numeric(case.model):
            yield case


def light_cases() -> Iterator[tuple[str, onnx.ModelProto, list[Any], list[Any]]]:
    """The light_* models: real networks with their own expected output for an input of zeros and ones."""
    from onnx.backend.test.runner import Runner

    folder = Path(onnx.__file__).parent / "backend/test/data/light"
    for path in sorted(folder.glob("light_*.onnx")):
        model = onnx.load(path)
        constants = {i.name for i in model.graph.initializer}
        entries = [e for e in model.graph.input if e.name not in constants]
        inputs = [Runner.generate_dummy_data(e, seed=0, name=path.stem, random=False) for e in entries]
        expected = TensorProto()
        expected.ParseFromString((folder / f"{path.stem}_output_0.pb").read_bytes())
        yield path.stem, model, inputs, [numpy_helper.to_array(expected)]


def judge(name: str, operator: str, model: onnx.ModelProto, data: Any, rtol: float, atol: float) -> Verdict:
    """Import and run one case in the first way that works."""
    reasons = []
    for way in WAYS:
        try:
            wrong = next(
                (w for inputs, outputs in data if (w := _wrong(model, inputs, outputs, way, rtol, atol))), None
            )
        except EdgewrightError as e:
            wrong = str(e).partition("; what still works")[0]
        except Exception as e:
            wrong = f"crash: {type(e).__name__}: {str(e).splitlines()[0] if str(e) else ''}"
        if wrong is None:
            return Verdict(name, operator, way)
        reasons.append(wrong)
    return Verdict(name, operator, None, reasons[0])


def _wrong(
    model: onnx.ModelProto, inputs: Sequence[Any], outputs: Sequence[Any], way: str, rtol: float, atol: float
) -> str | None:
    """What is wrong with the answers; None where nothing is."""
    bound, free = _bound(model, inputs, {"free": len(inputs), "constant": 1, "folded": 0}[way])
    graph = import_onnx(bound)
    with torch.no_grad():
        results = graph(*(torch.from_numpy(np.array(_array(x))) for x in free))
    results = results if isinstance(results, tuple) else (results,)
    outputs = [_array(o) for o in outputs]
    for result, expected in zip(results, outputs, strict=True):
        got = result.numpy()
        if got.shape != np.shape(expected) or got.dtype != np.asarray(expected).dtype:
            return f"wrong: {got.dtype}{got.shape}, expected {np.asarray(expected).dtype}{np.shape(expected)}"
        if not np.allclose(got, expected, rtol=rtol, atol=atol, equal_nan=True):
            return "wrong: values differ"
    return None


def _array(value: Any) -> Any:
    """Some cases hold their data as protocol buffers."""
    return numpy_helper.to_array(value) if isinstance(value, TensorProto) else np.asarray(value)


def _bound(model: onnx.ModelProto, inputs: Sequence[Any], free: int) -> tuple[onnx.ModelProto, list[Any]]:
    """The model with all but the first inputs made constants, and the inputs that are left."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    constants = {i.name for i in model.graph.initializer}
    entries = [e for e in changed.graph.input if e.name not in constants]
    for entry, value in list(zip(entries, inputs, strict=False))[free:]:
        changed.graph.initializer.append(numpy_helper.from_array(_array(value), entry.name))
        changed.graph.input.remove(entry)
    return changed, list(inputs[:free])


def _is_numeric(model: onnx.ModelProto) -> bool:
    ends = [*model.graph.input, *model.graph.output]
    return all(e.type.HasField("tensor_type") and e.type.tensor_type.elem_type in _TYPES for e in ends)


def _operator_of(case: Any) -> str:
    nodes = case.model.graph.node
    if len(nodes) == 1:
        return str(nodes[0].op_type)
    return f"{case.name.removeprefix('test_').partition('_expanded')[0].split('_')[0]} (written out)"


def measure() -> dict[str, Any]:
    """Run everything; the figures that are kept on record, and all verdicts."""
    verdicts = [judge(c.name, _operator_of(c), c.model, c.data_sets, c.rtol, c.atol) for c in node_cases()]
    known = {*HANDLERS, *ML_HANDLERS}
    declared = [v for v in verdicts if v.operator in known]
    light = [judge(n, n, m, [(i, o)], 1e-3, 1e-5) for n, m, i, o in light_cases()]
    return {
        "figures": {
            "node_tests": len(verdicts),
            "node_tests_passed": sum(v.way is not None for v in verdicts),
            "node_tests_of_declared_operators": len(declared),
            "node_tests_of_declared_operators_passed": sum(v.way is not None for v in declared),
            "light_models": len(light),
            "light_models_passed": sum(v.way is not None for v in light),
            "ways": {way: sum(v.way == way for v in verdicts) for way in WAYS},
        },
        "verdicts": verdicts,
        "light": light,
        "declared": declared,
    }


def page(measured: dict[str, Any]) -> str:
    """docs/conformance.md."""
    f = measured["figures"]

    def line(what: str, key: str) -> str:
        return f"| {what} | {f[key + '_passed']} | {f[key]} | {f[key + '_passed'] / max(f[key], 1):.1%} |"

    by_operator: dict[str, list[Verdict]] = defaultdict(list)
    for verdict in measured["verdicts"]:
        by_operator[verdict.operator].append(verdict)
    rows = [
        f"| {operator} | {sum(v.way is not None for v in of)} | {len(of)} | {_first_reason(of)} |"
        for operator, of in sorted(by_operator.items())
    ]
    lights = [f"| {v.name} | {'passed' if v.way else v.reason} |" for v in measured["light"]]
    return "\n".join(
        [
            "# What the importer knows of ONNX",
            "",
            f"Measured with the ONNX project's backend tests (onnx {onnx.__version__}) by `make conformance`; written "
            "by `benchmarks/conformance.py`, not by hand. CI fails when a figure falls.",
            "",
            "| tests | passed | of | share |",
            "|---|---|---|---|",
            line(f"all node tests from opset {OPSET} on, with numbers and booleans", "node_tests"),
            line("node tests of the operators that the importer declares", "node_tests_of_declared_operators"),
            line("light_* networks", "light_models"),
            "",
            "A node test gives every operand as a graph input, also weights, shapes and axes. Of the tests passed, "
            f"{f['ways']['free']} passed with all operands as inputs, {f['ways']['constant']} with all but the first "
            f"as constants (as models hold them), {f['ways']['folded']} with all as constants, folded at import.",
            "",
            "## Networks",
            "",
            "| network | |",
            "|---|---|",
            *lights,
            "",
            "## By operator",
            "",
            "| operator | passed | of | first reason |",
            "|---|---|---|---|",
            *rows,
            "",
        ]
    )


def _first_reason(verdicts: Sequence[Verdict]) -> str:
    reason = next((v.reason for v in verdicts if v.way is None), "")
    return reason.replace("|", "\\|").replace("\n", " ")[:140]


def fallen(figures: dict[str, Any]) -> list[str]:
    """The figures that are below the record."""
    record = json.loads(RECORD.read_text())
    keys = [k for k in record if k.endswith("_passed")]
    return [f"{k}: {figures[k]}, on record {record[k]}" for k in keys if figures[k] < record[k]]


def main() -> int:
    """Measure, and either compare with the record or write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="fail when a figure is below the one on record")
    parser.add_argument("--failures", action="store_true", help="print every case that failed, with the reason")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    measured = measure()
    print(json.dumps(measured["figures"], indent=2))
    if options.failures:
        for verdict in measured["verdicts"] + measured["light"]:
            if verdict.way is None:
                print(f"{verdict.operator:24} {verdict.name:60} {verdict.reason[:160]}")
    if options.check:
        for figure in fallen(measured["figures"]):
            print(f"fallen: {figure}", file=sys.stderr)
        return 1 if fallen(measured["figures"]) else 0
    PAGE.write_text(page(measured))
    RECORD.write_text(json.dumps(measured["figures"], indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
