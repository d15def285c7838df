"""Attention of three axes, or of five, on its way to ONNX."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention as attend

from edgewright.export import onnx_runtime
from edgewright.export.attention_axes import with_four_axes
from edgewright.intake import torch_graph
from edgewright.intake.program_graph import graph_of_program
from edgewright_runtime.bundle.manifest import TensorSpec

pytestmark = pytest.mark.filterwarnings("ignore")
THREE, FIVE, SIX = (5, 4), (3, 2, 5, 4), (2, 3, 2, 5, 4)  # after the batch
TRIANGLE = torch.ones(5, 5).tril().bool()

ATTENTIONS = {
    "three axes": (lambda x: attend(x, 2 * x, x + 1), THREE),
    "causal": (lambda x: attend(x, 2 * x, x + 1, is_causal=True, scale=0.3), THREE),
    "a mask of two axes": (lambda x: attend(x, x, x, TRIANGLE), THREE),
    "a mask of three axes": (lambda x: attend(x, x, x, attn_mask=x @ x.mT), THREE),
    "other lengths": (lambda x: attend(x[:, :2], x, x[..., :3]), THREE),
    "four axes": (lambda x: attend(x, x, x + 1, TRIANGLE), (2, 5, 4)),
    "five axes": (lambda x: attend(x, 2 * x, x[..., :3]), FIVE),
    "five axes, a mask of two": (lambda x: attend(x, x, x, TRIANGLE), FIVE),
    "five axes, a mask of three": (lambda x: attend(x, x, x, torch.arange(50.0).reshape(2, 5, 5)), FIVE),
    "five axes, a mask of five": (lambda x: attend(x, x, x, (x @ x.mT)[:, :1, :1]), FIVE),
    "six axes, a mask of four": (lambda x: attend(x, x, x, torch.arange(75.0).reshape(3, 1, 5, 5)), SIX),
}


@pytest.mark.parametrize("name", ATTENTIONS)
def test_answers_stay_for_any_number_of_rows(name: str, tmp_path: Path) -> None:
    function, sizes = ATTENTIONS[name]

    class Attention(nn.Module):
        def forward(self, x):
            return function(x)

    batch = {0: torch.export.Dim("batch")}
    program = torch.export.export(Attention(), (torch.randn(2, *sizes),), dynamic_shapes=(batch,))
    graph = graph_of_program(program)
    changed = with_four_axes(graph, (torch.randn(2, *sizes),))
    rows = torch.randn(7, *sizes)
    torch.testing.assert_close(changed(rows), function(rows), rtol=1e-5, atol=1e-5)

    torch_graph.save(graph, tmp_path / "graph.pt2")
    spec = TensorSpec("x", (-1, *sizes), "float32")
    onnx_runtime.convert(tmp_path / "graph.pt2", [spec], ["y"], tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": rows.numpy()})
    np.testing.assert_allclose(found, function(rows).numpy(), rtol=1e-4, atol=1e-5)
