"""Where half precision or 8 bits lose a model, the operators that lose it stay float32, and the result says so."""

import re
import warnings

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from edgewright.artifact import Dataset, Exported, Format, ImportedModel, ModelTask, Precision
from edgewright.errors import ConversionError, DisagreementError
from edgewright.export import export, kept_float, mlpackage
from edgewright.export.diagnosis_report import Culprit, Diagnosis, OutputDifference, Place
from edgewright.export.runs import outputs_of
from edgewright.intake import torch_graph
from edgewright.intake.onnx_graph import import_onnx
from edgewright.profile import Platform
from edgewright.store import Store
from edgewright_runtime.bundle.manifest import TensorSpec

pytestmark = pytest.mark.filterwarnings("ignore:.*torchvision.*")


class Norm(nn.Module):
    """Squares beyond 65,504, the largest number of half precision."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.out = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x):
        large = self.wide(x) * 60.0
        return self.out(large * torch.rsqrt(torch.mean(large * large, 1, keepdim=True) + 1e-5))


class Cancelled(nn.Module):
    """A small number beside a large one, which is taken away again: 8 bits leave nothing of it."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.side, self.out = nn.Linear(8, 32), nn.Linear(32, 32), nn.Linear(32, 4, bias=False)

    def forward(self, x):
        small = torch.relu(self.wide(x))
        large = torch.abs(self.side(small)) * 1e5 + 30_000
        return self.out((large + small) - large)


class Shifted(nn.Module):
    """Small numbers that stand beside one that is larger by far, but not so far that 8 bits leave nothing of them."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.out = nn.Linear(8, 32), nn.Linear(32, 4, bias=False)

    def forward(self, x):
        small = torch.relu(self.wide(x))
        large = torch.sigmoid(small) + 600
        return self.out((large + small) - large)


class Masked(nn.Module):
    """Attention with the least float32 as its mask, as public transformers write it."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x, mask):
        low = (1.0 - mask)[:, None, :] * torch.finfo(torch.float32).min
        weights = torch.softmax(self.query(x) @ self.key(x).transpose(1, 2) + low, -1)
        return self.out((weights @ self.value(x)).mean(1))


class Tiny(nn.Module):
    """Reciprocals of numbers near 1e-5."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(4, 3)

    def forward(self, x):
        return self.out(torch.reciprocal(x) * 1e-5 + torch.rsqrt(x * 1e-5) * 1e-6)


class Unscaled(nn.Module):
    """Features of a table as they are; BatchNorm, which Core ML computes in float32 for its constants, scales them."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.wide, self.out = nn.BatchNorm1d(8), nn.Linear(8, 40), nn.Linear(40, 4)
        scales = 10.0 ** torch.arange(-2, 6)
        self.norm.running_mean, self.norm.running_var = scales, scales**2

    def forward(self, x):
        return self.out(torch.relu(self.wide(self.norm(x))))


class Growing(nn.Module):
    """Positive weights that nothing normalizes: each layer's numbers are larger than the last's, up to 1e18."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8 if i == 0 else 64, 64) for i in range(9))
        for layer in self.layers:
            layer.weight.data.abs_().mul_(30)

    def forward(self, x):
        x = torch.abs(x)
        for layer in self.layers:
            x = torch.relu(layer(x))
        return x / x.mean(1, keepdim=True)


def _rows(kind: type[nn.Module]) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    if kind is Tiny:
        return {"x": random.uniform(1e-5, 3e-5, size=(40, 4)).astype(np.float32)}
    if kind is Masked:
        mask = (random.random((40, 6)) > 0.4).astype(np.float32)
        mask[3] = 0  # nothing is left of that row
        return {"x": random.normal(size=(40, 6, 8)).astype(np.float32), "mask": mask}
    if kind is Unscaled:
        return {"x": ((random.normal(size=(40, 8)) + 1) * 10.0 ** np.arange(-2, 6)).astype(np.float32)}
    return {"x": random.normal(size=(40, 8)).astype(np.float32) * 2}


class Case:
    def __init__(self, folder, kind: type[nn.Module]) -> None:
        torch.manual_seed(0)
        module, rows = kind().eval(), _rows(kind)
        batch = torch.export.Dim("batch")
        with warnings.catch_warnings(), torch.no_grad():  # of torch's exporter; the product runs it in a child process
            warnings.simplefilter("ignore")
            torch.onnx.export(
                module,
                tuple(torch.from_numpy(column[:2]) for column in rows.values()),
                folder / "m.onnx",
                input_names=list(rows),
                output_names=["y"],
                dynamic_shapes=tuple({0: batch} for _ in rows),
                external_data=False,
                dynamo=True,
                verbose=False,
            )
            answers = module(*(torch.from_numpy(column) for column in rows.values()))
        self.store = Store(folder / "store")
        saved = self.store.put(folder / "m.onnx", Format.ONNX)
        torch_graph.save(import_onnx(onnx.load(saved.path)), folder / "m.graph")
        arrays = {f"calibration.x.{name}": column for name, column in rows.items()}
        np.savez(folder / "d.npz", **arrays, **{"calibration.y": np.zeros(40, np.int64)})
        rows_file = self.store.put(folder / "d.npz", Format.DATASET)
        self.dataset = Dataset(artifact=rows_file, calibration_rows=40, validation_rows=0, test_rows=0)
        self.model = ImportedModel(
            name=kind.__name__.lower(),
            source=saved,
            onnx=saved,
            graph=self.store.put(folder / "m.graph", Format.TORCH_GRAPH, parent=saved.digest),
            inputs=tuple(TensorSpec(name, (-1, *column.shape[1:]), "float32") for name, column in rows.items()),
            outputs=(TensorSpec("y", (-1, *answers.shape[1:]), "float32"),),
            task=ModelTask.REGRESSION,
        )

    def exported(self, platform: Platform, precision: Precision) -> Exported:
        return export(self.model, self.dataset, platform, precision, self.store)


def test_what_half_precision_overflows_stays_float32_on_ios(tmp_path):
    exported = Case(tmp_path, Norm).exported(Platform.IOS, Precision.FLOAT16)
    (note,) = [note for note in exported.notes if "stays float32" in note]
    assert "NaN, infinite" in note
    program = mlpackage.program_of(mlpackage.load(exported.artifact.path), exported.artifact.path)
    kinds = {o.type: mlpackage.mil().DataType.Name(o.outputs[0].type.tensorType.dataType) for o in program.operations}
    assert kinds["reduce_mean"] == "FLOAT32"
    assert kinds["linear"] == "FLOAT16"


@pytest.mark.parametrize("precision", [Precision.INT8, Precision.INT4])
def test_beyond_half_precision_throughout_activations_are_float32_on_ios(tmp_path, precision):
    case = Case(tmp_path, Growing)
    exported = case.exported(Platform.IOS, precision)
    assert any(note.startswith("activations are float32, since float16 fails") for note in exported.notes)
    rows = np.load(case.dataset.artifact.path)["calibration.x.x"]
    expected = onnxruntime.InferenceSession(case.model.source.path).run(None, {"x": rows})[0]
    found = outputs_of(exported.artifact.path, exported.artifact.format, {"x": rows}, ["y"])["y"]
    assert np.abs(found - expected).max() < 0.1 * np.abs(expected).max()
    assert exported.artifact.size_bytes < 0.5 * case.exported(Platform.IOS, Precision.FLOAT32).artifact.size_bytes


@pytest.mark.parametrize("precision", [Precision.FLOAT16, Precision.INT8])
@pytest.mark.parametrize("platform", Platform)
def test_features_as_they_are_are_not_lost_on_their_way_to_what_scales_them(tmp_path, platform, precision):
    case = Case(tmp_path, Unscaled)
    exported = case.exported(platform, precision)
    assert not any("in vain" in note or "NaN" in note.partition("stays float32")[0] for note in exported.notes)
    if platform is Platform.IOS:
        assert any("stays float32" in note for note in exported.notes)
    rows = np.load(case.dataset.artifact.path)["calibration.x.x"]
    expected = onnxruntime.InferenceSession(case.model.source.path).run(None, {"x": rows})[0]
    found = outputs_of(exported.artifact.path, exported.artifact.format, {"x": rows}, ["y"])["y"]
    assert np.abs(found - expected).max() < 0.1 * np.abs(expected).max()


@pytest.mark.parametrize("platform", [Platform.ANDROID, Platform.EDGE_DEVICE])
def test_what_8_bits_lose_stays_float32(tmp_path, platform):
    exported = Case(tmp_path, Cancelled).exported(platform, Precision.INT8)
    notes = [note for note in exported.notes if "stays float32" in note]
    assert any("sub" in note.lower() for note in notes)
    assert not any("in vain" in note for note in notes)


def test_where_8_bits_leave_little_only_layers_have_them_on_edge_devices(tmp_path):
    case = Case(tmp_path, Shifted)
    exported = case.exported(Platform.EDGE_DEVICE, Precision.INT8)
    (note,) = [note for note in exported.notes if "dB" in note]
    said = re.fullmatch(r"only convolutions and dense layers are in 8 bits: (\S+) dB .*, (\S+) dB with .*", note)
    assert said is not None
    assert float(said[1]) > 20
    assert 0 < float(said[2]) < 10
    kinds = {t.name: t.data_type for t in onnx.load(exported.artifact.path).graph.initializer}
    assert onnx.TensorProto.INT8 in kinds.values()
    rows = np.load(case.dataset.artifact.path)["calibration.x.x"]
    expected = onnxruntime.InferenceSession(case.model.source.path).run(None, {"x": rows})[0]
    found = outputs_of(exported.artifact.path, exported.artifact.format, {"x": rows}, ["y"])["y"]
    assert 10 * np.log10(np.square(expected).sum() / np.square(found - expected).sum()) > 20


@pytest.mark.parametrize(
    ("platform", "precision", "said"),
    [
        (Platform.IOS, Precision.FLOAT16, r"masks of -3.403e\+38 became -30000"),
        (Platform.ANDROID, Precision.INT8, r"masks of -3.403e\+38 stay float32"),
        (Platform.EDGE_DEVICE, Precision.FLOAT16, r"masks of -3.403e\+38 stay float32"),
        (Platform.EDGE_DEVICE, Precision.INT8, r"masks of -3.403e\+38 stay float32"),
    ],
)
def test_a_row_that_is_masked_whole_is_answered_in_fewer_bits(tmp_path, platform, precision, said):
    exported = Case(tmp_path, Masked).exported(platform, precision)
    assert sum(bool(re.match(said, note)) for note in exported.notes) == 1


def test_reciprocals_of_tiny_numbers_are_exact_on_ios(tmp_path):
    """coremltools 9.0 adds 1e-4 to the divisor: 1e-5 then gives an eleventh."""
    exported = Case(tmp_path, Tiny).exported(Platform.IOS, Precision.FLOAT32)
    assert "inverse" not in mlpackage.operators(exported.artifact.path)
    assert not exported.notes


def _diagnosis(*culprits: Culprit) -> Diagnosis:
    output = OutputDifference(name="y", snr_db=0.0, largest=1.0, whole_snr_db=0.0, whole_largest=1.0)
    return Diagnosis(dtype="float16", layers=(), culprits=culprits, outputs=(output,), rows=1)


def _culprit(value: str, before: str) -> Culprit:
    place, maker = Place(kind="log", value=value), Place(kind="softmax", value=before)
    return Culprit(
        operator=place,
        layer="log",
        kind="log",
        dtype="float16",
        snr_db=float("-inf"),
        largest=float("inf"),
        verified=True,
        segment=(place,),
        before=(maker,),
    )


@pytest.fixture
def tries(monkeypatch):
    """Exports that disagree until `needed` stays float32; returns what was kept each time."""

    def run(needed: set[str], precision: Precision) -> tuple[list[set[str]], object]:
        tried: list[set[str]] = []

        def checked(model, artifact, dataset, precision, *, is_judged=True):
            if is_judged and not needed <= tried[-1]:
                raise DisagreementError("off", artifact, _diagnosis(_culprit("log_cast_fp16", "softmax_cast_fp16")))
            return f"declared of {artifact}"

        monkeypatch.setattr(kept_float, "checked", checked)

        def make(kept):
            tried.append(set(kept))
            return f"file {len(tried)}"

        return tried, kept_float.converted(None, None, precision, make)

    return run


def test_the_culprit_is_kept_first_and_what_feeds_it_only_where_that_was_not_enough(tries):
    tried, made = tries({"log"}, Precision.FLOAT16)
    assert tried == [set(), {"log"}]
    assert (made.artifact, made.float_layers) == ("file 2", ("log",))
    assert len(made.notes) == 1
    tried, made = tries({"log", "softmax"}, Precision.FLOAT16)
    assert tried == [set(), {"log"}, {"log", "softmax"}]
    assert "what feeds layer 'log'" in made.notes[1]


def test_float16_that_cannot_be_mended_is_refused_and_says_what_was_tried(tries):
    with pytest.raises(DisagreementError, match=r"^off; tried in vain: layer 'log'"):
        tries({"another"}, Precision.FLOAT16)


def test_8_bits_that_cannot_be_mended_are_the_first_file_and_a_note(tries):
    tried, made = tries({"another"}, Precision.INT8)
    assert (made.artifact, made.declared, made.float_layers) == ("file 1", "declared of file 1", ())
    assert made.notes[0].startswith("off; tried in vain")
    assert len(tried) == 3


@pytest.mark.parametrize("precision", [Precision.INT8, Precision.FLOAT16])
def test_a_converter_that_refuses_a_later_file_leaves_the_first_one(monkeypatch, precision):
    def checked(model, artifact, dataset, precision, *, is_judged=True):
        if is_judged:
            raise DisagreementError("off", artifact, _diagnosis(_culprit("log", "softmax")))
        return "declared"

    def make(kept):
        if kept:
            raise ConversionError("no such operator")
        return "first file"

    monkeypatch.setattr(kept_float, "checked", checked)
    said = r"^off; tried in vain: .*; such a file cannot be made: no such operator"
    if precision is Precision.FLOAT16:
        with pytest.raises(DisagreementError, match=said):
            kept_float.converted(None, None, precision, make)
        return
    made = kept_float.converted(None, None, precision, make)
    assert (made.artifact, made.float_layers, made.is_in_vain) == ("first file", (), True)
    assert re.match(said, made.notes[0])


def test_float32_that_disagrees_is_a_defect_and_never_tried_again(tries):
    with pytest.raises(DisagreementError, match=r"^off$"):
        tries({"log"}, Precision.FLOAT32)
