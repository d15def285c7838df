import errno
import hashlib
import os
from pathlib import Path

import pytest

from edgewright_runtime.bundle.manifest import FileEntry
from edgewright_runtime.bundle.opening import check_file, file_digest
from edgewright_runtime.errors import IntegrityError, ShortageError

CONTENT = b"weights"
ENTRY = FileEntry("model.onnx", len(CONTENT), hashlib.sha256(CONTENT).hexdigest())


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "model.onnx").write_bytes(CONTENT)
    return tmp_path / "model.onnx"


def test_file_of_its_length_and_digest_is_sound(file: Path) -> None:
    check_file(file, ENTRY)


@pytest.mark.parametrize(
    ("content", "said"), [(b"weight", "6 bytes"), (b"weights!", "8 bytes"), (b"weighty", "SHA-256")]
)
def test_shorter_longer_or_changed_file_is_refused(file: Path, content: bytes, said: str) -> None:
    file.write_bytes(content)
    with pytest.raises(IntegrityError, match=said):
        check_file(file, ENTRY)


def test_missing_file_folder_and_link_are_no_plain_files(file: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(file)
    for path in (tmp_path / "absent", tmp_path, tmp_path / "link"):
        with pytest.raises(IntegrityError, match="not a plain file"):
            check_file(path, ENTRY)


def test_digest_is_of_all_blocks(file: Path) -> None:
    content = bytes(3 << 20) + b"end"
    file.write_bytes(content)
    assert file_digest(file) == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(("code", "kind"), [(errno.EIO, IntegrityError), (errno.EMFILE, ShortageError)])
def test_file_that_cannot_be_read_is_at_fault_unless_files_are_short(
    file: Path, monkeypatch: pytest.MonkeyPatch, code: int, kind: type[Exception]
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(kind, match=r"model\.onnx: cannot be read"):
        check_file(file, ENTRY)
