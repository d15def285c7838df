"""No operator of the importer fixes the batch: one graph answers 1, 2 and 7 rows as ONNX Runtime does."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from edgewright.errors import UnsupportedError
from edgewright.intake import torch_graph
from edgewright.intake.onnx_graph import import_onnx

pytestmark = pytest.mark.filterwarnings("ignore")
RANDOM = np.random.default_rng(0)
ROWS = (1, 2, 7)


def weights(*shape):
    return RANDOM.normal(size=shape).astype(np.float32)


def model_of(text, **constants):
    """A model in ONNX's own notation, with constants beside it."""
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 18]>\n{text}')
    for name, value in constants.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return model


def assert_free(model, path=None):
    """The imported graph, saved and read again, against ONNX Runtime at several batch sizes."""
    graph = import_onnx(model)
    if path is not None:
        torch_graph.save(graph, path / "m.graph")
        graph = torch_graph.load(path / "m.graph")
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (entry,) = session.get_inputs()
    for rows in ROWS:
        shape = (rows, *entry.shape[1:])
        x = RANDOM.integers(0, 5, shape) if "int64" in entry.type else RANDOM.normal(size=shape).astype(np.float32)
        with torch.no_grad():
            got = graph(torch.from_numpy(x))
        got = got if isinstance(got, tuple) else (got,)
        for one, expected in zip(got, session.run(None, {entry.name: x}), strict=True):
            np.testing.assert_allclose(one.numpy(), expected, rtol=1e-4, atol=1e-5)
    return graph


@pytest.mark.parametrize("size", [5, 7919, 32])
def test_padding_before_a_reshape_leaves_the_batch_free(tmp_path, size):
    """Asymmetric padding once fixed the batch at the traced size, which the reshape then wrote down."""
    text = f"""
    net (float[rows, 3, {size % 64 + 2}, 9] x) => (float[rows, 4] y) {{
        padded = Pad (x, pads)
        c = Conv <strides = [2, 2]> (padded, kernel)
        p = GlobalAveragePool (c)
        shape = Shape (p)
        first = Gather (shape, zero)
        one = Unsqueeze (first, axis)
        target = Concat <axis = 0> (one, rest)
        flat = Reshape (p, target)
        y = MatMul (flat, weight)
    }}"""
    constants = {"pads": np.array([0, 0, 0, 0, 0, 0, 1, 1]), "kernel": weights(6, 3, 3, 3), "weight": weights(6, 4)}
    constants |= {"zero": np.int64(0), "axis": np.array([0]), "rest": np.array([-1])}
    assert_free(model_of(text, **constants), tmp_path)


@pytest.mark.parametrize("mode", ["linear", "nearest"])
def test_resizing_before_a_reshape_leaves_the_batch_free(mode):
    text = f"""
    net (float[rows, 2, 4, 5] x) => (float[rows, 3] y) {{
        r = Resize <mode = "{mode}", coordinate_transformation_mode = "half_pixel"> (x, , scales)
        flat = Reshape (r, shape)
        y = MatMul (flat, weight)
    }}"""
    constants = {"scales": np.array([1, 1, 2, 2], np.float32), "shape": np.array([-1, 160]), "weight": weights(160, 3)}
    assert_free(model_of(text, **constants))


@pytest.mark.parametrize("split", ["", "two", "sizes"])
def test_sequences_are_taken_apart(tmp_path, split):
    """Pieces of one, of two and of given sizes; what stays of them side by side."""
    keep = "" if split else "<keepdims = 0, axis = 1>"
    text = f"""
    net (float[rows, 5, 4] x) => (float[rows, n] y, int64 count) {{
        whole = SplitToSequence {keep or "<axis = 1>"} (x{", " + split if split else ""})
        count = SequenceLength (whole)
        first = SequenceAt (whole, zero)
        last = SequenceAt (whole, minus)
        fewer = SequenceErase (whole, zero)
        more = SequenceInsert (fewer, first, zero)
        longer = SequenceInsert (more, last)
        shorter = SequenceErase (longer)
        joined = ConcatFromSequence <axis = 1> (shorter)
        y = Flatten (joined)
    }}"""
    constants = {"zero": np.int64(0), "minus": np.int64(-1), "two": np.int64(2), "sizes": np.array([1, 3, 1])}
    assert_free(model_of(text, **constants), tmp_path)


def test_a_sequence_that_is_built_and_stacked():
    text = """
    net (float[rows, 4] x) => (float[rows, 2, 4] y) {
        negative = Neg (x)
        nothing = SequenceEmpty ()
        one = SequenceInsert (nothing, x)
        two = SequenceInsert (one, negative)
        y = ConcatFromSequence <axis = 1, new_axis = 1> (two)
    }"""
    assert_free(model_of(text))


def test_positions_and_tokens_for_each_row(tmp_path):
    """Range over the batch and Tile by the batch, as exporters write arange(len(x)) and token.repeat(len(x), 1, 1)."""
    text = """
    net (float[rows, 3, 4] x) => (float[rows, 4, 4] y, float[rows, 2] places, float[twice, 3, 4] doubled) {
        shape = Shape (x)
        rows = Gather (shape, zero)
        one_axis = Unsqueeze (rows, axis)
        repeats = Concat <axis = 0> (one_axis, ones)
        token = Tile (cls, repeats)
        y = Concat <axis = 1> (token, x)
        twice = Mul (rows, two)
        numbers = Range (zero, twice, one)
        pairs = Reshape (numbers, pair)
        places = Cast <to = 1> (pairs)
        doubled = Tile (x, double)
    }"""
    constants = {"zero": np.int64(0), "one": np.int64(1), "two": np.int64(2), "axis": np.array([0])}
    constants |= {"ones": np.array([1, 1]), "pair": np.array([-1, 2]), "double": np.array([2, 1, 1])}
    assert_free(model_of(text, **constants, cls=weights(1, 1, 4)), tmp_path)


def test_sizes_that_exporters_compute_with():
    """Where and Equal over a shape with -1, Max, Split of a shape, a scale that is a real number."""
    text = """
    net (float[rows, 1, 4] x) => (float[rows, 3, 4] y, float[rows, 8] z) {
        shape = Shape (x)
        wanted = Concat <axis = 0> (minus, three, minus)
        keeps = Equal (wanted, minus)
        ones = ConstantOfShape <value = int64[1] {1}> (rank)
        target = Where (keeps, ones, wanted)
        y = Expand (x, target)
        rows, height, width = Split <num_outputs = 3> (shape)
        real = Cast <to = 1> (shape)
        scaled = Mul (real, scale)
        sizes = Cast <to = 7> (scaled)
        wide = Slice (sizes, two, three)
        at_least = Max (rows, one)
        flat = Concat <axis = 0> (at_least, wide)
        twice = Concat <axis = 2> (x, x)
        z = Reshape (twice, flat)
    }"""
    constants = {"minus": np.array([-1]), "three": np.array([3]), "two": np.array([2]), "one": np.array([1])}
    constants |= {"rank": np.array([3]), "scale": np.array([1, 1, 2], np.float32)}
    assert_free(model_of(text, **constants))


def test_a_constant_of_the_batchs_size_keeps_its_digits():
    """As float32, 2^24 + 1 is 2^24."""
    text = """
    net (float[rows, 4] x) => (int64[rows, 4] y, int64[rows, 4] z, bool[rows, 4] true, int64[rows, 4] wide) {
        shape = Shape (x)
        y = ConstantOfShape <value = int64[1] {16777217}> (shape)
        z = ConstantOfShape <value = int64[1] {-1152921504606846977}> (shape)
        true = ConstantOfShape <value = bool[1] {1}> (shape)
        unsigned = ConstantOfShape <value = uint16[1] {65535}> (shape)
        wide = Cast <to = 7> (unsigned)
    }"""
    model = model_of(text)
    graph = import_onnx(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for rows in ROWS:
        x = weights(rows, 4)
        for got, expected in zip(graph(torch.from_numpy(x)), session.run(None, {"x": x}), strict=True):
            np.testing.assert_array_equal(got.numpy(), expected, strict=True)


def encoded(node, rows):
    """What the imported graph of a node of ai.onnx.ml answers, beside ONNX Runtime."""
    ends = [helper.make_tensor_value_info("x", TensorProto.INT64, ["rows", 1])]
    result = helper.make_empty_tensor_value_info("y")
    result.type.tensor_type.elem_type = TensorProto.INT64 if node.op_type == "LabelEncoder" else TensorProto.FLOAT
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)]
    model = helper.make_model(helper.make_graph([node], "g", ends, [result]), opset_imports=opsets, ir_version=9)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return import_onnx(model)(torch.from_numpy(rows)).numpy(), session.run(None, {"x": rows})[0]


@pytest.mark.parametrize("large", [0, 2**24, 2**60])
def test_encoders_of_whole_numbers_tell_large_ones_apart(large):
    keys, ml = [large, large + 1, large + 3], {"domain": "ai.onnx.ml"}
    rows = np.array([*keys, large + 2], np.int64)[:, None]
    one_hot = helper.make_node("OneHotEncoder", ["x"], ["y"], cats_int64s=keys, **ml)
    labels = helper.make_node(
        "LabelEncoder", ["x"], ["y"], keys_int64s=keys, values_int64s=keys[::-1], default_int64=-large - 5, **ml
    )
    for node in (one_hot, labels):
        np.testing.assert_array_equal(*encoded(node, rows))


@pytest.mark.parametrize("lengths", [[4, 4, 4, 4, 4, 4, 4], [1, 3, 2, 4, 4, 1, 2]])
def test_reverse_sequence(lengths):
    """Rows of their own lengths; those of constant length are flipped."""
    text = """
    net (float[7, 4, 2] x) => (float[7, 4, 2] y) {
        y = ReverseSequence <batch_axis = 0, time_axis = 1> (x, lengths)
    }"""
    model = model_of(text, lengths=np.array(lengths))
    x = weights(7, 4, 2)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(import_onnx(model)(torch.from_numpy(x)).numpy(), session.run(None, {"x": x})[0])


@pytest.mark.parametrize(
    ("operator", "text", "constants"),
    [
        ("Add", "y = Add (x, table)", {"table": weights(3, 4)}),
        ("Reshape", "y = Reshape (x, fixed)", {"fixed": np.array([5, 4])}),
        ("Slice", "y = Slice (x, zero, two)", {"zero": np.array([0]), "two": np.array([2])}),
        (
            "Expand",
            "s = Shape (x) r = Gather (s, zero) t = Unsqueeze (r, zero) m = Max (t, eight) y = Expand (one, m)",
            {"zero": np.array([0]), "eight": np.array([8]), "one": weights(1)},
        ),
        ("SplitToSequence", "s = SplitToSequence (x) y = SequenceAt (s, zero)", {"zero": np.int64(0)}),
    ],
)
def test_an_operator_that_needs_one_batch_size_is_named(operator, text, constants):
    model = model_of(f"net (float[rows, 4] x) => (float[n, 4] y) {{ {text} }}", **constants)
    with pytest.raises(UnsupportedError, match=r"operator \w+ \(node '\w+'\)") as refusal:
        import_onnx(model)
    assert operator in str(refusal.value) or "Gather" in str(refusal.value) or "Max" in str(refusal.value)


@pytest.mark.parametrize(
    "error", [KeyError("lost"), AssertionError(), ZeroDivisionError("nothing"), OverflowError("big")]
)
def test_whatever_torch_raises_names_the_operator(monkeypatch, error):
    from edgewright.intake import onnx_graph

    def failing(_builder, _op):
        raise error

    monkeypatch.setitem(onnx_graph.HANDLERS, "Relu", failing)
    model = model_of("net (float[rows, 4] x) => (float[rows, 4] y) { y = Relu (x) }")
    with pytest.raises(UnsupportedError, match=r"operator Relu \(node 'y'\)"):
        import_onnx(model)


def test_a_branch_that_shapes_choose_and_a_loop_of_known_length(tmp_path):
    """The loop's layer stands in the graph once, however often it goes round; no bias slips into it."""
    text = """
    net (float[rows, 4] x) => (float[rows, 4] y, float[3, rows, 4] all) {
        shape = Shape (x)
        width = Gather (shape, one)
        is_four = Equal (width, four)
        h = If (is_four) <
            then_branch = yes () => (float[rows, 4] a) { a = Neg (x) },
            else_branch = no () => (float[rows, 4] b) { b = Relu (x) }
        >
        y, all = Loop (most, , h) <
            body = step (int64 i, bool go, float[rows, 4] before)
                => (bool on, float[rows, 4] after, float[rows, 4] seen) {
            on = Less (i, two)
            product = MatMul (before, weight)
            after = Add (product, shift)
            seen = Tanh (after)
        }>
    }"""
    constants = {"one": np.int64(1), "two": np.int64(2), "four": np.int64(4), "most": np.int64(2**62)}
    graph = assert_free(model_of(text, **constants, weight=weights(4, 4), shift=weights(4)), tmp_path)
    assert sum(isinstance(layer, torch.nn.Linear) for layer in graph.modules()) == 1
    assert sum(node.op == "call_module" and "MatMul" not in str(node.target) for node in graph.graph.nodes) >= 3


def test_a_scan_is_written_out():
    text = """
    net (float[rows, 4] x) => (float[rows, 4] y, float[3, rows, 4] all) {
        y, all = Scan <num_scan_inputs = 1, body = step (float[rows, 4] before, float[1, 4] row)
            => (float[rows, 4] after, float[rows, 4] seen) {
            after = Add (before, row)
            seen = Identity (after)
        }> (x, table)
    }"""
    model = model_of(text, table=weights(3, 1, 4))
    graph, x = import_onnx(model), weights(2, 4)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for got, expected in zip(graph(torch.from_numpy(x)), session.run(None, {"x": x}), strict=True):
        np.testing.assert_allclose(got.numpy(), expected, rtol=1e-5)


def test_weights_that_are_shared_stay_one_layer(tmp_path):
    """Twice the same MatMul, with a bias of its own each: one Linear without bias, two additions."""
    text = """
    net (float[rows, 4] x) => (float[rows, 4] y) {
        a = MatMul (x, weight)
        b = Add (a, first)
        c = MatMul (b, weight)
        y = Add (c, second)
    }"""
    graph = assert_free(model_of(text, weight=weights(4, 4), first=weights(4), second=weights(4)), tmp_path)
    (layer,) = [m for m in graph.modules() if isinstance(m, torch.nn.Linear)]
    assert layer.bias is None


def test_local_functions_are_written_out():
    double = helper.make_function(
        "own", "Double", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 18)]
    )
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["rows", 4]) for n in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Double", ["x"], ["y"], domain="own")], "g", ends[:1], ends[1:])
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    model = helper.make_model(graph, functions=[double], opset_imports=imports, ir_version=8)
    assert_free(model)


@pytest.mark.parametrize("end", [10**9, 2**31 - 1, 2**63 - 1])
def test_a_slice_that_ends_beyond_every_batch_takes_all_rows(end):
    text = """
    net (float[rows, 6] x) => (float[rows, 4] y) { y = Slice (x, starts, ends, axes) }"""
    assert_free(model_of(text, starts=np.array([0, 1]), ends=np.array([end, 5]), axes=np.array([0, 1])))
