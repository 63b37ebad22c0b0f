"""SQL answers beside processes that write, are killed and resume: is every single answer right?

    python benchmarks/beside_writers.py [--writers 8] [--rounds 200] [--rows 750] [--seed 0] [--quick]

Each writer is a process that creates runs and resumes them, appending rows whose value is a known
function of run and step, in batches, with tables that roll into parts, truncation as a resume from
a checkpoint does it, and a fold at the end. At random moments it is killed with SIGKILL; its next
life resumes the run where it was. Meanwhile one store, and every tenth time a new one, is asked for
each run's number of rows, of distinct steps, first and last step, and the largest and smallest
deviation of a value from what it has to be. An answer is wrong where a row is there twice, missing
between the first and the last, or holds another value; or where a run that was finished has lost
rows. Prints how many of the answers were wrong, and which; exit code 1 if there was any.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cutaway.base.display import quiet
from cutaway.runs.folder import Run
from cutaway.runs.store import RunStore

QUERY = """
SELECT run, count(*) AS n, count(DISTINCT step) AS steps, min(step) AS first, max(step) AS last,
       max(abs(loss - (1000 * number + step) / 7)) AS off, max(loss) AS most, max(number) AS number
FROM history GROUP BY run
"""


def value(number: int, step: int) -> float:
    """The loss that run `number` records at `step`."""
    return (1000 * number + step) / 7


def write(root: Path, number: int, rows: int, seed: int) -> None:
    """One life of a writer: begin the run or go on with it, until its rows are there."""
    from cutaway.runs import table as tables

    quiet.set(True)
    draw = random.Random(seed)
    tables.TAIL_ROWS, tables.MAX_PARTS = 40, 6  # so that files are replaced often
    folder = root / f"run-{number}"
    if (folder / "run.json").exists():
        run = Run.resume(folder)
        table = run.read()
        done = 0 if table is None or not len(table) else table["step"][-1].as_py() + 1
        if done and draw.random() < 0.5:  # as from a checkpoint before the last rows
            done -= draw.randrange(min(done, 60))
            run.truncate(done)
    else:
        run, done = Run.create(folder, study="toy", config={}, steps_planned=rows), 0
    with run:
        while done < rows:
            batch = range(done, min(rows, done + draw.randrange(1, 12)))
            run.append([{"step": s, "loss": value(number, s), "number": number} for s in batch])
            done = batch.stop
            time.sleep(0.0005)
        run.finish({"loss": value(number, rows - 1)})


class Writers:
    """Keeps `count` writers at work: kills them, lets them go on, and begins new runs."""

    def __init__(self, root: Path, count: int, rows: int, seed: int):
        self.root, self.rows, self.draw = root, rows, random.Random(seed)
        self.next = count
        self.kills = self.resumes = 0
        self.finished: set[int] = set()
        self.at_work = {number: self._start(number) for number in range(count)}

    def tend(self) -> None:
        """Replace writers that have ended, and kill one now and then."""
        for number, process in list(self.at_work.items()):
            code = process.poll()
            if code is None:
                if self.draw.random() < 0.05:
                    os.kill(process.pid, signal.SIGKILL)
                    process.wait()
                    self.kills += 1
                    self.at_work[number] = self._start(number)
                    self.resumes += 1
                continue
            if code != 0:
                raise RuntimeError(f"the writer of run-{number} ended with {code}")
            self.finished.add(number)
            del self.at_work[number]
            again = self.draw.random() < 0.3 and self.draw.choice(sorted(self.finished))
            if again is not False and again not in self.at_work:  # resume one that is done
                self.finished.discard(again)
                self.at_work[again] = self._start(again)
                self.resumes += 1
            else:
                self.at_work[self.next] = self._start(self.next)
                self.next += 1

    def stop(self) -> None:
        for process in self.at_work.values():
            process.kill()
            process.wait()

    def _start(self, number: int) -> subprocess.Popen:
        told = [str(self.root), str(number), str(self.rows), str(self.draw.randrange(2**31))]
        return subprocess.Popen([sys.executable, __file__, "--write", *told])


def wrong(row: dict, rows: int, finished: set[str]) -> str | None:
    """What is wrong with one run's line of an answer; None where all is right."""
    if row["n"] != row["steps"]:
        return f"{row['n']} rows of {row['steps']} distinct steps"
    if row["first"] != 0 or row["last"] != row["n"] - 1:
        return f"{row['n']} rows from step {row['first']} to {row['last']}"
    if row["off"] != 0 or row["most"] != value(row["number"], row["last"]):
        return f"a value is off by {row['off']}; the largest is {row['most']}"
    if row["run"] != f"run-{row['number']}":
        return f"holds rows of run-{row['number']}"
    if row["run"] in finished and row["n"] != rows:
        return f"finished with {rows} rows, has {row['n']}"
    return None


def measure(writers: int, rounds: int, rows: int, seed: int) -> int:
    """Ask `rounds` times beside the writers; print what was found and return the wrong answers."""
    found: list[str] = []
    answers = lines = 0
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        store = RunStore(root)
        crew = Writers(root, writers, rows, seed)
        began = time.perf_counter()
        while not any(path.stat().st_size for path in root.glob("*/history.live/*.jsonl")):
            time.sleep(0.05)
        try:
            while answers < rounds:
                crew.tend()
                asked = RunStore(root) if answers % 10 == 0 else store
                done = {f"run-{number}" for number in crew.finished}
                answer = asked.sql(QUERY).to_pylist()
                told = {row["run"]: row for row in answer}
                found += [f"{run}: missing" for run in sorted(done - told.keys())]
                for row in answer:
                    if (what := wrong(row, rows, done)) is not None:
                        found.append(f"{row['run']}: {what}")
                answers += 1
                lines += len(answer)
        finally:
            crew.stop()
        took = time.perf_counter() - began
    print(
        f"{answers} answers beside {writers} writers in {took:.0f} s: {lines} lines of runs, "
        f"{len(found)} wrong; {crew.kills} kills, {crew.resumes} resumes, {crew.next} runs begun"
    )
    for line in found:
        print(line)
    return len(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--writers", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--rows", type=int, default=750)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="few rounds: does it run")
    parser.add_argument("--write", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.write:
        root, number, rows, seed = given.write
        write(Path(root), int(number), int(rows), int(seed))
        return
    if given.quick:
        given.writers, given.rounds, given.rows = 2, 10, 100
    sys.exit(1 if measure(given.writers, given.rounds, given.rows, given.seed) else 0)


if __name__ == "__main__":
    main()
