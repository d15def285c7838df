"""The device's half of ``.ewz``: exact bytes back, and nothing but an IntegrityError from a file that is not sound."""

import hashlib
import resource
import subprocess
import sys
import time
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewright.codec.rans import RansEncoder
from edgewright.codec.streams import number, signed
from edgewright.codec.wide import WidePlan, plan_wide, wide_stream
from edgewright.codec.writer import TensorSpan, encode
from edgewright.package import Bundle
from edgewright.release import publish
from edgewright_runtime.codec import huffman
from edgewright_runtime.codec.context_model import LevelShape, code_levels
from edgewright_runtime.codec.ewz import MAGIC, is_ewz, rebuild
from edgewright_runtime.codec.rans import RansDecoder, WorkLimitError
from edgewright_runtime.codec.wide_context import WideShape, decode_levels
from edgewright_runtime.errors import IntegrityError
from edgewright_runtime.update.transport import decompressed
from edgewright_runtime.update.updater import Updater


def sparse_file(rng: np.random.Generator, rows: int = 40, columns: int = 60) -> tuple[bytes, list[TensorSpan]]:
    """A skeleton around a sparse uniform tensor, an int8 tensor and a plain float32 one."""
    levels = rng.integers(-3, 4, (rows, columns)) * (rng.random((rows, columns)) < 0.1)
    sparse = (levels.astype(np.float32) * np.float32(0.0371)).tobytes()
    dense = np.clip(rng.normal(0, 20, (30, 30)).round(), -127, 127).astype(np.int8).tobytes()
    plain = rng.normal(0, 0.05, 500).astype("<f4").tobytes()
    content, spans = b"begin", []
    for raw, dtype, shape in ((sparse, "<f4", (rows, columns)), (dense, "<i1", (30, 30)), (plain, "<f4", (1, 500))):
        spans.append(TensorSpan(len(content), dtype, *shape))
        content += raw + b"between"
    return content, spans


@pytest.fixture(scope="module")
def original() -> bytes:
    return sparse_file(np.random.default_rng(5))[0]


@pytest.fixture(scope="module")
def sound() -> bytes:
    content, spans = sparse_file(np.random.default_rng(5))
    return encode(content, spans).data


def resealed(data: bytes) -> bytes:
    """The file with its checksum made right: what an attacker, not an accident, would send."""
    return MAGIC + zlib.crc32(data[8:]).to_bytes(4, "little") + data[8:]


@settings(max_examples=40, deadline=None)
@given(
    dtype=st.sampled_from(["<u1", "<i1", "<i2", "<i4", "<f2", "<f4"]),
    rows=st.integers(1, 12),
    columns=st.integers(1, 40),
    density=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    distinct=st.integers(1, 300),
    seed=st.integers(0, 2**32 - 1),
    coder=st.sampled_from(["auto", "huffman"]),
)
def test_rebuild_returns_the_exact_bytes_of_any_tensor(dtype, rows, columns, density, distinct, seed, coder):
    rng = np.random.default_rng(seed)
    words = rng.integers(0, 256, (distinct, np.dtype(dtype).itemsize), dtype=np.uint8)
    picked = rng.integers(0, distinct, rows * columns) * (rng.random(rows * columns) < density)
    raw = words[picked].tobytes()  # any bit pattern: NaN, infinities and negative zero among them
    content = b"\x00ab" + raw + b"end"
    coded = encode(content, [TensorSpan(3, dtype, rows, columns)], coder=coder)
    assert rebuild(coded.data) == content


@settings(max_examples=25, deadline=None)
@given(st.binary(max_size=2000))
def test_rebuild_returns_any_file_without_tensors(content):
    coded = encode(content, [])
    assert is_ewz(coded.data)
    assert rebuild(coded.data) == content
    assert len(coded.data) <= len(content) + 40


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 65535), st.booleans()), max_size=400))
def test_rans_returns_its_bits_under_any_probabilities(decisions):
    probabilities = np.array([p for p, _ in decisions], dtype=np.int64)
    bits = np.array([b for _, b in decisions], dtype=np.int64)
    encoder = RansEncoder()
    encoder.bits(probabilities, bits)
    decoder = RansDecoder(encoder.finish())
    assert np.array_equal(decoder.bits(probabilities), bits)
    decoder.finish()


def test_every_truncation_is_refused(sound):
    for length in range(len(sound)):
        with pytest.raises(IntegrityError):
            rebuild(sound[:length])


@settings(max_examples=60, deadline=None)
@given(at=st.integers(8, 10_000), value=st.integers(1, 255))
def test_a_resealed_forgery_never_yields_other_bytes(sound, original, at, value):
    # A few bits say nothing (a unit longer than its row is as good as one longer still).
    forged = bytearray(sound)
    forged[8 + (at - 8) % (len(sound) - 8)] ^= value
    try:
        rebuilt = rebuild(resealed(bytes(forged)), limit_bytes=1 << 20)
    except IntegrityError:
        return
    assert rebuilt == original


def test_a_resealed_truncation_is_refused(sound):
    for length in range(8, len(sound), 37):
        with pytest.raises(IntegrityError):
            rebuild(resealed(sound[:length]), limit_bytes=1 << 20)


def test_bytes_after_the_end_are_refused(sound):
    with pytest.raises(IntegrityError, match="after its last"):
        rebuild(resealed(sound + b"\x00"))


def test_an_unsealed_change_is_refused_before_anything_is_decoded(sound):
    changed = bytearray(sound)
    changed[-1] ^= 1
    with pytest.raises(IntegrityError, match="checksum"):
        rebuild(bytes(changed))


def test_a_file_above_the_limit_is_refused(sound):
    with pytest.raises(IntegrityError, match="above"):
        rebuild(sound, limit_bytes=1000)


def test_another_version_is_named():
    with pytest.raises(IntegrityError, match="version"):
        rebuild(b"EWZ\x02" + bytes(60))


def test_a_file_that_announces_a_gigabyte_costs_neither_its_memory_nor_its_time():
    """A tensor of 2^28 elements announced, four bytes of coded data given."""
    tensor = number(0) + bytes([5]) + number(1 << 14) + number(1 << 14) + bytes([0]) + signed(0)
    tensor = tensor.replace(bytes([5]), bytes([1]), 1)  # int8
    stream = bytes([5, 2]) + number(1) + number(1) + number(64)
    shared = (1 << 31).to_bytes(6, "little") + bytes(4)
    body = number(1 << 28) + bytes(16) + bytes([0]) + number(0) + number(0) + number(1) + tensor + stream
    hostile = MAGIC + bytes(4) + body + number(len(shared)) + shared
    code = (
        "import sys, resource; resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))\n"
        "from edgewright_runtime.codec.ewz import rebuild\nfrom edgewright_runtime.errors import IntegrityError\n"
        "try:\n    rebuild(sys.stdin.buffer.read())\nexcept IntegrityError:\n    sys.exit(7)\n"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    done = subprocess.run([sys.executable, "-c", code], input=resealed(hostile), timeout=60, check=False)
    assert done.returncode == 7
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 20


def test_huffman_lengths_that_no_code_has_are_refused():
    with pytest.raises(IntegrityError):
        huffman.canonical_codes(np.array([1, 1, 1]))


def test_a_code_that_no_symbol_has_is_refused():
    # Two symbols of two bits: codes 00 and 01; 11 is none, and moves on by 15 bits.
    with pytest.raises(IntegrityError, match="no symbol"):
        huffman.decode_symbols(b"\xc0\x00", np.array([2, 2]), np.array([15]), 1)


def test_the_runtime_half_needs_only_numpy_and_the_standard_library():
    code = (
        "import sys, edgewright_runtime.codec.ewz\n"
        "bad = {'torch', 'pydantic', 'edgewright', 'onnx', 'tensorflow'} & set(sys.modules)\n"
        "sys.exit(str(bad) if bad else 0)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_device_rebuilds_a_release_s_model_from_its_ewz(tmp_path: Path, table_bundle: Bundle):
    publish(table_bundle, str(tmp_path / "repository"), "stable")
    sent = [p for p in (tmp_path / "repository" / "blobs").rglob("*") if p.is_file() and is_ewz(p.read_bytes())]
    outcome = Updater(str(tmp_path / "repository"), "stable", tmp_path / "device").update()
    assert len(sent) == 1
    assert outcome.status == "installed"
    assert outcome.downloaded_bytes == table_bundle.download_bytes
    installed = tmp_path / "device" / "current" / "bundle" / "churn.onnx"
    assert installed.read_bytes() == (table_bundle.artifact.path / "churn.onnx").read_bytes()
    assert rebuild(sent[0].read_bytes()) == installed.read_bytes()


@pytest.mark.parametrize("cut", [1, 3, 4, 1000])
def test_a_transfer_is_told_by_its_first_bytes_however_it_is_cut(sound, original, cut):
    blocks = [sound[i : i + cut] for i in range(0, len(sound), cut)]
    assert b"".join(decompressed(blocks, "model", len(original))) == original


def test_an_ewz_larger_than_its_file_is_not_read_to_its_end(sound):
    taken = 0

    def blocks():
        nonlocal taken
        for block in (sound[:8], *[bytes(1000)] * 1000):
            taken += len(block)
            yield block

    with pytest.raises(IntegrityError, match="larger than the file"):
        list(decompressed(blocks(), "model", 2000))
    assert taken < 5000


def wide_levels(rows: int, columns: int, density: float, largest: int, seed: int = 0) -> np.ndarray:
    """Levels whose density differs by row and column."""
    rng = np.random.default_rng(seed)
    odds = rng.gamma(0.5, 1, rows)[:, None] * rng.gamma(0.5, 1, columns)[None, :]
    sizes = rng.integers(1, largest + 1, (rows, columns)) * rng.choice([-1, 1], (rows, columns))
    return np.where(rng.random((rows, columns)) < np.clip(density * odds, 0, 0.9), sizes, 0).astype(np.int32)


@pytest.fixture(scope="module")
def wide_original() -> bytes:
    return (wide_levels(400, 700, 0.05, 3).astype(np.float32) * np.float32(0.02)).tobytes()


@pytest.fixture(scope="module")
def wide(wide_original: bytes) -> bytes:
    # Above `context_levels` only the wide coder and Huffman's are left.
    coded = encode(wide_original, [TensorSpan(0, "<f4", 400, 700)], context_levels=0)
    assert coded.methods == ("wide",)
    return coded.data


@settings(max_examples=15, deadline=None)
@given(
    rows=st.integers(2, 60),
    columns=st.integers(2, 400),
    density=st.sampled_from([0.001, 0.1, 3.0]),
    largest=st.sampled_from([1, 2, 7, 100, 511]),
    blocks=st.sampled_from([(), (3,), (9, 28)]),
    seed=st.integers(0, 2**32 - 1),
)
def test_lanes_return_the_levels_of_any_tensor(rows, columns, density, largest, blocks, seed):
    levels = wide_levels(rows, columns, density, largest, seed)
    plan = plan_wide(levels, blocks)
    decoded = decode_levels(wide_stream(levels, plan), plan.shape)
    assert np.array_equal(decoded.T if plan.transposed else decoded, levels)


def test_lanes_return_levels_over_several_slabs():
    levels = wide_levels(1500, 1200, 0.02, 3)
    plan = plan_wide(levels, ())
    coded = wide_stream(levels, plan)
    assert abs(len(coded) - plan.cost_bytes) < 0.005 * plan.cost_bytes
    decoded = decode_levels(coded, plan.shape)
    assert np.array_equal(decoded.T if plan.transposed else decoded, levels)


def test_the_wide_coder_is_below_the_order_zero_entropy_and_huffman(wide, wide_original):
    levels = wide_levels(400, 700, 0.05, 3)
    counts = np.unique(levels, return_counts=True)[1]
    entropy_bytes = -(counts * np.log2(counts / counts.sum())).sum() / 8
    assert len(wide) < 0.95 * entropy_bytes
    assert len(wide) < len(encode(wide_original, [TensorSpan(0, "<f4", 400, 700)], coder="huffman").data)
    assert rebuild(wide) == wide_original


def test_levels_that_no_layout_of_lanes_takes_are_left_to_others():
    assert plan_wide(np.full((4, 4), 512), ()) is None
    assert plan_wide(np.ones((1, 5000), np.int32), ()) is None


@settings(max_examples=20, deadline=None)
@given(at=st.integers(8, 1_000_000), value=st.integers(1, 255))
def test_a_resealed_forgery_of_lanes_never_yields_other_bytes(wide, wide_original, at, value):
    forged = bytearray(wide)
    forged[8 + (at - 8) % (len(wide) - 8)] ^= value
    try:
        rebuilt = rebuild(resealed(bytes(forged)), limit_bytes=len(wide_original))
    except IntegrityError:
        return
    assert rebuilt == wide_original


def test_a_resealed_truncation_of_lanes_is_refused(wide):
    for length in range(8, len(wide), 1 + len(wide) // 40):
        with pytest.raises(IntegrityError):
            rebuild(resealed(wide[:length]), limit_bytes=1 << 22)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rows": 1}, "impossible"),
        ({"classes": 10}, "impossible"),
        ({"group": 0}, "impossible"),
        ({"columns": 1 << 21}, "impossible"),
    ],
)
def test_a_layout_that_would_take_memory_is_refused(change, said):
    shape = replace(WideShape(2, 100, 1, 2, (16, 16, 0)), **change)
    with pytest.raises(IntegrityError, match=said):
        decode_levels(bytes(200), shape)


def test_lanes_too_few_for_their_tensor_are_refused_before_they_take_time():
    with pytest.raises(IntegrityError, match="too few"):
        decode_levels(bytes(200), WideShape(1 << 10, 1 << 11, 1, 2, (16, 16, 0)))


def test_a_decoder_takes_as_many_steps_as_its_data_allows_and_no_more():
    data, nothing = (1 << 31).to_bytes(6, "little") + bytes(4), np.zeros(0, np.int64)
    decoder = RansDecoder(data, free_calls=5)
    for _ in range(5 + (1 << 17) + 16 * len(data)):
        decoder.bits(nothing)
    with pytest.raises(WorkLimitError, match="more steps to decode than its length allows"):
        decoder.bits(nothing)


def certain_levels(rows: int, columns: int, unit: int) -> tuple[bytes, bytes]:
    """An int8 tensor of ones, and its file in context-coded units of so many levels."""
    content, shape = b"\1" * rows * columns, LevelShape(rows, columns, 1, 1, unit, 1)
    encoder = RansEncoder()
    code_levels(encoder, shape, np.ones((rows, columns), np.int32))
    shared = encoder.finish()
    head = number(len(content)) + hashlib.sha256(content).digest()[:16] + bytes([0]) + number(0) + number(0)
    tensor = number(0) + bytes([1]) + number(rows) + number(columns) + bytes([0]) + signed(0)
    stream = bytes([5, 1]) + number(1) + number(1) + number(unit)
    return content, resealed(MAGIC + bytes(4) + head + number(1) + tensor + stream + number(len(shared)) + shared)


@pytest.mark.parametrize(("columns", "unit"), [(400, 1), (1, 64)], ids=["units of one", "rows of one"])
def test_levels_that_take_no_data_take_no_more_time_than_is_allowed(columns, unit, monkeypatch):
    content, coded = certain_levels(4000 // columns, columns, unit)
    assert len(coded) < 150
    assert rebuild(coded) == content

    monkeypatch.setattr("edgewright_runtime.codec.rans._FREE_CALLS", 1000)
    with pytest.raises(WorkLimitError):
        rebuild(coded)


def test_a_file_of_rows_and_columns_alone_is_refused_before_it_takes_time():
    rows, count = 500_000, 3
    tensor = number(0) + bytes([1]) + number(rows) + number(1) + bytes([0]) + signed(0)
    stream = bytes([5, 1]) + number(1) + number(1) + number(64)
    head = number(rows * count) + bytes(16) + bytes([0]) + number(0) + number(0) + number(count)
    with pytest.raises(WorkLimitError, match="1500003 rows and columns"):
        rebuild(resealed(MAGIC + bytes(4) + head + (tensor + stream) * count))


def test_what_a_device_would_refuse_for_its_work_is_coded_without_the_serial_coder(monkeypatch):
    content = bytes([1, 0]) * 2000
    span = TensorSpan(0, "<i1", 2000, 2)
    assert encode(content, [span]).methods == ("context",)

    monkeypatch.setattr("edgewright_runtime.codec.rans._FREE_CALLS", 1000)
    coded = encode(content, [span])
    assert "context" not in coded.methods
    assert rebuild(coded.data) == content


@pytest.mark.parametrize(
    ("rows", "columns", "digest"),
    [(3, 20_000, "b913c87b2213ff38"), (20_000, 3, "a2a69fb29aeb59e7"), (300, 400, "b7b80db628fb9846")],
    ids=["few rows", "few columns", "many of both"],
)
def test_lanes_are_coded_as_they_always_were(rows, columns, digest):
    """Files of before are read by the same model: a count that differs would make noise of them."""
    rng = np.random.default_rng(7)
    levels = ((rng.random((rows, columns)) < 0.2) * rng.integers(-6, 7, (rows, columns))).astype(np.int32)
    shape = WideShape(rows, columns, 2, 3, (12, 10, 8))
    coded = wide_stream(levels, WidePlan(shape, False, levels.size / 8))
    assert hashlib.sha256(coded).hexdigest()[:16] == digest
    assert np.array_equal(decode_levels(coded, shape), levels)


@pytest.mark.parametrize(("rows", "columns"), [(2, 1 << 19), (1 << 19, 2)], ids=["few rows", "few columns"])
def test_time_of_lanes_goes_by_their_levels_not_by_their_columns(rows, columns):
    levels = np.zeros((rows, columns), np.int32)
    levels[:, ::2] = 1
    shape = WideShape(rows, columns, 1, 1, (16, 16, 0))
    coded = wide_stream(levels, WidePlan(shape, False, levels.size / 8))
    began = time.process_time()
    assert np.array_equal(decode_levels(coded, shape), levels)
    assert time.process_time() - began < 8, "a step for each column in each unit took a quarter of a minute"
