"""Fork servers: processes that have a framework imported, so that a child for a job costs milliseconds, not imports.

A process of Edgewright keeps one `edgewright.fork_server` for each set of frameworks that its jobs ask for (Linux), and
shares it with no other process. Servers end with the process that started them, however that ends: their socket is
closed then. Elsewhere, in a child, and where a server is given up, a job has an interpreter of its own.
"""

import atexit
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any

__all__ = [
    "MESSAGE_BYTES",
    "STARTED",
    "ForkJob",
    "Frameworks",
    "ServerLostError",
    "forbid",
    "frameworks_of",
    "is_available",
    "run_forked",
]


class Frameworks(StrEnum):
    """What a job needs imported; ``NONE``: nothing worth keeping, or it differs from job to job."""

    NONE = "none"
    TORCH = "torch"
    TABLES = "tables"
    LITERT = "litert"
    COREML = "coreml"
    TENSORFLOW = "tensorflow"


_TORCH = (
    *("numpy", "torch", "torch.export", "onnx", "edgewright.intake.child", "edgewright.optimize.child"),
    *("edgewright.validate.graph_answers", "torch.export._trace?", "torch.export.pt2_archive._package?"),
    *("torch.onnx._internal.exporter._core?", "torch.onnx._internal.exporter._torchlib.ops?"),
)
# Modules, and functions that import more; with a question mark what a framework itself imports at its first use, and
# other versions may have elsewhere. ONNX Runtime is left out: importing it starts a thread.
_IMPORTS: Mapping[Frameworks, tuple[str, ...]] = {
    Frameworks.TORCH: _TORCH,
    Frameworks.TABLES: (*_TORCH, "pandas", "sklearn.pipeline", "skl2onnx"),
    Frameworks.LITERT: ("torch", "torch.export._trace?", "edgewright.export.litert", "litert_torch"),
    Frameworks.COREML: ("torch", "edgewright.export.coreml:coremltools_alone"),
    Frameworks.TENSORFLOW: ("tensorflow",),
}
_OF_MODULE = {
    "edgewright.export.coreml": Frameworks.COREML,
    "edgewright.export.coreml_tensorflow": Frameworks.TENSORFLOW,
    "edgewright.export.diagnosis.comparison": Frameworks.TORCH,
    "edgewright.export.litert": Frameworks.LITERT,
    "edgewright.export.onnx_int8": Frameworks.TORCH,
    "edgewright.export.onnx_runtime": Frameworks.TORCH,
    "edgewright.export.parity_check": Frameworks.TORCH,
    "edgewright.export.tensorflow_lite": Frameworks.TENSORFLOW,
    "edgewright.optimize.child": Frameworks.TORCH,
    "edgewright.package.golden": Frameworks.TORCH,
    "edgewright.validate.graph_answers": Frameworks.TORCH,
    "edgewright.validate.ml_program": Frameworks.TORCH,
}
# Threads that libraries would start when they are imported: OpenBLAS (given back to each job) and Arrow's allocator.
_ONE_THREAD = MappingProxyType({"OPENBLAS_NUM_THREADS": "1", "JE_ARROW_MALLOC_CONF": "background_thread:false"})
# Read by libraries when they are loaded: a server serves only jobs that have the same.
_READ_AT_LOAD = ("ARROW_", "CUDA_", "GLIBC_", "JE_", "KERAS_", "LD_", "MALLOC_", "MKL_", "NUMEXPR_", "OMP_",
                 "OPENBLAS_", "PYTHON", "PYTORCH_", "TF_", "TORCH", "XLA_")  # fmt: skip
_MAX_SERVERS = 6
_IMPORT_TIMEOUT_S = 300.0  # the slowest takes half a minute without bytecode, on two busy cores
MESSAGE_BYTES = 1 << 20
STARTED = b"started"


@dataclass(frozen=True)
class ForkJob:
    """What a server is sent for a job: its files as `edgewright.child` names them, its folder and its environment."""

    request: str
    response: str
    log: str
    folder: str
    environment: dict[str, str]


class ServerLostError(Exception):
    """No child was started: the server could not import, has threads, or was killed.

    ``is_new``: this was found out now; later jobs of the kind hear the same.
    """

    def __init__(self, reason: str, *, is_new: bool) -> None:
        super().__init__(reason)
        self.is_new = is_new


@dataclass
class _Server:
    """This process's end of a server."""

    control: socket.socket
    process: subprocess.Popen[bytes]
    running: int = 0

    def end(self) -> None:
        self.control.close()
        # The closed socket ends an idle server; one that is still importing does not read it.
        with suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()


@dataclass
class _Pool:
    servers: "OrderedDict[tuple[Any, ...], _Server]" = field(default_factory=OrderedDict)
    lock: threading.Lock = field(default_factory=threading.Lock)
    given_up: dict[tuple[Any, ...], str] = field(default_factory=dict)
    is_forbidden: bool = False

    def server(self, frameworks: Frameworks, environment: Mapping[str, str]) -> _Server:
        """The server for one more such job, started where there is none; the least used one makes room for it."""
        loaded = {name: value for name, value in environment.items() if name.startswith(_READ_AT_LOAD)}
        # `python -m` imports from the working folder: a server serves the jobs of one alone.
        key = (frameworks, sys.executable, str(Path.cwd()), *sorted(loaded.items()))
        with self.lock:
            if key in self.given_up:
                raise ServerLostError(self.given_up[key], is_new=False)
            server = self.servers.get(key)
            # Killed, as by the kernel for memory: no reason against a new one.
            if server is not None and server.process.poll() is not None:
                self.servers.pop(key).end()
                server = None
            if server is None:
                # Least recently used first. One at work stays, and there are more than the limit for a while.
                idle = [k for k, one in self.servers.items() if not one.running]
                if len(self.servers) >= _MAX_SERVERS and idle:
                    self.servers.pop(idle[0]).end()
                server = self.servers[key] = _start(frameworks, environment)
            self.servers.move_to_end(key)
            server.running += 1
            return server

    def give_up(self, server: _Server, reason: str) -> None:
        """Do not start it again: what it lacks, the next one would lack too."""
        with self.lock:
            for key, one in list(self.servers.items()):
                if one is server:
                    self.given_up[key] = reason
                    self.servers.pop(key).end()

    def close(self) -> None:
        with self.lock:
            while self.servers:
                self.servers.popitem()[1].end()

    def forget(self) -> None:
        """After a fork: the servers are the parent's."""
        # Closed, not ended: they serve the parent. A copy that stayed open here would keep them alive beyond it.
        for server in self.servers.values():
            server.control.close()
        self.servers, self.lock = OrderedDict(), threading.Lock()


_pool = _Pool()
atexit.register(_pool.close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.forget)


def is_available() -> bool:
    """Whether jobs of this process are forked; never those of a child: it may be confined, a server is not."""
    return sys.platform == "linux" and hasattr(os, "pidfd_open") and not _pool.is_forbidden


def forbid() -> None:
    """Start and use no server from now on in this process."""
    _pool.is_forbidden = True


def frameworks_of(target: str) -> Frameworks:
    """What a target ``module:function`` works with, where that does not depend on its arguments."""
    return _OF_MODULE.get(target.partition(":")[0], Frameworks.NONE)


def run_forked(
    frameworks: Frameworks, request: Path, response: Path, log: Path, environment: Mapping[str, str], timeout_s: float
) -> int | None:
    """Run a request of `edgewright.child` in a fork; its exit code, negative for a signal, None: it took too long.

    Raises:
        ServerLostError: nothing was started, and an interpreter of its own may be.
    """
    server = _pool.server(frameworks, environment)
    job = ForkJob(str(request), str(response), str(log), folder=str(Path.cwd()), environment=dict(environment))
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        # A socket for each job: where either side closes it, or dies, the other knows that the job is over.
        with ours:
            try:
                with theirs:
                    socket.send_fds(server.control, [json.dumps(vars(job)).encode()], [theirs.fileno()])
                # The server holds the only copy of `theirs` left: where it dies, nothing is received, at once.
                ours.settimeout(_IMPORT_TIMEOUT_S)
                begun = ours.recv(MESSAGE_BYTES)
            except TimeoutError:
                begun = f"the server was still importing after {_IMPORT_TIMEOUT_S:.0f} s".encode()
            except OSError as e:
                begun = str(e).encode()
            if begun != STARTED:
                reason = begun.decode() or "the server ended"
                _pool.give_up(server, reason)
                raise ServerLostError(reason, is_new=True)
            try:
                ours.settimeout(timeout_s)
                ended = ours.recv(MESSAGE_BYTES)
            except TimeoutError:
                return None
            finally:
                _await_end(ours)
            return int(ended) if ended else -signal.SIGKILL  # the server was killed, and its children with it
    finally:
        server.running -= 1


def _await_end(job: socket.socket) -> None:
    """Have the child killed if it still runs; it writes nothing after this."""
    with suppress(OSError):
        job.shutdown(socket.SHUT_WR)
        job.settimeout(None)
        while job.recv(MESSAGE_BYTES):
            pass


def _start(frameworks: Frameworks, environment: Mapping[str, str]) -> _Server:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    line = [sys.executable, "-m", "edgewright.fork_server", str(theirs.fileno()), *_IMPORTS[frameworks]]
    with theirs:
        process = subprocess.Popen(
            line,
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**environment, **_ONE_THREAD},
        )
    return _Server(ours, process)
