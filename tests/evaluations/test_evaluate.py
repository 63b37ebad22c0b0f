from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
import torch.nn.functional as F

from cutaway.activations.capture import capture
from cutaway.activations.splice import splice
from cutaway.base.errors import UserError
from cutaway.dictionaries.architectures.registry import ARCHITECTURES, build
from cutaway.dictionaries.model.dictionary import Dictionary, DictionaryShape
from cutaway.dictionaries.model.reconstruction import Reconstruction
from cutaway.evaluations.baselines import PCA, RandomDictionary
from cutaway.evaluations.evaluate import Evaluation, evaluate, table, threshold_movement
from cutaway.nets.model import Model
from cutaway.nets.reference import open_model
from cutaway.sparse.codes import DenseCodes

SITE = "residual.0"


@pytest.fixture(scope="module")
def model(gpt2_run: Path) -> Model:
    return open_model(gpt2_run, device="cpu")


@pytest.fixture(scope="module")
def text(model: Model) -> list:
    """Sentences of the model's own language, the last with padding."""
    sentences = ["The old king sees the river at night.", "My sister paints a red house again."]
    ids = torch.cat([model.tokens(one * 3)[:, :16] for one in sentences])
    mask = torch.ones_like(ids)
    mask[1, 12:] = 0
    return [(ids[:1], None, None), (ids, mask, None)]


@pytest.fixture(scope="module")
def states(model: Model, text: list) -> torch.Tensor:
    """All states that count: no padding, no position 0."""
    kept = []
    for ids, mask, _ in text:
        state = capture(model, ids, [SITE], mask)[model.site(SITE)]
        real = torch.ones_like(ids) if mask is None else mask
        real = real.bool().clone()
        real[:, 0] = False
        kept.append(state[real])
    return torch.cat(kept)


def dictionary_for(model: Model, features: int, k: int, architecture: str = "topk") -> Dictionary:
    shape = DictionaryShape(architecture, model.width, features, k=k, groups=(features,))
    made = build(shape, 3)
    made.metadata = {"site": SITE, "reference": model.reference.to_json()}
    return made


def identity(model: Model) -> Dictionary:
    """2d features, each axis in both directions: it rewrites every state exactly."""
    width = model.width
    made = dictionary_for(model, 2 * width, 2 * width)
    with torch.no_grad():
        both = torch.cat([torch.eye(width), -torch.eye(width)])
        made.encoder_weight.copy_(both)
        made.decoder_weight.copy_(both)
        made.input_scale.fill_(1.7)
    return made


def constant(model: Model, value: torch.Tensor) -> Dictionary:
    """No feature ever fires: it writes its bias."""
    made = dictionary_for(model, 8, 4)
    with torch.no_grad():
        made.encoder_bias.fill_(-1e6)
        made.input_scale.fill_(0.5)
        made.decoder_bias.copy_(0.5 * value)
    return made


def test_an_identity_dictionary_recovers_everything(model, text):
    found = evaluate(identity(model), model, text)
    assert found.explained_variance == pytest.approx(1, abs=1e-6)
    assert found.explained_variance_with_first == pytest.approx(1, abs=1e-6)
    assert found.normalised_mse == pytest.approx(0, abs=1e-6)
    assert found.cosine == pytest.approx(1, abs=1e-6)
    assert found.ce_recovered == pytest.approx(1, abs=1e-4)
    assert found.kl == pytest.approx(0, abs=1e-6)
    assert found.kl_recovered == pytest.approx(1, abs=1e-4)
    assert found.l0 == pytest.approx(model.width)  # one of each axis' two directions
    assert found.tokens == 15 + 15 + 11


def test_predicting_the_mean_explains_nothing(model, text, states):
    found = evaluate(constant(model, states.double().mean(0).float()), model, text)
    assert found.explained_variance == pytest.approx(0, abs=1e-5)
    assert found.ce_spliced == pytest.approx(found.ce_mean, rel=1e-6)
    assert found.l0 == 0
    assert found.dead_share == 1
    assert sum(found.density_counts) == 0


def test_writing_zero_recovers_nothing(model, text):
    found = evaluate(constant(model, torch.zeros(model.width)), model, text)
    assert found.ce_recovered == 0
    assert found.kl_recovered == 0
    assert found.normalised_mse == pytest.approx(1)
    assert found.ce_spliced == found.ce_zero
    assert found.explained_variance < 0  # worse than the mean


def test_losses_are_those_of_the_model_with_the_reconstruction_in_its_place(model, text):
    made = dictionary_for(model, 64, 6)
    found = evaluate(made, model, text)

    def rewritten(state):
        state = state.clone()
        state[:, 1:] = made(state[:, 1:]).detach()
        return state

    clean_loss, loss, divergence, predicted, compared = 0.0, 0.0, 0.0, 0, 0
    for ids, mask, _ in text:
        for row, keep in zip(ids, torch.ones_like(ids) if mask is None else mask):
            alone = row[keep.bool()][None]
            clean = model.logits(alone)[0].double()
            with splice(model, {SITE: rewritten}):
                other = model.logits(alone)[0].double()
            targets = alone[0, 2:]
            clean_loss += float(F.cross_entropy(clean[1:-1], targets, reduction="sum"))
            loss += float(F.cross_entropy(other[1:-1], targets, reduction="sum"))
            p, q = clean[1:].log_softmax(-1), other[1:].log_softmax(-1)
            divergence += float((p.exp() * (p - q)).sum())
            predicted, compared = predicted + len(targets), compared + len(p)
    assert found.ce_clean == pytest.approx(clean_loss / predicted, rel=1e-5)
    assert found.ce_spliced == pytest.approx(loss / predicted, rel=1e-5)
    assert found.kl == pytest.approx(divergence / compared, rel=1e-4)
    recovered = (found.ce_zero - found.ce_spliced) / (found.ce_zero - found.ce_clean)
    assert found.ce_recovered == pytest.approx(recovered)
    assert found.kl_recovered == pytest.approx(1 - found.kl / found.kl_zero)


@pytest.mark.parametrize("offset", [0, 1000])
def test_the_mean_explains_nothing_however_far_from_zero_it_is(offset: int):
    x = torch.randn(4096, 16, generator=torch.Generator().manual_seed(0)) + offset
    mean, measured = x.double().mean(0).float(), Reconstruction(16, 2)
    for part in x.split(1000):
        measured.add(part, mean.expand_as(part), DenseCodes(torch.ones(len(part), 2)))
    assert measured.figures()["explained_variance"] == pytest.approx(0, abs=1e-6)


def test_counts_are_those_of_the_dense_activations(model, text, states):
    made = dictionary_for(model, 64, 6)
    with torch.no_grad():
        made.encoder_bias[-9:] = -1e6
    found = evaluate(made, model, text)
    active = made.encode(states) > 0
    assert found.l0 == pytest.approx(float(active.sum()) / len(states))
    assert found.dead_share == pytest.approx(float((active.sum(0) == 0).double().mean()))
    density = active.double().mean(0).numpy()
    edges = np.array(found.to_json()["density_edges"])
    expected = np.histogram(density[density > 0], edges)[0]
    assert found.density_counts == expected.tolist()


def test_batches_and_their_size_do_not_matter(model, text):
    made = dictionary_for(model, 64, 6)
    whole = evaluate(made, model, [text[1]])
    ids, mask, _ = text[1]
    parts = evaluate(made, model, [(ids[:1], mask[:1], None), (ids[1:], mask[1:], None)])
    small = evaluate(made, model, [text[1]], batch_size=16)
    for other in (parts, small):
        for name, value in whole.to_json().items():
            if isinstance(value, float):
                assert getattr(other, name) == pytest.approx(value, rel=1e-5, abs=1e-7), name


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_padding_alone_counts_nothing(architecture: str, model, text, states):
    """A context of nothing else, in a forward pass of its own."""
    made = dictionary_for(model, 64, 6, architecture)
    ids = text[0][0]
    padded = [*text, (ids, torch.zeros_like(ids), None)]
    plain, found = (
        evaluate(made, model, one, training=[states], batch_size=16) for one in (text, padded)
    )
    assert found == plain


def test_a_dictionary_trained_on_position_0_is_measured_there_too(model, text):
    made = dictionary_for(model, 64, 6)
    made.metadata["positions"] = "all"
    found = evaluate(made, model, text)
    assert found.tokens == 16 + 16 + 12
    assert found.explained_variance == found.explained_variance_with_first


def test_tokens_say_when_to_stop(model, text):
    assert evaluate(dictionary_for(model, 64, 6), model, text, tokens=10).tokens == 15


def test_the_threshold_moves_as_the_history_says(model, text):
    history = pa.table({"step": [0, 5, 10, 15], "threshold": [0.1, 0.4, None, 0.3]})
    moved = threshold_movement(history)
    assert moved == pytest.approx({"start": 0.1, "end": 0.3, "moved": 0.3})
    assert threshold_movement(pa.table({"step": [0], "l0": [3.0]})) is None
    found = evaluate(dictionary_for(model, 64, 6), model, text, history=history)
    assert found.threshold == moved


def test_an_encoder_predicts_no_next_token_but_its_logits_are_compared(tmp_path):
    import transformers

    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
    )
    transformers.BertForMaskedLM(config).save_pretrained(tmp_path)
    encoder = open_model(tmp_path, device="cpu")
    made = build(DictionaryShape("topk", 16, 64, k=6), 0)
    ids = torch.randint(0, 50, (3, 10))
    found = evaluate(made, encoder, [(ids, None, None)], site="residual.0")
    assert math.isnan(found.ce_clean)
    assert math.isnan(found.ce_recovered)
    assert found.kl > 0
    assert 0 < found.kl_recovered < 1


# -- baselines -----------------------------------------------------------------------------------


def test_as_many_components_as_dimensions_rewrite_exactly(states):
    x = torch.cat([states, states + 0.1])
    written, codes = PCA(x, x.shape[1])(states)
    assert torch.allclose(written, states, atol=1e-5)
    assert codes.shape == (len(states), states.shape[1])


def test_principal_components_are_the_best_linear_code(states):
    """Against the singular values: the error left is the sum of the rest of them, squared."""
    k = 5
    written, _ = PCA(states, k)(states)
    centred = (states - states.double().mean(0)).double()
    left = torch.linalg.svdvals(centred)[k:].square().sum()
    assert float((states - written).double().square().sum()) == pytest.approx(float(left), rel=1e-4)


def test_a_random_dictionarys_scale_is_the_least_squares_one(states):
    plain = RandomDictionary(states, 128, 4, scaled=False, seed=1)
    scaled = RandomDictionary(states, 128, 4, scaled=True, seed=1)
    mean = states.double().mean(0).float()
    written = plain(states)[0] - mean
    best = torch.linalg.lstsq(
        written.reshape(-1, 1).double(), (states - mean).reshape(-1, 1).double()
    ).solution
    assert scaled.scale == pytest.approx(float(best), rel=1e-5)
    again, codes = scaled(states)
    assert torch.allclose(again - mean, written * scaled.scale, atol=1e-5)
    assert float(codes.fired().sum()) / len(states) <= 4


def test_baselines_use_the_dictionarys_l0_and_stand_beside_it(model, text, states):
    made = dictionary_for(model, 64, 6)
    found = evaluate(made, model, text, training=[states[:20], states[20:]])
    assert set(found.baselines) == {"pca", "random", "random_scaled"}
    for name, one in found.baselines.items():
        assert one["l0"] == pytest.approx(6, abs=0.3), name
        assert math.isfinite(one["ce_recovered"])
    ev = {name: one["explained_variance"] for name, one in found.baselines.items()}
    assert ev["pca"] > ev["random_scaled"] > ev["random"]
    written, _ = PCA(states, 6)(states)
    spread = (states - states.double().mean(0)).double().square().sum()
    truth = 1 - float((states - written).double().square().sum() / spread)
    assert ev["pca"] == pytest.approx(truth, abs=1e-5)


def test_all_components_recover_the_models_loss(model, text, states):
    """A dictionary as dense as the state is wide: PCA of the same L0 is the identity."""
    found = evaluate(identity(model), model, text, training=[states])
    assert found.baselines["pca"]["ce_recovered"] == pytest.approx(1, abs=1e-3)
    assert found.baselines["pca"]["explained_variance"] == pytest.approx(1, abs=1e-5)


def test_baselines_are_fitted_on_training_states_alone(model, text, states):
    made = dictionary_for(model, 64, 6)
    other = torch.randn(200, model.width, generator=torch.Generator().manual_seed(0))
    fitted = evaluate(made, model, text, training=[states]).baselines["pca"]
    misfit = evaluate(made, model, text, training=[other]).baselines["pca"]
    assert misfit["explained_variance"] < fitted["explained_variance"]


# -- files, tables, refusals ---------------------------------------------------------------------


def test_an_evaluation_survives_its_file(model, text, states, tmp_path):
    found = evaluate(dictionary_for(model, 64, 6), model, text, training=[states])
    found.save(tmp_path)
    assert Evaluation.load(tmp_path) == found


def test_what_is_not_known_is_null_in_the_file_and_nan_again(model, text, tmp_path):
    from dataclasses import replace

    found = replace(evaluate(dictionary_for(model, 64, 6), model, text), ce_recovered=math.nan)
    assert found.to_json()["ce_recovered"] is None
    found.save(tmp_path)
    assert math.isnan(Evaluation.load(tmp_path).ce_recovered)


def test_the_table_goes_by_depth_with_baselines_below(model, text, states):
    from dataclasses import replace

    one = evaluate(dictionary_for(model, 64, 6), model, text, training=[states])
    rows = table([replace(one, site="residual.10"), replace(one, site="embed"), one])
    assert [row["site"] for row in rows[::4]] == ["embed", "residual.0", "residual.10"]
    assert [row["coder"] for row in rows[:4]] == ["topk", "pca", "random", "random scaled"]
    assert rows[0]["EV"] == one.explained_variance
    assert rows[1]["CE recovered"] == one.baselines["pca"]["ce_recovered"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tokens": 0}, "tokens = 0"),
        ({"contexts": []}, "no held-out token"),
        ({"training": []}, "no states to fit"),
        ({"site": "mlp.4"}, "layers 0 to 0"),
    ],
)
def test_what_cannot_be_measured_is_refused(change, said, model, text):
    arguments = {"contexts": text} | change
    contexts = arguments.pop("contexts")
    with pytest.raises(UserError, match=said):
        evaluate(dictionary_for(model, 64, 6), model, contexts, **arguments)


def test_a_damaged_or_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"evaluation.json: missing"):
        Evaluation.load(tmp_path)
    (tmp_path / "evaluation.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        Evaluation.load(tmp_path)
    (tmp_path / "evaluation.json").write_text('{"format": 99}')
    with pytest.raises(UserError, match="newer"):
        Evaluation.load(tmp_path)
