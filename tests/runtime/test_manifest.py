import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewright.package import Bundle
from edgewright_runtime.bundle.manifest import Manifest
from edgewright_runtime.errors import IntegrityError
from edgewright_runtime.strict_json import parse_object, safe_path


@pytest.fixture(scope="module")
def content(table_bundle: Bundle) -> bytes:
    return (table_bundle.artifact.path / "manifest.json").read_bytes()


def test_a_manifest_survives_the_round_trip_byte_for_byte(content: bytes) -> None:
    assert Manifest.from_json(content).to_json() == content


def _changed(content: bytes, path: tuple[Any, ...], value: Any) -> bytes:
    document = json.loads(content)
    inner = document
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return json.dumps(document).encode()


QUANTIZED = {"name": "x", "shape": [-1, 3], "scale": 0.5, "zero_point": 0}


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("schema_version",), 2, "schema version 2"),
        (("schema_version",), True, "integer"),
        (("surprise",), 1, "unknown keys"),
        (("platform",), "toaster", "one of ios, android"),
        (("model",), "other.onnx", "not among the files"),
        (("model",), "../churn.onnx", "plain relative path"),
        (("files", 0, "path"), "/etc/passwd", "plain relative path"),
        (("files", 0, "path"), "a/../../b", "plain relative path"),
        (("files", 0, "path"), "..", "plain relative path"),
        (("files", 0, "path"), "a\\b", "plain relative path"),
        (("files", 0, "path"), "manifest.json", "the manifest itself"),
        (("files", 0, "path"), "GOLDEN.npz", "listed twice"),
        (("files", 0, "path"), "golden.npz/x", "where a folder"),
        (("files", 0, "bytes"), -1, "integer"),
        (("files", 0, "bytes"), 1.5, "integer"),
        (("files", 0, "sha256"), "AB" * 32, "SHA-256"),
        (("files", 0, "surprise"), 1, "unknown keys"),
        (("inputs", 0, "shape"), [2**40, 3], "integer"),
        (("inputs", 0, "dtype"), "object", "one of"),
        (("inputs", 0, "scale"), 0.5, "stand together"),
        (("inputs", 0), {**QUANTIZED, "dtype": "float32"}, "not of float32"),
        (("inputs", 0), {**QUANTIZED, "dtype": "int64"}, "not of int64"),
        (("name",), "\ud800", "half a character"),
        (("golden", "tolerance"), {"\udfff": 0.1}, "half a character"),
        (("inputs", 0, "shape"), [-1, 4], "do not fit"),
        (("scores", "output"), "nothing", "other outputs"),
        (("golden", "tolerance"), {"scores": "1"}, "number"),
        (("golden", "rows"), 0, "integer"),
        (("measurements", "accuracy"), 10**400, "number"),
        (("preprocessing", "columns", 2, "vocabulary"), [["a", "b"]], "integer"),
        (("labels",), ["a", 1], "text"),
        (("monitoring", "window_s"), 0, "integer"),
    ],
)
def test_what_the_schema_does_not_allow_is_refused(
    content: bytes, path: tuple[Any, ...], value: Any, message: str
) -> None:
    with pytest.raises(IntegrityError, match=message):
        Manifest.from_json(_changed(content, path, value))


@pytest.mark.parametrize(
    "content_",
    [b"", b"[]", b"null", b"{", b'{"a": NaN}', b'{"a": 1, "a": 2}', b"\xff\xfe", b"[" * 200_000, b" " * (9 << 20)],
    ids=["empty", "list", "null", "cut off", "NaN", "key twice", "not UTF-8", "deep", "long"],
)
def test_bytes_that_are_no_manifest_are_refused(content_: bytes) -> None:
    with pytest.raises(IntegrityError):
        Manifest.from_json(content_)


def test_every_missing_key_is_named(content: bytes) -> None:
    for key in json.loads(content):
        document = json.loads(content)
        del document[key]
        with pytest.raises(IntegrityError, match=f"'{key}' is missing"):
            Manifest.from_json(json.dumps(document).encode())


@given(st.text(max_size=30))
def test_a_path_that_is_accepted_stays_inside(text: str) -> None:
    try:
        path = safe_path(text, "x")
    except IntegrityError:
        return
    assert not path.startswith("/")
    assert ".." not in path.split("/")
    assert "\\" not in path
    assert "\0" not in path


def test_integer_of_a_thousand_digits_is_not_even_read() -> None:
    """Python 3.9 takes minutes for one of a million; nothing here needs one beyond a float's range."""
    with pytest.raises(IntegrityError, match="an integer of 1000 digits"):
        parse_object(b'{"n": ' + b"9" * 1000 + b"}", "it")
    assert parse_object(b'{"n": 1' + b"0" * 300 + b"}", "it").number("n") == 1e300


def test_whole_characters_may_be_escaped() -> None:
    assert parse_object(b'{"name": "\\ud83d\\ude00 \\\\ud800"}', "it").text("name") == "\U0001f600 \\ud800"
