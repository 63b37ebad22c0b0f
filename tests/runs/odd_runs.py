"""Runs of which something is odd: what other programs, disks and people leave in a folder.

Each entry of `ODD` takes the folder of a healthy run and makes it odd, or another folder beside it.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

ODD: dict[str, Callable[[Path], None]] = {}


def _odd(make: Callable[[Path], None]) -> Callable[[Path], None]:
    ODD[make.__name__] = make
    return make


def _record(folder: Path, **changes: object) -> None:
    path = folder / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _insert(folder: Path, before: str, text: str) -> None:
    path = folder / "run.json"
    path.write_text(path.read_text().replace(before, text + before, 1))


def _history(folder: Path, table: pa.Table) -> None:
    pq.write_table(table, folder / "history.parquet")


def _replaced_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _replaced_by_loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)  # nobody can open it, root included


# -- the record --------------------------------------------------------------------------------


@_odd
def record_with_integers_over_64_bits(folder: Path) -> None:
    _record(folder, config={"lr": 2**70}, seed=2**65, steps_done=2**64, metrics={"loss": 10**40})


@_odd
def record_with_infinity_and_nan(folder: Path) -> None:
    _record(folder, seconds=float("inf"), config={"lr": float("nan")})


@_odd
def record_with_figures_that_are_not_finite(folder: Path) -> None:
    _record(folder, metrics={"loss": float("-inf"), "test_acc": float("nan")})


@_odd
def record_with_halves_of_characters(folder: Path) -> None:
    _record(folder, config={"lr": "\ud800", "\udcff": 1}, notices=["\ud83d"], reason="\ud800")


@_odd
def record_nested_deeply(folder: Path) -> None:
    _insert(folder, '"resolved"', f'"deep": {"[" * 100_000}{"]" * 100_000}, ')


@_odd
def record_nested_as_deep_as_python_just_reads(folder: Path) -> None:
    _insert(folder, '"resolved"', f'"deep": {"[" * 800}{"]" * 800}, ')


@_odd
def record_that_is_a_list(folder: Path) -> None:
    (folder / "run.json").write_text("[]")


@_odd
def record_that_is_empty(folder: Path) -> None:
    (folder / "run.json").write_text("")


@_odd
def record_in_another_encoding(folder: Path) -> None:
    (folder / "run.json").write_bytes((folder / "run.json").read_text().encode("utf-16"))


@_odd
def record_of_a_later_format(folder: Path) -> None:
    _record(folder, format=99)


@_odd
def record_that_is_a_folder(folder: Path) -> None:
    _replaced_by_folder(folder / "run.json")


@_odd
def record_that_cannot_be_opened(folder: Path) -> None:
    _replaced_by_loop(folder / "run.json")


@_odd
def record_with_keys_that_differ_in_case(folder: Path) -> None:
    _record(folder, config={"LR": 1, "lr": 2, "Lr": 3, "": 4}, metrics={"LOSS": 1, "loss": 2})


@_odd
def record_with_controls_and_markup(folder: Path) -> None:
    _record(folder, study="\x1b[31m[red]$x_1$", reason="a\nb", started="[bold]", steps_done=-5)


@_odd
def record_of_a_process_that_cannot_be(folder: Path) -> None:
    _record(folder, status="running")
    owner = {"pid": 2**70, "host": platform.node(), "since": "", "ticks": None}
    (folder / ".owner.json").write_text(json.dumps(owner))


@_odd
def record_whose_owner_is_nested_deeply(folder: Path) -> None:
    _record(folder, status="running")
    (folder / ".owner.json").write_text("[" * 100_000)


# -- tables ------------------------------------------------------------------------------------


@_odd
def history_with_the_views_own_columns(folder: Path) -> None:
    names = ("step", "loss", "run", "Run", "not_finite", "__file", "filename", "file_row_number")
    _history(folder, pa.table({name: [5.0] for name in names}))


@_odd
def history_with_columns_that_differ_in_case(folder: Path) -> None:
    _history(folder, pa.table({"STEP": [0], "LOSS": [5.0], "loss": [6.0], "Loss": [7.0]}))


@_odd
def history_spelled_otherwise(folder: Path) -> None:
    _history(folder, pa.table({"Step": [0], "Loss": [5.0], "TEST_ACC": [0.5]}))


@_odd
def history_with_a_column_twice(folder: Path) -> None:
    columns = [pa.array([0]), pa.array([5.0]), pa.array([6.0])]
    _history(folder, pa.table(columns, names=["step", "loss", "loss"]))


@_odd
def history_with_columns_without_a_name(folder: Path) -> None:
    _history(folder, pa.table({"step": [0], "": [1.0], "a\0b": [2.0], 'q"uote': [3.0]}))


@_odd
def history_with_text(folder: Path) -> None:
    _history(folder, pa.table({"step": [0], "loss": ["low"]}))


@_odd
def history_whose_steps_are_text(folder: Path) -> None:
    _history(folder, pa.table({"step": ["first"], "loss": [5.0], "train_acc": [0.5]}))


@_odd
def history_whose_steps_are_missing(folder: Path) -> None:
    _history(folder, pa.table({"step": pa.array([None], pa.int64()), "loss": [5.0]}))


@_odd
def history_with_unsigned_integers_over_63_bits(folder: Path) -> None:
    _history(folder, pa.table({"step": pa.array([2**64 - 1], pa.uint64()), "loss": [5.0]}))


@_odd
def history_with_decimals(folder: Path) -> None:
    loss = pa.array([1.5]).cast(pa.decimal128(20, 4))
    _history(folder, pa.table({"step": [0], "loss": loss}))


@_odd
def history_with_lists(folder: Path) -> None:
    _history(folder, pa.table({"step": [0], "loss": [[1.0, 2.0]]}))


@_odd
def history_of_unusual_types(folder: Path) -> None:
    odd = pa.array([b"0123456789abcdef"], pa.binary(16))
    _history(folder, pa.table({"step": [0], "loss": pa.array([1], pa.timestamp("ns")), "o": odd}))


@_odd
def history_without_rows(folder: Path) -> None:
    kinds = {"step": pa.int64(), "loss": pa.float64()}
    _history(folder, pa.table({name: pa.array([], kind) for name, kind in kinds.items()}))


@_odd
def history_without_columns(folder: Path) -> None:
    _history(folder, pa.table({}))


@_odd
def history_that_is_empty(folder: Path) -> None:
    (folder / "history.parquet").write_bytes(b"")


@_odd
def history_with_a_broken_footer(folder: Path) -> None:
    path = folder / "history.parquet"
    content = path.read_bytes()
    path.write_bytes(content[:-40] + b"\xff" * 32 + content[-8:])


@_odd
def history_with_a_broken_page(folder: Path) -> None:
    path = folder / "history.parquet"
    content = path.read_bytes()
    path.write_bytes(content[:30] + b"\xff" * 30 + content[60:])


@_odd
def history_that_is_a_folder(folder: Path) -> None:
    _replaced_by_folder(folder / "history.parquet")


@_odd
def history_that_cannot_be_opened(folder: Path) -> None:
    _replaced_by_loop(folder / "history.parquet")


@_odd
def history_behind_a_dead_link(folder: Path) -> None:
    (folder / "history.parquet").unlink()
    (folder / "history.parquet").symlink_to(folder / "gone")


@_odd
def live_part_with_bytes_that_are_no_rows(folder: Path) -> None:
    (folder / "history.live").mkdir()
    (folder / "history.live" / "000099.jsonl").write_text('{"step": 3}\n{nothing\n')
    (folder / "history.live" / "²³.parquet").write_text("")


@_odd
def live_part_that_is_a_folder(folder: Path) -> None:
    (folder / "history.live" / "000099.jsonl").mkdir(parents=True)


@_odd
def live_folder_that_is_a_file(folder: Path) -> None:
    (folder / "history.live").write_text("")


@_odd
def words_of_another_type(folder: Path) -> None:
    pq.write_table(pa.table({"step": [0], "word": [3.5]}), folder / "words.parquet")


@_odd
def words_with_nested_values(folder: Path) -> None:
    pq.write_table(pa.table({"step": [0], "word": [{"a": [1]}]}), folder / "words.parquet")


@_odd
def tables_called_as_views_are(folder: Path) -> None:
    for name in ("runs", "Runs", "History", "raw", "main", "select"):
        shutil.copy(folder / "words.parquet", folder / f"{name}.parquet")


# -- the folder --------------------------------------------------------------------------------


@_odd
def folder_whose_name_is_not_utf8(folder: Path) -> None:
    os.rename(folder, os.fsencode(folder) + b"-caf\xe9")


@_odd
def folder_named_as_a_pattern(folder: Path) -> None:
    folder.rename(folder.with_name("odd [ab]*?{c,d}"))


@_odd
def folder_named_as_its_neighbours_pattern(folder: Path) -> None:
    folder.rename(folder.with_name("odd-[!x]*"))
    shutil.copytree(folder.with_name("odd-[!x]*"), folder.with_name("odd-a"))


@_odd
def folder_named_with_quotes_and_markup(folder: Path) -> None:
    folder.rename(folder.with_name("odd '\"$x_1$ [red]%s{0}\\n;--"))


@_odd
def folder_named_with_line_ends(folder: Path) -> None:
    folder.rename(folder.with_name("odd\n\x1b[31m\r"))


@_odd
def folder_with_a_link_to_all_runs(folder: Path) -> None:
    (folder / "loop").symlink_to(folder.parent)
