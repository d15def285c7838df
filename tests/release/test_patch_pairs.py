"""The writer and the reader of patches, on 20,000 pairs of files: whatever is built, a device applies."""

import os
import struct
from pathlib import Path

import pytest

from edgewright.package import Bundle
from edgewright.progress import Announcement, progress
from edgewright.release import publish
from edgewright.release.patches import build_patch, build_patches, encoders
from edgewright_runtime.bundle.release import parse_release
from edgewright_runtime.codec.patch import apply_patch, readable_codecs
from edgewright_runtime.update.updater import Updater
from tests.release.patch_pairs import _report, pair
from tests.runtime.patchable import bundle

PAIRS = int(os.environ.get("PATCH_PAIRS", "20000"))
SHARES = 20


@pytest.mark.parametrize("share", range(SHARES))
def test_every_codec_makes_a_patch_of_every_pair_and_the_reader_takes_it(share: int) -> None:
    said: list[Announcement] = []
    with progress.listening(said.append):
        for seed in range(share * PAIRS // SHARES, (share + 1) * PAIRS // SHARES):
            path, base, new = pair(seed)
            for codec in readable_codecs():
                patch = build_patch(path, base, new, [codec])
                assert patch is not None, (seed, codec, said)
                assert apply_patch(codec, base, patch.content, len(new)) == new, (seed, codec)
    assert said == []


def test_two_real_reports_whose_steps_that_only_move_came_in_a_row(shared: Path) -> None:
    case = shared / "cases" / "second_release_small_file"
    base, new = (case / "base.bin").read_bytes(), (case / "new.bin").read_bytes()

    patch = build_patch("report.json", base, new, ["bsdiff"])

    assert patch is not None
    assert apply_patch("bsdiff", base, patch.content, len(new)) == new


def test_steps_that_only_move_are_part_of_the_step_before(monkeypatch: pytest.MonkeyPatch) -> None:
    base, new = b"abcdefgh" * 4, b"abcdefgh" * 2 + b"cdefgh"

    def steps(*_: bytes) -> tuple[bytes, bytes, bytes]:
        back = [(8, 0, 8), (0, 0, -8), (0, 0, -8), (8, 0, 0), (0, 0, 1), (0, 0, 1), (6, 0, 0), (0, 0, -3), (0, 0, 3)]
        signed = [(a, i, s if s >= 0 else -s - (1 << 63)) for a, i, s in back]
        return b"".join(struct.pack("<qqq", *step) for step in signed), bytes(22), b""

    monkeypatch.setattr("bsdiff4.core.diff", steps)

    patch = build_patch("f", base, new, ["bsdiff"])

    assert patch is not None
    assert apply_patch("bsdiff", base, patch.content, len(new)) == new


@pytest.mark.parametrize("fault", [RuntimeError("a codec's own\nerror"), MemoryError(), b"not a patch", b""])
def test_codec_that_fails_is_left_out_and_told(monkeypatch: pytest.MonkeyPatch, fault: Exception | bytes) -> None:
    def broken(*_: object) -> bytes:
        if isinstance(fault, bytes):
            return fault
        raise fault

    real = encoders()
    monkeypatch.setattr("edgewright.release.patches.encoders", lambda: {**real, "tensor": broken})
    _, base, new = pair(1)
    said: list[Announcement] = []

    with progress.listening(said.append):
        patch = build_patch("report.json", base, new)

    assert patch is not None
    assert patch.codec == "bsdiff"
    (event,) = said
    assert event.title.startswith("no tensor patch for report.json: ")
    assert "\n" not in event.title


@pytest.mark.parametrize("where", ["encoders", "tensor_ranges"])
def test_release_is_made_whatever_the_codecs_raise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table_bundle: Bundle, where: str
) -> None:
    def broken(*_: object) -> object:
        raise ZeroDivisionError("not foreseen")

    repository, root = str(tmp_path / "r"), tmp_path / "d"
    publish(table_bundle, repository, "stable")
    Updater(repository, "stable", root).update()
    newer = bundle(tmp_path / "new")
    said: list[Announcement] = []
    monkeypatch.setattr(f"edgewright.release.patches.{where}", broken)

    with progress.listening(said.append):
        assert publish(newer, repository, "stable").version == 2

    notes = [event.title for event in said if event.note]
    assert any("churn.onnx" in note and "not foreseen" in note for note in notes)
    patches = parse_release((tmp_path / "r/releases/churn.edge_device.stable/2.json").read_bytes()).patches
    assert "churn.onnx" not in {delta.path for patch in patches for delta in patch.files}
    assert Updater(repository, "stable", root).update().installed.name == "churn.edge_device.stable.2"


def test_no_patch_at_all_is_an_empty_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgewright.release.patches.encoders", dict)
    assert build_patches("f", b"a", b"b") == []


def test_small_patch_is_built_at_once() -> None:
    """The preset's own dictionary took 80 ms to set up, for each of a bundle's files."""
    import random
    import time

    base, new = (_report(random.Random(seed)) for seed in (1, 2))
    began = time.perf_counter()
    for _ in range(20):
        build_patch("report.json", base, new, ["tensor"])
    assert (time.perf_counter() - began) / 20 < 0.04
