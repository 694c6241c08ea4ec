"""Step-level SAEs around the language models of a folder: built fresh, or filled with released weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from sae_core.models.step_sae import StepSAE
from workflow.config.section import ConfigError
from workflow.formats.published.step_saes import HINTS, PublishedStepSAE
from workflow.formats.step_saes import BASE, read_step_tensors
from workflow.step_tokens import StepTokenizer

SHOWN = 4
"""Disagreeing shapes that an error names."""
SHARED = "decoder.lm_head.weight", "decoder.model.embed_tokens.weight"


def filled_step_sae(
    published: PublishedStepSAE, base: Path | str, *, dtype: torch.dtype = torch.float32, prior: bool = False
) -> StepSAE:
    """The SSAE of a released file, in eval mode on the CPU; weights stay mapped from the file where their dtype is kept.

    Args:
        published: what `read_published` gave.
        base: folder of the base model; its config.json alone is read.
        prior: with the hints encoder, which encoding and reconstruction do not need.

    Raises:
        ConfigError: the base model's shapes are not those of the file, or the file lacks the hints encoder that is asked for.
    """
    sizes = published.sizes
    if prior and not published.has_hints_encoder:
        raise ConfigError(
            "The prior of codes needs hints_encoder.* in the file; it holds none. Use a file of training phase 2 or 3."
        )
    config: Any = AutoConfig.from_pretrained(str(base), local_files_only=True)
    with init_empty_weights(include_buffers=False):
        model = _around(_resized(config, sizes.vocab, sizes.blocks), sizes.d_model, sizes.factor, prior)
    own = {name: tensor for name, tensor in published.tensors.items() if prior or not name.startswith(HINTS)}
    _check_shapes(model, own, base, str(config.model_type))
    # float32 of the file stays float32 whatever the library's default is; a conversion is a copy in memory
    model.load_state_dict({name: tensor.to(dtype) for name, tensor in own.items()}, strict=True, assign=True)
    _tie(model)
    return model.requires_grad_(False).eval()


def fresh_step_sae(base: Path | str, *, factor: int, blocks: int | None, vocab: int, prior: bool = False) -> StepSAE:
    """A new SSAE in float32 around copies of a causal language model; new embedding rows and the bottleneck from torch's RNG.

    Args:
        blocks: the first so many transformer blocks of the language model; None: all.
        vocab: entries of the tokenizer with `<sep>`: embeddings get as many rows, as the released files have.
    """

    def backbone(kind: Any) -> nn.Module:
        config: Any = AutoConfig.from_pretrained(str(base), local_files_only=True)
        layers = config.get_text_config()
        _keep(layers, _blocks(layers.num_hidden_layers, blocks))
        model = kind.from_pretrained(str(base), config=config, dtype=torch.float32, local_files_only=True)
        model.resize_token_embeddings(vocab)
        return model

    decoder = backbone(AutoModelForCausalLM)
    d_model = decoder.config.get_text_config().hidden_size  # type: ignore[union-attr]  # a transformers model
    model = StepSAE(
        encoder=backbone(AutoModel),
        decoder=decoder,
        d_model=d_model,
        factor=factor,
        hints_encoder=backbone(AutoModel) if prior else None,
    )
    _tie(model)
    return model


def add_hints_encoder(model: StepSAE, base: Path | str) -> None:
    """Give an SSAE the reader of contexts that it lacks: the base model as it is, with the rows of `<sep>` from torch's RNG."""
    text = model.encoder.config.get_text_config()  # type: ignore[union-attr]  # a transformers model
    config: Any = AutoConfig.from_pretrained(str(base), local_files_only=True)
    _keep(config.get_text_config(), text.num_hidden_layers)
    found = AutoModel.from_pretrained(str(base), config=config, dtype=torch.float32, local_files_only=True)
    found.resize_token_embeddings(text.vocab_size)
    model.hints_encoder = found


def stored_step_sae(
    manifest: Path | str, *, dtype: torch.dtype = torch.float32, prior: bool = False
) -> tuple[StepSAE, dict[str, Any]]:
    """An SSAE that this software trained, in eval mode on the CPU, and the fields of its manifest.

    Raises:
        ConfigError: its files are damaged, or it lacks the hints encoder that `prior` asks for.
    """
    found, facts = read_step_tensors(manifest)
    return filled_step_sae(found, Path(manifest).with_name(BASE), dtype=dtype, prior=prior), facts


def save_base(model: StepSAE, tokenizer: StepTokenizer, folder: Path | str) -> None:
    """What an SSAE needs of its base model beside the weights: the configuration in the form it has in it, and the tokenizer."""
    decoder: Any = model.decoder
    decoder.config.save_pretrained(str(folder))
    tokenizer.tokenizer.save_pretrained(str(folder))


def released_shapes(base: Path | str, *, vocab: int, factor: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all tensors of a released file around this base model, in their order."""
    config: Any = AutoConfig.from_pretrained(str(base), local_files_only=True)
    text = config.get_text_config()
    with torch.device("meta"):
        model = _around(_resized(config, vocab, text.num_hidden_layers), text.hidden_size, factor, prior=True)
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def backbone_blocks(model: StepSAE) -> list[nn.Module]:
    """The transformer blocks of all its language models."""
    found: list[nn.Module] = []
    for backbone in (model.encoder, model.hints_encoder, model.decoder):
        if backbone is not None:
            layers = backbone.config.get_text_config().num_hidden_layers  # type: ignore[union-attr]  # a transformers model
            lists = (module for module in backbone.modules() if isinstance(module, nn.ModuleList) and len(module) == layers)
            found += next(lists)
    return found


def checkpoint_activations(model: StepSAE) -> None:
    """Let the language models compute their activations again in the backward pass: less memory, a third more time."""
    for backbone in (model.encoder, model.hints_encoder, model.decoder):
        if backbone is not None:
            found: Any = backbone
            # renamed within version 5 of transformers
            enable = getattr(found, "activation_checkpointing_enable", None) or found.gradient_checkpointing_enable
            enable({"use_reentrant": False})


def _blocks(has: int, wanted: int | None) -> int:
    if wanted is not None and not 1 <= wanted <= has:
        raise ConfigError(
            f"ssae.blocks must be 1 to {has}, the transformer blocks of the base model, or null for all; got {wanted}."
        )
    return wanted or has


def _keep(text: Any, blocks: int) -> None:
    """Let a configuration have the first blocks alone."""
    text.num_hidden_layers = blocks
    if getattr(text, "layer_types", None) is not None:
        text.layer_types = text.layer_types[:blocks]


def _resized(config: Any, vocab: int, blocks: int) -> Any:
    text = config.get_text_config()
    text.vocab_size = vocab
    _keep(text, blocks)
    return config


def _around(config: Any, d_model: int, factor: int, prior: bool) -> StepSAE:
    def backbone() -> nn.Module:
        return AutoModel.from_config(config)

    return StepSAE(
        encoder=backbone(),
        decoder=AutoModelForCausalLM.from_config(config),
        d_model=d_model,
        factor=factor,
        hints_encoder=backbone() if prior else None,
    )


def _check_shapes(model: StepSAE, tensors: Mapping[str, Tensor], base: Path | str, kind: str) -> None:
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    wrong = [
        f"{name} is {_said(found.get(name))} there and {_said(expected.get(name))} in the {kind}"
        for name in {**expected, **found}
        if found.get(name) != expected.get(name)
    ]
    if wrong:
        more = f" and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise ConfigError(
            f"The base model in {base} must have the shapes of the file's weights; {', '.join(wrong[:SHOWN])}{more}. "
            "Give the base model that the SSAE was trained around, or a whole file."
        )


def _said(shape: tuple[int, ...] | None) -> str:
    return "absent" if shape is None else "×".join(map(str, shape))


def _tie(model: StepSAE) -> None:
    """One storage for the head and the embedding where the base model ties them: two would drift apart in training."""
    decoder: Any = model.decoder
    if decoder.config.get_text_config().tie_word_embeddings:
        decoder.get_output_embeddings().weight = decoder.get_input_embeddings().weight
