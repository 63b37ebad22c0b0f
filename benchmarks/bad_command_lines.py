"""A thousand command lines that are wrong in some way: no traceback, exit 0, 1 or 2, all soon over.

Each runs in a process of its own, forked from one that has loaded the libraries, in a copy of a
folder that holds something good and something bad of every kind. Prints exit codes and the
slowest lines, and every line that broke the rule; the exit code is 1 where there was one.

    python benchmarks/bad_command_lines.py --count 1000 --seed 0 [--only train] [--show]
"""

from __future__ import annotations

import argparse
import collections
import os
import re
import shlex
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests")]
os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled"}
LONGEST = 10.0  # seconds of processor
KILLED = 60  # seconds after which a line is ended


def call(line: list[str], folder: Path) -> tuple[int, str, float]:
    """Exit code, what was printed on stderr and stdout, seconds of processor; of a forked process.

    Processor time, with that of its own children: what others do on the machine does not count. A
    line that only waits is ended after a minute and counts as broken.
    """
    from cutaway.cli import main

    printed = folder.with_suffix(".out")
    began = time.perf_counter()
    child = os.fork()
    if child == 0:
        os.setsid()
        handle = os.open(printed, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for target in (1, 2):
            os.dup2(handle, target)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.chdir(folder)
        sys.argv = ["cutaway", *line]
        code = 70
        try:
            main.main()
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 71
        except BaseException:
            import traceback

            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    while time.perf_counter() - began < KILLED:
        done, status, used = os.wait4(child, os.WNOHANG)
        if done:
            break
        time.sleep(0.005)
    else:
        os.killpg(child, signal.SIGKILL)
        _, status, used = os.wait4(child, 0)
    text = printed.read_bytes().decode("utf-8", "replace")
    printed.unlink()
    return os.waitstatus_to_exitcode(status), text, used.ru_utime + used.ru_stime


def complaint(code: int, text: str, seconds: float) -> str:
    """What is wrong with how a line ended, or nothing."""
    if "Traceback (most recent call last)" in text:
        return "traceback"
    if re.search(r"unexpected [A-Z]\w*:", text):
        return "unexpected"
    if code not in (0, 1, 2):
        return f"exit {code}"
    if code and not text.strip():
        return "silent"
    return "slow" if seconds > LONGEST else ""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--every", nargs="+", help="each option of whole numbers with these values")
    parser.add_argument("--files", action="store_true", help="each file with each bad one instead")
    parser.add_argument("--show", action="store_true", help="print every line and its last words")
    parser.add_argument("--start", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["CUTAWAY_CACHE"] = f"{scratch}/cache"
        world = Path(scratch) / "world"
        world.mkdir()
        os.chdir(world)
        from laws.bad_lines import bad_lines, commands, each_file, each_option
        from laws.bad_world import LINES, make_world

        make_world(world)
        known = commands(lambda path: LINES[path])
        codes: collections.Counter[int] = collections.Counter()
        times, broken = [], []
        lines = bad_lines(known, given.seed, given.count, only=given.only)
        some = [one for one in known if not given.only or one.path[0] in given.only]
        if given.every:
            lines = each_option(some, given.every)
        if given.files:
            lines = each_file(some)
        for number, line in enumerate(lines):
            if number < given.start:
                continue
            folder = Path(scratch) / f"line-{number}"
            shutil.copytree(world, folder, symlinks=True)
            code, text, seconds = call(line, folder)
            codes[code] += 1
            times.append((seconds, line))
            shown = " ".join(shlex.quote(word[:60]) for word in line)
            if why := complaint(code, text, seconds):
                broken.append((why, line))
                print(f"#{number} {why} ({code}, {seconds:.1f} s): {shown}", flush=True)
                print("    " + "\n    ".join(text[-1500:].splitlines()), flush=True)
            elif given.show:
                last = (text.strip().splitlines() or [""])[-1]
                print(f"#{number} {code} {seconds:.1f} s: {shown}\n    {last[:300]}", flush=True)
            shutil.rmtree(folder)
        print(f"{len(times)} lines; exit codes {dict(sorted(codes.items()))}")
        for seconds, line in sorted(times, reverse=True)[:5]:
            print(f"{seconds:6.1f} s  {' '.join(shlex.quote(word[:60]) for word in line)}")
        print(f"{len(broken)} broke the rule")
    sys.exit(bool(broken))


if __name__ == "__main__":
    main()
