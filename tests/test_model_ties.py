"""Embedding and unembedding as files hold them: what Transformers loads is what is measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import zoo
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from circuit_econ.errors import CheckpointError
from circuit_econ.model import Format, Model, Source, inventory
from circuit_econ.model.check import check_against_bridge

FAMILIES = ("gpt2", "llama", "neox")
EMBED = {
    "gpt2": "transformer.wte.weight",
    "llama": "model.embed_tokens.weight",
    "neox": "gpt_neox.embed_in.weight",
}
HEAD = {"gpt2": "lm_head.weight", "llama": "lm_head.weight", "neox": "embed_out.weight"}


def checkpoint(name: str, *, tied: bool, **change: Any) -> Source:
    """A checkpoint with one tensor under both names, but for ``embed`` and ``head`` as given."""
    case = zoo.case_named(name)
    tensors = {k: v.float() for k, v in case.tensors(0).items()}
    tensors[HEAD[name]] = tensors[EMBED[name]].clone()
    for key, value in change.items():
        where = {"embed": EMBED[name], "head": HEAD[name]}.get(key, "lm_head.weight")
        if value is None:
            del tensors[where]
        else:
            tensors[where] = tensors[where if where in tensors else EMBED[name]] * value
    config = {**case.config(), "tie_word_embeddings": tied}
    return Source(Format.HUGGING_FACE, config, tensors, "run/step5")


def logits(source: Source, folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Ours, and those of what Transformers loads from the same folder."""
    (folder / "config.json").write_text(json.dumps(source.config))
    save_file(dict(source.tensors), folder / "model.safetensors", metadata={"format": "pt"})
    loaded = AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation="eager", dtype=torch.float32
    )
    tokens = torch.arange(10)[None]
    model = Model.from_source(source)
    with torch.no_grad():
        return model.logits(model.run(model.embed(tokens))), loaded(tokens).logits


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize(
    ("change", "one"),
    [
        ({"head": None}, True),
        ({"embed": None}, True),
        ({}, True),
        ({"head": 2.0}, False),
    ],
    ids=["embedding-alone", "head-alone", "both-equal", "both-differ"],
)
def test_tied_by_configuration_is_what_transformers_makes_of_the_file(
    name: str, change: dict[str, Any], one: bool, tmp_path: Path
) -> None:
    source = checkpoint(name, tied=True, **change)
    ours, theirs = logits(source, tmp_path)
    assert float((ours - theirs).abs().max()) < 1e-4 * float(theirs.abs().max())
    assert Model.from_source(source).config.tied == one
    assert set(source.tensors) == inventory(source).read
    tokens = torch.arange(10)[None]
    assert check_against_bridge(source, tokens, tokens) < 1e-5


def test_a_tie_that_opens_later_opens_here() -> None:
    # The same configuration, names and shapes: only the contents say that the two drifted apart.
    tokens = torch.arange(10)[None]
    losses = []
    for factor in (1.0, 1.001):
        model = Model.from_source(checkpoint("gpt2", tied=True, head=factor), torch.float64)
        losses.append(float(model.loss(tokens, tokens)))
    assert abs(losses[0] - losses[1]) > 1e-4


@pytest.mark.parametrize("name", FAMILIES)
def test_untied_models_need_both(name: str) -> None:
    source = checkpoint(name, tied=False, head=None)
    with pytest.raises(CheckpointError, match=f"tensor '{HEAD[name]}' is missing"):
        Model.from_source(source)
    assert inventory(source).missing == {HEAD[name]}
    with pytest.raises(CheckpointError, match=f"tensor '{EMBED[name]}' is missing"):
        Model.from_source(checkpoint(name, tied=False, embed=None))


def test_an_unembedding_under_two_names_must_be_one() -> None:
    same = checkpoint("neox", tied=False, other=1.0)
    Model.from_source(same)
    with pytest.raises(CheckpointError, match="'embed_out.weight' and 'lm_head.weight' differ"):
        Model.from_source(checkpoint("neox", tied=False, other=2.0))


@pytest.mark.parametrize(
    ("name", "extra", "shape"),
    [
        ("llama", "model.layers.0.self_attn.q_proj.bias", (24,)),
        ("llama", "model.layers.2.self_attn.q_proj.weight", (24, 24)),
        ("llama", "model.layers.0.self_attn.q_norm.weight", (6,)),
        ("gpt2", "lm_head.bias", (23,)),
        ("neox-unbiased", "gpt_neox.layers.0.attention.dense.bias", (32,)),
    ],
)
def test_tensors_that_transformers_leaves_out_change_nothing_and_are_named(
    name: str, extra: str, shape: tuple[int, ...]
) -> None:
    plain = zoo.case_named(name).source(0)
    tensors = {**plain.tensors, extra: torch.ones(shape, dtype=torch.float64)}
    source = Source(plain.format, plain.config, tensors, "here")
    tokens = torch.arange(10)[None]
    ours = [Model.from_source(s, torch.float64).loss(tokens, tokens) for s in (plain, source)]
    assert ours[0] == ours[1]
    assert check_against_bridge(source, tokens, tokens) < 1e-5  # Transformers agrees
    found = inventory(source)
    assert set(source.tensors) - found.read - found.ignored == {extra}  # the audit says so


def test_tables_of_older_releases_must_be_those_of_the_configuration() -> None:
    case = zoo.case_named("tl-published")
    source = case.source(0)
    name = "blocks.1.attn.mask"
    source.tensors[name] = source.tensors[name].triu(-3)  # sees four positions back
    with pytest.raises(CheckpointError, match=f"'{name}' is not what config.json describes"):
        Model.from_source(source)

    rotary = zoo.case_named("tl-rotary").source(0)
    angles = torch.outer(torch.arange(zoo.N_CTX), 100.0 ** -(torch.arange(0, 4, 2) / 4))
    angles = angles.repeat_interleave(2, 1)
    tables = {"blocks.0.attn.rotary_sin": angles.sin(), "blocks.0.attn.rotary_cos": angles.cos()}
    source = Source(rotary.format, rotary.config, {**rotary.tensors, **tables}, "here")
    tokens = torch.arange(10)[None]
    assert check_against_bridge(source, tokens, tokens) < 1e-5
    source.tensors["blocks.0.attn.rotary_sin"] = (2 * angles).sin()
    with pytest.raises(CheckpointError, match=r"'blocks.0.attn.rotary_sin' is not what"):
        Model.from_source(source)
