"""Runs code in processes forked from one that has imported torch, which takes two seconds.

Each line of stdin is a JSON object: `folder` is where `code` runs, `variables` are set, and what it
prints goes into the file `output`. Its exit code is a line of stdout.
"""

import json
import os
import sys
import traceback
from typing import Any

# What a run imports, much of it late.
import tqdm  # noqa: F401
import yaml  # noqa: F401


def run(job: dict[str, Any]) -> int:
    """Run the code of a job as Python does that of `-c`; returns its exit code."""
    os.chdir(job["folder"])
    os.environ.update(job["variables"])
    output = os.open(job["output"], os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.path[:0] = [os.path.join(job["folder"], "src"), job["folder"]]
    code = 0
    try:
        exec(compile(job["code"], "<code>", "exec"), {"__name__": "__main__"})
    except SystemExit as error:
        code = int(error.code or 0)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code


for line in sys.stdin:
    child = os.fork()
    if child == 0:
        os._exit(run(json.loads(line)))
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
