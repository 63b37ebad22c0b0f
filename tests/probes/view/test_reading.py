"""Probes over text say what `Probe` says of the states the model has there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cutaway.activations.capture import capture
from cutaway.base.errors import UserError
from cutaway.nets.model import Model
from cutaway.nets.reference import open_model
from cutaway.probes.states.probe import Probe, ProbeAbout
from cutaway.probes.view.reading import model_of, open_probes, read_tokens, stream, tokens_of
from cutaway.runs.folder import Run
from cutaway.text.packing import packed
from cutaway.text.sources import source

WINDOW = 12


@pytest.fixture(scope="module")
def model(gpt2_run: Path) -> Model:
    return open_model(gpt2_run, device="cpu")


def probe(model: Model, site: str, *, classes: int = 2, hidden: int = 0, **about) -> Probe:
    """A probe of random weights; the target is one of the model's frequent tokens."""
    draw = torch.Generator().manual_seed(hash_of(site))
    d, outputs = model.width, 1 if classes == 2 else classes
    prior = (0.9, 0.1) if classes == 2 else tuple(torch.rand(classes, generator=draw).tolist())
    names = ("other", "target") if classes == 2 else tuple(f"class {n}" for n in range(classes))
    known = {
        "task": "next" if classes == 2 else "labels",
        "target": " the",
        "target_id": model.reads.encode(" the")[0],
        "context_length": WINDOW,
        "method": "exact",
        **about,
    }
    made = ProbeAbout(
        reference=model.reference,
        site=site,
        classes=names,
        prior=tuple(share / sum(prior) for share in prior),
        trained_prior=(1 / classes,) * classes,
        **known,
    )
    inner = {}
    if hidden:
        inner = {
            "hidden_weight": torch.randn(hidden, d, generator=draw) / d**0.5,
            "hidden_bias": torch.randn(hidden, generator=draw),
        }
    return Probe(
        made,
        torch.randn(outputs, hidden or d, generator=draw),
        torch.randn(outputs, generator=draw),
        torch.randn(d, generator=draw),
        torch.tensor(1.7),
        **inner,
    )


def hash_of(text: str) -> int:
    return sum(text.encode())


@pytest.fixture(scope="module")
def probes(model: Model) -> list[Probe]:
    return [probe(model, site) for site in ("embed", "attention.0", "mlp.0", "residual.0")]


@pytest.fixture(scope="module")
def text(model: Model, corpus: Path) -> torch.Tensor:
    return torch.tensor(model.reads.encode((corpus / "text-03.txt").read_text())[:70])


# -- which probes, which model -------------------------------------------------------------------


def test_probes_are_opened_from_every_layout_in_the_order_of_their_sites(probes, tmp_path):
    for one in reversed(probes):
        one.save(tmp_path / "run" / "probes" / one.about.site)
    sites = [one.about.site for one in probes]
    for place in ("run", "run/probes", ""):
        assert [one.about.site for one in open_probes(tmp_path / place)] == sites
    single = open_probes(tmp_path / "run" / "probes" / "embed")
    assert [one.about for one in single] == [probes[0].about]
    assert torch.equal(single[0].weight, probes[0].weight)
    file = tmp_path / "run" / "probes" / "mlp.0" / "probe.json"
    assert [one.about.site for one in open_probes(file)] == ["mlp.0"]


def test_a_run_may_be_named_as_under_runs(probes, tmp_path, monkeypatch):
    probes[0].save(tmp_path / "runs" / "mine" / "probes" / "embed")
    monkeypatch.chdir(tmp_path)
    assert len(open_probes("mine")) == 1


def test_probes_that_do_not_belong_together_are_refused(model, probes, tmp_path):
    def both(name: str, **changes) -> Path:
        folder = tmp_path / name
        probes[0].save(folder / "a")
        Probe(
            **vars(probes[3]) | {"about": replace(probes[3].about, **changes)},
        ).save(folder / "b")
        return folder

    with pytest.raises(UserError, match="no probes there"):
        open_probes(tmp_path)
    other = replace(model.reference, weights_sha256="0" * 64, id="another")
    for name, changes, said in (
        ("model", {"reference": other}, "two models"),
        ("task", {"task": "current"}, "unlike task: 'next' and 'current'"),
        ("target", {"target_id": 5}, "unlike target_id"),
        ("classes", {"classes": ("no", "yes")}, "unlike classes"),
        ("site", {"site": "embed"}, "several probes of embed"),
    ):
        with pytest.raises(UserError, match=said):
            open_probes(both(name, **changes))


def test_the_model_is_the_one_the_probes_name_and_no_other(probes, gpt2_run, tiny_folder):
    reference = probes[0].about.reference
    assert model_of(probes, device="cpu").reference.same_model(reference)
    assert model_of(probes, gpt2_run, device="cpu").dtype == torch.float32
    with pytest.raises(UserError, match="not the one the probes were trained on"):
        model_of(probes, tiny_folder("gpt2"), device="cpu")
    others = [one for one in Run.open(gpt2_run).checkpoints.steps() if one != reference.step]
    about = replace(probes[0].about, reference=replace(reference, step=others[0]))
    with pytest.raises(UserError, match="not the one the probes were trained on"):
        model_of([replace(probes[0], about=about)], device="cpu")


# -- what they say -------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [{}, {"classes": 4}, {"hidden": 5}, {"classes": 3, "hidden": 6}])
def test_a_stream_says_what_each_probe_says_of_captured_states(model, shape):
    made = [probe(model, site, **shape) for site in ("residual.0", "embed")]
    batches = [torch.randint(0, 250, (3, 16)), torch.randint(0, 250, (2, 9))]
    for (tokens, found), given in zip(stream(model, made, batches), batches, strict=True):
        assert tokens is given
        states = capture(model, given, [one.site for one in made])
        for one, p in zip(made, found, strict=True):
            assert torch.allclose(p, one(states[one.site]), atol=2e-6)


@pytest.mark.parametrize("shape", [{}, {"classes": 4}, {"hidden": 5}])
def test_the_shares_of_training_are_taken_out_again(model, shape):
    """Logits less log(trained share) plus log(natural share), written out."""
    one = probe(model, "residual.0", **shape)
    count = len(one.about.classes)
    trained = torch.arange(1.0, count + 1) / sum(range(1, count + 1))
    one = replace(one, about=replace(one.about, trained_prior=tuple(trained.tolist())))
    tokens = torch.randint(0, 250, (2, 16))
    p = next(stream(model, [one], [tokens]))[1][0]
    state = capture(model, tokens, ["residual.0"])[one.site]
    z = one.logits(state) - trained.log() + torch.tensor(one.about.prior).log()
    raw = one.logits(state)
    # probabilities near 0 are compared by their logarithms
    expected, other = (
        logits.log_softmax(-1)[..., 1 if count == 2 else slice(None)] for logits in (z, raw)
    )
    assert torch.allclose(p.log(), expected, atol=1e-4)
    assert (p.log() - other).abs().max() > 0.2


def test_a_stream_takes_packed_text_and_padding(model, probes, corpus):
    text = packed(source(corpus), model.reads, 16, tokens=400)
    found = list(stream(model, probes, text, batch_tokens=100))
    assert torch.cat([tokens for tokens, _ in found]).shape == (text.n_contexts, 16)
    assert torch.cat([p for _, p in found], 1).shape == (4, text.n_contexts, 16)
    tokens = torch.from_numpy(text.contexts(0, 1).tokens)
    mask = torch.ones_like(tokens)
    mask[:, 10:] = 0
    padded = next(stream(model, probes, [(tokens, mask)]))[1]
    assert torch.allclose(padded[..., :10], found[0][1][:, :1, :10], atol=1e-6)


def test_bfloat16_states_are_read_in_float32(gpt2_run, probes):
    narrow = open_model(gpt2_run, device="cpu", dtype="bfloat16")
    tokens = torch.arange(16)[None]
    p = next(stream(narrow, probes, [tokens]))[1]
    assert p.dtype == torch.float32
    state = capture(narrow, tokens, ["residual.0"])[probes[3].site]
    assert torch.allclose(p[3], probes[3](state), atol=2e-6)


def test_every_token_is_read_with_the_context_that_is_said(model, probes, text):
    reading = read_tokens(model, probes, text)
    assert reading.window == WINDOW
    assert reading.probabilities.shape == (4, 70)
    assert reading.context[:WINDOW].tolist() == list(range(WINDOW))
    assert reading.context[WINDOW:].min() == WINDOW // 2
    target = probes[0].about.target_id
    for place, before in enumerate(reading.context.tolist()):
        seen = text[None, place - before : place + 1]
        states = capture(model, seen, [one.site for one in probes])
        for one, p in zip(probes, reading.probabilities[:, place], strict=True):
            assert float(p) == pytest.approx(float(one(states[one.site])[0, -1]), abs=2e-6)
        own = model.logits(seen)[0, -1].softmax(-1)[target]
        assert float(reading.own[place]) == pytest.approx(float(own), abs=1e-6)


def test_documents_see_nothing_of_each_other(model, probes, text):
    together = read_tokens(model, probes, text, starts=(0, 5, 41))
    alone = [read_tokens(model, probes, part) for part in (text[:5], text[5:41], text[41:])]
    apart = torch.cat([one.probabilities for one in alone], 1)
    assert torch.allclose(together.probabilities, apart, atol=1e-6)
    assert torch.equal(together.context, torch.cat([one.context for one in alone]))


def test_labels_are_the_texts_own(model, probes, text):
    target = probes[0].about.target_id
    reading = read_tokens(model, probes, text, starts=(0, 30), own=False)
    assert reading.own is None
    here = (text == target).tolist()
    expected = [int(one) for one in here[1:]] + [-1]
    expected[29] = -1  # the next document's first token does not follow this one's last
    assert 0 < sum(here) < 70
    assert reading.labels.tolist() == expected
    current = [probe(model, "embed", task="current")]
    now = read_tokens(model, current, text)
    assert now.labels.tolist() == [int(one) for one in here]
    assert now.own is None
    words = [probe(model, "embed", classes=3)]
    assert read_tokens(model, words, text).labels is None
    given = torch.arange(70) % 3
    assert torch.equal(read_tokens(model, words, text, labels=given).labels, given)


def test_a_model_that_looks_both_ways_is_read_from_the_middle_of_windows(tiny_folder):
    encoder = open_model(tiny_folder("bert"), device="cpu")
    ids = torch.arange(64) % 90 + 5
    made = probe(encoder, "residual.0", classes=3)
    reading = read_tokens(encoder, [made], ids, window=16)
    assert reading.context[:12].tolist() == list(range(12))
    inner = reading.context[12:52]
    assert (inner.min(), inner.max()) == (4, 11)
    place = 30
    begin = place - int(reading.context[place])
    state = capture(encoder, ids[None, begin : begin + 16], ["residual.0"])[made.site]
    expected = made(state)[0, place - begin]
    assert torch.allclose(reading.probabilities[0, place], expected, atol=2e-6)


def test_a_state_that_is_not_finite_gives_no_number_and_spoils_no_other_document(gpt2_run, probes):
    broken = open_model(gpt2_run, device="cpu")
    with torch.no_grad():
        broken.module.embedding[7] = torch.nan
    ids = torch.tensor([1, 2, 7, 3, 1, 2, 3, 4])
    reading = read_tokens(broken, probes, ids, starts=(0, 4), own=False)
    missing = reading.probabilities.isnan()
    assert missing[0].tolist() == [False, False, True, *[False] * 5]  # embed: that token only
    assert missing[3, 2:4].all()
    assert not missing[:, 4:].any()


def test_what_cannot_be_read_is_refused(model, probes):
    ids = torch.arange(20)
    for change, said in (
        ({"tokens": ids[None]}, "tokens: shape"),
        ({"tokens": ids[:0]}, "tokens: shape"),
        ({"tokens": ids + 10_000}, "tokens: id"),
        ({"tokens": ids, "starts": (1, 5)}, "starts"),
        ({"tokens": ids, "window": 1000}, "window = 1000"),
    ):
        with pytest.raises(UserError, match=said):
            read_tokens(model, probes, **change)
    narrow = Probe(probes[0].about, torch.ones(1, 3), torch.ones(1), torch.ones(3), torch.ones(()))
    with pytest.raises(UserError, match="3 wide"):
        read_tokens(model, [narrow], ids)


def test_tokens_are_the_first_of_the_documents_in_turn(model):
    reads = model.reads
    texts = ["the cat", "", "sees " * 500, "never reached"]
    ids, starts = tokens_of(iter(texts), reads, 50)
    first = reads.encode("the cat")
    assert ids[: len(first)].tolist() == first
    assert starts == (0, len(first))
    assert ids[len(first) :].tolist() == reads.encode("sees " * 500)[: 50 - len(first)]
    with pytest.raises(UserError, match="not one token"):
        tokens_of([""], reads, 5)
