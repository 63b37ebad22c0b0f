"""Law: whatever saves itself into a folder says in one line why it cannot."""

from __future__ import annotations

from pathlib import Path

import pytest

from cutaway.base.errors import UserError

WHERE = {
    "a file": "taken",
    "below a file": "taken/inside",
    "a device": "/dev/null",
    "a name of 300 letters": "x" * 300,
}


@pytest.fixture(scope="module")
def savers(backpack_run, dictionary_run, probe_run, probe_data) -> dict[str, object]:
    import cutaway
    from cutaway.probes.data.examples import ProbeData
    from cutaway.probes.view.reading import open_probes
    from cutaway.text import Tokenizer

    return {
        "dictionary": cutaway.Dictionary.load(dictionary_run),
        "probe": open_probes(probe_run)[0],
        "probe data": ProbeData.load(probe_data),
        "tokenizer": Tokenizer.load(backpack_run / "tokenizer"),
    }


@pytest.mark.parametrize("where", WHERE)
def test_a_place_that_is_no_folder_is_refused(where, savers, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").write_text("x")
    for what, one in savers.items():
        with pytest.raises(UserError) as caught:
            one.save(WHERE[where])
        assert "\n" not in str(caught.value), what
    assert (tmp_path / "taken").read_text() == "x"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["taken"]
