"""A real board over SSH."""

import re
import shlex
from dataclasses import dataclass

from edgewright.errors import DeviceUnreachableError, EdgewrightError, InputError
from edgewright.profile import SshConnection
from edgewright.validate.targets.shell import CONNECT_S, ShellTarget, last_line

__all__ = ["SshTarget"]

_UNREACHABLE = 255  # ssh(1): "or with 255 if an error occurred"


@dataclass(frozen=True)
class SshTarget(ShellTarget):
    """A board. An `InputError` says that its key is not the one that is trusted, or that it does not take ours.

    ``label`` is how reports call it, left out: by its host.
    """

    connection: SshConnection
    emulated: bool = False
    label: str = ""
    own_memory: bool = True

    @property
    def name(self) -> str:
        """How reports call it."""
        return self.label or f"{self.connection.host} over SSH"

    @property
    def _folder(self) -> str:
        folder = self.connection.folder
        return shlex.quote(folder) if folder.startswith("/") else f'"$HOME"/{shlex.quote(folder)}'

    @property
    def _python(self) -> str:
        return shlex.quote(self.connection.python)

    def _lost(self, code: int, stderr: bytes, what: str) -> EdgewrightError | None:
        if code != _UNREACHABLE:
            return None
        message = stderr.decode(errors="replace")
        if re.search(r"Host key verification failed|REMOTE HOST IDENTIFICATION HAS CHANGED", message):
            return InputError(
                f"{what}: the host key of {self.name} is not the trusted one; if the board was set up anew, mend its "
                "entry in known_hosts"
            )
        if "Permission denied" in message:
            return InputError(f"{what}: {self.name} does not accept the key of user '{self.connection.user}'")
        return DeviceUnreachableError(f"{what}: {self.name}: {last_line(stderr)}")

    def _carrier(self) -> list[str]:
        given = self.connection
        options = {
            # No questions: nobody is there to answer one, and an unknown key is never trusted.
            "BatchMode": "yes",
            "StrictHostKeyChecking": "yes",
            "ConnectTimeout": str(CONNECT_S),
            # A board that goes away is noticed after 15 s.
            "ServerAliveInterval": "5",
            "ServerAliveCountMax": "3",
            "LogLevel": "ERROR",
        }
        if given.known_hosts:
            options["UserKnownHostsFile"] = str(given.known_hosts)
        if given.key:
            # This key alone: those of an agent would use up the attempts that the server allows.
            options |= {"IdentityFile": str(given.key), "IdentitiesOnly": "yes"}
        flags = [part for key, value in options.items() for part in ("-o", f"{key}={value}")]
        return ["ssh", *flags, "-p", str(given.port), f"{given.user}@{given.host}"]
