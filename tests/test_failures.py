"""One line of what other people's code says when it fails."""

import time
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from edgewright.child import run_in_child
from edgewright.errors import ConversionError
from edgewright.failures import failing_operator, one_line

PLACE = 'loc(callsite(fused["Cumprod:", "net/Cumprod@__inference_run_1"] at fused["a:", "b"]))'
MLIR = (
    "\x1b[31mCould not translate MLIR to FlatBuffer.\x1b[0m\n"
    f"<unknown>:0: error: {PLACE}: 'tf.Cumprod' op is neither a custom op nor a flex op\n"
    '<unknown>:0: note: loc(fused["StatefulPartitionedCall:", "b"]): called from\n'
)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("first\nsecond"), "first"),
        (ValueError("\n\n   \x1b[1;31mred\x1b[0m text  \n"), "red text"),
        (RuntimeError("\x1b]8;;https://a.b\x1b\\link\x1b]8;;\x1b\\ here"), "link here"),
        (KeyError("lost"), "nothing is known of 'lost'"),
        (RecursionError("maximum recursion depth exceeded while decoding"), "it is nested too deeply"),
        (
            "[ONNXRuntimeError] : 1 : FAIL : Status Message: /onnxruntime_src/onnxruntime/core/bfc_arena.cc:360 "
            "void* onnxruntime::BFCArena::AllocateRawInternal(size_t, bool) Failed to allocate 8 bytes",
            "Status Message: Failed to allocate 8 bytes",
        ),
        (KeyError(), "KeyError"),
        (RuntimeError(), "RuntimeError"),
        (RuntimeError('Traceback (most recent call last):\n  File "x.py", line 1\nreal cause'), "real cause"),
        (MLIR, "'tf.Cumprod' op is neither a custom op nor a flex op"),
        (TypeError('in user code:\n\n    File "m.py", line 9, in call  *\n        f(x)\n\n    TypeError: no\n'), "no"),
        ("bell\x07 and\x00 null", "bell and null"),
        ("", "str"),
    ],
)
def test_the_telling_line_alone(error: object, said: str) -> None:
    assert one_line(error) == said


@pytest.mark.parametrize(
    "part",
    ["x", "loc(", ")", "a.py", "loc()", "/onnxruntime/", "x/onnxruntime/a.cc:1 ", ".py:1:", "1:", "\x1b]", "\x1b[0"],
)
def test_long_hostile_text_takes_no_longer_than_its_length(part: str) -> None:
    text = part * (15_000 // len(part))
    began = time.perf_counter()
    for line in (text, f"loc({text}", f"a.py:{text}", f"/onnxruntime/{text}"):
        one_line(line)
    assert time.perf_counter() - began < 0.5


def test_a_place_behind_the_kind_of_a_message_is_left_out() -> None:
    assert one_line(f"warning {PLACE}: 'tf.A' fails") == "warning 'tf.A' fails"


def test_a_long_line_is_cut() -> None:
    assert one_line("x" * 900) == "x" * 299 + "…"
    assert one_line("x" * 300) == "x" * 300


def test_what_really_happened_is_said_beside_what_wraps_it() -> None:
    error = RuntimeError("\x1b[96mFailed to export\x1b[0m\nThis is step 1/3")
    error.__cause__ = IndexError("no such axis")
    assert one_line(error) == "Failed to export: no such axis"


def convert(node: Any) -> None:
    inner(node)


def inner(_given: Any) -> None:
    raise RuntimeError("shape '[5, 64]' is invalid\n  for input of size 16384")


@pytest.mark.parametrize(
    ("node", "named"),
    [
        (SimpleNamespace(name="conv1/pad", kind="constant_pad_nd"), "constant_pad_nd (node 'conv1/pad')"),
        (SimpleNamespace(name="lstm", op="While"), "While (node 'lstm')"),
        (SimpleNamespace(name="view", op="call_function", target="aten.view"), "aten.view (node 'view')"),
        (SimpleNamespace(name="only a name"), ""),
        ("text", ""),
        (None, ""),
    ],
)
def test_the_operator_is_found_in_the_converters_own_variables(node: Any, named: str) -> None:
    with pytest.raises(RuntimeError) as caught:
        convert(node)
    assert failing_operator(caught.value) == named


def fail_in_a_converter() -> None:
    convert(SimpleNamespace(name="flatten", kind="Reshape"))


def fail_by_key() -> None:
    raise KeyError("aten::frobnicate")


def test_a_child_names_the_operator_and_says_one_line() -> None:
    with pytest.raises(ConversionError) as caught:
        run_in_child(partial(fail_in_a_converter), what="converting m")
    assert str(caught.value) == (
        "converting m: operator Reshape (node 'flatten') fails: RuntimeError: shape '[5, 64]' is invalid"
    )


def test_a_missing_key_is_a_sentence() -> None:
    with pytest.raises(ConversionError) as caught:
        run_in_child(partial(fail_by_key), what="converting m", advice="try another platform")
    assert str(caught.value) == ("converting m: KeyError: nothing is known of 'aten::frobnicate'; try another platform")
