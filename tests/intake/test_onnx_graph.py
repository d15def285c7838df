"""The importer: what it keeps, what it folds, what it refuses. Conformance is measured by benchmarks/conformance.py."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from sklearn.ensemble import RandomForestClassifier

from edgewright.errors import InputError, UnsupportedError
from edgewright.intake.onnx_graph import import_onnx
from edgewright.intake.operators import trees

pytestmark = pytest.mark.filterwarnings("ignore")
RANDOM = np.random.default_rng(0)


def model_of(nodes, shape, constants=(), opset=18, outputs=("y",), domains=()):
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    weights = [numpy_helper.from_array(np.asarray(value), name) for name, value in dict(constants).items()]
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    return helper.make_model(helper.make_graph(nodes, "g", [x], ends, weights), opset_imports=imports, ir_version=9)


def assert_as_onnx_runtime(model, *shapes):
    graph = import_onnx(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for shape in shapes:
        x = RANDOM.normal(size=shape).astype(np.float32)
        with torch.no_grad():
            got = graph(torch.from_numpy(x))
        got = got if isinstance(got, tuple) else (got,)
        for one, expected in zip(got, session.run(None, {"x": x}), strict=True):
            np.testing.assert_allclose(one.numpy(), expected, rtol=1e-4, atol=1e-5)
    return graph


def weights(*shape):
    return RANDOM.normal(size=shape).astype(np.float32)


def test_the_batch_stays_free_through_shape_arithmetic():
    """Flatten as exporters write it: Shape, Gather, Concat, Reshape."""
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "zero"], ["rows"]),
        helper.make_node("Unsqueeze", ["rows", "axis"], ["first"]),
        helper.make_node("Concat", ["first", "rest"], ["target"], axis=0),
        helper.make_node("Reshape", ["x", "target"], ["y"]),
    ]
    constants = {"zero": np.int64(0), "axis": np.array([0]), "rest": np.array([-1])}
    graph = assert_as_onnx_runtime(model_of(nodes, ["batch", 3, 4], constants), (1, 3, 4), (7, 3, 4))
    assert [n.target for n in graph.graph.nodes if n.op == "call_function"] == [torch.flatten]


def test_layers_keep_the_names_of_their_weights_and_take_in_their_bias():
    nodes = [
        helper.make_node("Conv", ["x", "stem.weight"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["c", "shift"], ["b"]),
        helper.make_node("BatchNormalization", ["b", "norm.weight", "norm.bias", "mean", "var"], ["n"]),
        helper.make_node("Relu", ["n"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "head.weight"], ["m"]),
        helper.make_node("Add", ["m", "head.bias"], ["y"]),
    ]
    constants = {
        "stem.weight": weights(5, 3, 3, 3), "shift": weights(5, 1, 1),
        "norm.weight": weights(5), "norm.bias": weights(5), "mean": weights(5), "var": np.abs(weights(5)),
        "head.weight": weights(5, 2), "head.bias": weights(2),
    }  # fmt: skip
    graph = assert_as_onnx_runtime(model_of(nodes, ["n", 3, 6, 6], constants), (2, 3, 6, 6))
    layers = dict(graph.named_children())
    assert isinstance(layers["norm"], torch.nn.BatchNorm2d)
    assert layers["stem"].bias is not None
    assert layers["head"].bias is not None
    assert not any(n.target is torch.add for n in graph.graph.nodes)


@pytest.mark.parametrize(
    ("operator", "attributes", "shape"),
    [
        ("MaxPool", {"kernel_shape": [3, 3], "pads": [0, 1, 1, 0], "strides": [2, 2]}, (1, 2, 7, 7)),
        ("MaxPool", {"kernel_shape": [2, 2], "auto_pad": "SAME_LOWER", "strides": [2, 2]}, (1, 2, 7, 7)),
        ("AveragePool", {"kernel_shape": [3, 3], "pads": [1, 1, 0, 0], "count_include_pad": 0}, (1, 2, 7, 7)),
        ("AveragePool", {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}, (1, 2, 8, 8)),
        ("LRN", {"size": 3, "alpha": 0.01}, (1, 5, 3, 3)),
        ("LeakyRelu", {"alpha": 0.2}, (2, 3)),
        ("Softmax", {"axis": 1}, (2, 3, 4)),
        ("ReduceMean", {"keepdims": 0}, (2, 3, 4)),
        ("Transpose", {"perm": [0, 2, 1]}, (2, 3, 4)),
    ],
)
def test_settings_that_differ_between_onnx_and_torch(operator, attributes, shape):
    model = model_of([helper.make_node(operator, ["x"], ["y"], **attributes)], ["n", *shape[1:]])
    assert_as_onnx_runtime(model, shape)


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("transform", ["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"])
@pytest.mark.parametrize("scale", [2.0, 1.5, 0.6])
def test_resizing_means_what_onnx_means(mode, transform, scale):
    if transform == "align_corners" and scale != 2:
        pytest.skip(
            "ONNX's reference and ONNX Runtime disagree on the length of 7.5 cells; intake compares with the latter"
        )
    node = helper.make_node("Resize", ["x", "", "scales"], ["y"], mode=mode, coordinate_transformation_mode=transform)
    constants = {"scales": np.array([1, 1, scale, scale], np.float32)}
    assert_as_onnx_runtime(model_of([node], ["n", 2, 6, 5], constants), (1, 2, 6, 5), (3, 2, 6, 5))


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("transform", ["half_pixel", "asymmetric"])
@pytest.mark.parametrize(("length", "goal"), [(12, 17), (13, 5), (6, 31)])
def test_a_size_by_a_scale_in_float32_is_that_of_onnx_runtime(mode, transform, length, goal):
    node = helper.make_node("Resize", ["x", "", "scales"], ["y"], mode=mode, coordinate_transformation_mode=transform)
    constants = {"scales": np.array([1, 1, goal / length, 1], np.float32)}
    assert_as_onnx_runtime(model_of([node], ["n", 2, length, 3], constants), (2, 2, length, 3))


@pytest.mark.filterwarnings("ignore")
def test_the_nearest_as_tensorflow_has_it_is_that_of_onnx_runtime():
    """The mode that tf2onnx writes, which ONNX has dropped and ONNX Runtime still reads."""
    settings = {"coordinate_transformation_mode": "tf_half_pixel_for_nn", "nearest_mode": "floor", "mode": "nearest"}
    node = helper.make_node("Resize", ["x", "region", "scales"], ["y"], **settings)
    constants = {"scales": np.array([1, 1, 1.5, 17 / 12], np.float32), "region": np.array([], np.float32)}
    assert_as_onnx_runtime(model_of([node], ["n", 2, 6, 12], constants, opset=12), (2, 2, 6, 12))


def test_softmax_of_an_old_opset_flattens_first():
    model = model_of([helper.make_node("Softmax", ["x"], ["y"], axis=1)], ["n", 3, 4], opset=11)
    assert_as_onnx_runtime(model, (2, 3, 4))


def test_only_what_the_outputs_need_is_imported():
    nodes = [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("NotAnOperator", ["x"], ["z"], domain="nowhere")]
    import_onnx(model_of(nodes, [1, 2], domains=["nowhere"]))


def test_an_unknown_operator_is_refused_with_the_way_that_still_works():
    model = model_of([helper.make_node("Fancy", ["x"], ["y"], name="node7", domain="my")], [1, 2], domains=["my"])
    with pytest.raises(UnsupportedError, match=r"Fancy \(node 'node7'\).*ONNX Runtime") as error:
        import_onnx(model)
    assert "\n" not in str(error.value)


def test_an_attribute_that_is_not_understood_is_refused_rather_than_ignored():
    model = model_of([helper.make_node("Relu", ["x"], ["y"], leak=0.5)], [1, 2])
    with pytest.raises(UnsupportedError, match="attribute leak"):
        import_onnx(model)


def test_a_second_free_axis_asks_for_its_size():
    model = model_of([helper.make_node("Relu", ["x"], ["y"])], ["n", "length"])
    with pytest.raises(UnsupportedError, match="--shape x="):
        import_onnx(model)


def test_a_name_that_nothing_makes_is_an_input_error():
    with pytest.raises(InputError, match="'ghost'"):
        import_onnx(model_of([helper.make_node("Relu", ["ghost"], ["y"])], [1, 2]))


@pytest.mark.parametrize("leaves", [0, 1000])
def test_trees_by_matrices_and_by_walking_agree_with_onnx_runtime(monkeypatch, leaves):
    from skl2onnx import to_onnx

    x = RANDOM.normal(size=(300, 5)).astype(np.float32)
    y = (x[:, 0] > 0).astype(int) + (x[:, 1] > 1)
    forest = RandomForestClassifier(7, max_depth=6, random_state=0).fit(x, y)
    monkeypatch.setattr(trees, "_GEMM_LEAVES", leaves)
    model = to_onnx(forest, x[:1], options={"zipmap": False}, target_opset={"": 18, "ai.onnx.ml": 3})
    graph = import_onnx(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (name,) = (i.name for i in session.get_inputs())
    for got, expected in zip(graph(torch.from_numpy(x)), session.run(None, {name: x}), strict=True):
        np.testing.assert_allclose(got.numpy(), expected, atol=1e-6)


def test_a_light_network_of_the_onnx_project():
    """One of the nine; all of them are in the conformance suite."""
    from onnx.backend.test.runner import Runner

    folder = __import__("pathlib").Path(onnx.__file__).parent / "backend/test/data/light"
    model = onnx.load(folder / "light_squeezenet.onnx")
    expected = TensorProto()
    expected.ParseFromString((folder / "light_squeezenet_output_0.pb").read_bytes())
    constants = {i.name for i in model.graph.initializer}
    (entry,) = (e for e in model.graph.input if e.name not in constants)
    x = Runner.generate_dummy_data(entry, seed=0, name="light_squeezenet", random=False)
    with torch.no_grad():
        got = import_onnx(model)(torch.from_numpy(x))
    np.testing.assert_allclose(got.numpy(), numpy_helper.to_array(expected), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("operator", "attributes", "expected"),
    [("Div", {}, np.floor_divide), ("Mod", {}, np.remainder), ("BitShift", {"direction": "RIGHT"}, np.right_shift)],
)
def test_unsigned_numbers_of_64_bits_are_divided_as_such(operator, attributes, expected):
    """torch has no such arithmetic; beyond 2**63 int64 would take them for negative ones."""
    edges = np.array([0, 1, 2, 2**63 - 1, 2**63, 2**63 + 1, 2**64 - 2, 2**64 - 1], np.uint64)
    left = np.concatenate([np.repeat(edges, 8), RANDOM.integers(0, 2**64, 500, np.uint64)])
    right = np.concatenate(
        [np.tile(edges, 8), RANDOM.integers(1, 2**64, 500, np.uint64) >> RANDOM.integers(0, 63, 500).astype(np.uint64)]
    )
    right = right % 64 if operator == "BitShift" else np.maximum(right, 1)
    ends = [helper.make_tensor_value_info(name, TensorProto.UINT64, [len(left)]) for name in "abc"]
    node = helper.make_node(operator, ["a", "b"], ["c"], **attributes)
    got = import_onnx(helper.make_model(helper.make_graph([node], "g", ends[:2], ends[2:])))
    answers = got(torch.from_numpy(left), torch.from_numpy(right)).numpy()
    np.testing.assert_array_equal(answers, expected(left, right))


def test_a_seeded_dropout_in_training_leaves_out_what_the_reference_leaves_out():
    from onnx.reference import ReferenceEvaluator

    constants = {"ratio": np.float32(0.4), "training": np.array(True)}
    nodes = [helper.make_node("Dropout", ["x", "ratio", "training"], ["y"], seed=3)]
    model, x = model_of(nodes, [4, 5], constants), weights(4, 5)
    (expected,) = ReferenceEvaluator(model).run(None, {"x": x})
    np.testing.assert_allclose(import_onnx(model)(torch.from_numpy(x)).numpy(), expected, rtol=1e-6)
    with pytest.raises(UnsupportedError, match=r"Dropout.*random"):
        import_onnx(model_of(nodes, ["n", 5], constants))
    nodes = [helper.make_node("Dropout", ["x", "ratio", "training"], ["y"])]
    with pytest.raises(UnsupportedError, match="without a seed"):
        import_onnx(model_of(nodes, [4, 5], constants))
