"""Probes in three lines of Python."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cutaway.base.errors import UserError
from cutaway.nets.reference import open_model
from cutaway.probes import Probe, ProbeData, fit

ENDS = ["in the morning", "at night", "with great care", "again", "by the sea", "and so on"]


def stories(count: int = 90) -> tuple[list[str], list[str]]:
    """Texts of a river or of a king, no two alike."""
    texts, labels = [], []
    for number in range(count):
        river = number % 2 == 0
        what = "the river flows" if river else "the old king sees"
        texts.append(f"{number} {what} {ENDS[number % 6]}")
        labels.append("river" if river else "king")
    return texts, labels


def test_three_lines_give_a_probe_of_every_layer(tiny_folder: Callable[[str], Path]) -> None:
    texts, labels = stories()
    report = fit(tiny_folder("llama"), texts, labels, device="cpu")
    assert [row["site"] for row in report.layers] == ["residual.0", "residual.1", "residual.2"]
    assert report.best.about.classes == ("king", "river")
    assert max(row["balanced_accuracy"] for row in report.layers) > 0.9
    # a state is the mean over a text's tokens: no one token, no next one
    assert {row["control"] for row in report.controls} == {"shuffled", "untrained", "mass_mean"}
    assert report.best.about.read == "mean"


def test_a_probe_told_to_a_model_s_states_says_the_probability(tiny_folder) -> None:
    from cutaway.activations.capture import capture

    texts, labels = stories()
    model = open_model(tiny_folder("llama"), device="cpu")
    report = fit(model, texts, labels, layers=[0, 2], controls="none")
    probe = report.probe(2)
    p = torch.cat([probe(capture(model, model.tokens(text)[:, :24], 2)[probe.site].mean(1))
                   for text in texts])  # fmt: skip
    assert float(p[::2].mean()) > 0.8
    assert float(p[1::2].mean()) < 0.2
    assert report.controls == []


def test_the_last_token_may_be_read_instead_of_the_mean(tiny_folder) -> None:
    texts, labels = stories()
    report = fit(tiny_folder("llama"), texts, labels, layers="0", read="last", device="cpu")
    assert report.best.about.read == "token"
    assert {"token_type", "current_token"} <= {row["control"] for row in report.controls}


def test_words_with_labels_are_read_at_their_last_token(tiny_folder) -> None:
    sentences, tags = [], []
    for number in range(60):
        who, what = ("king", "PER") if number % 3 else ("sea", "LOC")
        sentences.append(["the", "old", who, "sees", f"{number}"])
        tags.append([None, "O", what, "O", None])
    report = fit(tiny_folder("llama"), sentences, tags, layers="embed", device="cpu")
    assert report.best.about.classes == ("O", "LOC", "PER")
    # at the embedding a word is its last token, and that says which class it is of
    assert report.layers[0]["balanced_accuracy"] == 1
    assert report.layers[0]["n_test"] % 3 == 0


def test_several_classes_are_told_apart(tiny_folder) -> None:
    what = ["the river flows", "the old king sees", "a quiet cat paints"]
    texts = [f"{number} {what[number % 3]} {ENDS[number % 6]}" for number in range(120)]
    labels = [number % 3 for number in range(120)]
    report = fit(tiny_folder("bert"), texts, labels, device="cpu", controls="shuffled")
    assert report.best.about.classes == ("0", "1", "2")
    assert max(row["balanced_accuracy"] for row in report.layers) > 0.8
    states = torch.randn(5, 32)
    assert report.best(states).shape == (5, 3)
    assert report.figure().axes


def test_groups_keep_what_belongs_together_out_of_train_and_test_at_once(tiny_folder) -> None:
    """Labels that hang on nothing but the document look easy where its texts are in both."""
    draw = torch.Generator().manual_seed(0)
    names = [
        bytes(torch.randint(97, 123, (6,), generator=draw).tolist()).decode() for _ in range(40)
    ]
    coin = torch.randperm(40, generator=draw) % 2
    texts = [f"{name} {name} {end}" for name in names for end in ENDS]
    labels = [int(one) for one in coin for _ in ENDS]
    documents = [name for name in names for _ in ENDS]
    settings = {"layers": "embed", "controls": "none", "device": "cpu", "strengths": [10.0]}
    apart = fit(tiny_folder("llama"), texts, labels, groups=documents, **settings)
    mixed = fit(tiny_folder("llama"), texts, labels, groups=range(len(texts)), **settings)
    assert apart.layers[0]["balanced_accuracy"] < 0.75
    assert mixed.layers[0]["balanced_accuracy"] > 0.85


def test_data_made_before_are_taken_as_they_are(gpt2_run: Path, probe_data: Path) -> None:
    data = ProbeData.load(probe_data)
    found = [
        fit(gpt2_run, one, layers="embed,0", controls="none", device="cpu")
        for one in (data, data.reading())
    ]
    assert found[0].layers[1]["balanced_accuracy"] > 0.7
    for row, again in zip(found[0].layers, found[1].layers, strict=True):
        assert row["balanced_accuracy"] == again["balanced_accuracy"]
    assert found[0].best.about.data == found[1].best.about.data


def test_a_report_prints_and_saves_its_probes(tiny_folder, tmp_path: Path) -> None:
    texts, labels = stories()
    report = fit(tiny_folder("llama"), texts, labels, layers="embed,1", device="cpu")
    shown = repr(report)
    assert all(one in shown for one in ("residual.1", "shuffled", "mass_mean", "balanced_accuracy"))
    assert "nan" not in shown
    folder = report.save(tmp_path / "probes")
    states = torch.randn(4, 32)
    for name in ("embed", "residual.1"):
        kept = Probe.load(folder / name)
        assert torch.equal(kept(states), report.probe(name)(states))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"labels": ["a"] * 90}, "two classes"),
        ({"labels": ["a"] * 89}, "90 texts, 89 labels"),
        ({"labels": None}, "labels"),
        ({"groups": [1, 2]}, "2 groups"),
        ({"layers": "7"}, "layer = '7': the model has layers 0 to 2"),
        ({"controls": "suffled"}, "controls = 'suffled'"),
        ({"method": "mlp"}, "method = 'mlp': expected exact or mass_mean"),
        ({"strengths": [0.0]}, "above 0"),
        ({"strengths": []}, "strengths"),
        ({"read": "middle"}, "read = 'middle': expected mean, last"),
        ({"train_ratio": 1.5}, "train_ratio = 1.5"),
        ({"dtype": "float16"}, "float16 ends at 65504"),
    ],
)
def test_what_cannot_be_probed_is_refused_in_one_line(tiny_folder, change, said: str) -> None:
    texts, labels = stories()
    given = {"labels": labels, "controls": "none", "layers": "0", "device": "cpu", **change}
    with pytest.raises(UserError, match=said) as error:
        fit(tiny_folder("llama"), texts, **given)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"read": "middle"}, "read = 'middle': expected mean, last"),
        ({"layers": "9"}, "9"),
        ({"method": "exat"}, "method = 'exat': expected exact or mass_mean"),
        ({"method": "mlp"}, "trained by steps"),
        ({"method": "minibatch"}, "trained by steps"),
        ({"controls": "shufled"}, "controls = 'shufled'"),
        ({"train_ratio": 2.0}, "train_ratio = 2.0"),
        ({"strengths": [0.0]}, "strengths = 0.0: expected finite numbers above 0"),
        ({"strengths": []}, "strengths"),
    ],
)
def test_a_mistaken_argument_is_told_before_anything_of_the_texts(
    tiny_folder, settings: dict, said: str
) -> None:
    model = open_model(tiny_folder("llama"), device="cpu")
    with pytest.raises(UserError) as error:
        fit(model, ["one text"], ["a"], **settings)  # far too few of them
    assert said in str(error.value)
    assert "text" not in str(error.value)


def test_a_report_s_figure_names_its_task_and_model(tiny_folder) -> None:
    texts, labels = stories()
    report = fit(tiny_folder("llama"), texts, labels, controls="none", device="cpu")
    (axes,) = report.figure().axes
    assert axes.get_title("left").startswith("Balanced accuracy by layer: river or king, ")
