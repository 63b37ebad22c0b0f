"""Probes of every layer and strength: the batched solver beside scikit-learn's.

    python benchmarks/probes.py solver [--rows 5000 20000] [--width 768] [--layers 13] [--limit 120]
        [--threads 1] [--quick]

States as a language model's are: a spectrum that falls off, turned at random, three columns that are
tens of times the others, means far from zero; float32. A layer is a random direction and noise: 70 to
80 % of the labels follow it. Strengths C = 1e-4 … 1. scikit-learn gets them raw and standardised, as a
user would do either, in float32 and in float64, to tolerance 1e-8.

First one problem goes through every solver, each in a process of its own with a limit. Right is who
comes within 1e-3 of newton-cholesky's float64 coefficients; the fastest of them, with warm starts from
strength to strength if those help, then meets ours over all layers, layer by layer in turns. Each
side's copy of the states is made beforehand. CPU seconds and, in brackets, wall seconds.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
import warnings
from collections.abc import Callable
from queue import Empty

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from cutaway.base import hardware
from cutaway.stats.logistic import fit_logistic

STRENGTHS = [1e-4, 1e-3, 1e-2, 1e-1, 1.0]
SOLVERS = ["newton-cholesky", "lbfgs", "newton-cg", "liblinear"]
FORMS = ["raw", "standardised"]
LABEL_SETS = 6  # of one layer: the labels, shuffled ones, by type of token, ...
RIGHT = 1e-3

Timed = tuple[float, float]  # CPU and wall seconds


def states(n: int, d: int) -> np.ndarray:
    random = np.random.default_rng(0)
    turn = np.linalg.qr(random.normal(size=(d, d)))[0]
    x = (random.normal(size=(n, d)) * 10 * np.arange(1, d + 1) ** -0.6) @ turn
    x += 2 * random.normal(size=d)
    columns = random.choice(d, 3, replace=False)
    x[:, columns] = x[:, columns] * [30, 10, 10] + [800, -200, 100]
    return x.astype(np.float32)


def standardised(x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float64)
    return ((x - x.mean(0)) / x.std(0)).astype(np.float32)


def labels(x: np.ndarray, count: int) -> np.ndarray:
    """(count, n) of 0 and 1, half each: the side of a random direction, with noise of its size."""
    random = np.random.default_rng(1)
    score = standardised(x) @ random.normal(size=(x.shape[1], count)).astype(np.float32)
    score = score / score.std(0) + random.normal(size=score.shape)
    return (score > np.median(score, 0)).astype(np.int64).T


def timed(work: Callable[[], object]) -> tuple[object, Timed]:
    used, wall = time.process_time(), time.perf_counter()
    found = work()
    return found, (time.process_time() - used, time.perf_counter() - wall)


def theirs(
    x: np.ndarray, y: np.ndarray, strengths: list[float], solver: str, warm: bool = False
) -> tuple[np.ndarray, np.ndarray, str]:
    """Weights (S, d), intercepts (S,), and what was complained of."""
    model = LogisticRegression(tol=1e-8, max_iter=3000, solver=solver, warm_start=warm)
    weights, biases = [], []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for c in strengths:
            model.set_params(C=c).fit(x, y)
            weights.append(model.coef_[0].copy()), biases.append(float(model.intercept_[0]))
    said = ", ".join(sorted({one.category.__name__ for one in caught}))
    return np.array(weights), np.array(biases), said


def apart(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest ‖Δw‖/‖w‖ of rows."""
    return float(
        (np.linalg.norm(found - expected, axis=1) / np.linalg.norm(expected, axis=1)).max()
    )


def alone(
    answer: multiprocessing.Queue, n: int, d: int, form: str, dtype: str, solver: str
) -> None:
    """In a process of its own: one problem, the middle strength."""
    with threadpool_limits(torch.get_num_threads()):
        raw = states(n, d)
        y = labels(raw, 1)[0]
        x = (standardised(raw) if form == "standardised" else raw).astype(dtype)
        answer.put("ready")
        answer.put(timed(lambda: theirs(x, y, STRENGTHS[2:3], solver)))


def tried(n: int, given: argparse.Namespace, form: str) -> tuple[str, str]:
    """Prints what every solver takes for one problem; the solver and dtype of the fastest right one."""
    process = multiprocessing.get_context("spawn")
    found = {}
    raw = states(n, given.width)
    x = standardised(raw) if form == "standardised" else raw
    expected, _, _ = theirs(x.astype(float), labels(raw, 1)[0], STRENGTHS[2:3], SOLVERS[0])
    for dtype in ("float64", "float32"):
        for solver in SOLVERS:
            answer = process.Queue()
            asked = (answer, n, given.width, form, dtype, solver)
            child = process.Process(target=alone, args=asked)
            child.start()
            answer.get()
            try:
                (weights, _, said), (used, _) = answer.get(timeout=given.limit)
            except Empty:
                child.kill()
                child.join()
                print(f"  {solver:16}{dtype:9}  over {given.limit} s", flush=True)
                continue
            child.join()
            error = apart(weights, expected)
            note = "" if error <= RIGHT else "   not right"
            print(f"  {solver:16}{dtype:9}{used:8.2f} s{error:10.1e}{note}   {said}", flush=True)
            if error <= RIGHT:
                found[solver, dtype] = used
    return min(found, key=found.__getitem__)


def added(times: list[Timed]) -> Timed:
    return sum(used for used, _ in times), sum(wall for _, wall in times)


def row(name: str, mine: list[Timed], other: list[Timed]) -> None:
    (used, wall), (their_used, their_wall) = added(mine), added(other)
    each = [b[0] / a[0] for a, b in zip(mine, other, strict=True)]
    print(
        f"  {name:34}{used:8.2f} ({wall:.2f}) s{their_used:9.2f} ({their_wall:.2f}) s"
        f"   {their_used / used:5.2f} times, {min(each):.2f} to {max(each):.2f}"
    )


def compare(n: int, given: argparse.Namespace, form: str) -> None:
    print(f"\n{n:,} rows of {given.width}, {form}; one problem, C = {STRENGTHS[2]}")
    solver, dtype = tried(n, given, form)
    raw = states(n, given.width)
    y = labels(raw, max(given.layers, LABEL_SETS))
    x = standardised(raw) if form == "standardised" else raw
    ours, other = torch.tensor(x), x.astype(dtype)
    targets, c = torch.tensor(y), torch.tensor(STRENGTHS)
    fit_logistic(ours[:2000], targets[0, :2000], c=c)  # what is slow the first time only
    ways = {
        warm: timed(lambda w=warm: theirs(other, y[0], STRENGTHS, solver, w))
        for warm in (False, True)
    }
    warm = min(ways, key=lambda way: ways[way][1][0])
    seconds = [f"{ways[way][1][0]:.2f}" for way in (False, True)]
    print(f"  {solver} in {dtype}: five strengths {seconds[0]} s, with warm starts {seconds[1]} s")

    def side_by_side(rows: list[np.ndarray]) -> tuple[list[Timed], list[Timed], float, float]:
        """Times of both for each of `rows`, (T, n) labels, and the largest differences."""
        mine, others, weight, bias = [], [], 0.0, 0.0
        for each in rows:
            wanted = torch.tensor(each)[:, None]
            fit, took = timed(lambda w=wanted: fit_logistic(ours, w, c=c))
            mine.append(took)
            took_they = []
            for label, w, b in zip(each, fit.weight.numpy(), fit.bias.numpy(), strict=True):
                (weights, biases, _), took = timed(
                    lambda at=label: theirs(other, at, STRENGTHS, solver, warm)
                )
                took_they.append(took)
                weight = max(weight, apart(w, weights))
                bias = max(bias, float((np.abs(b - biases) / (1 + np.abs(biases))).max()))
            others.append(added(took_they))
        return mine, others, weight, bias

    print(f"  {'':34}{'ours':>18}{'scikit-learn':>21}")
    for name, rows in (
        (f"{given.layers} layers, 5 strengths", [y[at : at + 1] for at in range(given.layers)]),
        (f"one layer, {LABEL_SETS} label sets, 5 strengths", [y[:LABEL_SETS]]),
    ):
        mine, others, weight, bias = side_by_side(rows)
        row(name, mine, others)
        print(f"  {'':34}‖Δw‖/‖w‖ at most {weight:.1e}, |Δb|/(1 + |b|) {bias:.1e}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["solver"])
    parser.add_argument("--rows", type=int, nargs="+", default=[5000, 20000])
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--layers", type=int, default=13)
    parser.add_argument("--limit", type=float, default=120, help="seconds of one try")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="does it run")
    given = parser.parse_args()
    if given.quick:
        given.rows, given.width, given.layers, given.limit = [1000], 64, 2, 20
    torch.set_num_threads(given.threads)
    hardware.keep_freed_memory()
    with threadpool_limits(given.threads):
        for n in given.rows:
            for form in FORMS:
                compare(n, given, form)


if __name__ == "__main__":
    main()
