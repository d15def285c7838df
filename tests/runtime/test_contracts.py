"""One contract for every backend, one for every way to a repository: the same answers, the same words for faults."""

import functools
import http.server
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from edgewright.package import Bundle
from edgewright_runtime.backends import Backend, load, run_rows
from edgewright_runtime.errors import InputRejectedError, IntegrityError, TransportError
from edgewright_runtime.update.transport import Repository
from tests.bundles import onnx_file


class Loaded(NamedTuple):
    """A backend over a model of one input ``x`` and one output ``scores``, rows for it, and where its file lies."""

    backend: Backend
    rows: np.ndarray
    file: Path
    form: str


@pytest.fixture(params=["onnx", "tflite"])
def loaded(request: pytest.FixtureRequest, tmp_path: Path) -> Loaded:
    if request.param == "onnx":
        file, shape = tmp_path / "m.onnx", (5, 4)
        onnx_file(file, 4)
    else:
        bundle: Bundle = request.getfixturevalue("image_bundle")
        file, shape = bundle.artifact.path / "digits_cnn.tflite", (5, 1, 8, 8)
    backend = load(file, request.param, input_names=["x"], output_names=["scores"])
    return Loaded(backend, np.random.default_rng(0).random(shape, np.float32), file, request.param)


class TestBackend:
    """What `edgewright_runtime.backends.Backend` promises."""

    def test_it_says_what_it_is_and_takes(self, loaded: Loaded) -> None:
        assert loaded.backend.name
        assert loaded.backend.version[0].isdigit()
        ((x,), (scores,)) = loaded.backend.inputs, loaded.backend.outputs
        assert (x.name, x.dtype, scores.name, scores.dtype) == ("x", "float32", "scores", "float32")
        assert x.shape[1:] == loaded.rows.shape[1:]

    def test_a_row_is_answered_alike_alone_and_among_others(self, loaded: Loaded) -> None:
        together = run_rows(loaded.backend, {"x": loaded.rows})["scores"]
        alone = [loaded.backend.run({"x": loaded.rows[i : i + 1]})["scores"] for i in range(5)]
        np.testing.assert_allclose(together, np.concatenate(alone), rtol=1e-5, atol=1e-7)

    def test_an_answer_outlives_the_next_inference(self, loaded: Loaded) -> None:
        first = loaded.backend.run({"x": loaded.rows[:1]})["scores"]
        before = first.copy()
        loaded.backend.run({"x": loaded.rows[1:2]})
        np.testing.assert_array_equal(first, before)

    def test_infer_is_run_without_its_checks(self, loaded: Loaded) -> None:
        loaded.backend.run({"x": loaded.rows[:1]})
        np.testing.assert_array_equal(
            loaded.backend.infer({"x": loaded.rows[2:3]})["scores"],
            loaded.backend.run({"x": loaded.rows[2:3]})["scores"],
        )

    def test_rows_that_lie_apart_in_memory_are_the_same_rows(self, loaded: Loaded) -> None:
        apart = np.asfortranarray(np.repeat(loaded.rows, 2, axis=0))[::2]
        np.testing.assert_array_equal(
            run_rows(loaded.backend, {"x": apart})["scores"], run_rows(loaded.backend, {"x": loaded.rows})["scores"]
        )

    def test_feeds_stay_as_they_are(self, loaded: Loaded) -> None:
        given = loaded.rows[:1].copy()
        given.flags.writeable = False
        loaded.backend.run({"x": given})
        np.testing.assert_array_equal(given, loaded.rows[:1])

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (lambda x: {"y": x}, "inputs are"),
            (lambda x: {"x": x, "y": x}, "inputs are"),
            (lambda x: {"x": x[..., :-1]}, "shape"),
            (lambda x: {"x": x[0]}, "shape"),
            (lambda x: {"x": x.astype(np.float64)}, "float32"),
        ],
        ids=["name", "more", "shape", "rank", "dtype"],
    )
    def test_what_does_not_fit_is_the_callers_fault(
        self, loaded: Loaded, change: Callable[[np.ndarray], dict[str, np.ndarray]], said: str
    ) -> None:
        with pytest.raises(InputRejectedError, match=said) as caught:
            loaded.backend.run(change(loaded.rows[:1]))
        assert "\n" not in str(caught.value)
        loaded.backend.run({"x": loaded.rows[:1]})  # and the next row is answered

    @pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.9])
    def test_a_file_that_was_cut_off_is_a_broken_file(self, loaded: Loaded, tmp_path: Path, share: float) -> None:
        content = loaded.file.read_bytes()
        (tmp_path / "cut").write_bytes(content[: int(share * len(content))])
        with pytest.raises(IntegrityError):
            load(tmp_path / "cut", loaded.form)


class Served(NamedTuple):
    """A repository over a folder with ``a/file`` (``hello``), a folder ``a`` and an empty file ``empty``."""

    repository: Repository
    folder: Path


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(params=["path", "file", "http"])
def served(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Served]:
    folder = tmp_path / "release s"
    (folder / "a").mkdir(parents=True)
    (folder / "a" / "file").write_bytes(b"hello")
    (folder / "empty").touch()
    (folder / "räum #1%.json").write_bytes(b"{}")
    if request.param != "http":
        yield Served(Repository(str(folder) if request.param == "path" else folder.as_uri()), folder)
        return
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Served(Repository(f"http://127.0.0.1:{server.server_port}/", timeout_s=5), folder)
        server.shutdown()


class TestRepository:
    """What `edgewright_runtime.update.transport.Repository` promises."""

    def test_a_file_is_read_whole_and_in_blocks(self, served: Served) -> None:
        assert served.repository.read("a/file", 5) == b"hello"
        large = bytes(range(256)) * 1000
        (served.folder / "large").write_bytes(large)
        blocks = list(served.repository.blocks("large", len(large)))
        assert b"".join(blocks) == large
        assert len(blocks) > 1
        assert served.repository.read("empty", 0) == b""

    def test_a_name_is_a_name_whatever_it_holds(self, served: Served) -> None:
        assert served.repository.read("räum #1%.json", 10) == b"{}"

    def test_more_than_was_announced_is_refused(self, served: Served) -> None:
        with pytest.raises(IntegrityError, match="longer than the 4 bytes"):
            served.repository.read("a/file", 4)

    @pytest.mark.parametrize("name", ["missing", "a/missing/file", "a/file/below"])
    def test_what_is_not_there_is_a_fault_of_transport(self, served: Served, name: str) -> None:
        with pytest.raises(TransportError, match=r"cannot be read|answered 404") as caught:
            served.repository.read(name, 100)
        assert "\n" not in str(caught.value)
        assert name in str(caught.value)

    def test_it_is_read_from_several_threads_at_once(self, served: Served) -> None:
        with ThreadPoolExecutor(8) as pool:
            assert set(pool.map(lambda _: served.repository.read("a/file", 5), range(40))) == {b"hello"}


@pytest.mark.parametrize("url", ["ftp://example.org/r", "gopher://x", "http://[", "javascript:alert(1)"])
def test_no_other_way_leads_to_a_repository(url: str) -> None:
    with pytest.raises(TransportError):
        Repository(url)
