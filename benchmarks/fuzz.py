"""Fuzz the guards that read files of others: pickles, archives, `.pt2` programs and Keras configurations.

    make fuzz                       20,000 inputs for each guard; COUNT=n: so many
    python benchmarks/fuzz.py --only pickle --count 2000 --seed 7

Inputs are valid files, changed where it hurts: opcodes and names put in, cut out and moved, entries renamed and
doubled, bytes flipped. A guard may take one or refuse it in an error of ours. What counts as a failure: any other
exception, a step that takes longer than a minute, and an audit event (PEP 578) of a program, a connection, a removal,
or of writing a file. Exit code 1 on any; writes ``benchmarks/results/fuzz.json`` when all guards were run.
"""

import argparse
import faulthandler
import io
import json
import pickle
import random
import sys
import tempfile
import time
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from edgewright.errors import EdgewrightError
from edgewright.validate.machine import machine

RESULT = Path(__file__).parent / "results" / "fuzz.json"
_LIMIT_S = 60
_FORBIDDEN = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "socket.connect", "socket.bind",
              "os.remove", "os.rename", "os.rmdir", "os.chmod", "os.link", "os.symlink", "shutil.rmtree",
              "ctypes.dlopen", "webbrowser.open", "ftplib.connect", "urllib.Request", "code.__new__")  # fmt: skip
_WORDS = [
    b"cos\nsystem\n", b"cbuiltins\neval\n", b"cbuiltins\ngetattr\n", b"csubprocess\nPopen\n", b"cnumpy\nload\n",
    b"csklearn.metrics._scorer\n_PassthroughScorer\n", b"csklearn.linear_model._logistic\nLogisticRegression\n",
    b"cnumpy\nndarray\n", b"ccopyreg\n_reconstructor\n", b"cbuiltins\nlist\n", b"cbuiltins\ndict\n", b"c__main__\nx\n",
    b"cfunctools\npartial\n", b"cxgboost.core\nBooster\n", b"cnumpy\nlog\n", b"X\x07\x00\x00\x00tofile\x00",
    b"X\x06\x00\x00\x00tofile", b"X\x0d\x00\x00\x00stack_method_", b"X\x08\x00\x00\x00__dict__", b"X\x02\x00\x00\x00id",
    b"(", b")", b"}", b"]", b"t", b"l", b"d", b"R", b"b", b"o", b"i", b"0", b"1", b"2", b"a", b"e", b"s", b"u",
    b"N", b"K\x01", b"\x81", b"\x92", b"\x93", b"\x85", b"\x86", b"\x87", b"\x8f", b"\x90", b"\x91", b"\x94", b"h\x00",
    b"h\x05", b"q\x00", b"\x80\x05", b"\x95\x00\x00\x00\x00\x00\x00\x00\x00", b"\x82\x01", b"P1\n", b"Q", b".",
]  # fmt: skip
_NAMES = [
    "Lambda", "TFOpLambda", "io.write_file", "raw_ops.WriteFile", "os", "builtins", "eval", "keras.layers", "Dense",
    "__lambda__", "math.exp.__globals__", "keras.src.ops.core", "WhileLoop", "function", "", None, 3, [], {},
]  # fmt: skip

Input = tuple[str, bytes]


class Watch:
    """What a guard reached out for, by audit events; one hook for the process, since none can be removed."""

    def __init__(self, scratch: Path) -> None:
        self.scratch, self.active, self.events = str(scratch), False, list[str]()
        sys.addaudithook(self._heard)

    def _heard(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.active:
            return
        if event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
            if not str(arguments[0]).startswith(self.scratch):
                self.events.append(f"open {arguments[0]} {arguments[1]}")
        elif event in {"os.remove", "os.rmdir"} and arguments[-1] not in {None, -1}:
            return  # a temporary folder of the guard's own, emptied by its descriptor
        elif event == "ctypes.dlopen" and str(arguments[0]).startswith(sys.prefix):
            return  # a library that the file may name, such as XGBoost, is imported when it does
        elif event in _FORBIDDEN and not str(arguments[:1]).startswith(f"('{self.scratch}"):
            self.events.append(f"{event} {arguments[:2]}")


def pickles(chance: random.Random) -> Iterator[Input]:
    """Fitted estimators, with opcodes and names put among theirs."""
    import numpy as np
    from sklearn.ensemble import GradientBoostingClassifier, StackingClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    x, y = np.random.default_rng(0).normal(size=(20, 2)), np.arange(20) % 2
    models = [
        LogisticRegression(),
        make_pipeline(StandardScaler(), LogisticRegression()),
        GradientBoostingClassifier(n_estimators=2, max_depth=2),
        StackingClassifier([("a", LogisticRegression())], cv=2),
        make_pipeline(OneHotEncoder(handle_unknown="ignore"), LogisticRegression()),
    ]
    seeds = [pickle.dumps(model.fit(x, y), protocol) for model in models for protocol in (0, 2, 4)]
    while True:
        yield "m.pkl", _spliced(chance.choice(seeds), chance, _WORDS)


def _spliced(content: bytes, chance: random.Random, words: list[bytes]) -> bytes:
    made = bytearray(content)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(made) + 1)
        match chance.randrange(5):
            case 0:
                made[at:at] = b"".join(chance.choice(words) for _ in range(chance.randint(1, 4)))
            case 1:
                del made[at : at + chance.randint(1, 20)]
            case 2 if at < len(made):
                made[at] = chance.randrange(256)
            case 3:
                start = chance.randrange(len(made) or 1)
                made[at:at] = made[start : start + chance.randint(1, 60)]
            case _:
                # At the end, where the whole model stands on the stack.
                made[-1:] = b"".join(chance.choice(words) for _ in range(chance.randint(1, 5))) + b"."
    return bytes(made)


def programs(chance: random.Random) -> Iterator[Input]:
    """A ``.pt2``, its entries renamed, doubled, and changed inside."""
    import torch

    class Small(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(3, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x).relu()

    stream = io.BytesIO()
    free = ({0: torch.export.Dim("n")},)
    torch.export.save(torch.export.export(Small(), (torch.zeros(2, 3),), dynamic_shapes=free), stream)
    with zipfile.ZipFile(stream) as archive:
        entries = [(info.filename, archive.read(info)) for info in archive.infolist()]
    words = [
        b"torch.ops.aten.from_file.default",
        b"os.system",
        b'"expr_str": "__import__(1)"',
        b"Symbol('x').free",
        b"{",
        b'"',
    ]
    while True:
        changed = [
            (_renamed(name, chance), _spliced(data, chance, words) if data and chance.random() < 0.3 else data)
            for name, data in entries
        ]
        if chance.random() < 0.3:
            changed.append(chance.choice(changed))
        if chance.random() < 0.2:
            chance.shuffle(changed)
        made = io.BytesIO()
        with warnings.catch_warnings(), zipfile.ZipFile(made, "w") as archive:
            warnings.simplefilter("ignore")
            for name, data in changed:
                archive.writestr(zipfile.ZipInfo(name), data)
        content = made.getvalue()
        yield "m.pt2", _spliced(content, chance, [b"PK\x05\x06", b"PK\x01\x02"]) if chance.random() < 0.2 else content


def _renamed(name: str, chance: random.Random) -> str:
    if chance.random() < 0.9:
        return name
    return chance.choice(
        [name.upper(), f"../{name}", f"/{name}", f"{name}.py", f"{name}\\x", f"a/{name}", f"{name}\u0301"]
    )


def configurations(chance: random.Random) -> Iterator[Input]:
    """A Keras archive, with names and values of its configuration exchanged."""
    layers = [
        {"module": "keras.layers", "class_name": "InputLayer", "config": {"batch_shape": [None, 3], "name": "x"}},
        {"module": "keras.layers", "class_name": "Dense", "config": {"units": 2, "activation": "relu"}},
        {"class_name": "TFOpLambda", "config": {"name": "e", "function": "math.exp"}},
        {"module": "keras.src.ops.numpy", "class_name": "Add", "config": {}, "registered_name": "Add"},
        {"class_name": "RNN", "config": {"cell": {"class_name": "GRUCell", "config": {"units": 2}}}},
    ]
    base = {
        "module": "keras",
        "class_name": "Functional",
        "config": {"layers": layers},
        "compile_config": {"loss": "mse"},
    }
    while True:
        value = json.loads(json.dumps(base))
        for _ in range(chance.randint(1, 4)):
            _exchange(value, chance)
        made = io.BytesIO()
        with zipfile.ZipFile(made, "w") as archive:
            archive.writestr("metadata.json", "{}")
            text = json.dumps(value).encode()
            archive.writestr(
                "config.json", _spliced(text, chance, [b"[", b"{", b"}"]) if chance.random() < 0.1 else text
            )
        yield "m.keras", made.getvalue()


def _exchange(value: Any, chance: random.Random) -> None:
    holders = [value]
    for holder in holders:
        inner = holder.values() if isinstance(holder, dict) else holder
        holders += [part for part in inner if isinstance(part, (dict, list)) and part]
    holder = chance.choice(holders)
    if isinstance(holder, dict):
        key = chance.choice([*holder, "function", "function_type", "residual_fn", "class_name", "module", "activation"])
        holder[key] = chance.choice(_NAMES)
    else:
        holder.insert(
            chance.randrange(len(holder) + 1), chance.choice([*_NAMES, {"class_name": chance.choice(_NAMES)}])
        )


def _guards() -> dict[str, tuple[Callable[[random.Random], Iterator[Input]], Callable[[Path], object]]]:
    from edgewright.intake.archives import normalized
    from edgewright.intake.keras_guard import inspect_keras_file
    from edgewright.intake.pickle_guard import load_model
    from edgewright.intake.pt2_guard import inspect_program

    def program(path: Path) -> None:
        with normalized(path) as copy:
            inspect_program(copy)

    def configuration(path: Path) -> None:
        with normalized(path) as copy:
            inspect_keras_file(copy)

    return {
        "pickle": (pickles, load_model),
        "pt2": (programs, program),
        "keras": (configurations, configuration),
    }


def fuzz(name: str, count: int, seed: int, scratch: Path, watch: Watch) -> dict[str, Any]:
    """The figures of one guard; ``failures`` are the first twenty, each with the number of its input."""
    inputs, guard = _guards()[name]
    outcomes: Counter[str] = Counter()
    failures: list[str] = []
    began = time.perf_counter()
    for number, (file, content) in zip(range(count), inputs(random.Random(seed)), strict=False):
        path = scratch / file
        path.write_bytes(content)
        faulthandler.dump_traceback_later(_LIMIT_S, exit=True)
        watch.events.clear()
        watch.active = True
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                guard(path)
            outcome = "taken"
        except EdgewrightError as e:
            outcome = type(e).__name__
        except BaseException as e:  # that is what is looked for
            outcome = f"failed: {type(e).__name__}"
            failures.append(f"input {number}: {type(e).__name__}: {e}")
        finally:
            watch.active = False
            faulthandler.cancel_dump_traceback_later()
        if watch.events:
            failures.append(f"input {number} ({outcome}): {'; '.join(watch.events)[:300]}")
        outcomes[outcome] += 1
    seconds = round(time.perf_counter() - began, 1)
    return {"inputs": count, "outcomes": dict(outcomes.most_common()), "seconds": seconds, "failures": failures[:20]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20_000, help="inputs for each guard")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=sorted(_guards()))
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tempfile.tempdir = folder
        watch = Watch(Path(folder))
        names = [asked.only] if asked.only else list(_guards())
        found = {name: fuzz(name, asked.count, asked.seed, Path(folder), watch) for name in names}
        tempfile.tempdir = None
    result = {"processor": machine(), "seed": asked.seed, "guards": found}
    print(json.dumps(result, indent=1))
    if any(figures["failures"] for figures in found.values()):
        sys.exit(1)
    if not asked.only and asked.count >= 20_000:
        RESULT.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
