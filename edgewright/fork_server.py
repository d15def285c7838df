"""A fork server: imports what its command line names, then forks a child for each job that `edgewright.forking` sends.

No job runs in the server itself, so nothing of one job reaches another. It forks while it has one thread: where a
library's threads run after the import, every job is refused, with the reason.
"""

import gc
import importlib
import json
import os
import random
import selectors
import signal
import socket
import sys
import tempfile
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from edgewright import child, forking

__all__ = ["main"]


@dataclass
class _Job:
    """A child at work, and the socket that tells of its end and whose end ends it."""

    pid: int
    watch: int
    asker: socket.socket


def _serve(control: socket.socket) -> None:
    """Fork a child for each message, until the other end is closed."""
    refusal = _import(sys.argv[2:])
    gc.collect()
    gc.freeze()  # shared pages stay shared
    jobs: dict[int, _Job] = {}
    with selectors.EpollSelector() as selector:
        # Open before any job, since the start or by an import: all that a child keeps, see `_become`.
        inherited_fds = _descriptors() - {control.fileno(), selector.fileno()}
        selector.register(control, selectors.EVENT_READ)
        while True:
            for ready, _ in selector.select():
                if ready.fileobj is control:
                    message, (*sockets,), _, _ = socket.recv_fds(control, forking.MESSAGE_BYTES, 1)
                    if not message:
                        return
                    asker = socket.socket(fileno=sockets[0])
                    # For each job anew: a library may start a thread later than at its import.
                    if refusal := refusal or _threads():
                        _tell(asker, refusal.encode())
                        asker.close()
                        continue
                    job = _fork(forking.ForkJob(**json.loads(message)), asker, inherited_fds)
                    jobs[job.watch] = job
                    selector.register(job.watch, selectors.EVENT_READ)
                    selector.register(job.asker, selectors.EVENT_READ, job)
                # A pidfd is readable once its process has ended (pidfd_open(2)).
                elif ready.data is None:
                    _reap(jobs.pop(ready.fd), selector)
                # Where the job's end came earlier in this round it is reaped: its pid may be another process's already.
                elif ready.data.watch in jobs:  # nobody waits for it any longer
                    selector.unregister(ready.data.asker)
                    os.kill(ready.data.pid, signal.SIGKILL)


def _import(names: Sequence[str]) -> str:
    """Import; returns why that failed, or nothing."""
    try:
        for name in names:
            module, _, function = name.removesuffix("?").partition(":")
            # Only what another version of a framework may have elsewhere; any other failure refuses the jobs.
            with suppress(*((ImportError,) if name.endswith("?") else ())):
                imported = importlib.import_module(module)
                if function:
                    getattr(imported, function)()
    except Exception as e:
        return f"{type(e).__name__}: {e}"
    return ""


def _descriptors() -> set[int]:
    listed = [int(entry.name) for entry in Path("/proc/self/fd").iterdir()]
    return {one for one in listed if os.path.lexists(f"/proc/self/fd/{one}")}  # not that of the listing


def _threads() -> str:
    """A fork takes one thread along, and the locks that others hold stay locked for ever."""
    tasks = [task for task in Path("/proc/self/task").iterdir() if int(task.name) != os.getpid()]
    others = [(task / "comm").read_text().strip() for task in tasks]
    return f"a library started threads when it was imported: {', '.join(others)}" if others else ""


def _reap(job: _Job, selector: selectors.BaseSelector) -> None:
    _, status = os.waitpid(job.pid, 0)
    selector.unregister(job.watch)
    os.close(job.watch)
    # It is not registered any more where the asker gave up first.
    with suppress(KeyError):
        selector.unregister(job.asker)
    _tell(job.asker, str(os.waitstatus_to_exitcode(status)).encode())
    job.asker.close()


def _tell(asker: socket.socket, message: bytes) -> None:
    with suppress(OSError):  # it is gone, and its job ends
        asker.send(message)


def _fork(job: forking.ForkJob, asker: socket.socket, inherited_fds: set[int]) -> _Job:
    server = os.getpid()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = _become(job, server, inherited_fds)
        except SystemExit as e:
            code = e.code if isinstance(e.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            with suppress(OSError, ValueError):
                sys.stdout.flush()
                sys.stderr.flush()
            # Not sys.exit: neither the server's loop nor its exit handlers may run in the child.
            os._exit(code)
    _tell(asker, forking.STARTED)
    return _Job(pid, os.pidfd_open(pid), asker)


def _become(job: forking.ForkJob, server: int, inherited_fds: set[int]) -> int:
    """The child: as a fresh interpreter with ``job``'s environment would be, but for what is imported."""
    child.die_with_parent(signal.SIGKILL)
    # The server may have ended between the fork and the call above: no signal comes then.
    if os.getppid() != server:
        return 1
    log = os.open(job.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    for descriptor in _descriptors() - inherited_fds - {0, 1, 2}:  # the server's own: a job must not ask for jobs
        os.close(descriptor)
    # The server ignores it, and a fork inherits that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(job.folder)
    os.environ.clear()
    os.environ.update(job.environment)
    # An import may have looked it up in the server's environment; TMPDIR is the job's own.
    tempfile.tempdir = None
    # Else every fork of one server would draw the same numbers.
    random.seed()
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed()
        _give_back_threads()
    child.main(Path(job.request), Path(job.response))
    return 0


def _give_back_threads() -> None:
    """OpenBLAS as it starts without `_ONE_THREAD`."""
    from threadpoolctl import threadpool_limits

    threadpool_limits(int(os.environ.get("OPENBLAS_NUM_THREADS") or os.cpu_count() or 1), user_api="blas")


def main() -> None:
    """``python -m edgewright.fork_server SOCKET MODULE...``"""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the asker's to hear, who ends us
    _serve(socket.socket(fileno=int(sys.argv[1])))


if __name__ == "__main__":
    main()
