"""An intermediate file that several exports start from is converted once: found again by what it was made of."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

from edgewright.artifact import Artifact, Format
from edgewright.code_version import code_version
from edgewright.store import Store, replace_file

__all__ = ["reuse"]


def reuse(
    store: Store, key: object, convert: Callable[[Path], None], *, name: str, form: Format, parent: str | None
) -> Artifact:
    """The artifact that `convert` wrote for this key before, or writes now.

    The key must hold everything that decides the content, but for the code that exports, which is added. A note that
    is damaged, or whose artifact is gone or was changed, is not believed.
    """
    note = store.root / "exports" / f"{_hash(key)}.json"
    known = _noted(note)
    if known is not None and store.holds(known):
        return known
    with store.workspace() as folder:
        convert(folder / name)
        artifact = store.put(folder / name, form, parent=parent)
    # After the artifact itself is stored: a note never names what is not there yet.
    replace_file(note, artifact.model_dump_json().encode())
    return artifact


def _noted(note: Path) -> Artifact | None:
    if not note.exists():
        return None
    try:
        return Artifact.model_validate_json(note.read_bytes())
    except ValidationError:
        return None


def _hash(key: object) -> str:
    return hashlib.sha256(json.dumps([key, code_version("edgewright.export")]).encode()).hexdigest()
