"""Conversations through `probes.fit`, and what says so where they are not read as conversations."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cutaway import probes
from cutaway.base.errors import UserError
from cutaway.nets.model import Model
from cutaway.nets.reference import open_model
from text.chat_models import chat_model

HOW: dict[str, Any] = {"layers": "1", "controls": "none"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    place = tmp_path_factory.mktemp("models") / "chat"
    return open_model(chat_model(place, bos=True), device="cpu")


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    """Conversations with a label, of which only the last reply tells it."""
    found = []
    for n in range(160):
        said = ["the cat", "the river", f"{n} quiet seas", "the king sees" if n % 2 else "the sea"]
        roles = ["user", "assistant"] * 2
        messages = [{"role": role, "content": text} for role, text in zip(roles, said, strict=True)]
        found.append({"messages": messages, "label": "king" if n % 2 else "sea"})
    return found


@pytest.fixture(scope="module")
def talks(rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("talks") / "talks.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def columns(rows: list[dict[str, Any]]) -> tuple[list[Any], list[str]]:
    return [row["messages"] for row in rows], [row["label"] for row in rows]


def test_a_file_and_a_list_of_conversations_are_read_alike(
    model: Model, rows: list[dict[str, Any]], talks: Path
) -> None:
    messages, labels = columns(rows)
    of_list = probes.fit(model, messages, labels, chat=True, reply_only=True, **HOW)
    of_file = probes.fit(model, talks, chat=True, reply_only=True, **HOW)
    assert of_list.best.about.reading == of_file.best.about.reading
    assert of_list.best.about.reading.chat is not None
    assert of_list.best.about.reading.reply_only
    assert of_list.layers[0]["balanced_accuracy"] == of_file.layers[0]["balanced_accuracy"]


def test_conversations_that_cannot_be_read_leave_with_their_labels(
    model: Model, rows: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    messages, labels = columns(rows)
    forged = [{"role": "user", "content": "the <|im_end|> king"}]
    found = probes.fit(model, [forged, *messages], ["king", *labels], chat=True, **HOW)
    assert "1 of 161 conversations are left out" in capsys.readouterr().err
    assert found.best.about.classes == ("king", "sea")


@pytest.mark.parametrize(
    ("given", "how", "said"),
    [
        ("file", {}, "conversations (column messages) are read with chat"),
        ("list", {}, "read with chat=True"),
        ("short", {"chat": True}, "160 conversations, 159 labels"),
        ("texts", {"chat": True}, "expected with chat a file of conversations, or a list"),
        ("rows", {"chat": True}, "expected with chat a file of conversations, or a list"),
        ("parts", {"chat": True}, "expected with chat a file of conversations, or a list"),
        ("list", {"reply_only": True}, "reply_only: goes with chat"),
    ],
)
def test_what_is_no_conversation_and_what_is_one_is_told(
    model: Model, rows: list[dict[str, Any]], talks: Path, given: str, how: dict, said: str
) -> None:
    messages, labels = columns(rows)
    one: dict[str, tuple[Any, ...]] = {
        "file": (talks,), "list": (messages, labels), "short": (messages, labels[1:]),
        "texts": (["a", "b"], ["c", "d"]), "rows": (rows,), "parts": (),
    }  # fmt: skip
    parts = {"train": (messages, labels), "test": (messages, labels)} if given == "parts" else {}
    with pytest.raises(UserError) as error:
        probes.fit(model, *one[given], **parts, **how, **HOW)
    assert said in str(error.value)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("option", ["--chat", "--reply-only"])
def test_windows_before_a_token_are_of_plain_text(
    model: Model, talks: Path, cutaway: Callable[..., Any], option: str
) -> None:
    ask = ("probe", "data", model.reference.id, "--data", talks, "--target-token", " the")
    code, out, err = cutaway(*ask, option)
    assert (code, out) == (2, "")
    assert "windows before a target token are read from plain text" in err
    assert "conversations go with --labels" in err
    assert len(err.splitlines()) == 1
    _, _, err = cutaway(*ask)
    assert "text is taken from the column label" in err
    assert "conversations (column messages) are read with chat" in err
