"""JSON that carries its own SHA-256: a rotten byte in a kept result is noticed, even one that leaves valid JSON.

`dumps` and `loads` take the place of the standard module's, as the ``jsonlib`` of Prefect's serializer.
"""

import hashlib
import json
from typing import Any

from edgewright.progress import progress

__all__ = ["SEALED_JSON", "dumps", "is_whole", "loads"]

SEALED_JSON = __name__


def dumps(value: Any, **options: Any) -> str:
    """One line with the digest, then the JSON."""
    content = json.dumps(value, **options)
    return f"{_digest(content)}\n{content}"


def loads(sealed: str, **options: Any) -> Any:
    """The value.

    Raises:
        ValueError: the content is not what its digest says.
    """
    if not is_whole(sealed):
        progress.note("a kept result is not what was written, a disk error perhaps; the step is computed anew")
        raise ValueError("not the content of its digest")
    return json.loads(sealed.partition("\n")[2], **options)


def is_whole(sealed: Any) -> bool:
    """Whether the content is what its digest says; what is not a text is not."""
    if not isinstance(sealed, str):
        return False
    digest, _, content = sealed.partition("\n")
    return digest == _digest(content)


def _digest(content: str) -> str:
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()
