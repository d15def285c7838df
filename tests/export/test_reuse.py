"""An intermediate file is converted once, and again where the note of it cannot be believed."""

import pytest

from edgewright.artifact import Format
from edgewright.export.reuse import reuse
from edgewright.store import Store


@pytest.fixture
def converted(tmp_path):
    """A store, a conversion that counts how often it runs, and what calls it."""
    store, runs = Store(tmp_path / "store"), []

    def convert(path):
        runs.append(path)
        path.write_bytes(b"a model")

    return store, runs, lambda: reuse(store, "key", convert, name="m.onnx", form=Format.ONNX, parent=None)


def test_a_file_is_converted_once(converted):
    _, runs, again = converted
    assert again() == again()
    assert len(runs) == 1


@pytest.mark.parametrize("content", [b"", b'{"path": "', b"[]"])
def test_a_damaged_note_is_not_believed(converted, content):
    store, runs, again = converted
    made = again()
    (note,) = (store.root / "exports").glob("*.json")
    note.write_bytes(content)
    assert again().digest == made.digest
    assert len(runs) == 2
    again()
    assert len(runs) == 2
