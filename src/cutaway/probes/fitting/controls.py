"""What a probe's score is worth: the same score where there is nothing to find, or less to find it with.

Labels: `shuffled`, and one random class per token type (`token_type_labels`). Predictors: what
the current token alone says (`current_token`), the difference of the classes' means (`mass_mean`),
and the model's own probability of the target (`model_reference`).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from cutaway.base import hardware
from cutaway.base.errors import UserError
from cutaway.base.seeds import torch_generator
from cutaway.stats.logistic import fit_logistic

_TRIES = 200  # redraws of a labelling of token types before there is no hope
_SMOOTHING = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)  # added examples tried, of each class
_SCALE_STRENGTH = 1e3  # hardly any penalty on one number; finite where classes do not overlap


def shuffled(label: Tensor, seed: int, part: str) -> Tensor:
    """The labels (n,) of a part in random order: as many of each class, none where it belongs.

    Both training and scoring labels must be shuffled, each within its part. Against the true test
    labels a probe of shuffled ones need not score at chance: some random directions go along with
    the true labels and others against them, by far more than the test part's own noise. Against
    shuffled labels the truth is chance exactly.
    """
    order = torch.randperm(len(label), generator=torch_generator(seed, 0, f"shuffled {part}"))
    return label[order.to(label.device)]


def token_type_labels(
    types: Mapping[str, Tensor], shares: Tensor, draws: int, seed: int
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A random class for each token type, the same wherever the type occurs (Hewitt & Liang 2019).

    `types` (n,) are the token ids of each part, `train` among them; `shares` (C,) the classes'
    probabilities. Returns labels (draws, n) of each part, and which of its examples (n,) are of a
    type that occurs in training: only there can a probe have learnt the label by heart, and
    selectivity (task less control) is of those. A draw whose training labels lack a class, or whose
    labels of seen types in another part are all of one, is drawn again from its next stream; UserError
    where 200 are, as with a single type.
    """
    ids, place = torch.cat(list(types.values())).unique(return_inverse=True)
    parts = dict(zip(types, place.split([len(one) for one in types.values()]), strict=True))
    known = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
    known[parts["train"]] = True
    seen = {part: known[at] for part, at in parts.items()}
    edges = (shares.double() / shares.double().sum()).cumsum(0)[:-1].cpu()
    wanted = int((shares > 0).sum())

    def drawn(draw: int) -> Tensor:
        for attempt in range(_TRIES):
            generator = torch_generator(seed, attempt, f"token types {draw}")
            uniform = torch.rand(len(ids), generator=generator, dtype=torch.float64)
            of_type = torch.bucketize(uniform, edges, right=True).to(ids.device)
            held = {part: len(of_type[at[seen[part]]].unique()) for part, at in parts.items()}
            if held.pop("train") == wanted and all(
                count > 1 for part, count in held.items() if bool(seen[part].any())
            ):
                return of_type
        raise UserError(
            f"token_type: {int(known.sum())} token types in training give no random labelling with "
            f"{wanted} classes in every part; leave this control out"
        )

    labellings = torch.stack([drawn(draw) for draw in range(draws)])
    return {part: labellings[:, at] for part, at in parts.items()}, seen


def current_token(
    train_types: Tensor,
    train_labels: Tensor,
    test_types: Tensor,
    n_classes: int,
    weight: Tensor | None = None,
) -> Tensor:
    """What the current token alone says: even log-probabilities (m, C) of test types (m,).

        p(c | t) = (k_ct + α) / (k_t + C α),   k_ct = Σ weights of class c on type t,

    classes weighted to equal sums first (mean weight 1). α is the one of 0.01 to 30 under which the
    training examples, each left out in turn, are likeliest. Types not seen in training are at even
    odds. Raises UserError where training lacks a class.
    """
    s = torch.ones_like(train_labels, dtype=torch.float64) if weight is None else weight.double()
    s = s / _class_mass(train_labels, n_classes, s)[train_labels] * len(s) / n_classes
    ids, type_of = train_types.unique(return_inverse=True)
    counts = s.new_zeros(len(ids), n_classes)
    counts.index_put_((type_of, train_labels), s, accumulate=True)
    own = counts[type_of, train_labels] - s
    all_of_type = counts.sum(-1)[type_of] - s
    alphas = s.new_tensor(_SMOOTHING)[:, None]
    left_out = ((own.clamp(min=0) + alphas) / (all_of_type.clamp(min=0) + n_classes * alphas)).log()
    alpha = alphas[(s * left_out).sum(-1).argmax()]
    table = ((counts + alpha) / (counts.sum(-1, keepdim=True) + n_classes * alpha)).log()
    at = torch.searchsorted(ids, test_types).clamp(max=len(ids) - 1)
    unseen = table.new_full((n_classes,), 1 / n_classes).log()
    return torch.where((ids[at] == test_types)[:, None], table[at], unseen)


def mass_mean(
    x: Tensor, label: Tensor, n_classes: int, weight: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The difference of the classes' means as a probe (Marks & Tegmark 2023, §5): weight (O, d), bias
    (O,), O = 1 for two classes, else C; x·weightᵀ + bias are logits at even odds.

        two classes: z = a·(μ₁ − μ₀)·(x − (μ₀ + μ₁)/2);   more: z_k = −a/2·‖x − μ_k‖² + const

    States x (n, d), labels (n,), `weight` (n,) ≥ 0. The threshold lies midway between the means; the
    one number a, fitted by logistic regression on z_y − z_k of the same examples with classes
    weighted equally, makes probabilities of it. Their variant for data like the training data puts
    Σ⁻¹ before the difference, which is linear discriminant analysis: not offered, since as a control
    this probe is to know nothing but the means. Raises UserError where a class is missing or all
    means are equal.
    """
    s = torch.ones_like(label, dtype=torch.float64) if weight is None else weight.double()
    mass = _class_mass(label, n_classes, s)
    dtype = torch.promote_types(x.dtype, torch.float32)
    centre = x.mean(0, dtype=hardware.wide(x.device)).to(dtype)
    x = x.to(dtype) - centre  # large means would leave the products no digits
    one_hot = torch.nn.functional.one_hot(label, n_classes).to(dtype)
    shares = one_hot * (s / mass[label]).to(dtype)[:, None]
    means = shares.T @ x
    middle = means.mean(0)
    directions = means - middle
    offsets = -(directions * middle).sum(-1) - directions.square().sum(-1) / 2
    z = x @ directions.T + offsets
    against = (z.gather(1, label[:, None]) - z)[one_hot == 0].view(len(x), n_classes - 1)
    each = (s / mass[label] * s.sum() / n_classes)[:, None].expand_as(against).flatten()
    margins = against.double().flatten()
    spread = ((each * margins.square()).sum() / each.sum()).sqrt()
    if not bool(spread > 0):
        raise UserError(
            "x: the classes' means are the same state, so there is nothing between them"
        )
    # Each margin also mirrored as the other label: by symmetry the intercept is then 0.
    margins = margins / spread
    fit = fit_logistic(
        torch.cat([margins, -margins])[:, None],
        torch.cat([torch.ones_like(margins), torch.zeros_like(margins)]),
        c=_SCALE_STRENGTH,
        weight=each.repeat(2),
    )
    scale = fit.weight[0] / spread
    rows, biases = directions.double() * scale, offsets.double() * scale
    if n_classes == 2:
        rows, biases = rows[1:] - rows[:1], biases[1:] - biases[:1]
    biases = biases - rows @ centre.double()
    return rows.to(dtype), biases.to(dtype)


def model_reference(
    train_log_odds: Tensor, train_labels: Tensor, log_odds: Tensor
) -> tuple[Tensor, Tensor]:
    """The model's own log-odds (m,) of the target as a classifier: even and natural log-probabilities
    (m, 2).

    Even: log-odds less the threshold under which balanced accuracy on the training examples is
    highest (between two scores, the middle; of several equal thresholds the lowest). Natural:
    what the model says itself, untouched. Raises UserError for log-odds that are not finite and
    where training lacks a class.
    """
    for name, odds in (("train_log_odds", train_log_odds), ("log_odds", log_odds)):
        if not bool(odds.isfinite().all()):
            raise UserError(f"{name}: holds values that are not finite")
    _class_mass(train_labels, 2, torch.ones_like(train_labels, dtype=torch.float64))
    order = train_log_odds.argsort()
    scores, positive = train_log_odds[order].double(), train_labels[order] == 1
    # threshold i lies before score i; the last one above all
    below = [torch.nn.functional.pad(side.cumsum(0), (1, 0)).double()
             for side in (positive, ~positive)]  # fmt: skip
    recall, specificity = 1 - below[0] / below[0][-1], below[1] / below[1][-1]
    edges = torch.cat([scores[:1] - 1, (scores[1:] + scores[:-1]) / 2, scores[-1:] + 1])
    between = torch.ones_like(edges, dtype=torch.bool)
    between[1:-1] = scores[1:] > scores[:-1]
    threshold = edges[torch.where(between, recall + specificity, -1.0).argmax()]
    shifted = log_odds - threshold.to(log_odds.dtype)
    even, natural = (
        torch.stack([torch.nn.functional.logsigmoid(-z), torch.nn.functional.logsigmoid(z)], -1)
        for z in (shifted, log_odds)
    )
    return even, natural


def _class_mass(label: Tensor, n_classes: int, weight: Tensor) -> Tensor:
    """Weight of each class, (C,); UserError where one has none."""
    mass = weight.new_zeros(n_classes).index_add(0, label, weight)
    if not bool((mass > 0).all()):
        raise UserError(f"label: no example of class {int((mass <= 0).nonzero()[0])}")
    return mass
