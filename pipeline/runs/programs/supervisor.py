"""Run a command for another process, and end it with all its children if that one wants or dies.

A process in between, since no system ends a process with its parent: kill -9 of the parent, or a
crash of it, would leave a program that goes on writing to its run. It is started as a file, by
Python's -I, and imports next to nothing.

Standard input ends when the program is to end: its other end closes with the parent, too. Standard
output gets the program's exit status, minus the number of the signal that has killed it. Standard
error is that of the program, and its standard output.
"""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from contextlib import suppress

import psutil

CONTEXT = "MLFLOW_RUN_CONTEXT"  # has the run's id, and so have all that a program starts
GRACE_SECONDS = 5.0  # from SIGTERM until it is killed
LOOK_SECONDS = 0.05
COPIED_BYTES = 2**16
SET_CHILD_SUBREAPER = 36  # of Linux's prctl
CANT_START = "can't start: "


def main() -> None:
    """Run the command that the arguments say."""
    if sys.platform == "linux":
        # A daemon, which outlives its parent, becomes a child of this process. So it is found,
        # whatever its environment.
        ctypes.CDLL(None).prctl(SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    group = {} if sys.platform == "win32" else {"process_group": 0}
    try:
        program = subprocess.Popen(
            sys.argv[1:],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            **group,  # type: ignore[call-overload]
        )
    except OSError as error:
        _say(f"{CANT_START}{error.strerror or error}")
        return
    copying = threading.Thread(target=_copy, args=(program,), daemon=True)
    copying.start()
    is_wanted = threading.Event()
    ending = threading.Thread(target=_end_with_input, args=(program.pid, is_wanted), daemon=True)
    ending.start()
    status = program.wait()
    if is_wanted.is_set():
        ending.join()
    _signal_group(program.pid, "SIGKILL")
    end_left_behind(os.environ.get(CONTEXT, ""), _tree(os.getpid())[1:])
    copying.join(GRACE_SECONDS)  # somebody may be left who could print
    _say(str(status))


def end_left_behind(context: str, known: Iterable[psutil.Process] = ()) -> None:
    """Kill what a program has left behind, daemons too, which would write to an ended run.

    context: the value of that variable, by which they are found. known: others of them.
    """
    found = [one for one in psutil.process_iter() if context and _is_of(one, context)]
    found += known
    for process in found:
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(found, GRACE_SECONDS)


def _copy(program: "subprocess.Popen[bytes]") -> None:
    """Copy what the program prints to standard error.

    It does not get that file itself, which a shell's `> /dev/stderr` would empty.
    """
    assert program.stdout
    while printed := os.read(program.stdout.fileno(), COPIED_BYTES):
        with suppress(OSError):  # the disk is full; the program goes on
            os.write(sys.stderr.fileno(), printed)


def _say(text: str) -> None:
    with suppress(OSError):  # whoever has asked is gone
        os.write(sys.stdout.fileno(), text.encode())


def _end_with_input(pid: int, is_wanted: threading.Event) -> None:
    """End the program and its children when standard input ends."""
    os.read(sys.stdin.fileno(), 1)  # not Python's buffer, which has a lock when Python exits
    is_wanted.set()
    processes = _tree(pid)
    _signal_group(pid, "SIGTERM")
    for process in processes:
        with suppress(psutil.Error):
            process.terminate()
    deadline = time.monotonic() + GRACE_SECONDS
    # Not psutil's wait, which would take the exit status from whoever else waits.
    while time.monotonic() < deadline and any(map(_is_running, processes)):
        time.sleep(LOOK_SECONDS)
    if any(map(_is_running, processes[:1])):
        processes += _tree(pid)[1:]  # those that it has started meanwhile
    for process in processes:
        with suppress(psutil.Error):
            process.kill()


def _tree(pid: int) -> list[psutil.Process]:
    """A process with all its children, also those in groups of their own."""
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    return []


def _is_of(process: psutil.Process, context: str) -> bool:
    with suppress(psutil.Error, OSError):  # such as of another user
        is_other = process.pid != os.getpid()
        return is_other and bool(process.environ().get(CONTEXT) == context)
    return False


def _is_running(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False


def _signal_group(pid: int, name: str) -> None:
    """Send a signal to all of a program's process group; Windows has none."""
    if sys.platform != "win32":
        with suppress(OSError):  # there is nobody left in it
            os.killpg(pid, getattr(signal, name))


if __name__ == "__main__":
    main()
