"""Run several command lines in one process whose storage fails, as `faulty_storage.c` does it when it is preloaded.

The standard input is a JSON list of [environment, command line]; one line of output each: [exit code, last message].
"""

from __future__ import annotations

import io
import json
import os
import sys
from contextlib import redirect_stderr, redirect_stdout

from voxshard import files
from voxshard.cli import main

if __name__ == "__main__":
    files.RETRY_DELAYS_S = (0.0,) * 4
    for number, (environment, words) in enumerate(json.load(sys.stdin)):
        code, printed = 0, io.StringIO()
        os.environ.update(environment, FAULT_ROUND=str(number))
        with redirect_stdout(io.StringIO()), redirect_stderr(printed):
            try:
                main(words)
            except SystemExit as exc:
                code = int(exc.code or 0)
        os.environ["FAULT_TIMES"] = "0"
        print(json.dumps([code, (printed.getvalue().splitlines() or [""])[-1]]), flush=True)
