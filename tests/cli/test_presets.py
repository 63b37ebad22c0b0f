"""`cutaway presets`: what there is, and the settings of one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from cutaway.studies.presets import find_preset, presets
from cutaway.studies.yaml_file import read_yaml

Cutaway = Callable[..., tuple[int, str, str]]


def test_every_preset_printed_is_the_same_as_a_file(cutaway: Cutaway, tmp_path: Path) -> None:
    assert any(one.is_sweep for one in presets(sweeps=True))
    for preset in presets(sweeps=True):
        code, out, err = cutaway("presets", preset.name)
        assert code == 0, err
        assert out.startswith(f"# {preset.about}\n")
        file = tmp_path / f"{preset.name}.yaml"
        file.write_text(out, encoding="utf-8")
        again = find_preset(str(file), sweep=preset.is_sweep)
        values = {name: one for name, one in preset.values.items() if name != "study"}
        assert (again.study, again.values) == (preset.study, values)
        assert list(read_yaml(file)) == ["study", *values]  # in the order of the preset's file


def test_one_preset_is_json_too(cutaway: Cutaway) -> None:
    code, out, _ = cutaway("presets", "probe_next_token", "--json")
    settings = json.loads(out)
    assert code == 0
    assert settings.pop("study") == "probe"
    assert settings == find_preset("probe-next-token").values


def test_what_is_no_preset_is_refused_with_the_near_ones(cutaway: Cutaway) -> None:
    code, out, err = cutaway("presets", "probe-nxt-token")
    assert (code, out) == (2, "")
    assert "probe-next-token" in err
    code, _, err = cutaway("presets", "sae", "--csv")
    assert code == 2
    assert "--csv" in err
