"""Language models and tokenizers as the phases use them: loaded from a local folder."""

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from workflow.config.section import ConfigError
from workflow.prompts import end_of_turn

disable_progress_bar()  # of loading weights: a thousand carriage returns in every log


class ModelFacts(NamedTuple):
    """What config.json tells of a model without its weights."""

    layers: int
    """Transformer blocks of the text decoder."""
    d_model: int
    """Width of the residual stream."""
    vocab: int
    """Rows of the embedding."""
    architecture: str
    """Class name, such as LlamaForCausalLM."""


def load_tokenizer(folder: Path | str) -> PreTrainedTokenizerBase:
    """The tokenizer of a model's folder, padding on the left.

    Raises:
        ConfigError: it has no padding token, or one that also ends a turn: masks made of it would hide real ends.
    """
    # the padding side is not saved with a tokenizer, so it is set at every load
    tokenizer = AutoTokenizer.from_pretrained(str(folder), padding_side="left", local_files_only=True)
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        raise ConfigError(
            f"The tokenizer in {folder} must have a padding token other than its end token; got pad = {tokenizer.pad_token!r}, "
            f"end = {tokenizer.eos_token!r}. Set pad_token in its tokenizer_config.json to a token that no text uses."
        )
    return tokenizer


def load_model(folder: Path | str, device: torch.device, dtype: torch.dtype) -> PreTrainedModel:
    """The causal language model of a folder in eval mode, in exactly this number format; nothing is fetched."""
    model: Any = AutoModelForCausalLM.from_pretrained(str(folder), dtype=dtype, local_files_only=True)
    return model.to(device).eval()


def trunk(model: PreTrainedModel) -> nn.Module:
    """The model without its language-model head: token ids in, last hidden states out."""
    found = model.get_decoder()
    if found is None or found is model:
        raise ConfigError(
            f"A policy must be a causal language model with a decoder below its head; {type(model).__name__} shows none. "
            "Choose another model."
        )
    return found


def blocks(model: PreTrainedModel) -> nn.ModuleList:
    """The transformer blocks of the text decoder, in order, whatever the architecture calls them.

    A block returns a bare tensor in transformers 5 and a tuple before.

    Raises:
        ConfigError: no list of modules has as many entries as the configuration has layers.
    """
    layers = model.config.get_text_config().num_hidden_layers
    for module in trunk(model).modules():  # outer modules come first, so experts inside a block are never taken for it
        if isinstance(module, nn.ModuleList) and len(module) == layers:
            return module
    raise ConfigError(
        f"A policy must hold its {layers} transformer blocks in one list; {type(model).__name__} has none of that length. "
        "Choose another model."
    )


def end_ids(tokenizer: PreTrainedTokenizerBase, listed: Any) -> list[int]:
    """All token ids that end a response, rising: those listed, the tokenizer's end token, what its chat template ends a turn with.

    Args:
        tokenizer: the policy's.
        listed: `eos_token_id` of the generation configuration: an id, several, or None.
    """
    ids = listed if isinstance(listed, list | tuple) else [listed]
    own: list[Any] = [tokenizer.eos_token_id, end_of_turn(tokenizer)]
    return sorted({int(token) for token in (*ids, *own) if token is not None})


def model_facts(folder: Path | str) -> ModelFacts:
    """Layers, width, vocabulary and class of a model's folder, from its config.json alone."""
    config = AutoConfig.from_pretrained(str(folder), local_files_only=True)
    text = config.get_text_config()
    architecture = (config.architectures or [type(config).__name__])[0]
    return ModelFacts(text.num_hidden_layers, text.hidden_size, text.vocab_size, architecture)


def tokenizer_digest(folder: Path | str) -> str:
    """sha256 of how a folder's tokenizer maps text to ids, in hex: the same for two spellings of the same tokenizer.

    It covers vocabulary, merges, normaliser, pre-tokeniser and special tokens, not the chat template and not padding.
    """
    tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    meaning: dict[str, Any] = json.loads(backend.to_str()) if backend else {"vocab": tokenizer.get_vocab()}
    for setting in ("padding", "truncation"):  # left over from the last call before it was saved
        meaning.pop(setting, None)
    return hashlib.sha256(json.dumps(meaning, sort_keys=True).encode()).hexdigest()
