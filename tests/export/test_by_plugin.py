"""An exporter of another distribution: used where a profile names it, and judged like ours."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgewright.artifact import Exported, Format, ModelTask, Precision
from edgewright.data import DataSpec
from edgewright.errors import ConversionError, ProfileError, UnsupportedError
from edgewright.export import export
from edgewright.intake import take_in
from edgewright.profile import ExportOptions, Platform, load_device
from edgewright.store import Store
from tests.plugin_sites import EXAMPLES, installed

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    found = installed("exporter_plugin", tmp_path / "site")
    monkeypatch.syspath_prepend(found)
    monkeypatch.setenv("PYTHONPATH", str(found))  # of children
    return found


def exported(folder: Path, options: ExportOptions, precision: Precision = Precision.FLOAT32) -> Exported:
    torch.manual_seed(0)
    network, rows = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval(), torch.randn(40, 6)
    program = torch.export.export(network, (rows[:2],), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(program, folder / "m.pt2")
    np.savez(folder / "d.npz", x=rows.numpy())
    store = Store(folder / "store")
    taken = take_in(folder / "m.pt2", DataSpec(path=folder / "d.npz", task=ModelTask.NONE), store)
    return export(taken.model, taken.dataset, Platform.EDGE_DEVICE, precision, store, options=options)


def test_the_profile_s_exporter_makes_the_file(site: Path, tmp_path: Path) -> None:
    device = load_device(str(EXAMPLES / "exporter_plugin" / "plain_onnx.yaml"))
    assert device.export.code
    made = exported(tmp_path, device.export)
    assert made.artifact.format is Format.ONNX
    assert made.notes[0] == "made by the exporter torch_onnx"
    assert [spec.name for spec in made.outputs]


def test_its_refusal_is_a_refusal(site: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="torch_onnx writes graphs in float32"):
        exported(tmp_path, ExportOptions(exporter="torch_onnx"), Precision.FLOAT16)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return Path('/etc/hostname')", "is not a file in the folder that it was given"),
        ("return 'missing.onnx'", "is not a file in the folder that it was given"),
        ("(folder / 'm.onnx').write_bytes(Path(model.source.path).read_bytes()); return 'm.onnx'", "loads onnx"),
        ("raise KeyError('x')", "KeyError"),
    ],
)
def test_what_it_writes_is_looked_at(site: Path, tmp_path: Path, body: str, said: str) -> None:
    module = f"from pathlib import Path\n\ndef export(model, dataset, precision, folder):\n    {body}\n"
    (site / "torch_onnx_exporter.py").write_text(module)
    with pytest.raises(ConversionError, match=said) as caught:
        exported(tmp_path, ExportOptions(exporter="torch_onnx"))
    assert "\n" not in str(caught.value)


def test_one_that_is_not_installed_is_named(tmp_path: Path) -> None:
    text = (EXAMPLES / "exporter_plugin" / "plain_onnx.yaml").read_text()
    (tmp_path / "d.yaml").write_text(text)
    with pytest.raises(ProfileError, match=r"exporter.*no installed distribution registers it"):
        load_device(str(tmp_path / "d.yaml"))


def test_options_that_it_would_ignore_are_refused(site: Path) -> None:
    with pytest.raises(ValueError, match=r"class_labels, image_inputs: the exporter 'torch_onnx' shapes its file"):
        ExportOptions(exporter="torch_onnx", image_inputs=True, class_labels=True)
