"""Do the tests notice sabotage? Guards are changed one operator at a time, and their tests run against each change.

    make mutants                      every file of `mutants_targets.py`; MINUTES=n: as many as begin in that time
    python benchmarks/mutants.py --only store    --again: the mutants alone that survived last time

cosmic-ray, not mutmut: its operators can be called one by one, so that single functions are mutated and the tests run
by us (see `mutants_runner.py`); mutmut mutates whole files with a runner of its own.

A mutant that no test notices has its reason in ``mutants_survivors.yaml``, by file, function and the line before and
after. Exit code 1 where one has none. ``benchmarks/results/mutants.json`` holds each file's last run.
"""

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from benchmarks.mutants_operators import Mutant, mutants_of, tool_version
from benchmarks.mutants_runner import Tree
from benchmarks.mutants_targets import TARGETS, Target

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "mutants.json"
REASONS = ROOT / "benchmarks" / "mutants_survivors.yaml"

Key = tuple[str, str, str, str]


def main() -> int:
    """Run the targets; 1 where a survivor has no reason."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="files whose path holds this")
    parser.add_argument("--minutes", type=float, help="begin no other file after so many")
    parser.add_argument("--again", action="store_true", help="only the mutants that survived the last run")
    options = parser.parse_args()
    ends = time.monotonic() + 60 * options.minutes if options.minutes else float("inf")
    version, reasons, unexplained = tool_version(), _reasons(), 0
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        tree = Tree(ROOT, Path(folder))
        for target in (t for t in TARGETS if options.only is None or options.only in t.file):
            if time.monotonic() > ends:
                print(f"{target.file}: not begun, the time is over")
                continue
            row = _run(tree, target, _kept().get(target.file) if options.again else None)
            unexplained += _told(target.file, row, reasons)
            _keep(version, target.file, row)
    return 1 if unexplained else 0


def _run(tree: Tree, target: Target, last: dict[str, Any] | None) -> dict[str, Any]:
    """A file's figures; with those of its last run, the mutants that were killed then are not tried again."""
    began = time.monotonic()
    tests, seconds = tree.tests_of(target.file, target.functions, target.tests)
    mutants = mutants_of(target.file, (tree.root / target.file).read_text(), target.functions)
    verdicts: Counter[str] = Counter()
    survivors = []
    for mutant in mutants:
        if last is not None and not any(_is(mutant, survivor) for survivor in last["survived"]):
            continue
        chosen = tests[mutant.function]
        with tree.changed(mutant.file, mutant.content):
            verdict = tree.verdict(chosen, sum(seconds[t] for t in chosen)) if chosen else "survived"
        verdicts[verdict] += 1
        print({"survived": "S", "timed out": "T"}.get(verdict, "."), end="", file=sys.stderr, flush=True)
        if verdict == "survived":
            survivors.append(mutant)
    before = last or {"timed_out": 0, "seconds": 0}
    timed_out = before["timed_out"] + verdicts["timed out"]
    return {
        "guard": target.guard,
        "mutants": len(mutants),
        "killed": len(mutants) - timed_out - len(survivors),
        "timed_out": timed_out,
        "survived": [_survivor(mutant) for mutant in survivors],
        "seconds": before["seconds"] + round(time.monotonic() - began),
    }


def _is(mutant: Mutant, survivor: dict[str, Any]) -> bool:
    return (mutant.function, mutant.was, mutant.now) == (survivor["function"], survivor["was"], survivor["now"])


def _survivor(mutant: Mutant) -> dict[str, Any]:
    return {
        "function": mutant.function,
        "line": mutant.line,
        "operator": mutant.operator,
        "was": mutant.was,
        "now": mutant.now,
    }


def _told(file: str, row: dict[str, Any], reasons: dict[Key, str]) -> int:
    """Print a file's figures; how many of its survivors have no reason."""
    survived = row["survived"]
    print(f"{file}: {row['mutants']} mutants, {row['killed']} killed, {row['timed_out']} timed out, "
          f"{len(survived)} survived, {row['seconds']} s", flush=True)  # fmt: skip
    keys = {(file, s["function"], s["was"], s["now"]): s for s in survived}
    for key in (key for key in reasons if key[0] == file and key not in keys):
        print(f"  a reason for no survivor: {key[1]}: {key[2]}  ->  {key[3]}")
    lacking = [(key, survivor) for key, survivor in keys.items() if key not in reasons]
    for (_, function, was, now), survivor in lacking:
        print(f"  no reason: {function}, line {survivor['line']}, {survivor['operator']}\n    - {was}\n    + {now}")
    return len(lacking)


def _reasons() -> dict[Key, str]:
    listed = yaml.safe_load(REASONS.read_text()) or []
    return {(row["file"], row["function"], row["was"], row["now"]): row["reason"] for row in listed}


def _kept() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(RESULT.read_text())["files"] if RESULT.is_file() else {}
    return found


def _keep(version: str, file: str, row: dict[str, Any]) -> None:
    known = {target.file for target in TARGETS}
    files = {name: found for name, found in sorted({**_kept(), file: row}.items()) if name in known}
    totals = {figure: sum(found[figure] for found in files.values()) for figure in ("mutants", "killed", "timed_out")}
    survived = sum(len(found["survived"]) for found in files.values())
    RESULT.write_text(json.dumps({"tool": version, **totals, "survived": survived, "files": files}, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
