"""``docs/zoo.md``, generated from the figures in ``zoo.json``. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.zoo_cells import COLUMNS, OURS

__all__ = ["page"]

_INTRODUCTION = """\
# The public zoo

`make zoo` builds architectures of {families} places ({models} of {wanted} in this run; random weights but for the \
models that packages ship, statistics of BatchNorm settled on data), converts each for three platforms in float32 and \
int8, and compares every output with the source run by its own framework, on 8 test rows. This page is generated from \
[zoo.json](../benchmarks/results/zoo.json) of {date}, on {processor}.

- **green**: a file was made and agrees. float32: largest difference over largest magnitude at most {relative:g}, \
or {roundings:g} times the source's own rounding (its float32 answers against its float64 ones) where that is more, \
but never above {beside_rounding:g}. int8: signal over noise at least {decibels:g} dB, or within {margin:g} dB of what \
the platform's own quantizer gives where that is less, but never below {floor:g} dB: random weights amplify the \
noise of rounding more than trained ones.
- **refused**: an error of ours that says why. **crashed**: a foreign exception, a signal, or no end in time; also \
where our error only passes a foreign one on. **wrong**: a file was made, does not agree, and nothing says so.
- Core ML files are run by our evaluator of the saved program, the peers' as well as ours; an operator that it does \
not know makes a cell of ours refused, one of a peer unchecked. Peers are called directly, as their own pages show it, \
on the very same models.
- {earlier} of our cells are of earlier code, of 16 training rows instead of 64, or of weights that another machine \
built by the same recipe; all others are of the present code.
"""


def page(result: Mapping[str, Any]) -> str:
    """The whole page."""
    rules = result["rules"]
    families = sorted({model["family"] for model in result["models"].values()})
    introduction = _INTRODUCTION.format(
        models=result["architectures"]["run"],
        wanted=result["architectures"]["in_the_roster"],
        families=len(families),
        date=result["date"],
        processor=result["processor"],
        relative=rules["float32_relative"],
        roundings=rules["float32_source_roundings"],
        beside_rounding=rules["float32_relative_beside_rounding"],
        decibels=rules["int8_decibels"],
        margin=rules["int8_decibels_below_own_quantizer"],
        floor=rules["int8_decibels_floor"],
        earlier=result["of_earlier_code"],
    )
    columns = [part for column in COLUMNS for part in (_column(result, str(column)), _reasons(result, str(column)))]
    parts = [introduction, _headline(result), _by_family(result), *columns, _not_exportable(result), _versions(result)]
    return "\n".join(part for part in parts if part)


def _headline(result: Mapping[str, Any]) -> str:
    ours = result["figures"][OURS]
    lines = ["## Figures", "", _row("column", "cells", "green", "refused", "crashed", "wrong"), _rule(6)]
    for name, counts in ours.items():
        lines.append(_row(name, *(counts[key] for key in ("cells",)), _share(counts), *_rest(counts)))
    lines += ["", "The peers, and ours on the same models:", ""]
    heads = ("peer", "column", "cells", "green", "refused", "crashed", "wrong", "unchecked", "ours green")
    lines += [_row(*heads), _rule(len(heads))]
    for peer, counts in result["figures"].items():
        if peer != OURS:
            same = _share(counts["ours_on_the_same"])
            lines.append(
                _row(peer, counts["column"], counts["cells"], _share(counts), *_rest(counts), counts["unchecked"], same)
            )
    return "\n".join([*lines, ""])


def _by_family(result: Mapping[str, Any]) -> str:
    lines = ["Ours by the models' place:", "", _row("place", "models", *map(str, COLUMNS)), _rule(2 + len(COLUMNS))]
    families = {name: model["family"] for name, model in result["models"].items()}
    for family in dict.fromkeys(families.values()):
        models = {name for name, held in families.items() if held == family}
        cells = []
        for column in COLUMNS:
            found = [e["outcome"] for e in _entries(result, str(column), OURS) if e["model"] in models]
            cells.append(f"{found.count('green')} / {len(found)}")
        lines.append(_row(family, len(models), *cells))
    return "\n".join([*lines, ""])


def _column(result: Mapping[str, Any], column: str) -> str:
    """One row a model: how far off, size and seconds of ours; how far off of each peer."""
    ours = {e["model"]: e for e in _entries(result, column, OURS)}
    if not ours:
        return ""
    peers = [p for p, counts in result["figures"].items() if p != OURS and counts["column"] == column]
    theirs = {peer: {e["model"]: e for e in _entries(result, column, peer)} for peer in peers}
    heads = ["model", OURS, "size", "seconds", *peers]
    lines = [f"## {column}", "", _row(*heads), _rule(len(heads))]
    for model, entry in ours.items():
        size = f"{entry['size_bytes'] / 1000:.0f} kB" if entry["size_bytes"] else ""
        others = [_told(theirs[peer].get(model)) for peer in peers]
        lines.append(_row(model, _told(entry), size, f"{entry['seconds']:.0f}", *others))
    return "\n".join([*lines, ""])


def _told(entry: Mapping[str, Any] | None) -> str:
    if entry is None:
        return ""
    if entry["relative"] is None:
        return str(entry["outcome"])
    off = f"{entry['relative']:.0e}" if entry["column"].endswith("float32") else _decibels(entry["decibels"])
    return off if entry["outcome"] == "green" else f"**{entry['outcome']}** {off}"


def _decibels(value: float | None) -> str:
    return "exact" if value is None else f"{value:.0f} dB"


def _reasons(result: Mapping[str, Any], column: str) -> str:
    others = [e for e in _entries(result, column, OURS) if e["outcome"] != "green"]
    if not others:
        return ""
    lines = [f"Not green, {column}:", ""]
    for entry in others:
        reason = entry["message"] or f"off by {_told(entry)}"
        lines.append(f"- {entry['model']}, {entry['outcome']}: {_plain(reason)}")
    return "\n".join([*lines, ""])


def _not_exportable(result: Mapping[str, Any]) -> str:
    if not result["not_exportable"]:
        return ""
    lines = ["## Not exportable by torch", "", "These give no file to begin with, and are not cells:", ""]
    return "\n".join([*lines, *(f"- {name}: {_plain(why)}" for name, why in result["not_exportable"].items()), ""])


def _versions(result: Mapping[str, Any]) -> str:
    return "Versions: " + ", ".join(f"{name} {version}" for name, version in result["versions"].items()) + ".\n"


def _entries(result: Mapping[str, Any], column: str, tool: str) -> list[Mapping[str, Any]]:
    return [e for e in result["records"] if e["column"] == column and e["tool"] == tool]


def _share(counts: Mapping[str, int]) -> str:
    return f"{counts['green']} ({100 * counts['green'] / counts['cells']:.1f}%)" if counts["cells"] else "0"


def _rest(counts: Mapping[str, int]) -> Sequence[int]:
    return [counts[key] for key in ("refused", "crashed", "wrong")]


def _row(*cells: Any) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def _rule(columns: int) -> str:
    return _row(*["---"] * columns)


def _plain(text: str) -> str:
    """Foreign text in one line that opens no markup."""
    line = " ".join(text.split())[:300]
    for mark in ("\\", "`", "*", "_", "<", "[", "|"):
        line = line.replace(mark, f"\\{mark}")
    return line
