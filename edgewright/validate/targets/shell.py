"""A device reached by a shell: files are pushed once, by digest; the device runtime goes into its own folder there."""

import hashlib
import io
import re
import shlex
import subprocess
import tarfile
import uuid
from abc import ABC, abstractmethod
from dataclasses import replace
from functools import cache
from pathlib import Path

from edgewright.artifact import digest_of
from edgewright.errors import ConversionError, DeviceUnreachableError, EdgewrightError, InputError
from edgewright.validate.targets.answers import OutOfMemoryError, answer_of
from edgewright.validate.targets.local import LocalTarget
from edgewright_runtime.bench.answer import BenchAnswer
from edgewright_runtime.bench.run import BenchModel, BenchSpec, spec_json

__all__ = ["CONNECT_S", "ShellTarget", "last_line"]

_RUNTIME = Path(__file__).parents[3] / "edgewright_runtime"
_TIMED_OUT = 124  # timeout(1)
_LOST = 255  # ssh(1): "or with 255 if an error occurred"
CONNECT_S = 10
_TRANSFER_S = 300
_TAIL_BYTES = 2000
_OOM_KILLS = "grep -s oom_kill /proc/vmstat || true"  # Linux counts there whom it ended for want of memory
_OOM_SAID = "out of memory: the system ended a process"


class ShellTarget(ABC):
    """Run the bench by the device's own Python. What was cut off may simply be started again: files stay there."""

    @property
    @abstractmethod
    def name(self) -> str:
        """How reports call it."""

    @property
    @abstractmethod
    def _folder(self) -> str:
        """The working folder there, quoted for its shell."""

    @property
    @abstractmethod
    def _python(self) -> str:
        """The interpreter there, quoted for its shell."""

    @abstractmethod
    def _carrier(self) -> list[str]:
        """The command here that hands its last argument to the shell there, and stdin to that."""

    @abstractmethod
    def _lost(self, code: int, stderr: bytes, what: str) -> EdgewrightError | None:
        """What to raise where the carrier itself failed; None where only the command did."""

    def run(self, spec: BenchSpec, what: str, timeout_s: float) -> BenchAnswer[object]:
        """See `Target.run`; adds what `_lost` raises."""
        held = self._held(spec, what)
        there = replace(
            spec,
            models=tuple(self._pushed_model(model, held, what) for model in spec.models),
            rows=self._pushed(Path(spec.rows), held, what),
            outputs="outputs.npz" if spec.outputs else "",
        )
        unpack, runtime = self._pushed_runtime(held, what)
        # Each run has its own: two at once must not read each other's answer.
        folder = f"{self._folder}/runs/{uuid.uuid4().hex}"
        try:
            return self._bench(there, spec, folder, f"{unpack} && PYTHONPATH={runtime}", what, timeout_s)
        except OutOfMemoryError as e:
            raise ConversionError(f"{what}: {self._does_not_fit(spec, what, timeout_s)}") from e
        finally:
            self._tidy(folder)

    def _bench(
        self, there: BenchSpec, spec: BenchSpec, folder: str, prefix: str, what: str, timeout_s: float
    ) -> BenchAnswer[object]:
        """One call does it all: each costs a handshake. The answer comes on stdout, the end of the log on stderr."""
        # `timeout` over there: a bench whose connection was lost ends all the same.
        command = (
            f"began=$(date +%s); mkdir -p {folder} && cd {folder} && cat > spec.json && killed=$({_OOM_KILLS}) && "
            f"{prefix} timeout -k 2 {timeout_s:g} "
            f"{self._python} -m edgewright_runtime.bench --spec spec.json --out answer.json > log.txt 2>&1; "
            # busybox's timeout answers with the signal that it sent, not with 124.
            f"code=$?; [ $code -ne 0 ] && [ $(($(date +%s) - began)) -ge {int(timeout_s)} ] && code={_TIMED_OUT}; "
            f"tail -c {_TAIL_BYTES} log.txt >&2; cat answer.json 2>/dev/null; "
            # The count of killed processes is the whole system's: only a change of it says something.
            f'[ "$killed" = "$({_OOM_KILLS})" ] || echo "{_OOM_SAID}" >&2; '
            f"[ $code -eq {_LOST} ] && exit 1; exit $code"
        )
        # Beside the bench's own time that of the handshake and of the answer.
        done = self._call(command, what, timeout_s + CONNECT_S * 3, spec_json(there).encode())
        if done.returncode == _TIMED_OUT:
            raise ConversionError(f"{what}: no answer after {timeout_s:g} s; the process was stopped")
        stdout = done.stdout.decode(errors="replace")
        answer = answer_of(stdout or None, done.returncode, done.stderr.decode(errors="replace"), spec.task, what)
        if spec.outputs:
            Path(spec.outputs).write_bytes(self._call(f"cat {folder}/outputs.npz", what, _TRANSFER_S).stdout)
        return answer

    def _does_not_fit(self, spec: BenchSpec, what: str, timeout_s: float) -> str:
        """Names the device's memory and, from a run on this machine, what the model needs."""
        held_kb = re.search(r"MemTotal:\s*(\d+)", self._said("cat /proc/meminfo", what))
        needed = LocalTarget().needed_mb(spec, what, timeout_s)
        holds = f"the {int(held_kb.group(1)) >> 10} MB" if held_kb else "the memory"
        about = "" if needed is None else f" (needed about {needed:.0f} MB beside its runtime)"
        return f"does not fit in {holds} of {self.name}{about}"

    def _held(self, spec: BenchSpec, what: str) -> set[str]:
        """Which of the files that are needed lie there, whole: one whose flash has rotted is sent again."""
        files = [Path(spec.rows), *(Path(model.path) for model in spec.models)]
        needed = {_name(file): digest_of(file) for file in files} | {_runtime_name(): _runtime_digest()}
        # A device without sha256sum holds nothing: everything is sent, which is slow and right.
        folder, names = f"{self._folder}/files", shlex.join(needed)
        stdout = self._said(f"mkdir -p {folder} && cd {folder} && {{ sha256sum {names} 2>/dev/null || true; }}", what)
        # A digest, two spaces and the name, which may hold spaces of its own.
        entries = (line.partition("  ") for line in stdout.splitlines())
        return {name for digest, _, name in entries if needed.get(name) == digest}

    def _pushed_model(self, model: BenchModel, held: set[str], what: str) -> BenchModel:
        return replace(model, path=self._pushed(Path(model.path), held, what))

    def _pushed(self, file: Path, held: set[str], what: str) -> str:
        """The file's name there, relative to a run's folder; sent unless its digest is there already."""
        name = _name(file)
        if name not in held:
            self._place(file.read_bytes(), f"{self._folder}/files/{shlex.quote(name)}", what)
            held.add(name)
        return f"../../files/{name}"

    def _pushed_runtime(self, held: set[str], what: str) -> tuple[str, str]:
        """The command that unpacks the runtime there, and the folder it is in."""
        name = _runtime_name()
        folder = f"{self._folder}/runtime/{name.removesuffix('.tar')}"
        if name not in held:
            self._place(_runtime_archive(), f"{self._folder}/files/{name}", what)
        # Unpacking again costs little, and mends a folder that a reboot left half-made.
        return f"mkdir -p {folder} && tar -x -f {self._folder}/files/{name} -C {folder}", folder

    def _place(self, content: bytes, path: str, what: str) -> None:
        """``path`` is quoted for the shell there."""
        # The name must not outlive a power cut that the content does not: what has the name is never sent again.
        self._send(content, f"cat > {path}.part && sync && mv {path}.part {path}", what)

    def _send(self, content: bytes, command: str, what: str) -> None:
        done = self._call(command, what, _TRANSFER_S, content)
        if done.returncode:
            raise ConversionError(f"{what}: {self.name} refused a file: {last_line(done.stderr)}")

    def _said(self, command: str, what: str) -> str:
        done = self._call(command, what, _TRANSFER_S)
        if done.returncode:
            raise ConversionError(f"{what}: {self.name}: {last_line(done.stderr)}")
        return done.stdout.decode(errors="replace")

    def _tidy(self, folder: str) -> None:
        try:
            self._call(f"rm -rf {folder}", "tidying", _TRANSFER_S)
        except DeviceUnreachableError:
            return  # the run itself has said so, or has succeeded; a scratch folder is left behind

    def _call(
        self, command: str, what: str, timeout_s: float, content: bytes | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        carrier = self._carrier()
        try:
            done = subprocess.run(
                [*carrier, command],
                input=content if content is not None else b"",
                capture_output=True,
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired as e:
            raise DeviceUnreachableError(f"{what}: {self.name} went silent for {timeout_s:g} s") from e
        except FileNotFoundError as e:
            raise InputError(f"{what}: no {carrier[0]} command here; install it, or add it to PATH") from e
        if done.returncode and (error := self._lost(done.returncode, done.stderr, what)):
            raise error
        return done


def _name(file: Path) -> str:
    return f"{digest_of(file)}{file.suffix}"


def _runtime_name() -> str:
    return f"runtime-{_runtime_digest()[:16]}.tar"


def _runtime_digest() -> str:
    return hashlib.sha256(_runtime_archive()).hexdigest()


@cache
def _runtime_archive() -> bytes:
    """The device runtime as a tar without times and owners, so that equal code has equal bytes."""
    # Sources alone: compiled files belong to this machine's Python.
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for file in sorted(_RUNTIME.rglob("*.py")):
            entry = tarfile.TarInfo(f"edgewright_runtime/{file.relative_to(_RUNTIME).as_posix()}")
            entry.size = file.stat().st_size
            with file.open("rb") as stream:
                archive.addfile(entry, stream)
    return content.getvalue()


def last_line(stderr: bytes) -> str:
    """What a command said last."""
    lines = [line.strip() for line in stderr.decode(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"
