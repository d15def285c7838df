"""The distributions of ``examples/``, installed as `pip install --target` leaves them."""

import shutil
import tomllib
from pathlib import Path

__all__ = ["EXAMPLES", "installed"]

EXAMPLES = Path(__file__).parents[1] / "examples"


def installed(example: str, site: Path) -> Path:
    """The folder ``site`` with the example's modules and what its metadata registers."""
    folder = EXAMPLES / example
    declared = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    information = site / f"{declared['name'].replace('-', '_')}-{declared['version']}.dist-info"
    information.mkdir(parents=True)
    for module in folder.glob("*.py"):
        shutil.copy(module, site)
    (information / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {declared['name']}\nVersion: {declared['version']}\n"
    )
    lines = [
        line
        for group, entries in declared["entry-points"].items()
        for line in (f"[{group}]", *(f"{name} = {value}" for name, value in entries.items()))
    ]
    (information / "entry_points.txt").write_text("\n".join(lines))
    return site
