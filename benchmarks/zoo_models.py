"""Build the models of the public zoo: one folder each with the model file, ``data.npz`` and ``model.json``.

    python benchmarks/zoo_models.py --out .zoo/models [--only NAME ...] [--family FAMILY ...] [--again]

Weights are random, by a seed that depends on the model's name, but for the models that packages ship. What cannot be
built, or that `torch.export` itself does not take, leaves its reason in ``failure.txt`` and is not tried again but by
``--again``.
"""

import argparse
import importlib
import json
import multiprocessing
import os
import shutil
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from benchmarks.zoo_environment import FOLDER, activate, ensure_site, import_torchvision
from benchmarks.zoo_recipes import Recipe, write_rows

__all__ = ["FAMILIES", "MODELS", "build", "roster"]

MODELS = FOLDER / "models"
FAMILIES = ("torchvision", "timm", "transformers", "keras", "own", "shipped")
_LIMIT_S = 600
_DESCRIPTION, _FAILURE = "model.json", "failure.txt"
_SUFFIX = {"torch": ".pt2", "keras": ".keras"}


def roster() -> list[Recipe]:
    """Every recipe of the zoo; no ML framework is imported."""
    modules = [importlib.import_module(f"benchmarks.zoo_families.{family}_models") for family in FAMILIES]
    return [recipe for module in modules for recipe in module.recipes()]


def build(recipes: list[Recipe], out: Path, *, again: bool = False) -> dict[str, str]:
    """Build what was not tried yet, each in a child process; the reasons of all that failed, by name."""
    for family in FAMILIES:
        wanted = [r for r in recipes if r.family == family and (again or not _was_tried(out / r.name))]
        if wanted:
            family_process = multiprocessing.get_context("spawn").Process(
                target=_build_family, args=(family, [r.name for r in wanted], out)
            )
            family_process.start()
            family_process.join()
    failed = [r.name for r in recipes if (out / r.name / _FAILURE).is_file()]
    return {name: (out / name / _FAILURE).read_text() for name in failed}


def _was_tried(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (_DESCRIPTION, _FAILURE))


def _build_family(family: str, names: list[str], out: Path) -> None:
    """Import the family's framework once, then fork for each model: a crash or a leak stays with one."""
    _import_framework(family)
    chosen = {r.name: r for r in roster() if r.name in names}
    for name in names:
        shutil.rmtree(out / name, ignore_errors=True)
        (out / name).mkdir(parents=True)
        # TensorFlow does not survive a fork; where it is used it is first imported in the child.
        process = multiprocessing.get_context("fork").Process(target=_build_one, args=(chosen[name], out / name))
        process.start()
        process.join(_LIMIT_S)
        if process.is_alive():
            process.kill()
            process.join()
            (out / name / _FAILURE).write_text(f"not built after {_LIMIT_S} s")
        elif process.exitcode:
            (out / name / _FAILURE).write_text(f"the building process ended with {process.exitcode}")
        failure = out / name / _FAILURE
        print(name, failure.read_text()[:200] if failure.is_file() else "built", flush=True)


def _import_framework(family: str) -> None:
    if family != "transformers":  # it would import torchvision wherever it finds it
        activate()
    if family in {"keras", "shipped"}:
        return
    import torch

    torch.set_num_threads(1)
    if family in {"torchvision", "timm"}:
        import_torchvision()
    if family != "own":
        importlib.import_module(family)


def _build_one(recipe: Recipe, folder: Path) -> None:
    began = time.perf_counter()
    try:
        found = _saved(recipe, folder)
        write_rows(recipe, folder / "data.npz")
    except Exception as e:
        shutil.rmtree(folder)
        folder.mkdir()
        lines = [line for line in str(e).splitlines() if line.strip()] or [repr(e)]
        (folder / _FAILURE).write_text(f"{type(e).__name__}: {lines[0][:300]}")
        (folder / "traceback.txt").write_text(traceback.format_exc())
        return
    file = folder / found.pop("file")
    size = sum(f.stat().st_size for f in file.rglob("*")) if file.is_dir() else file.stat().st_size
    described = {
        "name": recipe.name,
        "family": recipe.family,
        "file": file.name,
        "bytes": size,
        "note": recipe.note,
        "seconds": round(time.perf_counter() - began, 1),
        **found,
    }
    (folder / _DESCRIPTION).write_text(json.dumps(described, indent=1) + "\n")


def _saved(recipe: Recipe, folder: Path) -> dict[str, Any]:
    match recipe.kind:
        case "torch":
            from benchmarks.zoo_torch import save_program

            path = folder / f"{recipe.name}{_SUFFIX['torch']}"
            return {"file": path.name, **save_program(recipe, path)}
        case "keras":
            from benchmarks.zoo_keras import save_network

            path = folder / f"{recipe.name}{_SUFFIX['keras']}"
            return {"file": path.name, **save_network(recipe, path)}
        case _:
            source = Path(recipe.make())
            path = folder / f"{recipe.name}{source.suffix}"
            shutil.copyfile(source, path)
            return {"file": path.name}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=MODELS, help="where the models go")
    parser.add_argument("--only", nargs="+", default=[], help="names, or beginnings of names")
    parser.add_argument("--family", nargs="+", choices=FAMILIES, default=FAMILIES)
    parser.add_argument("--again", action="store_true", help="build what is there already, too")
    arguments = parser.parse_args()
    ensure_site()
    wanted = [r for r in roster() if r.family in arguments.family]
    if arguments.only:
        wanted = [r for r in wanted if r.name.startswith(tuple(arguments.only))]
    if not wanted:
        sys.exit(f"no model of the zoo begins with {', '.join(arguments.only)}")
    build(wanted, arguments.out, again=arguments.again)
    built = sum((arguments.out / r.name / _DESCRIPTION).is_file() for r in wanted)
    print(f"{built} of {len(wanted)} built in {arguments.out}")


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    main()
