"""Runs the program on hostile input, in this process, and judges what came of it.

A case holds if the command ends with an exit code of its kind and one message, writes nothing outside its folder, and
does not report success on input that cannot be right. An exit code of 1 is a traceback that `main` has caught.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from voxshard.cli import main

COMPLETE = "VOXSHARD_FUZZ"
"""Set to `complete` to run every case; otherwise each attack runs the first ones that fit its budget."""
BUDGET_S = 4.0
HANGS_AFTER_S = 90
ALLOWED = (0, 2, 3, 4, 75)


class HungError(BaseException):
    """The command did not end."""


@dataclass
class Case:
    """One input: the command line that meets it, and what would be a silent failure."""

    name: str
    arguments: Sequence[str]
    silent: Callable[[int], str | None] = lambda code: None
    """From the exit code to what was silently wrong, None if nothing."""


@dataclass
class Tally:
    """What came of one attack."""

    attack: str
    tried: int = 0
    refused: int = 0
    broke: list[str] = field(default_factory=list)

    @property
    def held(self) -> int:
        return self.tried - len(self.broke)


Attack = Callable[[Path, int], Iterator[Case]]
"""From the folder to work in and a seed to the cases."""


def is_complete() -> bool:
    return os.environ.get(COMPLETE) == "complete"


def run_attack(name: str, cases: Attack, root: Path, *, complete: bool, seed: int = 0) -> Tally:
    """Run the cases of one attack, each in its own folder below `root`, until they or the budget end."""
    tally = Tally(name)
    (root / "outside").mkdir(parents=True)
    (root / "outside" / "sentinel").write_text("as it was")
    work = root / "inside"
    work.mkdir()
    until = math.inf
    with _isolated(work):
        for case in cases(work, seed):
            until = min(until, time.monotonic() + BUDGET_S)  # from the first case on, not while inputs are prepared
            if not complete and time.monotonic() > until:
                break
            tally.tried += 1
            code, problem = run_case(case, work)
            problem = problem or _written_outside(root)
            tally.refused += code not in (0, None)
            if problem:
                tally.broke.append(f"{name}/{case.name}: {problem}")
    return tally


def run_case(case: Case, work: Path) -> tuple[int | None, str | None]:
    """Exit code, and what is wrong with it."""
    output = io.StringIO()
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output), _alarm():
            main(list(case.arguments))
        code = 0
    except SystemExit as exc:
        code = exc.code if isinstance(exc.code, int) else 1
    except HungError:
        return None, "did not end"
    except BaseException as exc:  # noqa: BLE001  the very thing that must not happen
        return None, f"{type(exc).__name__}: {exc}"
    text = output.getvalue()
    if code not in ALLOWED:
        for report in work.glob("voxshard-bug-*.txt"):
            text += report.read_text(errors="replace")[-900:]
            report.unlink()
        return code, f"exit {code}: {text[-1500:]}"
    if "Traceback (most recent call last)" in text or "\x1b" in text:
        return code, f"a traceback or a terminal escape was printed: {text[-800:]!r}"
    if code and not text.strip():
        return code, f"exit {code} without a message"
    return code, case.silent(code)


def _written_outside(root: Path) -> str | None:
    found = sorted(path.relative_to(root).as_posix() for path in root.iterdir())
    kept = [path.name for path in (root / "outside").iterdir()]
    if found != ["inside", "outside"] or kept != ["sentinel"]:
        return f"wrote outside its folder: {found} {kept}"
    if (root / "outside" / "sentinel").read_text() != "as it was":
        return "changed a file outside its folder"
    return None


@contextlib.contextmanager
def _isolated(work: Path) -> Iterator[None]:
    """Work in a folder, with a home there, no network that answers, and the signals as they were afterwards."""
    names = [signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM, signal.SIGINT, signal.SIGALRM]
    handlers = {name: signal.getsignal(name) for name in names}
    environment = dict(os.environ)
    before = Path.cwd()
    recursion = sys.getrecursionlimit()
    os.chdir(work)
    os.environ.update(HOME=str(work), XDG_CACHE_HOME=str(work / "cache"), HF_ENDPOINT="http://127.0.0.1:9")
    os.environ.update(VOXSHARD_WEIGHTS=str(work / "weights"))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        os.chdir(before)
        os.environ.clear()
        os.environ.update(environment)
        sys.setrecursionlimit(recursion)
        for name, handler in handlers.items():
            signal.signal(name, handler)


@contextlib.contextmanager
def _alarm() -> Iterator[None]:
    def ring(number: int, frame: FrameType | None) -> None:
        raise HungError

    signal.signal(signal.SIGALRM, ring)
    signal.alarm(HANGS_AFTER_S)
    try:
        yield
    finally:
        signal.alarm(0)


def report(tallies: Sequence[Tally]) -> str:
    """The table of attacks, in Markdown."""
    rows = [f"| {item.attack} | {item.tried} | {item.held} | {len(item.broke)} | {item.refused} |" for item in tallies]
    return "\n".join(("| attack | tried | held | broke | refused with a message |", "|---|---|---|---|---|", *rows))
