"""A program as a process: run it to its end, and what it has printed."""

import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

from pipeline.errors import MachineError, printable
from pipeline.interruption import deferred
from pipeline.runs.programs import supervisor

TAIL_BYTES, TAIL_LINES, LINE_CHARACTERS = 2**16, 20, 200
# Lines of MLflow's own, and of SQLAlchemy's, which may follow the one that says what went wrong.
NOT_A_REASON = (
    *("🏃 View run ", "🧪 View experiment at"),
    *("[SQL: ", "[parameters: ", "(Background on this error at: "),
)
FRAME = re.compile(' +File ".*", line \\d+')  # in Python's tracebacks
OF_PROJECTS = ("=== Running command '", "=== Run (ID '", "=== Created directory ")


class Ended(NamedTuple):
    """How a program has ended. code: its exit status, minus the number of a signal."""

    code: int

    @property
    def status(self) -> str:
        """The status of its run, whatever MLflow has made of it."""
        return "FINISHED" if self.code == 0 else "KILLED" if self.code < 0 else "FAILED"

    @property
    def words(self) -> str:
        """How it has ended, as a reason."""
        if self.code >= 0:
            return f"the program exited with {self.code}"
        name = str(-self.code)
        with suppress(ValueError):  # of this system's real-time signals
            name = signal.Signals(-self.code).name
        return f"the program was killed by {name}"


def run_to_end(
    command: Sequence[str], folder: Path, environment: Mapping[str, str], output: IO[bytes]
) -> Ended:
    """Run a command in a folder; what it prints goes to a file.

    It reads nothing. With whatever is raised here, such as Interrupted, and with the end of this
    process, it ends, and all its children with it. Raises MachineError if it can't be started.
    """
    own: dict[str, Any] = {"start_new_session": True}  # Ctrl-C reaches it through this process
    if sys.platform == "win32":
        own = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    process = None
    try:
        with deferred():  # what has been started is known, and will be ended
            process = subprocess.Popen(
                [sys.executable, "-I", supervisor.__file__, *command],
                cwd=folder,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                **own,
            )
        # Not by reading, which an interruption of Ray's would leave waiting for the program's end.
        while process.poll() is None:
            time.sleep(supervisor.LOOK_SECONDS)
        assert process.stdout
        said = process.stdout.read().decode(errors="replace").strip()
    except OSError as error:
        raise MachineError(f"no process can be started for a program ({error})") from None
    finally:
        if process:
            with deferred():
                assert process.stdin
                process.stdin.close()
                process.wait()
    if said.startswith(supervisor.CANT_START):
        raise MachineError(f"the program {said}")
    if not said:
        supervisor.end_left_behind(environment.get(supervisor.CONTEXT, ""))
        raise MachineError("what watches over the program was killed, so that its end is unknown")
    return Ended(int(said))


def last_lines(file: Path) -> list[str]:
    """The last lines of an output, in whatever encoding, without empty ones; long ones are cut.

    Of a progress bar, which is drawn over itself, the last state.
    """
    with file.open("rb") as output:
        output.seek(0, 2)
        output.seek(max(0, output.tell() - TAIL_BYTES))
        text = output.read().decode(errors="replace")
    lines = [line.rstrip().rpartition("\r")[2].rstrip() for line in text.split("\n")]
    shown = [printable(line.expandtabs()) for line in lines if line.strip()][-TAIL_LINES:]
    most = LINE_CHARACTERS
    return [line if len(line) <= most else f"{line[: most - 1]}…" for line in shown]


def reason_in(lines: Sequence[str]) -> str:
    """What says why a program has failed: the last line of its own.

    After the first line of the last exception, whose message may have several.
    """
    own = [one for one in lines if not one.startswith(NOT_A_REASON)]
    own = [one for one in own if not any(text in one for text in OF_PROJECTS)]
    if not own:
        return ""
    frames = [number for number, one in enumerate(own) if FRAME.match(one)]
    after = [one for one in own[frames[-1] :] if not one.startswith(" ")] if frames else []
    return " … ".join(dict.fromkeys(one.strip() for one in (*after[:1], own[-1])))
