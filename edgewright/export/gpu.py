"""Which operators of a `.tflite` the GPU delegate leaves to the CPU, by LiteRT's own analyzer."""

import re
from pathlib import Path

__all__ = ["gpu_report"]

_WARNING = re.compile(r"GPU COMPATIBILITY WARNING: (.+)")
_REFUSED = re.compile(r"^\s*Op#\d+ ([A-Z_0-9]+)\(.*\n\s*GPU COMPATIBILITY WARNING: Not supported op", re.MULTILINE)


def gpu_report(path: Path) -> list[str]:
    """One note: that all operators suit the GPU delegate, or which fall back and why.

    The analyzer judges the graph alone: a phone's driver may still refuse more.
    """
    from ai_edge_litert import _pywrap_analyzer_wrapper as analyzer

    text = str(analyzer.ModelAnalyzer(str(path), True, True))
    reasons = list(dict.fromkeys(reason.strip() for reason in _WARNING.findall(text)))
    if not reasons:
        return ["GPU delegate: every operator can run there, by LiteRT's analyzer"]
    return [f"GPU delegate: falls back to the CPU for: {'; '.join(reasons)}"]
