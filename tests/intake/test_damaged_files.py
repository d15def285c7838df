"""Files of every format, cut off and with flipped bits: one clear error each, or an answer; never a crash of ours.

Many files are looked into by one child, as intake's own child looks into one; where that dies of a file, intake
itself is asked about it.
"""

import io
import json
import pickle
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import joblib
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from edgewright.data import DataSpec
from edgewright.errors import EdgewrightError, InputError, UntrustedModelError
from edgewright.intake import preflight
from edgewright.intake.archives import normalized

pytestmark = pytest.mark.filterwarnings("ignore")

LOOK = """
import json, sys, warnings
from pathlib import Path
warnings.simplefilter("ignore")
from edgewright.data import DataSpec
from edgewright.errors import EdgewrightError
from edgewright.intake import child
spec = DataSpec.model_validate_json(sys.stdin.readline())
for line in sys.stdin:
    path = line.strip()
    print(json.dumps(["asks", path]), flush=True)
    try:
        child.check(Path(path), spec)
        said = ["accepted", ""]
    except EdgewrightError as e:
        said = [type(e).__name__, str(e)]
    except BaseException as e:
        said = ["escaped", f"{type(e).__name__}: {e}"]
    print(json.dumps(["said", path, *said]), flush=True)
"""


def outcomes(paths: list[Path], spec: DataSpec) -> dict[str, tuple[str, str]]:
    """What intake says of each file, by its path; "died" where the child did."""
    found: dict[str, tuple[str, str]] = {}
    left = [str(p) for p in paths]
    while left:
        given = "\n".join([spec.model_dump_json(), *left])
        done = subprocess.run(
            [sys.executable, "-c", LOOK], input=given, capture_output=True, text=True, timeout=300, check=False
        )
        answers = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('["')]
        found |= {a[1]: (a[2], a[3]) for a in answers if a[0] == "said"}
        left = [p for p in left if p not in found]
        if left:
            assert answers, f"the child said nothing: {done.stderr[-2000:]}"
            found[left.pop(0)] = ("died", f"exit code {done.returncode}")
    return found


def damaged(content: bytes, folder: Path, suffix: str) -> tuple[list[Path], list[Path]]:
    """The content cut off at eight points, and with one bit flipped at each of sixteen."""
    cut, flipped = [], []
    for part in (0.001, 0.05, 0.2, 0.4, 0.6, 0.8, 0.95, 0.999):
        cut.append(folder / f"cut_{part}{suffix}")
        cut[-1].write_bytes(content[: max(int(len(content) * part), 1)])
    random = np.random.default_rng(len(content))
    for position in [*range(0, 12, 2), *random.integers(12, len(content), 10)]:
        bent = bytearray(content)
        bent[position] ^= 1 << int(random.integers(8))
        flipped.append(folder / f"flip_{position}{suffix}")
        flipped[-1].write_bytes(bent)
    return cut, flipped


def fitted():
    digits = load_digits()
    model = make_pipeline(StandardScaler(), RandomForestClassifier(3, max_depth=4, random_state=0))
    return model.fit(digits.data[:300], digits.target[:300])


def of_pickle(_):
    return pickle.dumps(fitted())


def of_old_pickle(_):
    digits = load_digits()
    return pickle.dumps(LogisticRegression(max_iter=50).fit(digits.data[:300], digits.target[:300]), protocol=0)


def of_joblib(_):
    stream = io.BytesIO()
    joblib.dump(fitted(), stream, compress=("zlib", 3))
    return stream.getvalue()


def of_skops(_):
    import skops.io

    return skops.io.dumps(fitted())


def of_onnx(_):
    weight = np.random.default_rng(0).normal(size=(64, 10)).astype(np.float32)
    nodes = [helper.make_node("Flatten", ["x"], ["f"]), helper.make_node("MatMul", ["f", "w"], ["y"])]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", ["n", 8, 8]), ("y", ["n", 10]))]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [numpy_helper.from_array(weight, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def of_pt2(request):
    return request.getfixturevalue("digits_pt2").read_bytes()


def of_booster(library):
    def content(_):
        module = pytest.importorskip(library, reason=f"{library} is not installed")
        kind = module.XGBClassifier if library == "xgboost" else module.LGBMClassifier
        digits = load_digits()
        return pickle.dumps(kind(n_estimators=2, max_depth=3, n_jobs=1).fit(digits.data[:300], digits.target[:300]))

    return content


@pytest.fixture(scope="module")
def flat_npz(tmp_path_factory) -> Path:
    digits = load_digits()
    path = tmp_path_factory.mktemp("flat") / "digits.npz"
    np.savez(path, x=digits.data, y=digits.target)
    return path


FORMATS = {
    "pickle": (of_pickle, ".pkl"),
    "pickle of protocol 0": (of_old_pickle, ".pkl"),
    "joblib": (of_joblib, ".joblib"),
    "skops": (of_skops, ".skops"),
    "onnx": (of_onnx, ".onnx"),
    "pt2": (of_pt2, ".pt2"),
    "xgboost": (of_booster("xgboost"), ".pkl"),
    "lightgbm": (of_booster("lightgbm"), ".pkl"),
}


def assert_clear(path: str, kind: str, said: str, spec: DataSpec) -> None:
    if kind == "died":
        with pytest.raises(EdgewrightError) as error:
            preflight(Path(path), spec)
        kind, said = type(error.value).__name__, str(error.value)
    assert kind != "escaped", (path, said)
    assert "\n" not in said, (path, said)
    assert kind == "accepted" or len(said) > 20, (path, said)


SLOW = {"pickle of protocol 0", "skops", "pt2", "xgboost", "lightgbm"}


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in FORMATS])
def test_a_damaged_file_gives_one_clear_error(name, request, tmp_path, digits_npz, flat_npz):
    content, suffix = FORMATS[name]
    whole = content(request)
    cut, flipped = damaged(whole, tmp_path, suffix)
    (tmp_path / f"whole{suffix}").write_bytes(whole)
    spec = DataSpec(path=digits_npz if name in {"onnx", "pt2"} else flat_npz)
    found = outcomes([*cut, *flipped, tmp_path / f"whole{suffix}"], spec)
    assert found[str(tmp_path / f"whole{suffix}")][0] == "accepted"
    for path, (kind, said) in found.items():
        assert_clear(path, kind, said, spec)
    assert all(found[str(p)][0] != "accepted" for p in cut)


@pytest.mark.parametrize("kind", [".safetensors", pytest.param(".pt", marks=pytest.mark.slow)])
def test_damaged_weights_of_a_factory_give_one_clear_error(kind, tmp_path, digits_npz):
    import torch
    from safetensors.torch import save

    (tmp_path / "factory_of_damaged.py").write_text(
        "from torch import nn\ndef net():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    state, stream = {"1.weight": torch.rand(10, 64), "1.bias": torch.rand(10)}, io.BytesIO()
    torch.save(state, stream)
    cut, flipped = damaged(save(state) if kind == ".safetensors" else stream.getvalue(), tmp_path, kind)
    described = []
    for weights in [*cut, *flipped]:
        described.append(weights.with_suffix(f"{kind}.yaml"))
        described[-1].write_text(
            f"factory: factory_of_damaged:net\nweights: {weights.name}\ninputs: {{image: [1, 8, 8]}}\n"
        )
    spec = DataSpec(path=digits_npz)
    found = outcomes(described, spec)
    for path, (outcome, said) in found.items():
        assert_clear(path, outcome, said, spec)
    assert all(found[str(p)][0] != "accepted" for p in described[: len(cut)])


LOAD = """
import json, sys, warnings
warnings.simplefilter("ignore")
from edgewright.errors import EdgewrightError
from edgewright.intake import detect_format, keras_child
from pathlib import Path
from edgewright.data import DataSpec
spec = DataSpec.model_validate_json(sys.stdin.readline())
for line in sys.stdin:
    path = line.strip()
    print(json.dumps(["asks", path]), flush=True)
    try:
        kind = detect_format(Path(path))
        answer = keras_child.convert(Path(path), kind, spec, Path(), legacy=False, checking=True)
        said = ["failed", answer.failure] if answer.failure else ["accepted", ""]
    except EdgewrightError as e:
        said = [type(e).__name__, str(e)]
    except BaseException as e:
        said = ["escaped", f"{type(e).__name__}: {e}"]
    print(json.dumps(["said", path, *said]), flush=True)
"""

KERAS = """
import sys, keras
L = keras.layers
model = keras.Sequential([keras.Input((8, 8, 1)), L.Conv2D(4, 3), L.Flatten(), L.Dense(10)])
model.save(sys.argv[1] + "/m.keras"), model.save(sys.argv[1] + "/m.h5"), model.export(sys.argv[1] + "/m", verbose=False)
"""


@pytest.mark.slow
def test_damaged_files_of_keras_and_tensorflow_give_one_clear_error(tmp_path, digits_npz, monkeypatch):
    """By TensorFlow's own loaders, in one child; the loader of Keras 2 would only be asked after them."""
    import shutil

    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
    subprocess.run([sys.executable, "-c", KERAS, str(tmp_path)], check=True, capture_output=True, timeout=240)
    paths: list[Path] = []
    for suffix in (".keras", ".h5"):
        cut, flipped = damaged((tmp_path / f"m{suffix}").read_bytes(), tmp_path, suffix)
        paths += [*cut, *flipped]
    for part in ("saved_model.pb", "variables/variables.index", "variables/variables.data-00000-of-00001"):
        (tmp_path / "parts").mkdir(exist_ok=True)
        for changed in (
            p for group in damaged((tmp_path / "m" / part).read_bytes(), tmp_path / "parts", ".bin") for p in group[::3]
        ):
            folder = tmp_path / f"{part.replace('/', '_')}_{changed.stem}"
            shutil.copytree(tmp_path / "m", folder)
            (folder / part).write_bytes(changed.read_bytes())
            paths.append(folder)
    monkeypatch.setattr(sys.modules[__name__], "LOOK", LOAD)
    spec = DataSpec(path=digits_npz)
    found = outcomes([*paths, tmp_path / "m.keras", tmp_path / "m.h5", tmp_path / "m"], spec)
    assert all(found[str(tmp_path / name)][0] == "accepted" for name in ("m.keras", "m.h5", "m"))
    for path, (kind, said) in found.items():
        assert kind != "escaped", (path, said)
        assert "\n" not in said, (path, said)
        if "cut_" in path:
            assert kind != "accepted", path


def rewritten(path, change):
    """An archive with its entries changed: a list of (ZipInfo, content)."""
    with zipfile.ZipFile(path) as archive:
        entries = [(info, archive.read(info)) for info in archive.infolist()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about names that stand there twice
        with zipfile.ZipFile(path, "w") as archive:
            for info, content in change(entries):
                archive.writestr(info, content)


def named(info, name, **attributes):
    made = zipfile.ZipInfo(name)
    for key, value in {"external_attr": info.external_attr, **attributes}.items():
        setattr(made, key, value)
    return made


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda e: [*e, (named(e[0][0], e[0][0].filename), b"")], "two entries are called"),
        (lambda e: [*e, (named(e[0][0], e[0][0].filename.upper()), b"")], "upper and lower case"),
        (lambda e: [*e, (named(e[0][0], "m/data/link", external_attr=0o120777 << 16), b"/etc/passwd")], "is a link"),
        (lambda e: [*e, (named(e[0][0], "m/data\\evil"), b"")], "readers take differently"),
    ],
)
def test_an_archive_that_two_readers_would_read_differently_is_refused(tmp_path, change, said):
    class Half(torch.nn.Module):
        def forward(self, x):
            return x / 2

    for path, save in (
        (tmp_path / "m.pt2", lambda p: torch.export.save(torch.export.export(Half(), (torch.zeros(2, 3),)), p)),
        (tmp_path / "m.pt", lambda p: torch.jit.save(torch.jit.script(Half()), str(p))),
    ):
        save(path)
        rewritten(path, change)
        with pytest.raises(UntrustedModelError, match=said) as e, normalized(path):
            pytest.fail("taken")
        assert str(path) in str(e.value)


@pytest.mark.parametrize("places", [1, 2])
def test_a_name_that_is_no_text_is_one_clear_error(tmp_path, places):
    """A flag says that names are UTF-8; they stand in front of each entry, and in the directory at the end."""
    path = tmp_path / "m.pt2"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/\u00e9\u00e9", b"x")
    path.write_bytes(path.read_bytes().replace("\u00e9".encode(), b"\xbd\xbd", 2 * places))
    with pytest.raises(InputError, match="damaged archive") as e, normalized(path):
        pytest.fail("taken")
    assert "\n" not in str(e.value)


def test_what_is_loaded_is_a_copy_without_what_lies_between_entries(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/b.json", "{}" * 100)
    path.write_bytes(path.read_bytes() + b"trailing")
    with normalized(path) as copy:
        assert zipfile.ZipFile(copy).namelist() == ["a/b.json"]
        assert b"trailing" not in copy.read_bytes()
        kept = copy
    assert not kept.exists()
