"""A Loop that never ends costs seconds, and is named."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgewright.data import DataSpec
from edgewright.errors import UnsupportedError
from edgewright.intake import child, onnx_loops
from edgewright.intake.onnx_graph import import_onnx
from edgewright.intake.onnx_loops import refuse_endless_loops
from edgewright.intake.onnx_source import OnnxSource
from edgewright.intake.operators import control_flow

SCALAR = {"i": TensorProto.INT64, "c": TensorProto.BOOL}


def entry(name, kind=TensorProto.FLOAT, shape=("n", 2)):
    return helper.make_tensor_value_info(name, kind, shape)


def body(depth, nodes, carried=None):
    """Adds one to the carried value, or does what the nodes do to it; they make ``goes_on`` of ``c0``, ``c1``…"""
    step = carried or [helper.make_node("Add", [f"v{depth}", "one"], [f"w{depth}"])]
    ins = [entry(f"i{depth}", TensorProto.INT64, []), entry(f"c{depth}", TensorProto.BOOL, []), entry(f"v{depth}")]
    outs = [entry(f"on{depth}", TensorProto.BOOL, []), entry(f"w{depth}")]
    return helper.make_graph([*nodes, *step], f"body{depth}", ins, outs)


def passed(depth):
    return [helper.make_node("Identity", [f"c{depth}"], [f"on{depth}"])]


def loop(depth, most, going, inner, start="x", end="y"):
    return helper.make_node("Loop", [most, going, start], [end], name=f"spin{depth}", body=inner)


def model(*nodes, constants=()):
    held = {"one": np.float32([1, 1]), "true": np.array(True), "false": np.array(False), **dict(constants)}
    graph = helper.make_graph(
        list(nodes), "g", [entry("x")], [entry("y")], [numpy_helper.from_array(v, k) for k, v in held.items()]
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(made)
    return made


def rounds(most, **more):
    return {"most": np.array(most, np.int64), **more}.items()


def nested(most):
    inner = loop(1, "most", "c0", body(1, passed(1)), "v0", "w0")
    return model(loop(0, "most", "true", body(0, passed(0), [inner])), constants=rounds(most))


ALWAYS = [helper.make_node("Constant", [], ["on0"], value=numpy_helper.from_array(np.array(True)))]
ENDLESS = {
    "no trip count": model(loop(0, "", "true", body(0, passed(0)))),
    "nothing at all": model(loop(0, "", "", body(0, ALWAYS))),
    "2**62 rounds": model(loop(0, "most", "true", body(0, passed(0))), constants=rounds(2**62)),
    "a constant": model(
        helper.make_node("Constant", [], ["m"], value_int=2**40), loop(0, "m", "true", body(0, ALWAYS))
    ),
    "two of 2,000": nested(2000),
    "in a branch": model(
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Greater", ["sum", "zero"], ["positive"]),
        helper.make_node(
            "If", ["positive"], ["y"],
            then_branch=helper.make_graph([loop(0, "", "true", body(0, passed(0)), "x", "t")], "t", [], [entry("t")]),
            else_branch=helper.make_graph([helper.make_node("Identity", ["x"], ["e"])], "e", [], [entry("e")]),
        ),
        constants={"zero": np.array(0, np.float32)}.items(),
    ),
}  # fmt: skip
BY_DATA = [
    helper.make_node("ReduceSum", ["v0"], ["s0"], keepdims=0),
    helper.make_node("Less", ["s0", "much"], ["on0"]),
]
ENDING = {
    "256 rounds": model(loop(0, "most", "true", body(0, passed(0))), constants=rounds(256)),
    "not once": model(loop(0, "", "false", body(0, passed(0)))),
    "a body that says no": model(
        loop(0, "", "true", body(0, [helper.make_node("Identity", ["false"], ["on0"])])),
    ),
    "ended by data": model(
        loop(0, "most", "true", body(0, BY_DATA)), constants=rounds(2**62, much=np.array(9, np.float32))
    ),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_loop_that_its_constants_say_never_ends_is_refused_at_once(name, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_loops, "run_within", None)  # nothing is run to know it
    onnx.save(ENDLESS[name], tmp_path / "m.onnx")
    np.savez(tmp_path / "d.npz", x=np.ones((40, 2), np.float32), y=np.arange(40) % 2)
    with pytest.raises(UnsupportedError, match=r"m\.onnx: Loop 'spin[01]' (never ends|goes round [\d,]+ times)"):
        child.check(tmp_path / "m.onnx", DataSpec(path=tmp_path / "d.npz"))


def test_loops_within_loops_are_written_out_up_to_a_sum(monkeypatch):
    monkeypatch.setattr(control_flow, "_MAX_ROUNDS_OF_ALL", 20)
    import_onnx(nested(4))
    with pytest.raises(UnsupportedError, match=r"Loop.*more than 20 rounds of all loops together"):
        import_onnx(nested(5))


@pytest.mark.parametrize("name", ENDING)
def test_loop_that_ends_is_taken(name, tmp_path):
    refuse_endless_loops(ENDING[name], "m.onnx")
    onnx.save(ENDING[name], tmp_path / "m.onnx")
    np.savez(tmp_path / "d.npz", x=np.ones((40, 2), np.float32), y=np.arange(40) % 2)
    source = OnnxSource(tmp_path / "m.onnx", DataSpec(path=tmp_path / "d.npz"))
    assert source.ask([np.zeros((3, 2), np.float32)])[0].shape == (3, 2)


def test_loop_that_some_data_never_ends_is_stopped_and_named(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_loops, "_LIMIT_S", 1.0)
    path, data = tmp_path / "m.onnx", DataSpec(path=tmp_path / "d.npz")
    np.savez(data.path, x=np.full((40, 2), -np.inf, np.float32), y=np.arange(40) % 2)
    onnx.save(ENDING["ended by data"], path)
    with pytest.raises(UnsupportedError, match=r"own data: no end after 1 s in Loop node\. Name:'spin0'"):
        child.take_in(path, data, tmp_path / "s", "m")
    onnx.save(
        model(loop(0, "most", "true", body(0, BY_DATA)), constants=rounds(2**62, much=np.array(np.inf, np.float32))),
        path,
    )
    with pytest.raises(UnsupportedError, match=r"m\.onnx: no end after 1 s in Loop node\. Name:'spin0'"):
        child.check(path, data)
