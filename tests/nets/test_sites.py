"""Names of sites: ours, plain layers, and TransformerLens's."""

from __future__ import annotations

import pytest

from cutaway.base.errors import UserError
from cutaway.nets.sites import EMBED, WORDS, Site, hook_name, parse_site, parse_sites, residual


@pytest.mark.parametrize(
    ("name", "site"),
    [
        ("6", Site("residual", 6)),
        (6, Site("residual", 6)),
        (-1, EMBED),
        ("-1", EMBED),
        ("embed", EMBED),
        (" residual.6 ", Site("residual", 6)),
        ("attention.0", Site("attention", 0)),
        ("mlp.11", Site("mlp", 11)),
        ("blocks.6.hook_resid_post", Site("residual", 6)),
        ("blocks.6.hook_resid_pre", Site("residual", 5)),
        ("blocks.0.hook_resid_pre", EMBED),
        ("blocks.6.hook_attn_out", Site("attention", 6)),
        ("blocks.6.hook_mlp_out", Site("mlp", 6)),
        ("hook_embed", WORDS),
        ("words", WORDS),
        ("middle.3", Site("middle", 3)),
        ("blocks.3.hook_resid_mid", Site("middle", 3)),
        ("blocks.3.attn.hook_z", Site("heads", 3)),
        ("blocks.3.mlp.hook_post", Site("neurons", 3)),
    ],
)
def test_every_accepted_name_is_read(name: str | int, site: Site) -> None:
    assert parse_site(name, 12) == site


def test_a_name_written_is_the_name_read() -> None:
    kinds = ("heads", "attention", "middle", "neurons", "mlp", "residual")
    sites = [WORDS, EMBED, *(Site(kind, 3) for kind in kinds)]
    assert [str(site) for site in sites] == ["words", "embed", *(f"{kind}.3" for kind in kinds)]
    assert [parse_site(str(site)) for site in sites] == sites
    assert [parse_site(hook_name(site)) for site in sites] == sites


def test_sites_order_as_a_forward_pass_meets_them() -> None:
    names = ["residual.1", "mlp.0", "embed", "attention.1", "residual.0", "attention.0", "mlp.1"]
    assert [str(site) for site in sorted(map(parse_site, names))] == [
        "embed", "attention.0", "mlp.0", "residual.0", "attention.1", "mlp.1", "residual.1",
    ]  # fmt: skip


def test_lists_of_sites() -> None:
    assert parse_sites("all", 3) == [residual(0), residual(1), residual(2)]
    assert parse_sites("0,6,11", 12) == [residual(0), residual(6), residual(11)]
    assert parse_sites("mlp.0, embed", 12) == [Site("mlp", 0), EMBED]
    assert parse_sites([0, "residual.0", EMBED], 12) == [residual(0), EMBED]
    assert parse_sites(-1, 12) == [EMBED]


@pytest.mark.parametrize(
    "name",
    ["six", "", "-2", "1.5", "residual", "residual.-1", "mlp.x", "blocks.6.hook_q", "²", "mlp.²",
     "mlp.٣", "1" * 5000, "mlp." + "1" * 5000,
     "blocks.6.attn.hook_k", "head.3"],
)  # fmt: skip
def test_other_names_are_refused_with_what_is_accepted(name: str) -> None:
    with pytest.raises(UserError, match=r"expected a layer \(6; -1 is embed\), embed, residual\.6"):
        parse_site(name)


@pytest.mark.parametrize("name", ["12", "mlp.12", "blocks.12.hook_resid_post"])
def test_a_layer_the_model_lacks_is_refused(name: str) -> None:
    with pytest.raises(
        UserError, match=f"layer = '{name}'|layer = '.*': the model has layers 0 to 11"
    ):
        parse_site(name, 12)


@pytest.mark.parametrize("sites", ["", ",", []])
def test_a_list_without_sites_is_refused(sites: str | list[str]) -> None:
    with pytest.raises(UserError, match="names no site"):
        parse_sites(sites, 12)


def test_a_site_that_cannot_be_is_refused() -> None:
    for kind, layer in (("embed", 0), ("mlp", -1), ("head", 2)):
        with pytest.raises(UserError, match="site = "):
            Site(kind, layer)  # type: ignore[arg-type]
