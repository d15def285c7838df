"""Run by root on the emulated device, beside cgroup.py: control groups as systemd makes them, seen by a plain user.

Controllers are enabled down to the leaves, processes are in leaves alone, and what is below user@1000.service belongs
to the user; the scope of an SSH session does not.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import cgroup  # the module that is tested, copied to the same folder

_USER = 1000
_OWNED = ("cgroup.procs", "cgroup.subtree_control", "cgroup.threads")
_FILL = "import sys; open(sys.argv[1] + '/cgroup.procs', 'w').write('0'); held = bytearray(b'x' * (80 << 20))"


def main() -> None:
    root = cgroup._mounted()
    user = root / "user.slice/user-1000.slice"
    manager = user / "user@1000.service"
    terminal, session = manager / "app.slice/vte-spawn-1.scope", user / "session-2.scope"
    for folder in (terminal, session):
        folder.mkdir(parents=True)
    for folder in (root, root / "user.slice", user, manager, manager / "app.slice"):
        (folder / "cgroup.subtree_control").write_text("+memory")
    for folder in (manager, manager / "app.slice", terminal):
        for owned in (folder, *(folder / name for name in _OWNED)):
            os.chown(owned, _USER, _USER)
    found = {"terminal": as_user(terminal), "session": as_user(session)}
    subprocess.run(["/bin/mount", "-o", "remount,ro", str(root)], check=True)
    try:
        cgroup.delegated.cache_clear()
        found["read-only"] = str(cgroup.delegated())
    finally:
        subprocess.run(["/bin/mount", "-o", "remount,rw", str(root)], check=True)
    print(json.dumps(found))


def as_user(leaf: Path) -> object:
    enter = 'echo 0 > "$1/cgroup.procs" && exec "$2" "$3" user'
    command = ["sh", "-c", enter, "sh", str(leaf), sys.executable, __file__]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def seen_by_the_user() -> object:
    os.setgroups([])
    os.setgid(_USER)
    os.setuid(_USER)
    below = cgroup.delegated()
    if below is None:
        return None
    with cgroup.memory_bound(below, 40) as group:
        code = subprocess.run([sys.executable, "-c", _FILL, str(group)], check=False).returncode
        return [below.name, code, cgroup.was_out_of_memory(group)]


if __name__ == "__main__":
    if sys.argv[1:] == ["user"]:
        print(json.dumps(seen_by_the_user()))
    else:
        main()
