"""The project folder: ``flows/``, ``tasks/``, ``profiles/``, ``mlflow_server/`` and ``prefect.yaml``.

That is the checkout, or what the wheel installed under ``share/edgewright/project`` (docs/adr/0002-project-folder.md).
``python -m edgewright.project`` prints where it is.
"""

import os
import sys
from functools import cache
from importlib import metadata
from pathlib import Path

__all__ = ["project_folder", "put_on_path"]

_MARK = "share/edgewright/project/prefect.yaml"


@cache
def project_folder() -> Path:
    """The checkout where this package runs from one, else the folder that came with the wheel."""
    checkout = Path(__file__).parents[1]
    if (checkout / "prefect.yaml").is_file():
        return checkout
    # Not below sys.prefix alone: `pip install --user` and `--target` put it elsewhere.
    files = metadata.files("edgewright") or ()
    # RECORD, the list of installed files, knows the place whatever scheme pip installed by.
    marks = [Path(str(file.locate())).resolve() for file in files if file.as_posix().endswith(_MARK)]
    return marks[0].parent if marks else Path(sys.prefix, _MARK).parent


def put_on_path() -> None:
    """Let this interpreter, and the children it starts, import ``flows`` and ``tasks`` from the project folder.

    It comes first: other distributions have packages of these names, too.
    """
    folder = str(project_folder())
    if sys.path[:1] != [folder]:
        sys.path.insert(0, folder)
    given = [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part and part != folder]
    # Children are new interpreters: sys.path of this one does not reach them.
    os.environ["PYTHONPATH"] = os.pathsep.join([folder, *given])


if __name__ == "__main__":
    print(project_folder())
