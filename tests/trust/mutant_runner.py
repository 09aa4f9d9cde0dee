"""Runs tests on changed copies of the package: started by test_mutations.py, which writes one line for each copy.

Everything that is not the package is imported once; each run is a fork. A line holds the folder of a copy and the tests
to run there, divided by tabs; the answer is pytest's exit status.
"""

from __future__ import annotations

import os
import sys
import traceback

import lightning.pytorch  # noqa: F401
import pytest
import torchmetrics  # noqa: F401


def run(folder: str, tests: list[str]) -> int:
    """Run ``tests`` on the copy of the package in ``folder``."""
    os.chdir(folder)
    sys.path.insert(0, folder)
    sys.dont_write_bytecode = True
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    options = ["-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", f"--rootdir={folder}"]
    status = int(pytest.main([*options, *tests]))
    import lightning_lrsched

    # Tests of another copy would prove nothing.
    assert str(lightning_lrsched.__file__).startswith(folder)
    return status


def main() -> None:
    """Answer each line of the standard input."""
    print("ready", flush=True)  # noqa: T201 - the test reads it
    for line in sys.stdin:
        folder, *tests = line.rstrip("\n").split("\t")
        pid = os.fork()
        if pid == 0:
            status = 99
            try:
                status = run(folder, tests)
            except BaseException:  # noqa: BLE001 - a fork must not go on in this loop
                traceback.print_exc()
            os._exit(status)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
