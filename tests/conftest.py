"""Nothing of the user's: every test run has its own Prefect home, Edgewright home and tracking store."""

import atexit
import os
import shutil
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

_BEGAN = time.monotonic()
_SCRATCH = Path(tempfile.mkdtemp(prefix="edgewright-tests-"))
atexit.register(shutil.rmtree, _SCRATCH, ignore_errors=True)

# Prefect and MLflow read these when they are imported, so they are set before any test module is.
os.environ.update(
    PREFECT_HOME=str(_SCRATCH / "prefect"),
    PREFECT_LOCAL_STORAGE_PATH=str(_SCRATCH / "results"),
    PREFECT_SERVER_ANALYTICS_ENABLED="false",
    PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS="120",
    PREFECT_LOGGING_LEVEL="WARNING",
    PREFECT_LOGGING_TO_API_ENABLED="false",
    EDGEWRIGHT_HOME=str(_SCRATCH / "edgewright"),
    MLFLOW_DISABLE_TELEMETRY="true",
    MLFLOW_TRACKING_URI=f"sqlite:///{_SCRATCH / 'mlflow.db'}",
    DO_NOT_TRACK="1",
)
for name in ("PREFECT_API_URL", "PREFECT_PROFILE", "EDGEWRIGHT_PROFILES"):
    os.environ.pop(name, None)

# A shell ignores both on behalf of what it starts in the background, and children would go on to ignore them.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)


# What takes minutes is begun first, so that no worker is left alone with it at the end.
_FIRST = ("tests/flows", "tests/validate", "tests/optimize", "tests/export", "tests/intake")
# Each of these takes a minute, and they share one small network alone.
_SPREAD = "tests/optimize/test_recipes.py"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--minutes", type=float, help="begin no slow test after so many minutes; another file is first each day"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    def rank(item: pytest.Item) -> int:
        return next((i for i, folder in enumerate(_FIRST) if item.nodeid.startswith(folder)), len(_FIRST))

    items.sort(key=rank)
    if config.getoption("minutes"):
        # With a budget the last files would never have their turn.
        files = list(dict.fromkeys(item.nodeid.partition("::")[0] for item in items))
        today = int(time.time() // 86_400)
        turn = {file: (place - today) % len(files) for place, file in enumerate(files)}
        items.sort(key=lambda item: turn[item.nodeid.partition("::")[0]])


def pytest_runtest_setup(item: pytest.Item) -> None:
    minutes = item.config.getoption("minutes")
    if minutes and item.get_closest_marker("slow") and time.monotonic() - _BEGAN > 60 * minutes:
        pytest.skip(f"not begun: {minutes:g} minutes are over")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A file's tests stay with one worker, for what its fixtures make."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return nodeid if file == _SPREAD else file

    config.option.loadscopereorder = False
    return ByFile(config, log)


SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture
def shared() -> Path:
    """The reference data beside the checkout; a user has none of it."""
    if not (SHARED / "models").is_dir():
        pytest.skip("reference data not there: ../shared is absent")
    return SHARED


@pytest.fixture
def edgewright_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty Edgewright home of this test alone."""
    home = tmp_path / "home"
    monkeypatch.setenv("EDGEWRIGHT_HOME", str(home))
    return home
