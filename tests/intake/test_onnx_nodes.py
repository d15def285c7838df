"""Names of inputs and outputs: what an app sees, and what must not run into a name further inside."""

import numpy as np
import onnx
import onnxruntime

from edgewright.intake.onnx_nodes import rename_ends

COLLIDING = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[n, 2] image) => (float[n, 2] linear_2) {
    one = Constant <value = float {1.0}> ()
    linear = Add (image, one)
    linear_1 = Mul (linear, linear)
    linear_2 = Sub (linear_1, linear)
}
"""
BRANCHES = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[n] "a.b", float[n] a_b) => (float[n] "y:0") {
    limit = Constant <value = float {0.0}> ()
    largest = ReduceMax <keepdims = 0> ("a.b")
    high = Greater (largest, limit)
    "y:0" = If (high) <
        then_branch = large () => (float[n] y_0) { y_0 = Add ("a.b", a_b) },
        else_branch = small () => (float[n] z) { z = Sub ("a.b", a_b) }
    >
}
"""


def answers(model, *values):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    given = zip(session.get_inputs(), values, strict=True)
    return session.run(None, {entry.name: np.array(value, np.float32) for entry, value in given})[0]


def test_a_value_inside_makes_way_for_the_name_of_an_output():
    """As torch names the values that nn.RNN is written out in."""
    model = onnx.parser.parse_model(COLLIDING)
    rename_ends(model, {"image": "image", "linear_2": "linear"})
    assert model.graph.output[0].name == "linear"
    np.testing.assert_array_equal(answers(model, [[1, 2]]), [[2, 6]])


def test_names_made_fit_stay_apart_and_branches_follow():
    model = onnx.parser.parse_model(BRANCHES)
    rename_ends(model)
    assert [e.name for e in (*model.graph.input, *model.graph.output)] == ["a_b", "a_b_1", "y_0"]
    np.testing.assert_array_equal(answers(model, [1, 2], [3, 5]), [4, 7])
    np.testing.assert_array_equal(answers(model, [-1, -2], [3, 5]), [-4, -7])


def test_a_value_inside_can_be_renamed_to_make_room():
    model = onnx.parser.parse_model(COLLIDING)
    rename_ends(model, {"linear": "linear_of_model"})
    assert "linear" not in {name for node in model.graph.node for name in (*node.input, *node.output)}
    np.testing.assert_array_equal(answers(model, [[1, 2]]), [[2, 6]])
