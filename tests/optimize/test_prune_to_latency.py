"""Channels removed until the exported model is as fast as asked, by the same measurement as everything else."""

import pytest
import torch
from prefect import flow
from torch import fx, nn

from edgewright.artifact import ImportedModel, Precision
from edgewright.export import export
from edgewright.optimize.training import fit
from edgewright.pipeline.result import Refusal
from edgewright.profile import Platform, load_device
from edgewright.recipe import PruneChannels, Training
from edgewright.store import Store
from tasks.optimize import Changed, prune_to_latency
from tests.optimize.networks import CLASSES, SHORT, blobs, dataset, imported

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore:.*pruning.*:UserWarning"),
]


def run(folder, ratio: float, device: str) -> tuple[ImportedModel, Changed]:
    torch.manual_seed(0)
    layers = (nn.Conv2d(1, 96, 3, padding=1), nn.ReLU(), nn.Conv2d(96, 96, 3, padding=1), nn.ReLU())
    net = fx.symbolic_trace(nn.Sequential(*layers, nn.Flatten(), nn.Linear(96 * 64, CLASSES)))
    rows = blobs(400, 3)
    fit(net, rows, SHORT.model_copy(update={"epochs": 1}))
    store = Store()
    model, data = imported(net.eval(), store, folder), dataset(net, store, folder, train=rows)
    own = export(model, data, Platform.EDGE_DEVICE, Precision.FLOAT32, store, instruction_set="x86_64")
    # The ONNX it came from: without it, an export would take the changed graph for the untouched one.
    model = model.model_copy(update={"onnx": own.artifact})
    params = PruneChannels(target="latency", ratio=ratio, steps=1, training=Training(epochs=1))
    found: list[Changed] = []

    @flow
    def once() -> None:
        found.append(prune_to_latency(model, params, data, load_device(device)))

    once()
    return model, found[0]


def test_the_export_gets_as_fast_as_asked(edgewright_home, tmp_path):
    from edgewright.intake import torch_graph

    before, after = run(tmp_path, 0.6, "generic_edge_device")
    assert isinstance(after, ImportedModel)
    sizes = []
    for model in (before, after):
        assert model.graph is not None
        sizes.append(sum(p.numel() for p in torch_graph.load(model.graph.path).parameters()))
    assert sizes[1] < 0.8 * sizes[0]


def test_what_cannot_be_measured_here_is_refused_with_its_cause(edgewright_home, tmp_path):
    _, after = run(tmp_path, 0.5, "generic_ios")
    assert isinstance(after, Refusal)
    assert "Core ML" in after.reason
