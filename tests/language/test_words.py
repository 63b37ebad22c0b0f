"""The three questions about words, each against its definition written out in loops."""

from __future__ import annotations

import json

import pyarrow.compute as pc
import pytest
import torch

from cutaway.base.errors import UserError
from cutaway.language.words import evoked_by, predicts, token_of, used
from cutaway.nets import build
from cutaway.nets.reference import load
from cutaway.runs.folder import Run
from cutaway.text.tokenizers import Tokenizer, train

SHAPE = {"name": "backpack", "vocab_size": 30, "block_size": 10, "n_layer": 1, "n_head": 2}
SHAPE |= {"n_embd": 12, "n_senses": 3}


def shaken() -> torch.nn.Module:
    model = build(SHAPE).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.4 * torch.randn(
                parameter.shape, generator=torch.Generator().manual_seed(1)
            )
    return model


def test_used_equals_its_definition() -> None:
    model = shaken()
    windows = torch.randint(0, 12, (5, 10), generator=torch.Generator().manual_seed(0))
    alpha = model.alpha(windows)
    mass, chance, count = torch.zeros(30, 3), torch.zeros(30), torch.zeros(30, dtype=torch.int64)
    for n in range(5):
        for j in range(10):
            word = windows[n, j]
            count[word] += 1
            for i in range(j, 10):
                mass[word] += alpha[n, :, i, j]
                chance[word] += 1 / (i + 1)
    measured = used(model, windows, batch_size=2)
    seen = count > 0
    assert torch.equal(measured.count, count)
    assert torch.allclose(measured.activation[seen], mass[seen] / chance[seen, None], rtol=1e-4)
    assert measured.activation[~seen].isnan().all()


def test_uniform_attention_scores_one() -> None:
    model = build(SHAPE).eval()
    with torch.no_grad():
        model.contextualisation.query_key.weight.zero_()
    measured = used(model, torch.randint(0, 30, (8, 10)))
    seen = measured.count > 0
    assert torch.allclose(measured.activation[seen], torch.tensor(1.0), atol=1e-5)


def test_top_leaves_out_the_rare_and_the_special() -> None:
    model = shaken()
    windows = torch.tensor([[1, 1, 1, 1, 1, 2, 3, 3, 3, 3], [3, 3, 1, 0, 0, 0, 0, 0, 0, 4]])
    rows = used(model, windows).top(10, without=[0])
    assert {row["token_id"] for row in rows} == {1, 3}
    assert [row["activation"] for row in rows] == sorted(
        (r["activation"] for r in rows), reverse=True
    )
    best = used(model, windows).activation[1].max().item()
    assert next(row["activation"] for row in rows if row["token_id"] == 1) == pytest.approx(best)


def test_predicts_ranks_the_products_of_senses_and_embedding() -> None:
    model = shaken()
    rows = predicts(model, 7, top=30)
    logits = model.sense_vectors(torch.tensor([7]))[0] @ model.embedding.t()
    for sense in range(3):
        mine = [row for row in rows if row["sense"] == sense]
        assert [row["token_id"] for row in mine] == logits[sense].argsort(descending=True).tolist()
        assert mine[0]["logit"] == pytest.approx(logits[sense].max().item(), rel=1e-5)


def test_evoked_by_finds_the_largest_pair_of_all() -> None:
    model = shaken()
    every = model.sense_vectors(torch.arange(30)) @ model.embedding[4]
    rows = evoked_by(model, 4, top=5)
    word, sense = divmod(every.argmax().item(), 3)
    assert (rows[0]["token_id"], rows[0]["sense"]) == (word, sense)
    expected = every.flatten().sort(descending=True).values[:5]
    assert [row["logit"] for row in rows] == pytest.approx(expected.tolist(), rel=1e-5)


def test_a_trained_model_uses_words_unequally(backpack_run) -> None:
    """The sign of the predecessor's bug: all activations within two per cent of each other."""
    words = Run.open(backpack_run).read("words")
    last = words.filter(pc.equal(words["step"], pc.max(words["step"])))["activation"].to_pylist()
    assert len(last) >= 10
    assert (max(last) - min(last)) / max(last) > 0.05
    assert max(last) > 1.1


def test_words_are_read_every_half_evaluation_interval(backpack_run) -> None:
    steps = sorted(set(Run.open(backpack_run).read("words")["step"].to_pylist()))
    assert steps == list(range(0, 301, 10))


@pytest.fixture(scope="module")
def both() -> Tokenizer:
    """A tokenizer with the tokens `as` and ` as`, with ` gone` only, and `Has` only."""
    return train(["as gone as Has\nas gone as Has\nas as\n" * 50], 290)


@pytest.mark.parametrize(
    ("word", "taken", "said"),
    [
        ("as", "as", "taken as the token 'as'; there is also ' as'"),
        (" as", " as", "taken as the token ' as'; there is also 'as'"),
        ("gone", " gone", "taken as the token ' gone'\n"),
        (" gone", " gone", None),
        ("␣as", " as", "taken as the token ' as'; there is also 'as'"),
    ],
)
def test_a_word_is_the_token_as_it_is_written_first(both, capsys, word, taken, said) -> None:
    assert both.token(token_of(both, word)) == taken
    told = capsys.readouterr().err
    assert (said in told) if said else not told


def test_of_a_prompt_the_token_that_is_in_it_is_taken(both, capsys) -> None:
    prompt = both.encode("gone as")
    assert both.token(token_of(both, "as", prompt)) == " as"
    assert "taken as the token ' as'; there is also 'as'" in capsys.readouterr().err
    assert both.token(token_of(both, "as", both.encode("gone"))) == "as"


def test_a_word_of_several_tokens_is_refused(backpack_run) -> None:
    tokenizer = load(backpack_run).tokenizer
    with pytest.raises(UserError, match="not one token"):
        token_of(tokenizer, "incomprehensibilities")


def test_every_command_that_takes_a_word_says_which_token_it_took(cutaway, backpack_run) -> None:
    tokenizer = load(backpack_run).tokenizer
    taken = tokenizer.token(token_of(tokenizer, "the"))
    for command in (
        ["words", backpack_run, "--kind", "predicts", "--word", "the"],
        ["words", backpack_run, "--kind", "evoked-by", "--word", "the"],
        ["senses", backpack_run, "--word", "the"],
        ["senses", backpack_run, "--word", "the", "--remove", "the"],
        ["senses", backpack_run, "--word", "the", "--similar-to", "the"],
    ):
        code, out, err = cutaway(*command, "--json")
        assert code == 0, err
        assert f"word = 'the': taken as the token {taken!r}" in err
        rows = json.loads(out)
        assert {row.get("asked", taken) for row in rows} == {taken}


def test_what_a_change_of_senses_would_leave_undone_is_refused(cutaway, backpack_run) -> None:
    long = "and the" + " river" * 500
    change = ["senses", backpack_run, "--word", "the", "--scale", "0=0"]
    for more, said in (
        (["--prompt", long], "tokens, which do not hold the word"),
        (["--similar-to", "the"], "--similar-to: not with a change"),
    ):
        code, _, err = cutaway(*change, *more)
        assert code == 2
        assert said in err
