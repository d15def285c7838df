import lzma
from pathlib import Path

from edgewright.validate import download_bytes


def test_download_is_what_travels(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"edge" * 5000)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b").write_bytes(bytes(range(256)) * 4)
    one, two = (download_bytes(tmp_path / name) for name in ("a", "sub/b"))
    assert one == len(lzma.compress(b"edge" * 5000, preset=6)) < 20000
    assert download_bytes(tmp_path) == one + two
