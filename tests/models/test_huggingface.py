from __future__ import annotations

import builtins
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from weyl.errors import ModelSpecError
from weyl.models import load_model

pytest.importorskip("transformers")

TEXT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 24}
TEXT |= {"vocab_size": 50}
VISION = {**{k: v for k, v in TEXT.items() if k != "vocab_size"}, "image_size": 16, "patch_size": 8}
ENCODER_DECODER = {
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "vocab_size": 60,
}
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}

CONFIGS: dict[str, dict[str, Any]] = {
    "bert": {**TEXT},
    "gpt2": {"n_embd": 16, "n_layer": 1, "n_head": 4, "vocab_size": 50, "bos_token_id": 1, "eos_token_id": 1},
    "llama": {**TEXT, "num_key_value_heads": 2, "dtype": "bfloat16"},
    "mixtral": {**TEXT, "num_key_value_heads": 2, "num_local_experts": 4},
    "t5": {"d_model": 16, "d_kv": 4, "num_heads": 4, "d_ff": 24, "num_layers": 1, "vocab_size": 50},
    "vit": VISION,
    "convnext": {"hidden_sizes": [4, 6, 8, 10], "depths": [1, 1, 1, 1], "image_size": 32},
    "resnet": {"embedding_size": 8, "hidden_sizes": [16, 32], "depths": [1, 1]},
    "whisper": {**ENCODER_DECODER, **SPECIAL, "num_mel_bins": 8, "max_source_positions": 10},
    "mamba": {"hidden_size": 16, "num_hidden_layers": 1, "vocab_size": 50, "state_size": 4},
    "wav2vec2": {
        **TEXT,
        "conv_dim": [8] * 7,
        "num_conv_pos_embeddings": 4,
        "num_conv_pos_embedding_groups": 2,
    },
}

# Class that transformers documents for the task, and the shapes that follow from the sizes above.
EXPECTED: dict[str, tuple[str, dict[str, tuple[int, ...]]]] = {
    "bert": ("BertForSequenceClassification", {"input_ids": (2, 7)}),
    "gpt2": ("GPT2LMHeadModel", {"input_ids": (1, 7)}),
    "llama": ("LlamaForCausalLM", {"input_ids": (1, 7)}),
    "mixtral": ("MixtralForCausalLM", {"input_ids": (1, 7)}),
    "t5": ("T5ForConditionalGeneration", {"input_ids": (2, 7), "decoder_input_ids": (2, 5)}),
    "vit": ("ViTForImageClassification", {"pixel_values": (2, 3, 16, 16)}),
    "convnext": ("ConvNextForImageClassification", {"pixel_values": (2, 3, 32, 32)}),
    "resnet": ("ResNetForImageClassification", {"pixel_values": (2, 3, 224, 224)}),
    "whisper": (
        "WhisperForConditionalGeneration",
        {"input_features": (2, 8, 20), "decoder_input_ids": (2, 5)},
    ),
    "mamba": ("MambaForCausalLM", {"input_ids": (2, 7)}),
    "wav2vec2": ("Wav2Vec2ForSequenceClassification", {"input_values": (2, 2640)}),
}


def write(folder: Path, model_type: str, **changes: Any) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps({"model_type": model_type, **CONFIGS.get(model_type, {}), **changes}))
    return path


@pytest.mark.parametrize("model_type", CONFIGS)
def test_built_from_its_configuration_it_runs(tmp_path: Path, model_type: str) -> None:
    loaded = load_model(f"hf:{write(tmp_path, model_type)}")
    kind, shapes = EXPECTED[model_type]
    assert type(loaded.module).__name__ == kind
    assert {key: tuple(value.shape) for key, value in loaded.kwargs.items()} == shapes
    assert loaded.args == () and not loaded.module.training
    assert {p.dtype for p in loaded.module.parameters()} == {torch.float32}
    output = loaded.module(**loaded.kwargs)
    assert output.logits.isfinite().all()
    assert output.get("past_key_values") is None and output.get("cache_params") is None


@pytest.mark.parametrize("model_type", ["gpt2", "mixtral", "t5", "convnext"])
def test_it_exports_and_on_the_meta_device_too(tmp_path: Path, model_type: str) -> None:
    path = write(tmp_path, model_type)
    for spec in (f"hf:{path}", f"hf:{path}?meta=1"):
        loaded = load_model(spec)
        program = torch.export.export(loaded.module, (), dict(loaded.kwargs), strict=False)
        assert any(node.op == "call_function" for node in program.graph.nodes)


def test_meta_allocates_nothing(tmp_path: Path) -> None:
    # 7·10⁹ parameters, by the sizes of Touvron et al. 2023, Table 2, which are the defaults of transformers.
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    loaded = load_model(f"hf:{tmp_path}?meta=1")
    tensors = [*loaded.module.parameters(), *loaded.module.buffers(), *loaded.kwargs.values()]
    assert {t.device.type for t in tensors} == {"meta"}
    d, ff, vocab, layers = 4096, 11008, 32000, 32
    expected = layers * (4 * d * d + 3 * d * ff + 2 * d) + 2 * vocab * d + d
    assert sum(p.numel() for p in loaded.module.parameters()) == expected


def test_a_directory_means_its_config_json(tmp_path: Path) -> None:
    write(tmp_path, "bert")
    assert type(load_model(f"hf:{tmp_path}").module).__name__ == "BertForSequenceClassification"


def test_the_named_architecture_goes_before_the_usual_one(tmp_path: Path) -> None:
    path = write(tmp_path, "bert", architectures=["BertForMaskedLM"])
    assert type(load_model(f"hf:{path}").module).__name__ == "BertForMaskedLM"


def test_a_classifier_without_padding_id_runs(tmp_path: Path) -> None:
    path = write(tmp_path, "gpt2", architectures=["GPT2ForSequenceClassification"])
    loaded = load_model(f"hf:{path}")
    assert loaded.module(**loaded.kwargs).logits.shape == (1, 2)


def test_keywords_override_the_configuration(tmp_path: Path) -> None:
    path = write(tmp_path, "gpt2")
    # hidden_size is GPT-2's n_embd under its general name.
    module = load_model(f"hf:{path}?n_layer=3&hidden_size=8").module
    assert len(module.transformer.h) == 3 and module.transformer.wte.weight.shape == (50, 8)


def test_a_quantisation_does_not_matter(tmp_path: Path) -> None:
    path = write(tmp_path, "llama", quantization_config={"quant_method": "fp8"})
    assert load_model(f"hf:{path}").module.lm_head.weight.dtype == torch.float32


def test_token_ids_are_valid_and_not_padding(tmp_path: Path) -> None:
    ids = load_model(f"hf:{write(tmp_path, 'bert', vocab_size=3)}", (50, 8)).kwargs["input_ids"]
    assert set(ids.flatten().tolist()) == {1, 2}


def test_an_input_shape_is_that_of_the_main_input(tmp_path: Path) -> None:
    loaded = load_model(f"hf:{write(tmp_path, 't5')}", (3, 4))
    assert loaded.kwargs["input_ids"].shape == (3, 4)
    assert loaded.kwargs["decoder_input_ids"].shape == (3, 5)


def test_a_seed_fixes_weights_and_leaves_the_global_state(tmp_path: Path) -> None:
    path = write(tmp_path, "bert")
    before = torch.get_rng_state()
    first, again, other = (load_model(f"hf:{path}", seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    torch.testing.assert_close(first.module.state_dict(), again.module.state_dict(), rtol=0, atol=0)
    assert not torch.equal(first.module.bert.pooler.dense.weight, other.module.bert.pooler.dense.weight)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "is not JSON"),
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[1, 2]", "it has a list"),
        ("{}", "it has no model_type"),
        ('{"model_type": 3}', "it has no model_type"),
        ('{"model_type": "brt"}', "did you mean 'bert'"),
        ('{"model_type": "bert", "architectures": ["BertForMaskedLN"]}', "did you mean 'BertForMaskedLM'"),
        ('{"model_type": "bert", "architectures": ["os"]}', "no architecture 'os'"),
        ('{"model_type": "bert", "hidden_size": "wide"}', "not a configuration of bert"),
        (
            '{"model_type": "bert", "hidden_size": 10, "num_attention_heads": 4}',
            "BertForSequenceClassification",
        ),
        ("version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        ("<html>", "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
    ],
)
def test_bad_configurations_are_refused_in_one_line(tmp_path: Path, content: str | bytes, says: str) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ModelSpecError) as caught:
        load_model(f"hf:{path}")
    assert says in str(caught.value)
    assert str(caught.value).isprintable()
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("hiden_size=8", "did you mean 'hidden_size'"),
        ("meta=yes", "meta must be 0 or 1, got 'yes'"),
        ("hidden_size=-4", "BertForSequenceClassification"),
    ],
)
def test_bad_keywords_are_refused(tmp_path: Path, query: str, says: str) -> None:
    with pytest.raises(ModelSpecError, match=says):
        load_model(f"hf:{write(tmp_path, 'bert')}?{query}")


def test_missing_and_odd_files(tmp_path: Path) -> None:
    with pytest.raises(ModelSpecError, match="no such file"):
        load_model(f"hf:{tmp_path}")
    write(tmp_path, "bert")
    with pytest.raises(ModelSpecError, match=r"did you mean 'config\.json'"):
        load_model(f"hf:{tmp_path}/confg.json")
    os.mkfifo(tmp_path / "fifo.json")
    with pytest.raises(ModelSpecError, match="not a regular file"):
        load_model(f"hf:{tmp_path}/fifo.json")
    (tmp_path / "loop.json").symlink_to(tmp_path / "loop.json")
    with pytest.raises(ModelSpecError):
        load_model(f"hf:{tmp_path}/loop.json")
    with (tmp_path / "large.json").open("wb") as large:
        large.truncate(2**25)
    with pytest.raises(ModelSpecError, match="over 16 MiB"):
        load_model(f"hf:{tmp_path}/large.json")


def test_an_input_of_unknown_kind_asks_for_a_shape(tmp_path: Path) -> None:
    path = write(tmp_path, "time_series_transformer", prediction_length=4)
    with pytest.raises(ModelSpecError, match="--input-shape"):
        load_model(f"hf:{path}")


def test_without_transformers_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, real = write(tmp_path, "bert"), builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "transformers":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ModelSpecError, match=r"pip install 'weyl\[hf\]'"):
        load_model(f"hf:{path}")


def test_a_pretrained_backbone_is_not_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    from weyl.models.huggingface import _offline

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with _offline():
        assert constants.is_offline_mode()
    assert not constants.is_offline_mode()
