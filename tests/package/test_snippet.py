"""The templates of an app's code: what they refuse, and that texts of others are never read as a template."""

from dataclasses import replace
from pathlib import Path

import pytest

from edgewright.errors import UnsupportedError
from edgewright.package import Bundle, read_bundle
from edgewright.package.snippet import write_snippet
from edgewright.profile import ExportOptions
from edgewright_runtime.bundle.manifest import Preprocessing


@pytest.mark.parametrize("platform", ["ios", "android"])
@pytest.mark.parametrize("side", ["inputs", "outputs"])
@pytest.mark.parametrize("table", [True, False], ids=["table", "arrays"])
def test_a_tensor_that_no_app_can_hand_in_is_named(
    tmp_path: Path, table_bundle: Bundle, platform: str, side: str, table: bool
) -> None:
    manifest = replace(read_bundle(table_bundle.artifact.path).manifest, platform=platform)
    half = tuple(replace(spec, dtype="float16") for spec in getattr(manifest, side))
    asked = replace(manifest, **{side: half})  # type: ignore[arg-type]
    if not table:
        asked = replace(asked, preprocessing=Preprocessing())

    with pytest.raises(UnsupportedError, match=rf"tensor '{half[0].name}' of type float16; known: int8, float32"):
        write_snippet(tmp_path, asked, ExportOptions())


@pytest.mark.parametrize("platform", ["ios", "android", "edge_device"])
@pytest.mark.parametrize("text", ["{{ 7 * 7 }}", "{% raw %}", "{# gone #}", "__NAME__"])
def test_a_name_in_the_language_of_templates_stays_text(
    tmp_path: Path, table_bundle: Bundle, platform: str, text: str
) -> None:
    manifest = read_bundle(table_bundle.artifact.path).manifest
    asked = replace(manifest, platform=platform, name=f"net {text}", labels=(text, "other", "third"))

    code = write_snippet(tmp_path, asked, ExportOptions()).read_text()

    assert f"net {text} on" in code
    assert platform == "edge_device" or f'"{text}", "other"' in code
