"""Fuzz the guards that read files of others: models of every format, arrays and the YAML beside them.

    make fuzz                       20,000 inputs for each guard; COUNT=n: so many
    python benchmarks/fuzz.py --only pickle --count 2000 --seed 7

Inputs are valid files, changed where it hurts: opcodes and names put in, cut out and moved, entries renamed and
doubled, bytes flipped. A guard may take one or refuse it in an error of ours. What counts as a failure: any other
exception, a step that takes longer than a minute, and an audit event (PEP 578) of a program, a connection, a removal,
or of writing a file. Exit code 1 on any. ``benchmarks/results/fuzz.json`` holds each guard's last run of 20,000 inputs
and more.
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

from benchmarks.boosters import changed, pickled, ubjson
from edgewright.errors import EdgewrightError, InputError
from edgewright.intake.ubjson import read_ubjson
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

_OF_SKOPS = [
    "os", "system", "builtins", "eval", "numpy", "load", "fromfile", "sklearn.pipeline", "Pipeline", "FunctionNode",
    "ObjectNode", "MethodNode", "JsonNode", "OperatorFuncNode", "ReduceNode", "ufunc", "__main__", "attrgetter",
    "functools", "partial", "", None, 7, [], {}, 1 << 70,
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


def _small_network() -> Any:
    import torch

    class Small(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(3, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x).relu()

    return Small()


def programs(chance: random.Random) -> Iterator[Input]:
    """A ``.pt2``, its entries renamed, doubled, and changed inside."""
    import torch

    stream = io.BytesIO()
    free = ({0: torch.export.Dim("n")},)
    torch.export.save(torch.export.export(_small_network(), (torch.zeros(2, 3),), dynamic_shapes=free), stream)
    entries = _entries(stream)
    words = [
        b"torch.ops.aten.from_file.default",
        b"os.system",
        b'"expr_str": "__import__(1)"',
        b"Symbol('x').free",
        b"{",
        b'"',
    ]
    while True:
        yield "m.pt2", _repacked(entries, chance, words)


def scripts(chance: random.Random) -> Iterator[Input]:
    """A TorchScript archive, likewise; words of its code are exchanged for what reaches out."""
    import torch

    stream = io.BytesIO()
    torch.jit.save(torch.jit.script(_small_network()), stream)
    words = [
        b"torch.from_file(1)", b"ops.inductor._mm_plus_mm", b"ops.image.read_file", b"__torch__.torch.classes.x.Y",
        b"\n    import os\n", b"ops.aten.from_file", b"(", b")", b"\x00", b"    ", b"cos\nsystem\n",
    ]  # fmt: skip
    entries = _entries(stream)
    while True:
        yield "m.pt", _repacked(entries, chance, words)


def skops_files(chance: random.Random) -> Iterator[Input]:
    """A skops archive, with names and values of its schema exchanged."""
    import numpy as np
    import skops.io
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    x, y = np.random.default_rng(0).normal(size=(20, 2)), np.arange(20) % 2
    entries = _entries(
        io.BytesIO(skops.io.dumps(make_pipeline(FunctionTransformer(np.abs), LogisticRegression()).fit(x, y)))
    )
    while True:
        changed = []
        for name, data in entries:
            if name == "schema.json":
                value = json.loads(data)
                for _ in range(chance.randint(1, 3)):
                    _exchange(value, chance, _OF_SKOPS)
                changed.append((name, json.dumps(value).encode()))
            else:
                changed.append((name, data))
        yield "m.skops", _repacked(changed, chance, [b"os", b"system", b"cos\nsystem\n"])


def boosters(chance: random.Random) -> Iterator[Input]:
    """Pickled boosters of XGBoost: fields of their document and nodes of their trees exchanged, at times bytes too."""
    import numpy as np
    import xgboost

    random_numbers = np.random.default_rng(0)
    x, classes = random_numbers.normal(size=(60, 4)).round(2), np.arange(60) % 3
    x[:, 3] = classes
    small = {"max_depth": 3, "subsample": 0.7, "verbosity": 0, "nthread": 1}
    kinds: list[tuple[dict[str, Any], Any]] = [
        ({"objective": "binary:logistic"}, x[:, 0] > 0),
        ({"objective": "multi:softprob", "num_class": 3}, classes),
        ({"booster": "dart", "rate_drop": 0.5}, x[:, 0]),
        ({"booster": "gblinear", "subsample": None, "max_depth": None}, x[:, 0]),
        ({"multi_strategy": "multi_output_tree"}, x[:, :2]),
        ({"updater": "grow_colmaker,prune", "gamma": 1}, x[:, 0]),
        ({"max_cat_to_onehot": 1}, x[:, 0] + classes),
    ]
    seeds = []
    for asked, y in kinds:
        types = ["q", "q", "q", "c"] if "max_cat_to_onehot" in asked else None
        data = xgboost.DMatrix(x, label=y, feature_types=types, enable_categorical=True)
        wanted = {name: value for name, value in (small | asked).items() if value is not None}
        seeds.append(read_ubjson(xgboost.train(wanted, data, 3).__getstate__()["handle"]))
    while True:
        document = changed(chance.choice(seeds), chance)
        content = ubjson(document["Model"] if chance.random() < 0.2 and document.get("Model") else document)
        if chance.random() < 0.2:
            content = _spliced(content, chance, [b"[$l#L", b"[#L", b"{", b"}", b"Z", b"T", b"\x00" * 7 + b"\xff", b"L"])
        yield "m.pkl", pickled(bytearray(content))


def _answer(path: Path) -> None:
    """Load a booster and let it answer: what was taken may not end the process."""
    import numpy as np
    import xgboost

    from edgewright.intake.pickle_guard import load_model

    booster = load_model(path)
    if not isinstance(booster, xgboost.Booster) or booster.handle is None:
        return
    rows = np.random.default_rng(0).normal(size=(70, 4)).round()
    rows[::7] = np.nan
    try:
        features = booster.num_features()
        rows = np.tile(rows, (1, features // 4 + 1))[:, :features] if features < 4000 else rows
        booster.predict(xgboost.DMatrix(rows), validate_features=False)
        booster.get_dump(dump_format="json")
        booster.save_raw()
    except (xgboost.core.XGBoostError, ValueError) as e:  # the library looks at some things itself
        raise InputError(f"{path}: {e}") from e


def arrays(chance: random.Random) -> Iterator[Input]:
    """An ``.npz``: headers of arrays, their dtypes and sizes."""
    import numpy as np

    stream = io.BytesIO()
    rows = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
    np.savez(stream, x_train=rows, y_train=np.arange(12) % 2, x_test=rows, y_test=np.arange(12) % 2)
    words = [
        b"'|O'", b"'<f4'", b"'<U9999999'", b"(12, 3)", b"(99999999999,)", b"(-1, 3)", b"'descr'", b"[('a', '|O')]",
        b"True", b"__import__('os')", b"cos\nsystem\n", b"\x93NUMPY", b"\xff\xff",
    ]  # fmt: skip
    entries = _entries(stream)
    while True:
        yield "d.npz", _repacked(entries, chance, words)


def descriptions(chance: random.Random) -> Iterator[Input]:
    """The YAML that describes data."""
    text = (
        b"path: d.csv\ntarget: y\nscale: 0.5\nlabels: [a, b]\ndtypes: {a: str}\nshapes: {x: [1, 3]}\nna_values: [no]\n"
    )
    words = [
        b"!!python/object/apply:os.system [id]", b"!!python/name:os.system", b"&a [*a, *a]", b"<<: *a", b"- ", b"{",
        b"[", b": ", b"\t", b"1e999", b".nan", b"0x", b"2001-01-01", b"'", b'"', b"? ", b"|", b"\x00", b"\xff",
        b"path: /etc\n",
    ]  # fmt: skip
    while True:
        yield "d.yaml", _spliced(text, chance, words)


def onnx_models(chance: random.Random) -> Iterator[Input]:
    """An ONNX model, with fields of its message changed: external files, sizes, operators, functions."""
    import numpy as np
    import onnx
    from onnx import helper, numpy_helper

    weight = numpy_helper.from_array(np.ones((3, 2), np.float32), "w")
    spec = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", size]) for name, size in (("x", 3), ("y", 2))
    ]
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Relu", ["h"], ["y"])]
    graph = helper.make_graph(nodes, "g", spec[:1], spec[1:], [weight])
    base = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    while True:
        model = onnx.ModelProto()
        model.CopyFrom(base)
        for _ in range(chance.randint(1, 3)):
            _change_onnx(model, chance)
        content = model.SerializeToString()
        yield "m.onnx", _spliced(content, chance, [b"\x12\xff\xff\xff\x0f"]) if chance.random() < 0.3 else content


def _change_onnx(model: Any, chance: random.Random) -> None:
    import onnx

    tensor, node = model.graph.initializer[0], chance.choice(list(model.graph.node))
    inner = onnx.GraphProto.FromString(model.graph.SerializeToString())
    match chance.randrange(7):
        case 0:
            tensor.data_location = onnx.TensorProto.EXTERNAL
            for key in ("location", "offset", "length"):
                value = chance.choice(["/etc/passwd", "../../etc/passwd", "", "m.onnx", "-1", "9" * 30, "a\x00b", "."])
                tensor.external_data.add(key=key, value=value)
        case 1:
            tensor.dims[:] = [chance.choice([0, -1, 3, 1 << 40, 1 << 62]) for _ in range(chance.randint(0, 4))]
        case 2:
            tensor.data_type = chance.randrange(40)
        case 3:
            node.op_type = chance.choice(["If", "Loop", "Scan", "Custom", "", "PyOp", "Constant"])
            node.domain = chance.choice(["", "com.microsoft", "os"])
        case 4:
            node.input[:] = [chance.choice(["x", "w", "h", "y", "", "z"]) for _ in range(chance.randint(0, 3))]
        case 5:
            node.attribute.add(name=chance.choice(["body", "value", "to"]), type=chance.randrange(15)).g.CopyFrom(inner)
        case _:
            dimension = model.graph.input[0].type.tensor_type.shape.dim.add()
            dimension.dim_value = chance.choice([0, -5, 1 << 50])


def saved_models(chance: random.Random) -> Iterator[Input]:
    """A SavedModel's graph, with operators, functions and notes of layers exchanged."""
    import tensorflow as tf
    from tensorflow.core.protobuf import saved_model_pb2

    class Small(tf.Module):  # type: ignore[misc]
        @tf.function(input_signature=[tf.TensorSpec([None, 3])])  # type: ignore[untyped-decorator]
        def __call__(self, x: Any) -> Any:
            return tf.nn.relu(x) + 1.0

    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(Small(), folder)
        base = saved_model_pb2.SavedModel.FromString((Path(folder) / "saved_model.pb").read_bytes())
    operators = ["WriteFile", "ReadFile", "SaveV2", "RestoreV2", "PyFunc", "StatefulPartitionedCall", "Relu", "Custom",
                 "DebugIdentityV3", "ImmutableConst", "LookupTableImportV2", ""]  # fmt: skip
    while True:
        model = saved_model_pb2.SavedModel()
        model.CopyFrom(base)
        for _ in range(chance.randint(1, 3)):
            _change_saved_model(model, chance, operators)
        content = model.SerializeToString()
        yield "saved_model.pb", _spliced(content, chance, [b"WriteFile", b"\xff"]) if chance.random() < 0.3 else content


def _change_saved_model(model: Any, chance: random.Random, operators: list[str]) -> None:
    graph = model.meta_graphs[0]
    functions = list(graph.graph_def.library.function)
    nodes = [*graph.graph_def.node, *(node for function in functions for node in function.node_def)]
    node = chance.choice(nodes)
    match chance.randrange(6):
        case 0:
            node.op = chance.choice(operators)
        case 1:
            node.attr["f"].func.name = chance.choice([function.signature.name for function in functions])
        case 2:
            node.input.append(chance.choice([other.name for other in nodes]))
        case 3:
            graph.object_graph_def.nodes.add().user_object.metadata = chance.choice(
                ['{"class_name": "Lambda", "config": {"function": ["4wEA"]}}', "{", "[" * 5000, '"x"', "null"]
            )
        case 4:
            chance.choice(functions).signature.name = chance.choice(["WriteFile", "", "a"])
        case _:
            graph.collection_def["saved_model_main_op"].node_list.value.append(node.name)


def _entries(stream: io.BytesIO) -> list[tuple[str, bytes]]:
    with zipfile.ZipFile(stream) as archive:
        return [(info.filename, archive.read(info)) for info in archive.infolist()]


def _repacked(entries: list[tuple[str, bytes]], chance: random.Random, words: list[bytes]) -> bytes:
    """The archive with entries renamed, doubled, out of order, and changed inside."""
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
    return _spliced(content, chance, [b"PK\x05\x06", b"PK\x01\x02"]) if chance.random() < 0.2 else content


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


def _exchange(value: Any, chance: random.Random, names: list[Any] | None = None) -> None:
    names = _NAMES if names is None else names
    holders = [value]
    for holder in holders:
        inner = holder.values() if isinstance(holder, dict) else holder
        holders += [part for part in inner if isinstance(part, (dict, list)) and part]
    holder = chance.choice(holders)
    if isinstance(holder, dict):
        key = chance.choice([*holder, "function", "function_type", "residual_fn", "class_name", "module", "activation"])
        holder[key] = chance.choice(names)
    else:
        holder.insert(chance.randrange(len(holder) + 1), chance.choice([*names, {"class_name": chance.choice(names)}]))


def _guards() -> dict[str, tuple[Callable[[random.Random], Iterator[Input]], Callable[[Path], object]]]:
    from edgewright.data import DataSpec, load_data_spec
    from edgewright.intake.archives import normalized
    from edgewright.intake.arrays import row_shapes
    from edgewright.intake.keras_guard import inspect_keras_file, inspect_saved_model
    from edgewright.intake.onnx_source import load_onnx
    from edgewright.intake.pickle_guard import load_model
    from edgewright.intake.pt2_guard import inspect_program
    from edgewright.intake.torchscript_guard import inspect_torchscript

    def program(path: Path) -> None:
        with normalized(path) as copy:
            inspect_program(copy)

    def configuration(path: Path) -> None:
        with normalized(path) as copy:
            inspect_keras_file(copy)

    def script(path: Path) -> None:
        with normalized(path) as copy:
            inspect_torchscript(copy)

    def npz(path: Path) -> None:
        spec = DataSpec(path=path)
        row_shapes(spec, ["x"])

    return {
        "pickle": (pickles, load_model),
        "skops": (skops_files, load_model),
        "xgboost": (boosters, _answer),
        "pt2": (programs, program),
        "torchscript": (scripts, script),
        "onnx": (onnx_models, load_onnx),
        "keras": (configurations, configuration),
        "saved_model": (saved_models, lambda path: inspect_saved_model(path.parent)),
        "npz": (arrays, npz),
        "yaml": (descriptions, load_data_spec),
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
    if asked.count >= 20_000:
        known = json.loads(RESULT.read_text())["guards"] if asked.only and RESULT.exists() else {}
        result["guards"] = {name: (known | found)[name] for name in _guards() if name in known | found}
        RESULT.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
