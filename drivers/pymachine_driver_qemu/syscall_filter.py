"""Filter QEMU's system calls, so that a guest cannot give files of shared folders owners or special modes.

QEMU's 9p server (with ``security_model=none``) passes on to the host what the guest does to a shared folder. As an
ordinary user it may not change owners, so `chown` fails in containers. As root it may: `chown` has an effect on the
host, and the guest may create device nodes. In both cases the guest may make files setuid. With this filter:

- changes of owner succeed and have no effect;
- no file becomes setuid or setgid, and no device node is created;
- a file that the host made setuid loses that when the guest writes to it, as is usual, also if QEMU runs as root.

The filter is a program for the kernel's seccomp, in classic BPF. It cannot follow pointers, so it decides by the call's
number and plain arguments. QEMU's own ``-sandbox`` adds another filter, and of both verdicts the stricter one counts.

Extended attributes need no rule: QEMU itself lets the guest set only those whose names begin with ``user.``.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import stat
import struct
import subprocess
import sys
from collections.abc import Callable
from typing import NamedTuple

# -- what is filtered ----------------------------------------------------------------------------------------------

# From linux/seccomp.h. The kernel executes a call only if the verdict is _ALLOW.
_KILL_PROCESS = 0x80000000
_ERRNO = 0x00050000
_ALLOW = 0x7FFF0000
_SUCCEED = _ERRNO | 0
_NOT_PERMITTED = _ERRNO | errno.EPERM
_NOT_IMPLEMENTED = _ERRNO | errno.ENOSYS

_SET_ID = stat.S_ISUID | stat.S_ISGID
# S_IFMT of sys/stat.h: the bits of a mode that tell files, devices and others apart.
_KIND = 0o170000
# O_CREAT, and O_TMPFILE without O_DIRECTORY, whose bit differs between architectures. From asm-generic/fcntl.h.
_CREATES = 0o100 | 0o20000000


class _Test(NamedTuple):
    """Whether an argument has any bit of `mask`, or with `value`, whether its bits in `mask` are equal to that."""

    argument: int
    mask: int
    value: int | None = None


_Cases = tuple[tuple[_Test, ...], ...]


class _Rule(NamedTuple):
    """The verdict on some system calls, if all tests of any of the `cases` succeed. Other calls are executed."""

    calls: str
    verdict: int
    cases: _Cases = ((),)


def _has_set_id(mode: int) -> _Cases:
    return ((_Test(mode, _SET_ID),),)


def _creates_set_id(flags: int, mode: int) -> _Cases:
    # Without one of these flags, the mode is not used, and often not initialised.
    return ((_Test(flags, _CREATES), _Test(mode, _SET_ID)),)


def _is_device_or_set_id(mode: int) -> _Cases:
    return ((_Test(mode, _KIND, stat.S_IFCHR),), (_Test(mode, _KIND, stat.S_IFBLK),), *_has_set_id(mode))


# The numbers are positions of arguments. mkdir and mkdirat have no rule, since the kernel ignores both bits there.
_RULES = (
    _Rule("chown fchown lchown fchownat", _SUCCEED),
    # Not an error: by mkdir, a new folder inherits the bit of a setgid folder. QEMU then sets its mode again, with the
    # bit, and would remove the folder if that failed.
    _Rule("chmod fchmod", _SUCCEED, _has_set_id(1)),
    _Rule("fchmodat fchmodat2", _SUCCEED, _has_set_id(2)),
    _Rule("mknod", _NOT_PERMITTED, _is_device_or_set_id(1)),
    _Rule("mknodat", _NOT_PERMITTED, _is_device_or_set_id(2)),
    _Rule("creat", _NOT_PERMITTED, _has_set_id(1)),
    _Rule("open", _NOT_PERMITTED, _creates_set_id(1, 2)),
    _Rule("openat", _NOT_PERMITTED, _creates_set_id(2, 3)),
    # Its flags and mode are behind a pointer. Programs then use openat, as on kernels before 5.6.
    _Rule("openat2", _NOT_IMPLEMENTED),
    # Files opened through io_uring are not filtered. Only disks with aio=io_uring need it. QEMU's event loops, which
    # use it in some versions, fall back to epoll.
    _Rule("io_uring_setup", _NOT_IMPLEMENTED),
)


class _Architecture(NamedTuple):
    """An architecture's AUDIT_ARCH_* of linux/audit.h, and the numbers of those system calls that it has."""

    audit: int
    numbers: dict[str, int]


_SAME_EVERYWHERE = {"io_uring_setup": 425, "openat2": 437, "fchmodat2": 452}
_X86_64 = {"open": 2, "creat": 85, "chmod": 90, "fchmod": 91, "chown": 92, "fchown": 93, "lchown": 94, "mknod": 133}
_X86_64_AT = {"openat": 257, "mknodat": 259, "fchownat": 260, "fchmodat": 268}
_AARCH64 = {"mknodat": 33, "fchmod": 52, "fchmodat": 53, "fchownat": 54, "fchown": 55, "openat": 56}
# By the name that Python has for the machine.
_ARCHITECTURES = {
    "x86_64": _Architecture(0xC000003E, {**_X86_64, **_X86_64_AT, **_SAME_EVERYWHERE}),
    "aarch64": _Architecture(0xC00000B7, {**_AARCH64, **_SAME_EVERYWHERE}),
}
# Numbers from here on are calls of x86's x32 ABI, with the same architecture but other numbers.
_X32 = 0x40000000

# -- the filter as a program ---------------------------------------------------------------------------------------

# Instructions of linux/bpf_common.h: load a word, and it, compare or test it, and return.
_LOAD = 0x20
_AND = 0x54
_IF_EQUAL = 0x15
_IF_AT_LEAST = 0x35
_IF_ANY_BIT = 0x45
_RETURN = 0x06
# Offsets in struct seccomp_data of linux/seccomp.h. Both architectures are little-endian, so the lower half of an
# argument comes first. The kernel ignores the upper half of flags and modes.
_NUMBER, _AUDIT, _ARGUMENTS, _ARGUMENT_SIZE = 0, 4, 16, 8


class _Instruction(NamedTuple):
    """A struct sock_filter: skip `skip_true` or `skip_false` instructions after a comparison with `operand`."""

    code: int
    skip_true: int
    skip_false: int
    operand: int


_Program = list[_Instruction]


def _do(code: int, operand: int) -> _Instruction:
    return _Instruction(code, 0, 0, operand)


def _only_if(code: int, operand: int, body: _Program) -> _Program:
    """Return `body`, executed only if the comparison succeeds."""
    return [_Instruction(code, 0, len(body), operand), *body]


def _case(tests: tuple[_Test, ...], verdict: int) -> _Program:
    program = [_do(_RETURN, verdict)]
    for test in reversed(tests):
        if test.value is None:
            program = _only_if(_IF_ANY_BIT, test.mask, program)
        else:
            program = [_do(_AND, test.mask), *_only_if(_IF_EQUAL, test.value, program)]
        program = [_do(_LOAD, _ARGUMENTS + _ARGUMENT_SIZE * test.argument), *program]
    return program


def _program(architecture: _Architecture) -> _Program:
    # 32-bit calls have other numbers. A 64-bit QEMU makes none, so this is an attack, or a 32-bit QEMU, which must not
    # run unfiltered. No program handles an error from each of its calls.
    foreign = [_do(_RETURN, _KILL_PROCESS)]
    program = [_do(_LOAD, _AUDIT), _Instruction(_IF_EQUAL, len(foreign), 0, architecture.audit), *foreign]
    program += [_do(_LOAD, _NUMBER)]
    # The same answer as from most kernels, which are built without x32.
    program += _only_if(_IF_AT_LEAST, _X32, [_do(_RETURN, _NOT_IMPLEMENTED)])
    for rule in _RULES:
        body = [instruction for tests in rule.cases for instruction in _case(tests, rule.verdict)]
        body.append(_do(_RETURN, _ALLOW))
        for call in rule.calls.split():
            if call in architecture.numbers:
                program += _only_if(_IF_EQUAL, architecture.numbers[call], body)
    return [*program, _do(_RETURN, _ALLOW)]


# -- installing it -------------------------------------------------------------------------------------------------

# From linux/prctl.h, linux/seccomp.h and linux/capability.h.
_PR_SET_SECCOMP = 22
_MODE_FILTER = 2
_PR_CAPBSET_DROP = 24
_CAP_FSETID = 4
_PR_SET_NO_NEW_PRIVS = 38


class FilterError(Exception):
    """QEMU's system calls cannot be filtered on this host; `fix` says what would change that."""

    def __init__(self, text: str, *, fix: str = "") -> None:
        super().__init__(text)
        self.fix = fix


class _Fprog(ctypes.Structure):
    """Struct sock_fprog of linux/filter.h."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def available() -> bool:
    """Return whether there is a filter for this system and architecture. The kernel may still refuse it: `probe`."""
    # A 32-bit Python on a 64-bit kernel makes 32-bit calls, and so may its QEMU.
    return sys.platform == "linux" and platform.machine() in _ARCHITECTURES and sys.maxsize > 1 << 32


def installer() -> Callable[[], int]:
    """Return a function that filters the process that calls it, and the programs that this process becomes, for good.

    It returns 0, or the error number if the kernel refuses the filter. All else is prepared here, so a child process
    may call it between fork and exec. Raises `FilterError` if no filter is `available`.
    """
    if not available():
        raise FilterError(f"there is no filter of system calls for {sys.platform} on {platform.machine()}")
    program = _program(_ARCHITECTURES[platform.machine()])
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
    pointer = ctypes.pointer(_Fprog(len(program), code))
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    prctl.argtypes = (ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_ulong)

    def install() -> int:
        # With this capability, root's writes keep setuid bits. Others do not have it, and may not drop it.
        prctl(_PR_CAPBSET_DROP, _CAP_FSETID, None, 0, 0)
        # Without no_new_privs, the kernel accepts filters only from root. QEMU then gains no rights from setuid
        # programs, and needs none.
        for option, value, address in ((_PR_SET_NO_NEW_PRIVS, 1, None), (_PR_SET_SECCOMP, _MODE_FILTER, pointer)):
            if prctl(option, value, address, 0, 0):
                return ctypes.get_errno()
        return 0

    return install


def probe() -> None:
    """Filter a child process that ends at once. Raises `FilterError` if this host does not allow that."""
    install = installer()
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as answer:
        try:
            subprocess.run(
                ["true"],
                check=True,
                preexec_fn=lambda: os.write(writer, bytes([install()])),
            )
        finally:
            os.close(writer)
        [code] = answer.read()
    if code == errno.EINVAL:
        raise FilterError("the kernel has no filters of system calls", fix="Use a kernel with CONFIG_SECCOMP_FILTER.")
    if code:
        raise FilterError(
            f"the kernel refuses a filter of system calls ({os.strerror(code)})",
            fix="Allow prctl(PR_SET_SECCOMP) in the container or sandbox that pymachine runs in.",
        )
