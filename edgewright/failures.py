"""What other people's code says when it fails, in one line: no terminal codes, no dump, the operator at fault by name.

No ML framework is imported here.
"""

import re
import signal
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import Any

__all__ = ["failing_operator", "one_line", "signal_name"]

_TERMINAL_CODES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
# Not the newline: lines are told apart by it below.
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
# MLIR (TensorFlow's and LiteRT's converters) puts a place of many nested parts before what it has to say.
# The text may be a hostile file's: each of these takes time in proportion to the line. So a path is looked for where a
# word begins, and only the first `loc(` (atomic: never a later one in its stead) is followed to the last bracket.
_BEFORE_MESSAGE = r":?(?:\d+:)*\s*(?=(?:loc|error|note|remark|'))"
_MLIR_FILE = re.compile(rf"(?:<unknown>|(?<!\S)\S+\.(?:mlir|py)){_BEFORE_MESSAGE}")
_MLIR_LOCATION = re.compile(rf"\A((?>.*?(?=loc\()))loc\(.*\){_BEFORE_MESSAGE}")
# ONNX Runtime's status, and the place and signature in its own source.
_ONNX_RUNTIME_PLACE = re.compile(
    r"\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : "
    r"|(?<!\S)(?>\S*?/onnxruntime/)\S+\.(?:cc|h):\d+ (?:.{0,500}?\) (?=[A-Z]))?"
)
_TELLING = re.compile(r"\berror:\s*(.+)")
# Lines that say where, not what: of Python's tracebacks and of MLIR's notes.
_FRAMES = re.compile(r"\s*(?:Traceback|File \"|\^+|~+\^|loc\(|<unknown>:\d+:\d+: note|note:|see current operation)")
# What TensorFlow makes of an error in a function that it compiled: a traceback as text, the error at its end.
_COMPILED, _NAMED = "in user code:", re.compile(r"\w+(?:Error|Exception): (.+)")
_OPERATOR_LOCALS = ("node", "n", "op", "operation", "layer")
_KINDS = ("op_type", "kind", "type", "op", "target")


def one_line(error: object, limit: int = 300) -> str:
    """The telling line of an error, or of any text, without terminal codes; never empty, cut at ``limit`` characters.

    Of an error that was raised from another it is both lines: exporters wrap what really happened.

    >>> one_line(ValueError("\\x1b[31mno kernel\\x1b[0m\\n  for Foo"))
    'no kernel'
    """
    line, cause = _telling_line(error), _root(error)
    because = _telling_line(cause) if cause is not error else line
    # A wrapper often quotes the message that it wraps.
    if because in line:
        return _cut(line, limit)
    return f"{_cut(line, limit // 2)}: {_cut(because, limit // 2)}"


def signal_name(number: int) -> str:
    """What a signal is called; those of real time have numbers alone.

    >>> signal_name(9), signal_name(40)
    ('SIGKILL', 'signal 40')
    """
    return signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"


def _telling_line(error: object) -> str:
    message = str(error)
    # str() of a KeyError is the bare key in quotes, which tells a reader nothing.
    if isinstance(error, KeyError) and error.args:
        message = f"nothing is known of {error.args[0]!r}"
    elif isinstance(error, RecursionError):  # its own words name a decoder's parts
        message = "it is nested too deeply"
    plain = _UNPRINTABLE.sub("", _TERMINAL_CODES.sub("", message))
    lines = [line.strip() for line in plain.splitlines() if line.strip() and not _FRAMES.match(line)]
    lines = [_ONNX_RUNTIME_PLACE.sub("", _MLIR_LOCATION.sub(r"\1", _MLIR_FILE.sub("", line))) for line in lines]
    if lines and lines[0] == _COMPILED:
        lines = [match[1] for line in lines if (match := _NAMED.match(line))] or lines[1:]
    telling = next((match[1] for line in lines if (match := _TELLING.search(line))), None)
    return telling or next(iter(lines), "") or type(error).__name__


def _root(error: object) -> object:
    while isinstance(error, BaseException) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _cut(line: str, limit: int) -> str:
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def failing_operator(error: BaseException) -> str:
    """The operator or layer that a converter was at when it failed, as far as its own variables tell; else "".

    Converters walk a graph node by node and hardly ever name the node in what they raise.
    """
    for frame in _innermost_first(error):
        for name in _OPERATOR_LOCALS:
            described = _described(frame.f_locals.get(name))
            if described:
                return described
    return ""


def _innermost_first(error: BaseException) -> Iterator[FrameType]:
    if error.__cause__ is not None:
        # The cause first: its frames are where the converter stood, those of the wrapper are outside.
        yield from _innermost_first(error.__cause__)
    frames = []
    trace = error.__traceback__
    while trace is not None:
        frames.append(trace.tb_frame)
        trace = trace.tb_next
    yield from reversed(frames)


def _described(thing: Any) -> str:
    """``Conv (node 'stem/conv')`` of an object that is one; "" of anything else."""
    name = _text(thing, "name")
    # A local called `n` or `op` is often a plain number or text, which is not an operator.
    if thing is None or isinstance(thing, (str, int, float, Mapping, list, tuple)) or not name:
        return ""
    if _text(thing, "op").startswith("call_"):  # of torch.fx
        return f"{getattr(thing, 'target', '')} (node '{name}')"
    kind = next((text for attribute in _KINDS if (text := _text(thing, attribute))), "")
    return f"{kind} (node '{name}')" if kind else ""


def _text(thing: Any, attribute: str) -> str:
    """An attribute that is a text; reading one of a foreign object may fail in any way."""
    try:
        value = getattr(thing, attribute, "")
    except Exception:
        return ""
    return value if isinstance(value, str) else ""
