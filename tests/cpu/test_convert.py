"""The converter: weights, configuration, and folders that appear whole or not at all."""

import json
import struct
import threading
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_gguf import HEADS, HIDDEN, KV_HEADS, Array, model_weights, permute, write_gguf

from sglang_paste.errors import ConfigError
from sglang_paste.patches.cpu import convert as converter
from sglang_paste.patches.cpu.convert import Gguf, check_weights, convert, main, packaged_gguf, unpermute

F32, F16, Q4_1, Q8_0 = (gguf.GGMLQuantizationType[name] for name in ("F32", "F16", "Q4_1", "Q8_0"))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write_gguf(tmp_path / "model.gguf", model_weights())
    return tmp_path / "model.gguf"


def test_unquantised_weights_come_back_as_they_were(source: Path, tmp_path: Path) -> None:
    assert convert(source, tmp_path / "out")
    written = load_file(tmp_path / "out" / "model.safetensors")
    wanted = {name: torch.from_numpy(weight).to(torch.bfloat16) for name, weight in model_weights().items()}
    assert written.keys() == wanted.keys()
    for name, weight in wanted.items():
        assert torch.equal(written[name], weight), name


def by_hand(raw: bytes, kind: gguf.GGMLQuantizationType) -> list[float]:
    """Blocks of 32 values, as the format defines them."""
    values: list[float] = []
    if kind == Q8_0:
        for block in struct.iter_unpack("<e32b", raw):
            values += [block[0] * quant for quant in block[1:]]
    else:
        for scale, least, nibbles in struct.iter_unpack("<ee16s", raw):
            values += [scale * (byte & 15) + least for byte in nibbles]
            values += [scale * (byte >> 4) + least for byte in nibbles]
    return values


@pytest.mark.parametrize("kind", [F16, Q4_1, Q8_0])
def test_quantised_weights_are_those_of_the_file(tmp_path: Path, kind: gguf.GGMLQuantizationType) -> None:
    write_gguf(tmp_path / "model.gguf", model_weights(), kind)
    convert(tmp_path / "model.gguf", tmp_path / "out")
    written = load_file(tmp_path / "out" / "model.safetensors")
    for name, _, tensor in Gguf(tmp_path / "model.gguf").tensors():
        if tensor.tensor_type == kind:
            raw = tensor.data.tobytes()
            values = np.frombuffer(raw, np.float16) if kind == F16 else by_hand(raw, kind)
            theirs = np.array(values, np.float32).reshape(written[name].shape)
            heads = {"q_proj": HEADS, "k_proj": KV_HEADS}.get(name.split(".")[-2])
            ours = written[name].float().numpy()
            ours = permute(ours, heads) if heads else ours
            np.testing.assert_allclose(ours, theirs, rtol=2**-8, atol=1e-6, err_msg=name)


@pytest.mark.parametrize(("heads", "size"), [(1, 2), (3, 8), (9, 64), (2, 6)])
def test_unpermute_undoes_permute(heads: int, size: int) -> None:
    weight = np.random.default_rng(0).standard_normal((heads * size, 5), dtype=np.float32)
    assert np.array_equal(unpermute(permute(weight, heads), heads), weight)
    assert size == 2 or not np.array_equal(permute(weight, heads), weight)


class TestCheck:
    """Everything that could go wrong with weights is told apart from the right ones."""

    @pytest.fixture
    def weights(self, source: Path, tmp_path: Path) -> dict[str, torch.Tensor]:
        convert(source, tmp_path / "out")
        return load_file(tmp_path / "out" / "model.safetensors")

    def refused(self, weights: dict[str, torch.Tensor], source: Path, words: str) -> None:
        path = source.with_name("wrong.safetensors")
        save_file(weights, path)
        with pytest.raises(ConfigError, match=words):
            check_weights(Gguf(source), path)

    def test_rows_left_in_the_order_of_llama_cpp(self, weights: dict[str, torch.Tensor], source: Path) -> None:
        name = "model.layers.1.self_attn.k_proj.weight"
        kept: Array = permute(weights[name].float().numpy(), KV_HEADS)
        self.refused(weights | {name: torch.from_numpy(kept)}, source, name)

    def test_one_value_off_by_two_units(self, weights: dict[str, torch.Tensor], source: Path) -> None:
        name = "model.layers.0.mlp.up_proj.weight"
        changed = weights[name].clone()
        changed[3, 7] *= 1 + 2**-6
        self.refused(weights | {name: changed}, source, name)

    def test_not_a_number(self, weights: dict[str, torch.Tensor], source: Path) -> None:
        self.refused(weights | {"model.norm.weight": torch.full((HIDDEN,), torch.nan)}, source, "model.norm")

    def test_transposed(self, weights: dict[str, torch.Tensor], source: Path) -> None:
        name = "model.layers.0.mlp.down_proj.weight"
        self.refused(weights | {name: weights[name].T.contiguous()}, source, name)

    def test_lacking_and_left_over(self, weights: dict[str, torch.Tensor], source: Path) -> None:
        self.refused(weights | {"lm_head.weight": torch.zeros(1)}, source, r"has lm_head.weight, which .* lacks")
        del weights["model.norm.weight"]
        self.refused(weights, source, "lacks model.norm.weight")


def test_configuration(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["rope_parameters"] == {"rope_type": "default", "rope_theta": 100000.0}
    assert (config["num_attention_heads"], config["num_key_value_heads"], config["head_dim"]) == (4, 2, 16)
    assert config["rms_norm_eps"] == 1e-5
    assert config["tie_word_embeddings"]
    assert (config["bos_token_id"], config["eos_token_id"], config["pad_token_id"]) == (1, 2, 2)


def test_tiny_has_the_vocabulary_and_no_weights(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "whole")
    convert(source, tmp_path / "tiny", tiny=True)
    assert not (tmp_path / "tiny" / "model.safetensors").exists()
    config = json.loads((tmp_path / "tiny" / "config.json").read_text())
    assert (config["num_hidden_layers"], config["hidden_size"]) == (2, 128)
    assert config["head_dim"] * config["num_attention_heads"] == 128
    for name in ("tokenizer.json", "chat_template.jinja"):
        assert (tmp_path / "tiny" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


class TestFolder:
    def test_made_once_and_again_when_the_file_changes(self, source: Path, tmp_path: Path) -> None:
        out = tmp_path / "deep" / "out"
        assert convert(source, out)
        assert not convert(source, out)
        write_gguf(source, model_weights(seed=1))
        assert convert(source, out)
        assert not convert(source, out)
        assert [path.name for path in out.parent.iterdir()] == ["out"]

    def test_a_failure_leaves_what_was_there(
        self, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        out = tmp_path / "models" / "out"
        convert(source, out)
        before = (out / "model.safetensors").read_bytes()
        write_gguf(source, model_weights(seed=1))
        monkeypatch.setattr(converter, "unpermute", lambda weight, heads: np.array(weight))
        with pytest.raises(ConfigError, match="convert again"):
            convert(source, out)
        assert (out / "model.safetensors").read_bytes() == before
        assert [path.name for path in out.parent.iterdir()] == ["out"]

    def test_a_half_made_folder_is_made_again(self, source: Path, tmp_path: Path) -> None:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "model.safetensors").write_bytes(b"cut off")
        assert convert(source, tmp_path / "out")
        assert len(load_file(tmp_path / "out" / "model.safetensors")) == 20

    def test_two_at_once(self, source: Path, tmp_path: Path) -> None:
        out = tmp_path / "models" / "out"
        threads = [threading.Thread(target=convert, args=(source, out)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not convert(source, out)
        assert [path.name for path in out.parent.iterdir()] == ["out"]


class TestRefusals:
    def test_another_architecture(self, tmp_path: Path) -> None:
        write_gguf(tmp_path / "model.gguf", model_weights(), architecture="qwen2")
        with pytest.raises(ConfigError, match="architecture 'qwen2'"):
            convert(tmp_path / "model.gguf", tmp_path / "out")

    def test_an_unknown_tokenizer(self, tmp_path: Path) -> None:
        write_gguf(tmp_path / "model.gguf", model_weights(), pre="llama-bpe")
        with pytest.raises(ConfigError, match="tokenizer gpt2/llama-bpe"):
            convert(tmp_path / "model.gguf", tmp_path / "out")

    @pytest.mark.parametrize("name", ["rope_freqs.weight", "blk.0.attn_q.bias", "blk.x.attn_q.weight"])
    def test_a_tensor_without_a_place(self, tmp_path: Path, name: str) -> None:
        write_gguf(tmp_path / "model.gguf", model_weights(), extra=name)
        with pytest.raises(ConfigError, match=f"tensor {name}"):
            convert(tmp_path / "model.gguf", tmp_path / "out")

    def test_files_that_are_none(self, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main([str(tmp_path / "out"), "--gguf", str(tmp_path / "absent")]) == 1
        (tmp_path / "text").write_text("not a model")
        assert main([str(tmp_path / "out"), "--gguf", str(tmp_path / "text")]) == 1
        (tmp_path / "cut").write_bytes(source.read_bytes()[:-1000])
        assert main([str(tmp_path / "out"), "--gguf", str(tmp_path / "cut")]) == 1
        errors = capsys.readouterr().err.splitlines()
        assert len(errors) == 3
        assert "cannot be read (No such file or directory)" in errors[0]
        assert all("cannot be read as GGUF" in error for error in errors[1:])
        assert not (tmp_path / "out").exists()


def test_the_packaged_model(tmp_path: Path) -> None:
    source = Gguf(packaged_gguf())
    count = converter.write_weights(source, tmp_path / "model.safetensors")
    assert count == 272
    check_weights(source, tmp_path / "model.safetensors")
