"""Layers of an ONNX model: one for each weight and setting, with a bias only where nothing else would get it."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper

from edgewright.intake.onnx_graph import import_onnx

pytestmark = pytest.mark.filterwarnings("ignore")
RANDOM = np.random.default_rng(0)


def model_of(text, **constants):
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 18]>\n{text}')
    for name, value in constants.items():
        model.graph.initializer.append(numpy_helper.from_array(value.astype(np.float32), name))
    return model


def assert_as_onnx_runtime(model, **inputs):
    inputs = {name: RANDOM.normal(size=shape).astype(np.float32) for name, shape in inputs.items()}
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    graph = import_onnx(model)
    with torch.no_grad():
        got = graph(*map(torch.from_numpy, inputs.values()))
    for one, expected in zip(got, session.run(None, inputs), strict=True):
        np.testing.assert_allclose(one.numpy(), expected, rtol=1e-4, atol=1e-5)
    return graph


@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize("kind", ["Conv", "ConvTranspose"])
def test_padding_that_follows_from_the_size_is_of_one_size_alone(kind, mode):
    """7 cells in steps of 2 want a padding of 1 at both ends, 8 of 1 at one; transposed, both want the same."""
    text = f"""
    net (float[n, 1, 7, 7] a, float[n, 1, 8, 8] b) => (float[n, 1, o, o] y, float[n, 1, p, p] z) {{
        y = {kind} <auto_pad = "{mode}", strides = [2, 2]> (a, w)
        z = {kind} <auto_pad = "{mode}", strides = [2, 2]> (b, w)
    }}"""
    model = model_of(text, w=RANDOM.normal(size=(1, 1, 3, 3)))
    assert_as_onnx_runtime(model, a=(2, 1, 7, 7), b=(2, 1, 8, 8))


def test_padding_to_a_given_size_is_of_one_size_alone():
    text = """
    net (float[n, 1, 5] a, float[n, 1, 6] b) => (float[n, 1, 9] y, float[n, 1, 9] z) {
        y = ConvTranspose <output_shape = [9], strides = [2]> (a, w)
        z = ConvTranspose <output_shape = [9], strides = [2]> (b, w)
    }"""
    assert_as_onnx_runtime(model_of(text, w=RANDOM.normal(size=(1, 1, 3))), a=(2, 1, 5), b=(2, 1, 6))


# Two readers of one weight, or of one product, each under a name of its own.
ALIASES = {
    "of the weight": """
        first = Identity (w)
        second = Identity (w)
        p = MatMul (x, first)
        q = MatMul (x, second)""",
    "of a chain": """
        first = Identity (w)
        p = MatMul (x, first)
        q = MatMul (x, w)""",
    "of the product": """
        product = MatMul (x, w)
        p = Identity (product)
        q = Identity (product)""",
    "of the product, once": """
        q = MatMul (x, w)
        p = Identity (q)""",
}


@pytest.mark.parametrize("nodes", ALIASES.values(), ids=ALIASES)
def test_another_reader_by_another_name_does_not_get_the_bias(nodes):
    text = f"""
    net (float[n, 3] x) => (float[n, 2] y, float[n, 2] z) {{
        {nodes}
        y = Add (p, b)
        z = Add (q, c)
    }}"""
    model = model_of(text, w=RANDOM.normal(size=(3, 2)), b=np.ones(2), c=np.full(2, 10))
    assert_as_onnx_runtime(model, x=(2, 3))


def test_a_bias_behind_names_that_nothing_else_reads_is_fused():
    text = """
    net (float[n, 3] x) => (float[n, 2] y, float[n, 3] z) {
        weight = Identity (w)
        product = MatMul (x, weight)
        renamed = Identity (product)
        y = Add (renamed, b)
        z = Neg (x)
    }"""
    graph = assert_as_onnx_runtime(model_of(text, w=RANDOM.normal(size=(3, 2)), b=np.ones(2)), x=(2, 3))
    assert not any(n.target is torch.add for n in graph.graph.nodes)
