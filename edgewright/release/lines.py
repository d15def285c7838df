"""Which line of a release repository is meant, and that it goes on with the model that it began with."""

import hashlib

from edgewright.codec.download import unpacked
from edgewright.errors import InputError
from edgewright.progress import progress
from edgewright.release.repository import ReleaseRepository
from edgewright_runtime.bundle.line import Line, checked_channel, checked_model
from edgewright_runtime.bundle.manifest import Manifest
from edgewright_runtime.bundle.release import LINES_PATH, ReleaseDocument, lines_json, parse_lines
from edgewright_runtime.errors import IntegrityError

__all__ = [
    "checked_names",
    "find_line",
    "known_lines",
    "line_of",
    "list_line",
    "no_release",
    "require_same_model",
]


def checked_names(model: str, channel: str) -> None:
    """Raise `InputError` where a model or a channel cannot be called so."""
    try:
        checked_model(model)
        checked_channel(channel)
    except IntegrityError as e:
        raise InputError(str(e)) from e


def line_of(manifest: Manifest, channel: str) -> Line:
    """The line that a bundle is released in."""
    checked_names(manifest.name, channel)
    return Line(manifest.name, manifest.platform, channel)


def known_lines(files: ReleaseRepository) -> tuple[Line, ...]:
    """All lines of a repository; none before the first release."""
    content = files.read(LINES_PATH)
    try:
        return () if content is None else parse_lines(content)
    except IntegrityError as e:
        raise InputError(f"release repository {files.url}: {e}; `edgewright store repair --repository` mends it") from e


def list_line(files: ReleaseRepository, line: Line) -> None:
    """Make a line known to devices that ask what there is."""
    known = known_lines(files)
    if line not in known:
        files.write(LINES_PATH, lines_json([*known, line]))


def find_line(
    files: ReleaseRepository, channel: str, model: str | None = None, platform: str | None = None
) -> Line | None:
    """The only line in a channel of this model and platform, where they are given; None where there is none.

    Raises:
        InputError: there are several; the message names them.
    """
    matches = [
        line
        for line in known_lines(files)
        if line.channel == channel and model in {None, line.model} and platform in {None, line.platform}
    ]
    if len(matches) > 1:
        names = "; ".join(sorted(map(str, matches))[:10])
        raise InputError(f"release repository {files.url}: {names}: say which, by model and platform")
    return matches[0] if matches else None


def no_release(files: ReleaseRepository, channel: str, model: str | None, platform: str | None) -> str:
    """What to say where no line is meant: what was asked for, and what there is."""
    asked = "".join(f" {word}" for word in (model and f"of '{model}'", platform and f"for {platform}") if word)
    there = "; ".join(sorted(map(str, known_lines(files)))[:10]) or "nothing"
    return f"release repository {files.url}: no release{asked} on channel '{channel}'; there is: {there}"


def require_same_model(before: ReleaseDocument, manifest: Manifest, files: ReleaseRepository) -> None:
    """Refuse another model under a name that is taken: its devices would feed it rows that it does not know.

    A newer version may gain and lose columns or classes; one that shares none is another model.

    Raises:
        InputError: what differs, and to give it a name of its own.
    """
    packed = files.read(before.manifest.name)
    # A damaged release must not keep a whole one from following it.
    if packed is None or hashlib.sha256(packed).hexdigest() != before.manifest.blob:
        progress.note(f"release {before.name} is damaged: not compared with the model that follows it")
        return
    try:
        older = Manifest.from_json(unpacked(packed, before.manifest.bytes))
    except IntegrityError as e:  # as its publisher wrote it, who had another version of this tool perhaps
        progress.note(f"release {before.name} cannot be read ({e}): not compared with the model that follows it")
        return
    if difference := _difference(older, manifest):
        raise InputError(
            f"release repository {files.url}: '{manifest.name}' for {manifest.platform} is another model there "
            f"({difference}); give this one a name of its own (--name)"
        )


def _difference(old: Manifest, new: Manifest) -> str:
    """What makes two manifests those of different models; empty where nothing does."""
    if old.task != new.task:
        return f"{old.task}, this is {new.task}"
    columns = [{column.name for column in m.preprocessing.columns} for m in (old, new)]
    if bool(columns[0]) != bool(columns[1]):
        kinds = ["table rows" if names else "arrays" for names in columns]
        return f"it takes {kinds[0]}, this takes {kinds[1]}"
    if columns[0] and not columns[0] & columns[1]:
        return f"no column in common: {_some(columns[0])}; here: {_some(columns[1])}"
    if old.labels and new.labels and not set(old.labels) & set(new.labels):
        return f"no class in common: {_some(set(old.labels))}; here: {_some(set(new.labels))}"
    # Without the batch axis, and whatever the order of the inputs.
    shapes = [sorted(spec.shape[1:] for spec in m.inputs) for m in (old, new)]
    if not columns[0] and shapes[0] != shapes[1]:
        return f"inputs of shape {shapes[0]}, here {shapes[1]}"
    return ""


def _some(names: set[str]) -> str:
    shown = ", ".join(sorted(names)[:3])
    return f"{shown}, …" if len(names) > 3 else shown
