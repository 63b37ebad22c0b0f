"""Tables: what is written is what is read, in every state the files can be in."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cutaway.base.errors import UserError
from cutaway.runs import table as tables
from cutaway.runs.table import DamagedTable, Table, names, read


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Roll and fold often."""
    monkeypatch.setattr(tables, "TAIL_ROWS", 5)
    monkeypatch.setattr(tables, "MAX_PARTS", 3)


def steps(folder: Path, name: str = "history") -> list[int]:
    found = read(folder, name)
    return [] if found is None else found["step"].to_pylist()


def test_rows_are_read_in_order_while_live_and_when_closed(tmp_path: Path, small: None) -> None:
    table = Table(tmp_path, "history")
    for step in range(43):
        table.append([{"step": step, "loss": step / 7}])
        assert steps(tmp_path) == list(range(step + 1))
    table.close()
    assert sorted(os.listdir(tmp_path)) == ["history.parquet"]
    assert read(tmp_path, "history")["loss"].to_pylist() == [step / 7 for step in range(43)]


def test_types_are_the_same_in_tail_part_and_main_file(tmp_path: Path, small: None) -> None:
    big = 2**62 + 1
    rows = [{"step": 0, "count": None, "whole": 2.0}, {"step": 1, "count": big, "whole": 3.0}]
    table = Table(tmp_path, "history")
    table.append(rows)
    expected = pa.schema({"step": pa.int64(), "whole": pa.float64(), "count": pa.int64()})
    for change in (lambda: None, table.roll, table.fold, table.close):
        change()
        found = read(tmp_path, "history")
        assert found.schema.remove_metadata() == expected
        assert found["count"].to_pylist() == [None, big]


def test_an_integer_column_that_gets_a_float_becomes_float_and_stays_so(
    tmp_path: Path, small: None
) -> None:
    table = Table(tmp_path, "history")
    for step in range(20):
        table.append([{"step": step, "x": 1.5 if step == 9 else step}])
    table.close()
    found = read(tmp_path, "history")["x"]
    assert found.type == pa.float64()
    assert found.to_pylist() == [1.5 if step == 9 else float(step) for step in range(20)]


def test_a_column_may_appear_later_and_is_null_before(tmp_path: Path, small: None) -> None:
    table = Table(tmp_path, "history")
    table.append([{"step": step} for step in range(7)])
    table.append([{"step": 7, "val_loss": 2.5}])
    assert read(tmp_path, "history")["val_loss"].to_pylist() == [None] * 7 + [2.5]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(width=64), min_size=1, max_size=8), st.integers(-(2**63), 2**63 - 1))
def test_every_float_and_64_bit_integer_survives_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory, floats: list[float], integer: int
) -> None:
    folder = tmp_path_factory.mktemp("table")
    table = Table(folder, "history")
    table.append([{"step": i, "x": x, "n": integer} for i, x in enumerate(floats)])
    for change in (lambda: None, table.close):
        change()
        found = read(folder, "history")
        assert found["x"].to_numpy().tobytes() == np.array(floats).tobytes() or any(
            math.isnan(x) for x in floats
        )
        assert [math.isnan(x) for x in found["x"].to_pylist()] == [math.isnan(x) for x in floats]
        assert set(found["n"].to_pylist()) == {integer}


def test_numpy_scalars_tensors_and_booleans_are_numbers(tmp_path: Path) -> None:
    import torch

    table = Table(tmp_path, "history")
    table.append([{"step": np.int64(3), "a": np.float32(0.5), "b": torch.tensor(1.25), "c": True}])
    assert read(tmp_path, "history").to_pylist() == [{"step": 3, "a": 0.5, "b": 1.25, "c": 1}]


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"step": 1, "note": "hello"}, "note = 'hello' is no number"),
        ({"step": 1, "note": [1, 2]}, "note = [1, 2] is no number"),
        ({"step": 1, "x": np.ones(3)}, "is no number"),
        ({"step": 1, "x": 2**64}, "does not fit 64 bits"),
        ({"step": 1.5}, "integer 'step'"),
        ({"loss": 1.0}, "integer 'step'"),
        ({"step": 1, "run": 3}, "column 'run'"),
    ],
)
def test_what_is_no_number_is_refused_and_nothing_of_the_call_is_kept(
    tmp_path: Path, row: dict, told: str
) -> None:
    table = Table(tmp_path, "history")
    with pytest.raises(UserError) as error:
        table.append([{"step": 0, "loss": 1.0}, row])
    assert told in str(error.value)
    assert "\n" not in str(error.value)
    assert read(tmp_path, "history") is None


def test_an_instruments_table_keeps_text_and_lists(tmp_path: Path, small: None) -> None:
    table = Table(tmp_path, "words")
    rows = []
    for step in range(11):
        new = [{"step": step, "word": f"w{step} é\n", "near": [1, step]}]
        table.append_table(pa.Table.from_pylist(new))
        rows += new
        assert read(tmp_path, "words").to_pylist() == rows
    table.close()
    assert read(tmp_path, "words").to_pylist() == rows
    assert os.listdir(tmp_path) == ["words.parquet"]


def test_dictionary_encoded_text_unites_with_plain_text(tmp_path: Path) -> None:
    table = Table(tmp_path, "words")
    plain = pa.table({"step": [0], "word": ["a"]})
    table.append_table(plain)
    table.append_table(plain.set_column(1, "word", plain["word"].dictionary_encode()))
    assert read(tmp_path, "words")["word"].to_pylist() == ["a", "a"]


def test_a_column_that_changes_from_text_to_number_is_refused_when_it_comes(tmp_path: Path) -> None:
    table = Table(tmp_path, "words")
    table.append_table(pa.table({"step": [0], "word": ["a"]}))
    with pytest.raises(UserError, match="table words"):
        table.append_table(pa.table({"step": [1], "word": [3]}))
    with pytest.raises(UserError, match="column word holds string"):
        table.append([{"step": 1, "word": 3}])
    with pytest.raises(UserError, match="integer column 'step'"):
        table.append_table(pa.table({"word": ["a"]}))
    assert steps(tmp_path, "words") == [0]


def test_truncate_keeps_rows_before_the_step_in_every_state(tmp_path: Path, small: None) -> None:
    for cut in (0, 1, 4, 5, 6, 17, 18, 99):
        folder = tmp_path / str(cut)
        folder.mkdir()
        table = Table(folder, "history")
        for step in range(18):
            table.append([{"step": step, "loss": 1.0}])
        table.truncate(cut)
        assert steps(folder) == list(range(min(cut, 18)))
        for step in range(min(cut, 18), 25):
            table.append([{"step": step, "loss": 2.0}])
        table.close()
        assert steps(folder) == list(range(25))


def test_a_torn_last_line_is_dropped_by_readers_and_by_the_next_writer(tmp_path: Path) -> None:
    table = Table(tmp_path, "history")
    table.append([{"step": step, "loss": 0.5} for step in range(3)])
    tail = next((tmp_path / "history.live").glob("*.jsonl"))
    with open(tail, "ab") as file:
        file.write(b'{"step": 3, "lo')
    assert steps(tmp_path) == [0, 1, 2]
    again = Table(tmp_path, "history")
    again.append([{"step": 3, "loss": 0.25}])
    assert steps(tmp_path) == [0, 1, 2, 3]
    again.close()


CRASH = """
    import os, signal, sys
    from pathlib import Path
    import pyarrow as pa
    from cutaway.runs import table as tables

    tables.TAIL_ROWS, tables.MAX_PARTS = 3, 3
    os.fsync = lambda handle: None  # a kill leaves the system's cache; only a power cut needs it
    seen = 0

    def script(folder, name):
        table = tables.Table(folder, name)
        rows = tables.read(folder, name)
        if rows is not None and len(rows) > 10:
            table.truncate(10)
        rows = tables.read(folder, name)
        for step in range(0 if rows is None else len(rows), 24):
            if step % 7 == 3:
                table.append_table(pa.table({"step": [step]}))
            else:
                table.append([{"step": step}])
        table.close()

    def kill_at(count):
        def hook(event, arguments):
            global seen
            if event in ("open", "os.rename", "os.remove", "os.truncate", "os.mkdir", "os.rmdir"):
                seen += 1
                if seen == count:
                    os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(hook)

    root, count = Path(sys.argv[1]), 0
    while True:
        count += 1
        folder = root / str(count)
        folder.mkdir()
        for attempt in (1, 2):  # dies, is taken up, dies there too, is taken up again
            child = os.fork()
            if child == 0:
                kill_at(count)
                script(folder, "history")
                os._exit(0)
            died = os.waitpid(child, 0)[1] != 0
            rows = tables.read(folder, "history")
            steps = [] if rows is None else rows["step"].to_pylist()
            assert steps == list(range(len(steps))), (count, attempt, steps)
        script(folder, "history")
        steps = tables.read(folder, "history")["step"].to_pylist()
        assert steps == list(range(24)), (count, steps)
        assert os.listdir(folder) == ["history.parquet"], os.listdir(folder)
        if not died:
            break
    print(count)
"""


def test_killed_before_any_file_operation_there_is_no_gap_duplicate_or_torn_row(
    tmp_path: Path,
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(CRASH), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 60  # as many moments as there are operations


def test_a_reader_beside_a_writer_sees_a_gapless_growing_table(tmp_path: Path) -> None:
    writer = subprocess.Popen(
        [
            sys.executable,
            "-c",
            textwrap.dedent(
                """
                import sys
                from pathlib import Path
                from cutaway.runs import table as tables
                tables.TAIL_ROWS, tables.MAX_PARTS = 20, 3
                table = tables.Table(Path(sys.argv[1]), "history")
                for step in range(3000):
                    table.append([{"step": step, "loss": 0.5}])
                table.close()
                """
            ),
            str(tmp_path),
        ]
    )
    longest = looks = 0
    while writer.poll() is None:
        found = steps(tmp_path)
        assert found == list(range(len(found)))
        assert len(found) >= longest
        longest, looks = len(found), looks + 1
    assert writer.returncode == 0
    assert looks > 20
    assert len(steps(tmp_path)) == 3000


def test_flipped_bytes_are_noticed_by_every_reading(tmp_path: Path) -> None:
    table = Table(tmp_path, "history")
    table.append([{"step": step, "loss": math.sin(step)} for step in range(500)])
    table.close()
    path = tmp_path / "history.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 0x10
    path.write_bytes(content)
    with pytest.raises(DamagedTable, match=r"history\.parquet: damaged"):
        read(tmp_path, "history")


def test_a_parquet_file_cut_short_is_named(tmp_path: Path) -> None:
    (tmp_path / "history.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DamagedTable, match=r"history\.parquet: damaged"):
        read(tmp_path, "history")
    with pytest.raises(DamagedTable, match=r"history\.parquet: damaged"):
        Table(tmp_path, "history")


def test_main_files_are_plain_parquet_with_checksums_and_zstd(tmp_path: Path) -> None:
    table = Table(tmp_path, "history")
    table.append([{"step": step, "loss": 0.1 * step} for step in range(100)])
    table.close()
    column = pq.read_metadata(tmp_path / "history.parquet").row_group(0).column(1)
    assert column.compression == "ZSTD"
    assert pq.read_table(tmp_path / "history.parquet").num_rows == 100


def test_only_tables_are_listed(tmp_path: Path) -> None:
    Table(tmp_path, "words").append([{"step": 1}])
    (tmp_path / "run.json").write_text("{}")
    (tmp_path / ".history.parquet.7.tmp").write_text("")
    (tmp_path / "a-b.parquet").write_text("")
    assert names(tmp_path) == ["words"]
    for wrong in ("a-b", "runs", "1x", "", "../x", "é", "Words"):
        with pytest.raises(UserError):
            tables.check_name(wrong)
