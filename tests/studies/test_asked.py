"""What commands ask for: a file or preset, a run that goes on, and the command line above them."""

from __future__ import annotations

from pathlib import Path

import pytest

from cutaway.base.errors import UserError
from cutaway.runs.folder import Run
from cutaway.studies.asked import asked_for
from cutaway.studies.presets import presets
from cutaway.studies.registry import STUDIES, config_of
from cutaway.studies.settings import overrides


def file_of(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("preset", presets(), ids=lambda preset: preset.name)
def test_a_preset_is_of_its_own_study_and_of_no_other(preset) -> None:
    asked = asked_for(preset.name, {"seed": "7"}, study=preset.study)
    assert asked.config() == asked_for(preset.name, {"seed": "7"}).config()
    assert asked.config().seed == 7
    for other in STUDIES.keys() - {preset.study}:
        with pytest.raises(UserError, match=f"{preset.name}: settings of a {preset.study} run"):
            asked_for(preset.name, {}, study=other)


@pytest.mark.parametrize("study", STUDIES)
def test_a_file_that_names_no_study_is_of_the_command_s(study: str, tmp_path: Path) -> None:
    file = file_of(tmp_path, "seed: 3\ndevice: cpu\n")
    config = asked_for(file, overrides(["--threads", "1"]), study=study).config()
    assert type(config) is config_of(study)
    assert (config.seed, config.device, config.threads) == (3, "cpu", 1)


def test_a_mistake_in_it_is_named_by_the_command_s_fields(tmp_path: Path) -> None:
    file = file_of(tmp_path, "epochs: 3\nd_hiden: 64\n")
    with pytest.raises(UserError, match=r"no field 'd_hiden'; did you mean 'd_hidden'\?$"):
        asked_for(file, {}, study="dictionary").config()


def test_without_a_file_only_the_command_line_counts() -> None:
    assert asked_for(None, {"seed": "5"}, study="grokking").config().seed == 5


def test_the_settings_of_a_run_that_goes_on_stand_in_the_place_of_the_file_s(
    tmp_path: Path,
) -> None:
    out = tmp_path / "run"
    recorded = config_of("grokking")(p=11, seed=4).model_dump(mode="json")
    with Run.create(out, study="grokking", config=recorded, seed=4):
        pass
    config = asked_for("routed", {"threads": "2"}, run=out).config()
    assert (config.p, config.seed, config.threads) == (11, 4, 2)
    with pytest.raises(UserError, match="a grokking run, not of probes"):
        asked_for(None, {}, study="probe", called="probes", run=out)
    with pytest.raises(UserError, match="a grokking run; sae is a preset of dictionary"):
        asked_for("sae", {}, run=out)
