"""Hub ids whose weights are in a GGUF file alone, from the hub's local cache and without a network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("gguf")
pytest.importorskip("accelerate")

from cutaway.base.errors import UserError
from cutaway.nets.reference import open_model
from cutaway.workbench.pipeline import name_of
from nets.gguf_files import write

COMMIT = "0123456789abcdef0123456789abcdef01234567"
ID = "small/llama-GGUF"


@pytest.fixture(autouse=True)
def no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("CUTAWAY_CACHE", str(tmp_path / "converted"))


def cached(tmp_path: Path, *names: str, more: tuple[str, ...] = ()) -> Path:
    """A snapshot in the layout of the hub's cache: its files are links to blobs."""
    place = tmp_path / "hub" / "models--small--llama-GGUF"
    snapshot = place / "snapshots" / COMMIT
    for folder in (place / "refs", place / "blobs", snapshot):
        folder.mkdir(parents=True)
    (place / "refs" / "main").write_text(COMMIT)
    for name in names:
        write(place / "blobs" / name.encode().hex(), "Q4_0")
        (snapshot / name).symlink_to(place / "blobs" / name.encode().hex())
    for name in more:
        (snapshot / name).write_text("text")
    return snapshot


def test_the_only_file_of_a_snapshot_is_the_model(tmp_path: Path) -> None:
    snapshot = cached(tmp_path, "llama.Q4_0.gguf", more=("README.md",))
    model = open_model(ID, device="cpu")
    reference = model.reference
    assert (reference.id, reference.revision) == (ID, COMMIT)
    assert "4 bits" in str(reference.quantisation)
    assert reference.same_model(open_model(snapshot / "llama.Q4_0.gguf", device="cpu").reference)
    assert open_model(name_of(reference), device="cpu").reference == reference


def test_several_files_are_named_and_nothing_is_chosen(tmp_path: Path) -> None:
    snapshot = cached(tmp_path, "llama.Q4_0.gguf", "llama.Q8_0.gguf")
    with pytest.raises(UserError) as caught:
        open_model(ID)
    said = str(caught.value)
    assert "2 GGUF files (llama.Q4_0.gguf, llama.Q8_0.gguf)" in said
    assert str(snapshot / "llama.Q4_0.gguf") in said
    assert len(said.splitlines()) == 1
    assert open_model(snapshot / "llama.Q8_0.gguf", device="cpu").n_layers == 2


@pytest.mark.parametrize("name", [ID, f"{ID}@{COMMIT}"])
def test_commands_that_need_its_tokenizer_alone_read_it_too(
    tmp_path: Path, cutaway: Callable[..., Any], name: str
) -> None:
    cached(tmp_path, "llama.Q4_0.gguf")
    rows = [f"{('the', 'th')[n % 2]} {n},{n % 2}" for n in range(60)]
    (tmp_path / "labels.csv").write_text("text,label\n" + "\n".join(rows))
    ask = ("probe", "data", name, "--labels", tmp_path / "labels.csv", "--out", "data")
    code, _, err = cutaway(*ask)
    assert code == 0, err


@pytest.mark.parametrize("count", [1, 2])
def test_of_a_repository_on_the_hub_only_its_one_file_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    import huggingface_hub

    names = ["README.md", *[f"llama-{one}.gguf" for one in range(count)]]
    asked: list[Any] = []

    def download(id: str, *, local_files_only: bool = False, **how: Any) -> str:
        if local_files_only:
            raise OSError("not in the cache")
        asked.append(how["allow_patterns"])
        return str(cached(tmp_path, "llama-0.gguf"))

    about = SimpleNamespace(siblings=[SimpleNamespace(rfilename=name) for name in names])
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, **__: about)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    if count == 1:
        assert open_model(ID, device="cpu").reference.id == ID
        assert asked == [["llama-0.gguf"]]
        return
    with pytest.raises(UserError, match="holds 2 GGUF files") as caught:
        open_model(ID)
    assert f"hf download {ID} llama-0.gguf" in str(caught.value)
    assert asked == []
