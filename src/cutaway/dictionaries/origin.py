"""What a dictionary of another library says of its origin, held against what it is used with.

A dictionary trained here knows the hash of its model; another library's file gives a name, a hook
and whether contexts began with BOS. Names can differ for one model and agree for two, so that what
does not fit is told in a notice, and not refused.
"""

from __future__ import annotations

from dataclasses import replace

from cutaway.activations.reading import special_tokens
from cutaway.activations.store import ActivationStore
from cutaway.base.display import notice
from cutaway.base.errors import UserError
from cutaway.dictionaries.model.dictionary import Dictionary
from cutaway.nets.model import Model, ModelReference
from cutaway.nets.sites import Site, parse_site
from cutaway.text.reading import Reading

LIBRARIES = {
    "saelens": "SAELens",
    "sparsify": "sparsify",
    "dictionary_learning": "dictionary_learning",
    "gemma_scope": "Gemma Scope",
}
_NAMED = ("saelens", "dictionary_learning")  # whose source.model is a model's name
_ALIASES = {"gpt2-small": "gpt2", "distillgpt2": "distilgpt2"}  # TransformerLens's


def units(dictionary: Dictionary) -> str | None:
    """One sentence on the units of a dictionary's features; None where they move a raw state by
    their own length, as ours do."""
    length = dictionary.row_lengths()
    if length is None:
        return None
    low, high = float(length.min()), float(length.max())
    library = LIBRARIES.get(str(dictionary.metadata.get("units")), "the file")
    return (
        f"activations are those of {library}, whose decoder rows have lengths from {low:.3g} to "
        f"{high:.3g}: one moves a state by itself times the length of its row"
    )


def hook(dictionary: Dictionary) -> str | None:
    """The hook another library trained it at, where that is no site of ours."""
    source = dictionary.metadata.get("source") or {}
    if source.get("format") != "saelens" or dictionary.metadata.get("site") is not None:
        return None
    return source.get("hook")


def model_name(dictionary: Dictionary) -> str | None:
    """The model another library's file names; None where it is known by its hash, or not at all."""
    source = dictionary.metadata.get("source") or {}
    if dictionary.metadata.get("reference") or source.get("format") not in _NAMED:
        return None
    name = source.get("model")
    return name if isinstance(name, str) and name not in ("", "none") else None


def compare_model(dictionary: Dictionary, reference: ModelReference) -> None:
    """A notice, once for a dictionary, where its file names another model than this."""
    name = model_name(dictionary)
    if name is None or _plain(name) == _plain(reference.id):
        return
    told = dictionary.__dict__.setdefault("_told_models", set())
    if reference.id not in told:
        told.add(reference.id)
        notice(
            f"dictionary: its file names the model {name!r}, and {reference.id} is used; unless "
            "they are the same model, what follows means nothing"
        )


def compare_store(dictionary: Dictionary, store: ActivationStore) -> None:
    """A notice where a store's text was read otherwise than that it was trained on."""
    recorded = dictionary.metadata.get("reading")
    if recorded is not None:
        if told := store.reading.differences(Reading.from_json(recorded), store.tokenizer):
            notice(
                f"dictionary: trained on text that was read otherwise than that of {store.path} "
                f"({'; '.join(told)})"
            )
        return
    wanted = dictionary.metadata.get("bos")
    has = store.manifest["data"].get("bos") is not None
    if wanted is not None and bool(wanted) != has:
        theirs, ours = ("with", "without") if wanted else ("without", "with")
        notice(
            f"dictionary: trained on contexts {theirs} BOS, and those of {store.path} are {ours} it"
        )


def reading(dictionary: Dictionary, model: Model) -> Reading:
    """How text is read for it: as in training, whatever the tokenizer would do by itself.

    What is recorded, or of a file from before readings (and of another library's) what it says of
    BOS, with `end_of_text` after documents. Another library's that says nothing of BOS is read with
    the special tokens that the model's tokenizer adds.
    """
    about = dictionary.metadata
    if about.get("reading") is not None:
        return Reading.from_json(about["reading"])
    length, end = about.get("context_length"), model.reads.end_of_text
    found = Reading.of_before(None, end, length)
    if begins_with_bos(dictionary, model):
        found = replace(found, prefix=special_tokens(model, True)[0])
    elif about.get("bos") is None and about.get("reference") is None:
        before, after = special_tokens(model)
        found = replace(found, prefix=before, suffix=after)
    return replace(found, skip_first=about.get("positions") != "all")


def first_position(dictionary: Dictionary) -> int:
    """The first position of a context whose state it was trained on."""
    about = dictionary.metadata
    recorded = about.get("reading")
    prefix = () if recorded is None else Reading.from_json(recorded).prefix
    return max(int(about.get("positions") != "all"), len(prefix), int(bool(about.get("bos"))))


def begins_with_bos(dictionary: Dictionary, model: Model) -> bool:
    """Whether texts are read with BOS in front, as in training.

    A foreign dictionary's text is read without, and a notice says so, where the model has none.
    """
    about = dictionary.metadata
    if about.get("bos") and model.bos_id is None and about.get("units"):
        notice(
            f"dictionary: trained on contexts with BOS (prepend_bos), and {model.reference.id} "
            "names no BOS token; text is read without"
        )
        return False
    return bool(about.get("bos"))


def context_length(dictionary: Dictionary, model: Model) -> int | None:
    """Tokens of a context in training, at most what the model reads; None where it is not known."""
    length = dictionary.metadata.get("context_length")
    if length is None or model.max_length is None or not dictionary.metadata.get("units"):
        return length
    return min(length, model.max_length)


def site_of(dictionary: Dictionary, site: str | int | Site | None = None) -> Site:
    """The site given, else the one the dictionary was trained on; UserError where neither is known."""
    require_of_model(dictionary)
    known = dictionary.metadata.get("site")
    if site is None and known is None and (place := hook(dictionary)) is not None:
        raise UserError(
            f"site: this dictionary was trained at {place}, which is no site we read; if it is the "
            "same place as one, name that, as in --site residual.6"
        )
    if site is None and known is None:
        raise UserError(
            "site: this dictionary does not say where it was trained; name its site, as in "
            "--site residual.6"
        )
    return parse_site(known if site is None else site)


def skips_first(dictionary: Dictionary) -> bool:
    """Whether it was trained without position 0, an attention sink; so where it does not say."""
    return dictionary.metadata.get("positions") != "all"


def require_of_model(dictionary: Dictionary) -> None:
    """UserError where the dictionary was trained on synthetic states."""
    if dictionary.metadata.get("synthetic") is not None:
        place = dictionary.metadata.get("run", "dictionary")
        raise UserError(
            f"{place}: was trained on synthetic states; there is no model to read or change with it"
        )


def require_model(dictionary: Dictionary, reference: ModelReference, width: int) -> None:
    """UserError where states of this width or model are not what the dictionary was trained on."""
    require_of_model(dictionary)
    if width != dictionary.shape.d_model:
        raise UserError(
            f"dictionary: made for states of width {dictionary.shape.d_model}, and "
            f"{reference.id} has {width}"
        )
    recorded = dictionary.metadata.get("reference")
    if recorded and not ModelReference.from_json(recorded).same_model(reference):
        raise UserError(
            f"dictionary: trained on {recorded.get('id')}, and {reference.id} has other weights "
            "or another tokenizer"
        )
    compare_model(dictionary, reference)


def require_model_at(dictionary: Dictionary, model: Model, site: str | int | Site | None) -> Site:
    """The site, of width d, at which a model has what the dictionary reads (`site_of`); UserError for
    another model's dictionary and for a site that the model lacks."""
    place = site_of(dictionary, site)
    own = place.kind in ("heads", "neurons")  # of another width than the model
    require_model(dictionary, model.reference, model.width_at(place) if own else model.width)
    model.place_of(place)
    return place


def _plain(name: str) -> str:
    last = name.replace("\\", "/").rstrip("/").rpartition("/")[2].lower()
    return _ALIASES.get(last, last)
