"""What a child process that opens a file of others may do: read, compute, and write into folders that it was given.

A guard that knows what may stand in a file keeps code of others from running; this holds where a guard fails. On Linux
the process confines itself, before it opens anything, and can never undo it:

- Landlock (Linux, Documentation/userspace-api/landlock.rst): files are written, made, removed and renamed below the
  given folders alone; no program is started but this Python, which stays confined; no TCP; no signal to a process
  outside.
- seccomp (Documentation/userspace-api/seccomp_filter.rst): no sockets, no tracing or changing of other processes, no
  mounts or namespaces, no kernel interfaces that go round these rules. Changes of modes, owners and times, which
  Landlock does not know, are answered as done and are not.
- Limits of memory (this machine's), of processor time, of processes and of the size of a file (getrlimit(2)).

On macOS the child is started by ``sandbox-exec`` with the same rules. What a system does not have is told, never
passed over: `confine` returns it.
"""

import ctypes
import errno
import os
import platform
import struct
import sys
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

__all__ = ["confine", "prefix"]

_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2  # linux/prctl.h, linux/seccomp.h
_GIB = 1 << 30
_MAX_FILE_BYTES = 32 * _GIB
_MAX_PROCESSES = 4096  # of this user, threads included
_CONFINED = "EDGEWRIGHT_CONFINED"
_confined = threading.Event()


def confine(writable: Sequence[Path], *, seconds: float) -> str:
    """Give up, for good, all that this process does not need; returns what could not be given up here, or nothing.

    Args:
        writable: folders below which files may be written.
        seconds: wall time that the process is given, from which its processor time is bounded.
    """
    if (inherited := os.environ.get(_CONFINED)) is not None:  # by the parent, and nothing undoes it for a child
        _confined.set()
        return inherited
    if sys.platform != "linux":
        return f"{platform.system()} has no sandbox that is used here"
    # Before seccomp, which refuses setrlimit.
    _limit(seconds)
    # Without root, both Landlock and seccomp take a process only after this: no setuid program could lead out.
    if _LIBC.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        return f"the kernel refuses to give up new privileges ({_reason()})"
    # Flag 1, LANDLOCK_CREATE_RULESET_VERSION; -1 where the kernel has none or it is switched off.
    abi = max(_LIBC.syscall(_CREATE_RULESET, None, 0, 1), 0)
    missing = "; ".join(
        limitation for limitation in (_landlock(abi, writable), _seccomp(own_signals=abi < _SCOPED)) if limitation
    )
    # A child of this child inherits the confinement, and tells the same of it.
    os.environ[_CONFINED] = missing
    _confined.set()
    return missing


def _limit(seconds: float) -> None:
    import resource

    cores = os.cpu_count() or 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = {
        # Private writable memory (setrlimit(2)): mapped files and libraries do not count, as they would by RLIMIT_AS.
        resource.RLIMIT_DATA: memory,
        # Summed over threads by the kernel: all cores may be busy for the whole time.
        resource.RLIMIT_CPU: int(seconds * cores) + 60,
        resource.RLIMIT_FSIZE: _MAX_FILE_BYTES,
        resource.RLIMIT_NPROC: _MAX_PROCESSES,
        resource.RLIMIT_CORE: 0,
    }
    for kind, wanted in limits.items():
        _, hard = resource.getrlimit(kind)
        # Only root may raise a hard limit again; both are set, so the process cannot raise the soft one either.
        bound = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(kind, (bound, bound))


def _reason() -> str:
    return os.strerror(ctypes.get_errno())


# Landlock: include/uapi/linux/landlock.h

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same numbers on every architecture
_RULE_PATH_BENEATH = 1
_EXECUTE, _WRITE_FILE = 1 << 0, 1 << 1
_REMOVE_AND_MAKE = sum(1 << bit for bit in range(4, 13))  # REMOVE_DIR to MAKE_SYM
_REFER, _TRUNCATE, _IOCTL_DEVICE = 1 << 13, 1 << 14, 1 << 15  # since ABI 2, 3, 5
_TCP = 0b11  # bind and connect, since ABI 4
_SCOPES, _SCOPED = 0b11, 6  # abstract Unix sockets and signals, since ABI 6
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full")


def _landlock(abi: int, writable: Sequence[Path]) -> str:
    """Confine files by that version of the interface; returns what this kernel cannot."""
    if abi < 1:
        return "files are not confined: no Landlock in this kernel"
    writes = _WRITE_FILE | _REMOVE_AND_MAKE | (_REFER if abi >= 2 else 0) | (_TRUNCATE if abi >= 3 else 0)
    handled = writes | _EXECUTE | (_IOCTL_DEVICE if abi >= 5 else 0)
    rules = struct.pack("=QQQ", handled, _TCP if abi >= 4 else 0, _SCOPES if abi >= _SCOPED else 0)
    # struct landlock_ruleset_attr grew: network with ABI 4, scopes with ABI 6; an older kernel is given its own size.
    size = 24 if abi >= _SCOPED else 16 if abi >= 4 else 8
    ruleset = _LIBC.syscall(_CREATE_RULESET, rules, size, 0)
    if ruleset < 0:
        return f"files are not confined: Landlock refuses ({_reason()})"
    try:
        for folder in writable:
            _allow(ruleset, folder, writes)
        for device in _DEVICES:
            # Opening /dev/null by mode 'w' truncates it, which ABI 3 asks a right for.
            _allow(ruleset, Path(device), _WRITE_FILE | (_TRUNCATE if abi >= 3 else 0))
        for program in _programs():
            _allow(ruleset, program, _EXECUTE)
        if _LIBC.syscall(_RESTRICT_SELF, ruleset, 0):
            return f"files are not confined: Landlock refuses ({_reason()})"
    finally:
        os.close(ruleset)
    return "" if abi >= 3 else "files outside may be cut short: Landlock of this kernel is older than Linux 6.2"


def _allow(ruleset: int, path: Path, rights: int) -> None:
    place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if _LIBC.syscall(_ADD_RULE, ruleset, _RULE_PATH_BENEATH, struct.pack("=Qi", rights, place), 0):
            raise OSError(ctypes.get_errno(), f"Landlock takes no rule for {path}: {_reason()}")
    finally:
        os.close(place)


def _programs() -> Iterable[Path]:
    """This Python and the loader that the kernel starts it by: a child of the child is confined as it is."""
    python = Path(sys.executable).resolve()
    yield python
    with python.open("rb") as file:
        header = file.read(64)
        if header[:5] != b"\x7fELF\x02":
            return
        # e_phoff, e_phentsize and e_phnum of Elf64_Ehdr, elf(5).
        offset, size, count = struct.unpack_from("<Q", header, 32)[0], *struct.unpack_from("<HH", header, 54)
        for number in range(count):
            file.seek(offset + number * size)
            entry = file.read(size)
            if struct.unpack_from("<I", entry)[0] == 3:  # PT_INTERP, elf(5)
                file.seek(struct.unpack_from("<Q", entry, 8)[0])
                name = file.read(struct.unpack_from("<Q", entry, 32)[0]).rstrip(b"\0")
                yield Path(os.fsdecode(name))


# seccomp: include/uapi/linux/seccomp.h, filter.h; numbers of arch/x86/entry/syscalls/syscall_64.tbl and of
# include/uapi/asm-generic/unistd.h

_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_AND = 0x54
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_NUMBER, _ARCHITECTURE, _ARGUMENT = 0, 4, 16
_ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
_X32 = 0x40000000
_NEW_NAMESPACES = 0x7E020000  # CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
_REFUSED = {
    # sockets
    "socket": (41, 198), "connect": (42, 203), "bind": (49, 200), "listen": (50, 201), "accept": (43, 202),
    "accept4": (288, 242),
    # other processes
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "pidfd_getfd": (438, 438),
    "kcmp": (312, 272), "process_madvise": (440, 440), "setpriority": (141, 140), "sched_setscheduler": (144, 119),
    # mounts, namespaces, the system
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "unshare": (272, 97),
    "setns": (308, 268), "move_mount": (429, 429), "open_tree": (428, 428), "fsopen": (430, 430), "fsmount": (432, 432),
    "mount_setattr": (442, 442), "swapon": (167, 224), "swapoff": (168, 225), "reboot": (169, 142),
    "sethostname": (170, 161), "setdomainname": (171, 162), "init_module": (175, 105), "finit_module": (313, 273),
    "delete_module": (176, 106), "kexec_load": (246, 104), "kexec_file_load": (320, 294), "settimeofday": (164, 170),
    "clock_settime": (227, 112), "adjtimex": (159, 171), "clock_adjtime": (305, 266), "acct": (163, 89),
    "quotactl": (179, 60), "syslog": (103, 116),
    # ways round a filter, and wide surfaces
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427), "bpf": (321, 280),
    "perf_event_open": (298, 241), "userfaultfd": (323, 282), "open_by_handle_at": (304, 265), "keyctl": (250, 219),
    "add_key": (248, 217), "request_key": (249, 218), "fanotify_init": (300, 262),
    # limits once set; System V memory and queues outlive a process
    "setrlimit": (160, 164), "shmget": (29, 194), "msgget": (68, 186), "semget": (64, 190), "mq_open": (240, 180),
}  # fmt: skip
_PRETENDED = {
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452), "chown": (92, None),
    "fchown": (93, 55), "lchown": (94, None), "fchownat": (260, 54), "utime": (132, None), "utimes": (235, None),
    "futimesat": (261, None), "utimensat": (280, 88), "setxattr": (188, 5), "lsetxattr": (189, 6),
    "fsetxattr": (190, 7), "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16),
}  # fmt: skip
_TO_PROCESS = {"kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131), "rt_sigqueueinfo": (129, 138)}
_CLONE, _CLONE3 = (56, 220), 435
_PRLIMIT = (302, 261)


def _seccomp(*, own_signals: bool) -> str:
    """Filter system calls, signals to other processes too where asked; returns why that cannot be done here."""
    machine = platform.machine()
    if machine not in _ARCHITECTURES:
        return f"system calls are not filtered: no filter is written for {machine}"
    program = b"".join(struct.pack("=HBBI", *instruction) for instruction in _filter(machine, own_signals))
    code = ctypes.create_string_buffer(program, len(program))
    # struct sock_fprog: the count, then (aligned, so native '@') the address; `code` must live until the call.
    held = struct.pack("@HP", len(program) // 8, ctypes.addressof(code))
    if _LIBC.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, held, 0, 0):
        return f"system calls are not filtered: seccomp refuses ({_reason()})"
    return ""


def _filter(machine: str, own_signals: bool) -> list[tuple[int, int, int, int]]:
    """(code, jump if true, jump if false, operand) of each instruction of the BPF program."""
    architecture, column = _ARCHITECTURES[machine]
    refuse, pretend = (_RETURN, 0, 0, _ERRNO | errno.EPERM), (_RETURN, 0, 0, _ERRNO)
    absent, allow = (_RETURN, 0, 0, _ERRNO | errno.ENOSYS), (_RETURN, 0, 0, _ALLOW)
    program = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        # Numbers differ by architecture: a 32-bit call on x86-64 would pass as another one.
        (_JUMP_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
    ]
    if machine == "x86_64":
        # x32 has the same architecture and its own numbers, from this bit on.
        program += [(_JUMP_AT_LEAST, 0, 1, _X32), absent]
    for numbers, answer in ((_REFUSED, refuse), (_PRETENDED, pretend)):
        for number in (pair[column] for pair in numbers.values()):
            if number is not None:
                program += [(_JUMP_EQUAL, 0, 1, number), answer]
    program += [(_JUMP_EQUAL, 0, 1, _CLONE3), absent]  # its flags lie in memory: glibc then takes clone
    program += [
        # Threads and forks pass, by flags in the first argument; new namespaces do not.
        (_JUMP_EQUAL, 0, 4, _CLONE[column]),
        (_LOAD, 0, 0, _ARGUMENT),
        (_AND, 0, 0, _NEW_NAMESPACES),
        (_JUMP_EQUAL, 1, 0, 0),
        refuse,
    ]
    program += [(_LOAD, 0, 0, _NUMBER)]
    # To this process alone: 0 and negative numbers, which mean groups and everybody, are other numbers.
    for number in (pair[column] for pair in _TO_PROCESS.values() if own_signals):
        program += [(_JUMP_EQUAL, 0, 4, number), (_LOAD, 0, 0, _ARGUMENT), (_JUMP_EQUAL, 1, 0, os.getpid()), refuse]
        program += [(_LOAD, 0, 0, _NUMBER)]
    # The third argument, new_limit, is 64 bits wide and BPF loads 32: both halves must be zero.
    program += [(_JUMP_EQUAL, 0, 5, _PRLIMIT[column])]
    program += [(_LOAD, 0, 0, _ARGUMENT + 16), (_JUMP_EQUAL, 0, 2, 0)]  # asking for limits is allowed, setting is not
    program += [(_LOAD, 0, 0, _ARGUMENT + 20), (_JUMP_EQUAL, 1, 0, 0), refuse]
    return [*program, allow]


# macOS: sandbox-exec(1); the language of its profiles is that of /usr/share/sandbox


def prefix(writable: Sequence[Path]) -> tuple[list[str], dict[str, str]]:
    """What stands before the command of a child that is to be confined, and the environment that it is given.

    What the child inherits of a sandbox it is told by this process alone, never by the environment of the user.
    """
    plain = {name: value for name, value in os.environ.items() if name != _CONFINED or _confined.is_set()}
    program = Path("/usr/bin/sandbox-exec")
    if sys.platform != "darwin" or _confined.is_set() or not program.exists():
        return [], plain
    return [str(program), "-p", _profile(writable)], {**plain, _CONFINED: ""}


def _profile(writable: Sequence[Path]) -> str:
    def quoted(path: Path | str) -> str:
        text = str(path).replace("\\", "\\\\").replace('"', '\\"')
        return f'"{text}"'

    # Real paths: sandbox-exec compares what links lead to, and /tmp is a link on macOS.
    folders = " ".join(f"(subpath {quoted(path.resolve())})" for path in writable)
    return (
        "(version 1)(allow default)(deny network*)(deny file-write*)(deny process-exec*)(deny signal)"
        f'(allow signal (target self))(allow file-write* (literal "/dev/null") {folders})'
        f"(allow process-exec* (literal {quoted(Path(sys.executable).resolve())}))"
    )
