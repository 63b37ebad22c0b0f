"""Absorption against cases worked by hand, and against dictionaries that absorb what they were told to."""

from __future__ import annotations

import math

import pytest
import torch

from cutaway.base.errors import UserError
from cutaway.dictionaries.architectures.registry import build
from cutaway.dictionaries.model.dictionary import Dictionary, DictionaryShape
from cutaway.evaluations.suite.absorption import absorption_scores, first_letter_absorption
from cutaway.evaluations.suite.letters import LETTERS, TEST, choose_words
from cutaway.nets.model import Model
from evaluations.suite.spelling_models import made_up_words, table_model, word_tokenizer

# -- the scores, by hand: features 0 and 1 are the split ones, 2 to 6 are not -------------------

SPLIT = torch.tensor([True, True, False, False, False, False, False])


def scored(features, projection, cosines, split=SPLIT) -> tuple[float, bool]:
    scores = absorption_scores(
        torch.tensor([features], dtype=torch.float64),
        torch.tensor([projection], dtype=torch.float64),
        torch.tensor(cosines, dtype=torch.float64),
        split,
    )
    return float(scores.fraction), bool(scores.full)


CASES = {
    # M = 5·1 = 5 ≥ P = 5, though A = 4 is more than 0.4 of it
    "split features account for all": ([5, 0, 4, 0, 0, 0, 0], 5, [1.0] * 7, 0.0, False),
    "more than all": ([6, 0, 4, 0, 0, 0, 0], 5, [1.0] * 7, 0.0, False),
    # A / P = 3.9 / 10
    "the rest carries too little": ([0, 0, 3.9, 0, 0, 0, 0], 10, [1.0] * 7, 0.0, False),
    "the rest carries just enough": ([0, 0, 4, 0, 0, 0, 0], 10, [1.0] * 7, 1.0, True),
    # M < 0 because split feature 0 points away; it is not silent
    "split features point away": ([2, 0, 8, 0, 0, 0, 0], 10, [-0.5, *[1.0] * 6], 1.0, False),
    "silent, and nothing takes over": ([0, 0, 0, 0, 0, 0, 0], 10, [1.0] * 7, 0.0, False),
    "point away, nothing takes over": ([2, 0, 3, 0, 0, 0, 0], 10, [-0.5, *[1.0] * 6], 0.0, False),
    # M = 4, A = 6, a = min(6, 10 − 4) = 6
    "a part is absorbed": ([3, 1, 6, 0, 0, 0, 0], 10, [1.0] * 7, 0.6, False),
    # M = 4, A = 20, but only 6 are missing: a = 6
    "no more than is missing": ([4, 0, 20, 0, 0, 0, 0], 10, [1.0] * 7, 0.6, False),
    # M = 4, A = 4: a / (a + M) = 0.5, not 4 / 10
    "of what both account for": ([4, 0, 4, 0, 0, 0, 0], 10, [1.0] * 7, 0.5, False),
    # each of five carries 1.6 of 10: three of them 4.8 (0.4 is passed), five would be 8
    "three absorb at most": ([3.2, 0, *[1.6] * 5], 10, [1.0] * 7, 4.8 / 8.0, False),
    # 1.3 each: three of them 3.9 of 10, five would pass 0.4
    "more than three do not count": ([0, 0, *[1.3] * 5], 10, [1.0] * 7, 0.0, False),
    # full: the one feature carries 5 of 10; for the fraction its cosine 0.05 is under 0.1
    "a weakly aligned absorber": ([0, 0, 100, 0, 0, 0, 0], 10, [1, 1, 0.05, 1, 1, 1, 1], 0.0, True),
    "at cosine 0.1 it counts": ([0, 0, 100, 0, 0, 0, 0], 10, [1, 1, 0.1, 1, 1, 1, 1], 1.0, True),
    "at cosine 0.025 still full": ([0, 0, 400, 0, 0, 0, 0], 10, [1, 1, 0.025, *[1] * 4], 0.0, True),
    "under 0.025 not": ([0, 0, 500, 0, 0, 0, 0], 10, [1, 1, 0.024, *[1] * 4], 0.0, False),
    # together 6 of 10, none of them 4
    "three together are not full": ([0, 0, 2, 2, 2, 0, 0], 10, [1.0] * 7, 1.0, False),
    # feature 1 fires without a projection: M = 0, but it is not silent
    "a split feature at right angles": ([0, 1, 9, 0, 0, 0, 0], 10, [1, 0, *[1] * 5], 1.0, False),
    # the state lies against the direction
    "P below zero": ([0, 0, 5, 0, 0, 0, 0], -2, [1.0] * 7, 0.0, False),
    "P zero": ([0, 0, 5, 0, 0, 0, 0], 0, [1.0] * 7, 0.0, False),
}


@pytest.mark.parametrize("case", CASES)
def test_scores_equal_cases_worked_by_hand(case):
    features, projection, cosines, fraction, full = CASES[case]
    found = scored(features, projection, cosines)
    assert found[0] == pytest.approx(fraction, abs=1e-12)
    assert found[1] is full


def test_without_a_split_feature_whatever_carries_the_direction_absorbs_it():
    none = torch.zeros(7, dtype=torch.bool)
    assert scored([0, 0, 5, 0, 0, 0, 0], 10, [1.0] * 7, none) == (1.0, True)
    assert scored([0, 0, 3, 0, 0, 0, 0], 10, [1.0] * 7, none) == (0.0, False)


def test_scores_do_not_hang_on_units():
    for features, projection, cosines, fraction, full in CASES.values():
        found = scored([64 * value for value in features], 64 * projection, cosines)
        assert found == (pytest.approx(fraction, abs=1e-12), full)


def test_tokens_of_several_concepts_score_as_each_alone():
    generator = torch.Generator().manual_seed(0)
    features = torch.rand(50, 7, generator=generator).mul(4).sub(2).clamp(min=0)
    projection = torch.rand(50, generator=generator) * 4
    cosines = torch.rand(3, 7, generator=generator) * 1.5 - 0.5
    split = torch.rand(3, 7, generator=generator) < 0.3
    concept = torch.randint(3, (50,), generator=generator)
    together = absorption_scores(features, projection, cosines[concept], split[concept])
    for one in range(3):
        mine = concept == one
        alone = absorption_scores(features[mine], projection[mine], cosines[one], split[one])
        assert torch.equal(together.fraction[mine], alone.fraction)
        assert torch.equal(together.full[mine], alone.full)
    assert 0 < together.fraction.mean() < 1
    assert together.full.any()


def test_fewer_features_than_absorbers_may_be():
    assert scored([0, 5], 10, [1.0, 1.0], torch.tensor([True, False])) == (1.0, True)


def test_features_of_a_signed_dictionary_that_point_away_take_nothing_from_the_absorbers():
    """5 − 2 is not taken for 3 of 10."""
    assert scored([0, 5, -2], 10, [1.0] * 3, torch.tensor([True, False, False])) == (1.0, True)


# -- a model and dictionaries whose absorption is known ------------------------------------------
#
# A word's state is 3·(its letter's direction) + 2·(a direction of its own, in a fifth of the words)
# or + 1·(a direction all others share). The dictionary has a feature for each letter; the words of
# the fifth have one each, which takes `taken` of the letter's 3 over.

PER_LETTER = 30
STRONG, OWN = 3.0, 2.0


class Spelling:
    def __init__(self, *, misread: bool = False) -> None:
        """`misread`: of a tenth of the words the model's states do not say the letter."""
        self.words = made_up_words(PER_LETTER)
        self.tokenizer = word_tokenizer(self.words)
        self.special = [word for place, word in enumerate(self.words) if place % 5 == 0]
        self.misread = [
            word for place, word in enumerate(self.words) if misread and place % 10 == 3
        ]
        self.width = 27 + len(self.special) + len(self.misread)
        states = torch.zeros(self.tokenizer.vocab_size, self.width)
        for word in self.words:
            row = states[self.tokenizer.encode(f" {word}")[0]]
            if word in self.misread:
                row[27 + len(self.special) + self.misread.index(word)] = OWN
                continue
            row[LETTERS.index(word[0])] = STRONG
            if word in self.special:
                row[27 + self.special.index(word)] = OWN
            else:
                row[26] = 1.0
        self.model = table_model(states, self.tokenizer)

    def dictionary(self, taken: float, *, rows: float = 1.0, units: float = 1.0) -> Dictionary:
        """`rows`: the decoder rows' length; `units`: by how much training scaled its inputs."""
        count = len(self.special)
        made = build(DictionaryShape("relu", self.width, 26 + count))
        letters = torch.tensor([LETTERS.index(word[0]) for word in self.special])
        own = torch.arange(count)
        encoder, decoder = (torch.zeros(26 + count, self.width) for _ in range(2))
        encoder[:26, :26] = decoder[:26, :26] = torch.eye(26)
        # A special word's own direction holds its letter's feature down by `taken`.
        encoder[letters, 27 + own] = -taken / OWN
        decoder[26 + own, letters], decoder[26 + own, 27 + own] = taken, OWN
        length = math.hypot(taken, OWN)
        decoder[26 + own] /= length
        encoder[26 + own, 27 + own] = length / OWN
        with torch.no_grad():
            made.encoder_weight.copy_(encoder / rows)
            made.decoder_weight.copy_(decoder * rows)
            made.encoder_bias.zero_()
            made.decoder_bias.zero_()
            made.input_scale.fill_(units)
        return made

    def scored_words(self, letter: str, seed: int = 0) -> list[str]:
        """The test words that begin with a letter and whose states say so."""
        words = choose_words(self.tokenizer, self.words, seed=seed)
        return [
            word
            for word, part in zip(words.texts, words.parts, strict=True)
            if part == TEST and word[0] == letter and word not in self.misread
        ]

    def special_share(self, letter: str) -> float:
        mine = self.scored_words(letter)
        return sum(word in self.special for word in mine) / len(mine)


@pytest.fixture(scope="module")
def spelling() -> Spelling:
    return Spelling()


def measured(rows, measure: str, task: str = "first_letter"):
    (row,) = (row for row in rows if (row["measure"], row["task"]) == (measure, task))
    return row


def run(spelling: Spelling, dictionary: Dictionary, model: Model | None = None, **settings):
    given = {"words": spelling.words, "template": None} | settings
    return first_letter_absorption(dictionary, model or spelling.model, "residual.0", **given)


@pytest.mark.parametrize(
    ("taken", "fraction", "full"), [(0.0, 0.0, 0.0), (1.5, 0.5, 0.0), (3.0, 1.0, 1.0)]
)
def test_absorption_built_in_by_hand_is_found(spelling, taken, fraction, full):
    rows = run(spelling, spelling.dictionary(taken))
    assert measured(rows, "letters_readable")["value"] == 26
    assert measured(rows, "split_features")["value"] == 1.0
    shares = []
    for letter in LETTERS:
        share = spelling.special_share(letter)
        task = f"first_letter.{letter}"
        found = measured(rows, "absorption_fraction", task)
        assert found["value"] == pytest.approx(fraction * share, abs=0.01)
        assert measured(rows, "absorption_full", task)["value"] == pytest.approx(full * share)
        shares.append(share)
    assert 0.1 < sum(shares) / 26 < 0.3
    for measure, each in (("absorption_fraction", fraction), ("absorption_full", full)):
        found = measured(rows, measure)
        assert found["value"] == pytest.approx(each * sum(shares) / 26, abs=0.01)
        assert found["low"] <= found["value"] <= found["high"]
        assert (found["low"] < found["high"]) is (each > 0)


def test_words_the_probe_misses_are_not_counted():
    spelling = Spelling(misread=True)
    rows = run(spelling, spelling.dictionary(3.0))
    missed = 0
    for letter in LETTERS:
        task, mine = f"first_letter.{letter}", spelling.scored_words(letter)
        assert measured(rows, "probe_true_positives", task)["value"] == len(mine)
        share = spelling.special_share(letter)
        assert measured(rows, "absorption_full", task)["value"] == pytest.approx(share)
        missed += PER_LETTER // 5 - len(mine)
    assert missed > 5
    f1 = [row for row in rows if row["measure"] == "probe_f1"]
    assert all(0 <= row["low"] < row["high"] + 1e-9 <= 1 + 2e-9 for row in f1)
    assert min(row["value"] for row in f1) < 1


def test_words_of_another_letter_on_which_a_probe_fires_are_not_counted():
    """A tenth of each letter's words look like the next one's, so its probe fires on both."""
    spelling = Spelling(misread=True)
    states = spelling.model.module.embedding.weight.data
    for word in spelling.misread:
        row = states[spelling.tokenizer.encode(f" {word}")[0]]
        row.zero_()
        row[(LETTERS.index(word[0]) + 1) % 26] = STRONG
        row[26] = 1.0
    rows = run(spelling, spelling.dictionary(3.0))
    assert min(measured(rows, "probe_f1", f"first_letter.{a}")["value"] for a in LETTERS) < 0.8
    for letter in LETTERS:
        found = measured(rows, "probe_true_positives", f"first_letter.{letter}")["value"]
        assert found <= PER_LETTER // 5


@pytest.mark.parametrize(("letters", "given"), [(20, True), (19, False)])
def test_twenty_letters_must_be_readable(spelling, letters, given):
    words = [word for word in spelling.words if LETTERS.index(word[0]) < letters]
    rows = run(spelling, spelling.dictionary(3.0), words=words)
    assert measured(rows, "letters_readable")["value"] == letters
    assert (measured(rows, "absorption_full")["value"] is not None) == given


def test_row_lengths_and_the_units_of_training_change_nothing(spelling):
    plain = run(spelling, spelling.dictionary(1.5))
    folded = run(spelling, spelling.dictionary(1.5, rows=4.0, units=1.0))
    scaled = run(spelling, spelling.dictionary(1.5, units=0.25))
    for other in (folded, scaled):
        for row, same in zip(plain, other, strict=True):
            assert row["measure"] == same["measure"]
            assert row["value"] == pytest.approx(same["value"], abs=1e-4)


def test_in_context_prompts_read_the_same_word(spelling):
    """States of this model do not hang on context, so that prompts and plain form agree."""
    template = "{word}"  # the tokenizer knows no other words
    rows = run(spelling, spelling.dictionary(3.0), template=template, examples=3)
    assert rows == run(spelling, spelling.dictionary(3.0))


def test_the_same_seed_gives_the_same_rows_and_another_other_words(spelling):
    dictionary = spelling.dictionary(3.0)
    first, again, other = (run(spelling, dictionary, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert {row["seed"] for row in other} == {2}
    assert measured(first, "absorption_full")["low"] != measured(other, "absorption_full")["low"]


def test_where_letters_are_not_readable_no_rate_is_given(spelling, capsys):
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(spelling.tokenizer.vocab_size, spelling.width, generator=generator)
    rows = run(spelling, spelling.dictionary(3.0), table_model(states, spelling.tokenizer))
    assert "first letters are not linearly readable in table" in capsys.readouterr().err
    assert measured(rows, "letters_readable")["value"] < 20
    rates = [row for row in rows if row["measure"].startswith("absorption")]
    assert {row["task"] for row in rates} == {"first_letter"}
    assert {row[key] for row in rates for key in ("value", "low", "high")} == {None}
    assert len([row for row in rows if row["measure"] == "probe_f1"]) == 26


def test_words_of_too_few_letters_are_refused(spelling):
    with pytest.raises(UserError, match="give more words"):
        run(spelling, spelling.dictionary(3.0), words=spelling.words[:30])


def test_a_dictionary_without_letter_features_shows_in_its_sparse_probes(spelling):
    dead = spelling.dictionary(3.0)
    with torch.no_grad():
        dead.encoder_bias.fill_(-100.0)
    rows = run(spelling, dead)
    assert measured(rows, "absorption_fraction")["value"] == 0
    assert measured(rows, "split_features")["value"] == 0
    assert {row["value"] for row in rows if row["measure"] == "k_sparse_f1"} == {0.0}


def test_a_dictionary_of_another_width_is_refused(spelling):
    other = build(DictionaryShape("relu", 8, 16))
    with pytest.raises(UserError, match="width 8"):
        run(spelling, other)
