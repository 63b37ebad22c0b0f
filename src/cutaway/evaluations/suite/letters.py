"""First letters of words: which words a tokenizer has, prompts that ask for the letter, the states.

The data of the absorption evaluation (Chanin et al. 2024, arXiv 2409.14507).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cutaway.activations.forward import Forward
from cutaway.base.display import notice
from cutaway.base.errors import RunFailed, UserError
from cutaway.base.progress import progress
from cutaway.base.seeds import numpy_generator
from cutaway.nets.model import Model
from cutaway.nets.sites import Site
from cutaway.text.decoding import examined, opened
from cutaway.text.tokenizers import Tokenizer

LETTERS = "abcdefghijklmnopqrstuvwxyz"
TEMPLATE = "{word} has the first letter:"  # as published
EXAMPLES = 10  # words with their answers before the one that is asked for
TRAIN, VALIDATION, TEST = 0, 1, 2
_SHARES = (0.6, 0.8)  # where the parts of a letter's words end


@dataclass(frozen=True)
class Words:
    """Words that are one token each.

    `texts` without the space before them; `ids` (n,) of their tokens; `letters` (n,) of the first
    letter, 0 to 25, of either case; `parts` (n,): TRAIN, VALIDATION or TEST. Spellings of one word
    that differ by case only are in the same part.
    """

    texts: list[str]
    ids: np.ndarray
    letters: np.ndarray
    parts: np.ndarray

    def __len__(self) -> int:
        return len(self.texts)

    def kept(self, keep: np.ndarray) -> Words:
        """Those where `keep` (n,) bool is true."""
        texts = [self.texts[place] for place in keep.nonzero()[0]]
        return Words(texts, self.ids[keep], self.letters[keep], self.parts[keep])


def vocabulary_words(tokenizer: Tokenizer) -> dict[str, int]:
    """The vocabulary's words of ASCII letters as they stand after a space: text → id.

    These are the tokens that begin with a space (byte-level BPE's `Ġ`, SentencePiece's `▁`). A
    WordPiece vocabulary writes no spaces but marks what continues a word with `##`: there the
    unmarked tokens are taken. A tokenizer with neither has no words.
    """
    tokens: dict[str, int] = {}
    for id in range(tokenizer.vocab_size):
        try:
            tokens.setdefault(tokenizer.token(id), id)
        except IndexError:  # a gap in the ids
            continue
    spaced = {token[1:]: id for token, id in tokens.items() if token[:1] == " "}
    if not any(map(_is_word, spaced)) and any(token.startswith("##") for token in tokens):
        spaced = tokens
    return {text: id for text, id in spaced.items() if _is_word(text)}


def choose_words(
    tokenizer: Tokenizer,
    words: Sequence[str] | str | Path | None = None,
    *,
    limit: int | None = None,
    seed: int = 0,
) -> Words:
    """The vocabulary's words, divided 60 : 20 : 20 within each letter, in a random order of words.

    `words`, a list or a file with one on each line, keeps those in it, whatever their case; what
    is not a single token is left out. `limit` draws that many. Raises UserError where the tokenizer
    has none of them.
    """
    found = vocabulary_words(tokenizer)
    if words is not None:
        wanted = {word.lower() for word in listed(words)}
        kept = {text: id for text, id in found.items() if text.lower() in wanted}
        if found and not kept:
            raise UserError(
                f"words: none of the {len(wanted)} given is a single token of {tokenizer.name}"
            )
        found = kept
    if not found:
        raise UserError(f"words: {tokenizer.name} has no token that is a whole word of letters")
    if limit is not None and limit < 1:
        raise UserError(f"limit = {limit}: expected 1 or more words")
    generator = numpy_generator(seed, 0, "words")
    names = list(found)
    texts = [names[place] for place in generator.permutation(len(names))[:limit]]
    # Spellings of one word share a number, which decides where it stands within its letter.
    _, word = np.unique([text.lower() for text in texts], return_inverse=True)
    letters = np.array([LETTERS.index(text[0].lower()) for text in texts])
    return Words(
        texts, np.array([found[text] for text in texts]), letters, _parts(letters, word, generator)
    )


def first_token(model: Model) -> int:
    """The id that prompts begin with: the model's own that begins a text, else the end of text."""
    return model.reads.end_of_text if model.bos_id is None else model.bos_id


def prompts(
    words: Words, model: Model, template: str | None = TEMPLATE, *, examples: int = EXAMPLES,
    seed: int = 0,
) -> tuple[Words, list[list[int]], int]:  # fmt: skip
    """Token ids that end with the word's token, or go on after it where the model is no causal one.

        start ⏎ cat has the first letter: C ⏎ … ⏎ dog

    start is the model's token that begins a text, else its tokenizer's end of text, so that no
    word stands at position 0. `examples` training words and their answers are drawn for each word,
    never itself. With `template` None the prompt is `start dog`, the plain form for models too
    small to answer. Returns the words whose prompt has them as one token, the prompts, and how many
    ids follow the word. Raises UserError for a template without `{word}`.
    """
    tokenizer = model.reads
    start = first_token(model)
    if template is None:
        return words, [[start, id] for id in words.ids.tolist()], 0
    before, after = around(template)
    before = before.rstrip(" ") + " "
    shown = _examples(words, examples, seed)
    answers = [f"{before}{text}{after} {text[0].upper()}" for text in words.texts]
    texts = [
        "\n" + "".join(answers[place] + "\n" for place in row) + before + text
        for row, text in zip(shown.tolist(), words.texts, strict=True)
    ]
    # What follows cannot be seen from the word in a causal model.
    tail = [] if model.causal else tokenizer.encode(after)
    encoded = [[start, *ids] for ids in tokenizer.encode_batch(texts)]
    last = np.array([ids[-1] for ids in encoded])
    single = last == words.ids
    if not single.any():
        raise UserError(f"template = {template!r}: no word is a single token in it; try none")
    kept = [[*encoded[place], *tail] for place in single.nonzero()[0]]
    return words.kept(single), kept, len(tail)


@torch.no_grad()
def word_states(
    model: Model, site: Site, contexts: Sequence[Sequence[int]], after: int, *, batch_size: int = 64
) -> Tensor:
    """The state at `site` of each prompt's token that `after` others follow: (n, d), float32.

    Prompts of one length run together, so that none is padded. Raises UserError for prompts longer
    than the model reads, RunFailed where a state is not finite.
    """
    lengths = np.array([len(context) for context in contexts])
    if model.max_length is not None and lengths.max() > model.max_length:
        raise UserError(
            f"template: prompts of up to {lengths.max()} tokens, and {model.reference.id} reads at "
            f"most {model.max_length}; give fewer examples, or no template"
        )
    forward = Forward(model, [site], batch_size, notice)
    states = torch.empty(len(contexts), model.width_at(site), device=model.device)
    done = 0
    with progress("words", len(contexts), "words") as bar:
        for length in np.unique(lengths):
            places = (lengths == length).nonzero()[0]
            for at in range(0, len(places), batch_size):
                chosen = places[at : at + batch_size]
                tokens = torch.tensor([contexts[place] for place in chosen])
                found = forward(tokens)[site][:, -1 - after].float()
                states[torch.from_numpy(chosen).to(model.device)] = found
                done += len(chosen)
                bar.update(done)
    broken = int((~states.isfinite()).any(1).sum())
    if broken:
        raise RunFailed(f"{model.reference.id}: states of {broken} words at {site} are not finite")
    return states


def listed(words: Sequence[str] | str | Path) -> list[str]:
    """The words of a list, or of a file with one on each line; UserError where there are none."""
    where = "words"
    if isinstance(words, str | Path):
        path, where = Path(words), f"words = '{words}'"
        if not path.is_file():
            raise UserError(f"{where}: no such file; expected one with a word on each line")
        with opened(path, examined(path)[0]) as lines:
            words = lines.read().split("\n")
    if not (found := [word.strip() for word in words if word.strip()]):
        raise UserError(f"{where}: no word in it; expected one on each line")
    return found


def around(template: str) -> tuple[str, str]:
    """What stands before and after `{word}`; UserError for a template without it, or with two."""
    if template.count("{word}") != 1:
        raise UserError(
            f"template = {template!r}: expected a text with one {{word}} in it, or none"
        )
    before, after = template.split("{word}")
    return before, after


# -- inside --------------------------------------------------------------------------------------


def _is_word(text: str) -> bool:
    return text.isascii() and text.isalpha()


def _parts(letters: np.ndarray, word: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """The part of each word, so that every letter has its share of each."""
    order = generator.permutation(word.max() + 1)
    letter_of = np.zeros_like(order)
    letter_of[word] = letters
    sorted_words = np.lexsort((order, letter_of))
    counts = np.bincount(letter_of, minlength=len(LETTERS))
    first = np.concatenate([[0], counts.cumsum()[:-1]])[letter_of[sorted_words]]
    place = (np.arange(len(order)) - first + 0.5) / counts[letter_of[sorted_words]]
    parts = np.empty_like(order)
    parts[sorted_words] = np.searchsorted(_SHARES, place)
    return parts[word]


def _examples(words: Words, count: int, seed: int) -> np.ndarray:
    """For each word (n,) the places of `count` training words in an order of their own: (n, count)."""
    if count < 0:
        raise UserError(f"examples = {count}: expected 0 or more")
    generator = numpy_generator(seed, 0, "examples")
    spelled = np.array([text.lower() for text in words.texts])
    # One spelling of each, so that none can be shown beside the same word in another case.
    training = (words.parts == TRAIN).nonzero()[0]
    training = training[np.unique(spelled[training], return_index=True)[1]]
    if len(training) <= count:
        raise UserError(f"examples = {count}: only {len(training)} training words to draw from")
    ring = generator.permutation(training)
    begin = generator.integers(len(ring), size=len(words))
    # A window of one more than needed: without the word itself, or its last one, it is full.
    window = ring[(begin[:, None] + np.arange(count + 1)) % len(ring)]
    itself = spelled[window] == spelled[:, None]
    itself[~itself.any(1), -1] = True
    return window[~itself].reshape(len(words), count)
