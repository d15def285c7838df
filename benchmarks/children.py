"""What a step's process costs: forked from a server that has the frameworks imported, beside an interpreter of its own.

``make bench-children`` runs it and writes ``benchmarks/results/children.json``. For each set of frameworks the same job
(it imports the framework, and ends) is run both ways by `edgewright.child.run_in_child`, in turn.
"""

import json
import statistics
import time
from importlib import import_module
from pathlib import Path

from edgewright import forking
from edgewright.child import run_in_child
from edgewright.forking import Frameworks
from edgewright.validate.machine import machine

RESULT = Path(__file__).parent / "results" / "children.json"
REPEATS = 5
IMPORTED = {
    Frameworks.TORCH: "torch",
    Frameworks.TABLES: "skl2onnx",
    Frameworks.LITERT: "litert_torch",
    Frameworks.COREML: "coremltools",
    Frameworks.TENSORFLOW: "tensorflow",
}


def main() -> None:
    found = {str(frameworks): _measured(frameworks) for frameworks in IMPORTED}
    result = {"processor": machine(), "repeats": REPEATS, "median_seconds": found}
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(RESULT.read_text())


def imported(module: str) -> None:
    """The job."""
    import_module(module)


def _measured(frameworks: Frameworks) -> dict[str, float]:
    first = _seconds(frameworks, frameworks)  # starts the server
    pairs = [(_seconds(frameworks, frameworks), _seconds(frameworks, Frameworks.NONE)) for _ in range(REPEATS)]
    forked, interpreter = (statistics.median(times) for times in zip(*pairs, strict=True))
    found = {"forked": forked, "interpreter": interpreter, "first_with_its_server": first}
    return {name: round(seconds, 3) for name, seconds in found.items()}


def _seconds(step: Frameworks, served: Frameworks) -> float:
    began = time.perf_counter()
    run_in_child("benchmarks.children:imported", {"module": IMPORTED[step]}, what="importing", frameworks=served)
    return time.perf_counter() - began


if __name__ == "__main__":
    if not forking.is_available():
        raise SystemExit("fork servers are there on Linux only")
    main()
