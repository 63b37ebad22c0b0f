"""Conversations through every command that reads text."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cli.test_sae_suite import classes_folder
from conftest import settings_args
from cutaway.dictionaries.model.dictionary import Dictionary
from cutaway.nets.reference import open_model
from cutaway.probes.data.examples import PARTS, ProbeData
from cutaway.probes.states.probe import Probe
from cutaway.runs.folder import Run
from cutaway.text.conversations import template_of
from text.chat_models import TRIMMED, chat_model

SMALL = {
    "d_hidden": 48, "target_l0": 4, "batch_size": 64, "max_steps": 10, "kernels": "sparse",
    "precision": "float32", "eval_tokens": 200, "dead_after": 2000, "device": "cpu",
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return chat_model(tmp_path_factory.mktemp("models") / "chat", bos=True)


@pytest.fixture(scope="module")
def talks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Conversations with a label, of which only the last reply tells it."""
    path = tmp_path_factory.mktemp("talks") / "talks.jsonl"
    rows = []
    for n in range(160):
        reply = "the king sees" if n % 2 else "the sea"
        said = ["the cat", "the river", f"{n} quiet seas", reply]
        roles = ["user", "assistant"] * 2
        messages = [{"role": role, "content": text} for role, text in zip(roles, said, strict=True)]
        rows.append({"messages": messages, "label": "king" if n % 2 else "sea"})
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.fixture(scope="module")
def probed(folder: Path, talks: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data and probes of replies, made by the functions that the commands call."""
    from cutaway.probes.data.labels import label_data
    from cutaway.probes.train.config import ProbeConfig
    from cutaway.probes.train.run import train_probes
    from cutaway.text.conversations import Chosen

    place = tmp_path_factory.mktemp("probed")
    tokenizer = open_model(folder, device="cpu").reads
    chosen = Chosen(str(talks), template_of(tokenizer), tokenizer)
    data = label_data(talks, tokenizer, chat=chosen, reply_only=True, context_length=60)
    data.save(place / "data")
    config = ProbeConfig(
        model=str(folder), data=str(place / "data"), layers="1", device="cpu", controls="none"
    )
    train_probes(config, place / "probes")
    return place


def streamed(place: Path, model: Path, data: Path) -> list[object]:
    """The command that trains a dictionary straight from the model."""
    settings = {"streaming": True, "model": str(model), "layer": "1", "data": str(data)}
    (place / "d.yaml").write_text(json.dumps({"study": "dictionary", **settings}))
    return ["train", "d.yaml"]


@pytest.mark.parametrize("read", ["mean", "last"])
@pytest.mark.parametrize("only", [False, True])
def test_probe_data_reads_the_reply_or_the_whole(
    folder: Path, talks: Path, tmp_path: Path, cutaway: Callable, read: str, only: bool
) -> None:
    ask = ["probe", "data", folder, "--labels", talks, "--chat", "--read", read, "--out", "data"]
    code, _, err = cutaway(*ask, *(["--reply-only"] if only else []))
    assert code == 0, err
    data = ProbeData.load(tmp_path / "data")
    assert data.chat == template_of(data.tokenizer).sha256
    for name in PARTS:
        part = data.parts[name]
        for row in range(len(part)):
            begin = int(part.begin[part.context[row]])
            first, last = int(part.first[row]), int(part.last[row])
            whole = part.tokens[begin : int(part.end[part.context[row]])].tolist()
            text = data.tokenizer.decode(whole[first : last + 1])
            label = data.classes[int(part.label[row])]
            reply = "the king sees" if label == "king" else "the sea"
            if only and read == "mean":
                assert text == reply
            elif only:
                assert reply.endswith(text)
                assert first == last
            else:
                assert last == len(whole) - 1
                assert first == (last if read == "last" else 0)


def test_states_are_those_of_the_whole_conversation(probed: Path, folder: Path) -> None:
    """A probe's mean state of a reply is the mean of the model's own, given transformers' ids."""
    import transformers

    from cutaway.probes.states.inputs import inputs_of

    data = ProbeData.load(probed / "data").reading()
    model = open_model(folder, device="cpu")
    inputs = inputs_of(data, model, "1")
    states, examples = inputs.states("test")
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    part, row = examples, 0
    text = data.tokenizer.decode(
        part.tokens[int(part.begin[part.context[row]]) : int(part.end[part.context[row]])].tolist()
    )
    number = text.split(" quiet seas")[0].rpartition("\n")[2]
    label = data.classes[int(part.label[row])]
    said = ["the cat", "the river", f"{number} quiet seas"]
    said.append("the king sees" if label == "king" else "the sea")
    roles = ["user", "assistant"] * 2
    talk = [{"role": role, "content": one} for role, one in zip(roles, said, strict=True)]
    ids = theirs.apply_chat_template(talk, tokenize=True, return_dict=False)
    bare = transformers.AutoModelForCausalLM.from_pretrained(folder)
    kept: list[torch.Tensor] = []
    block = bare.model.layers[1].register_forward_hook(
        lambda _, __, out: kept.append(out[0] if isinstance(out, tuple) else out)
    )
    with torch.no_grad():
        bare(torch.tensor([ids]))
    block.remove()
    state = kept[0].reshape(len(ids), -1)
    first, last = int(part.first[row]) + 1, int(part.last[row]) + 1  # after BOS
    torch.testing.assert_close(
        states.values[0, row], state[first : last + 1].mean(0), rtol=1e-4, atol=1e-5
    )


def test_probes_of_replies_are_judged_and_shown_on_conversations(
    probed: Path, talks: Path, tmp_path: Path, cutaway: Callable
) -> None:
    probe = Probe.load(probed / "probes/probes/residual.1")
    assert probe.about.reading.reply_only
    code, out, err = cutaway("probe", "eval", probed / "probes", "--data", talks, "--json")
    assert code == 0, err
    rows = json.loads(out)
    assert rows[0]["n_test"] == 160
    assert rows[0]["balanced_accuracy"] == 1.0  # the reply tells the label
    code, _, err = cutaway("probe", "eval", probed / "probes", "--json")
    assert code == 0, err
    code, out, err = cutaway(
        "probe", "view", probed / "probes", "--data", talks, "--tokens", "300", "--out", "a.html"
    )
    assert code == 0, err
    page = (tmp_path / "a.html").read_text("utf-8")
    assert "chat template" in page
    assert "trained on the states of replies" in page
    assert "im_start" in page
    code, out, err = cutaway("probe", "view", probed / "probes", "--text", "the cat")
    assert code == 0, err
    assert "im_start" in (tmp_path / "view.html").read_text("utf-8")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["view"], "these probes read conversations"),
        (["view", "--data", "docstrings"], "chat reads a file or folder of conversations"),
        (["view", "--text", "hi<|im_end|>"], "holds the text of a special token"),
        (["eval", "--data", "plain"], "holds plain text, and the probes were trained on replies"),
        (["eval", "--data", "docstrings"], "chat: goes with a table of conversations"),
    ],
)
def test_probes_of_conversations_read_nothing_else(
    folder: Path, probed: Path, tmp_path: Path, cutaway: Callable, words: list[str], said: str
) -> None:
    if "plain" in words:
        rows = [{"text": f"the cat {n}", "label": "king" if n % 2 else "sea"} for n in range(160)]
        (tmp_path / "plain.jsonl").write_text("\n".join(map(json.dumps, rows)))
        made = cutaway("probe", "data", folder, "--labels", "plain.jsonl", "--out", "plain")
        assert made[0] == 0, made[2]
    code, out, err = cutaway("probe", words[0], probed / "probes", *words[1:])
    assert (code, out) == (2, "")
    assert said in err.splitlines()[-1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--labels", "TALKS", "--reply-only"], "reply_only: goes with chat"),
        (["--chat"], "chat"),
        (["--labels", "docstrings", "--chat"], "chat: goes with a table of conversations"),
        (["--labels", "TALKS", "--chat", "--reply-only", "--read", "first"], "read = mean or last"),
        (["--labels", "TALKS", "--chat", "--text-column", "talk"], "no column talk"),
        (["--labels", "TALKS", "--chat", "--label-column", "labl"], "did you mean 'label'"),
        (["--labels", "TALKS", "--chat", "--reply-only", "--context-length", "5"], "no conversation has"),
    ],
)  # fmt: skip
def test_probe_data_that_does_not_go_together_is_told(
    folder: Path, talks: Path, cutaway: Callable, words: list[str], said: str
) -> None:
    words = [str(talks) if one == "TALKS" else one for one in words]
    code, out, err = cutaway("probe", "data", folder, *words, "--out", "d")
    assert (code, out) == (2, "")
    assert said in err.splitlines()[-1]
    assert not Path("d").exists()


def test_data_of_another_template_are_refused(
    folder: Path, probed: Path, tmp_path: Path, cutaway: Callable
) -> None:
    place = shutil.copytree(folder, tmp_path / "m")
    (place / "chat_template.jinja").write_text(TRIMMED)
    code, _, err = cutaway("probe", "train", place, "--data", probed / "data", "--out", "p")
    assert code == 2
    assert "made with another chat template" in err


def test_a_streamed_dictionary_reads_conversations_and_goes_on(
    folder: Path, talks: Path, tmp_path: Path, cutaway: Callable
) -> None:
    stream = streamed(tmp_path, folder, talks)
    ask = [*stream, "--tokens", "4k", "--chat", "--reply-only", *settings_args(SMALL)]
    code, _, err = cutaway(*ask, "--out", "d")
    assert code == 0, err
    reading = Dictionary.load(tmp_path / "d").metadata["reading"]
    assert reading["reply_only"]
    assert reading["chat"]
    assert Run.open(tmp_path / "d").record.config["separator"] == "auto"
    code, _, err = cutaway("train", "--resume", "d", "--extra-steps", "5")
    assert code == 0, err
    code, _, err = cutaway("sae", "eval", "d", "--json")
    assert code == 0, err
    classes = classes_folder(tmp_path / "classes", "cats", "rivers")
    code, _, err = cutaway(
        "sae", "eval", "d", "--suite", "sparse_probing", "--tasks", classes, "--json"
    )
    assert code == 0, err
    (line,) = [one for one in err.splitlines() if one.startswith("suite: ")]
    assert "read as plain text; the dictionary was trained on conversations" in line
    assert "replies only" in line


def test_a_prompt_for_any_dictionary_can_be_what_a_user_says(
    folder: Path, corpus: Path, tmp_path: Path, cutaway: Callable
) -> None:
    stream = streamed(tmp_path, folder, corpus)
    code, _, err = cutaway(*stream, "--tokens", "4k", *settings_args(SMALL), "--out", "d")
    assert code == 0, err
    ask = ["sae", "effect", "d", "--prompt", "the cat", "--feature", "3", "--value", "50", "--json"]
    code, out, err = cutaway(*ask)
    assert code == 0, err
    assert json.loads(out)[0]["reading"]["chat"] is None
    code, out, err = cutaway(*ask, "--chat")
    assert code == 0, err
    assert json.loads(out)[0]["reading"]["chat"] is not None


def test_settings_without_chat_are_refused_before_anything(
    cutaway: Callable, folder: Path, talks: Path, tmp_path: Path
) -> None:
    stream = streamed(tmp_path, folder, talks)
    for words, said in (
        (["--reply-only"], "reply_only: goes with chat"),
        (["--chat", "--separator", "bos"], "separator = 'bos': the chat template says"),
    ):
        code, _, err = cutaway(*stream, *words, "--out", "d")
        assert code == 2
        assert said in err
        assert not (tmp_path / "d").exists()
