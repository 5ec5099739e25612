"""``hf:`` models: architectures of transformers, built from a configuration alone, offline and untrained."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from weyl._text import expanded
from weyl.errors import ModelSpecError
from weyl.models.builtin import BATCH, STEPS
from weyl.models.loaded import LoadedModel, near, one_line, seeded
from weyl.models.spec import ModelSpec

__all__ = ["example_inputs", "load_config", "read_config"]

LARGEST_CONFIG = 16 * 2**20

# Tried in this order when the configuration names no architecture. Masked-language models stand for encoders:
# transformers lists nearly every text model as a sequence classifier, and many encoders as causal, too.
TASKS = (
    ("MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES", "AutoModelForImageClassification"),
    ("MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES", "AutoModelForSpeechSeq2Seq"),
    ("MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES", "AutoModelForSeq2SeqLM"),
    ("MODEL_FOR_MASKED_LM_MAPPING_NAMES", "AutoModelForSequenceClassification"),
    ("MODEL_FOR_CAUSAL_LM_MAPPING_NAMES", "AutoModelForCausalLM"),
    ("MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES", "AutoModelForSequenceClassification"),
    ("MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES", "AutoModelForAudioClassification"),
    ("MODEL_MAPPING_NAMES", "AutoModel"),
)


def load_config(spec: ModelSpec, input_shape: tuple[int, ...] | None, seed: int) -> LoadedModel:
    """Build the model of a configuration with random float32 weights, in evaluation mode, without a cache.

    Only the logits count as its result, where it has any.

    Parameters
    ----------
    spec : ModelSpec
        Of kind ``hf``. Its keywords override fields of the configuration; ``meta=1`` builds on the meta
        device, where no weight is allocated.
    input_shape : tuple of int, optional
        Shape of the model's main input.
    seed : int
        Seed of weights and example inputs.

    Raises
    ------
    ModelSpecError
        If transformers is missing, the configuration cannot be read or built, or no example input is known.

    Examples
    --------
    >>> from weyl.models.spec import parse_spec
    >>> load_config(parse_spec("hf:nowhere/config.json"), None, 0)
    Traceback (most recent call last):
    ...
    weyl.errors.ModelSpecError: hf:nowhere/config.json: no such file: nowhere/config.json; ...
    """
    name = one_line(spec.text)
    fields = read_config(expanded(spec.target), name)
    transformers = _transformers(name)
    overrides = dict(spec.keywords)
    meta = overrides.pop("meta", False)
    if meta not in (0, 1):
        raise ModelSpecError(f"{name}: meta must be 0 or 1, got {one_line(repr(meta))}")
    device = torch.device("meta" if meta else "cpu")
    config = _configure(fields, overrides, name)
    kind = _architecture(transformers, config, name)
    with seeded(seed), _offline():
        model = _build(kind, config, device, name)
        inputs = example_inputs(model, input_shape, name)
    return LoadedModel(model, (), {key: value.to(device) for key, value in inputs.items()}, name, _answer)


def _answer(result: Any) -> Any:
    """The logits, where there are any: hidden states that are returned along with them are not the function."""
    return getattr(result, "logits", result)


def read_config(path: Path, name: str) -> dict[str, Any]:
    """Read a configuration file, or the ``config.json`` of a directory.

    Parameters
    ----------
    path : Path
        File or directory.
    name : str
        Named in the error.

    Returns
    -------
    dict
        The JSON object.

    Raises
    ------
    ModelSpecError
        If there is no such regular file, or it is not a JSON object with ``model_type``, or over 16 MiB.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     _ = Path(folder, "config.json").write_text('{"model_type": "bert"}')
    ...     read_config(Path(folder), "hf:...")
    {'model_type': 'bert'}
    """
    try:
        file = path / "config.json" if path.is_dir() else path
        if not file.is_file():
            what = "not a regular file" if file.exists() else "no such file"
            names = [found.name for found in file.parent.iterdir()] if file.parent.is_dir() else []
            expected = "a config.json or a directory that holds one is expected"
            raise ModelSpecError(f"{name}: {what}: {one_line(file)}; {expected}{near(file.name, names)}")
        if file.stat().st_size > LARGEST_CONFIG:
            raise ModelSpecError(f"{name}: {one_line(file)} is over 16 MiB; a configuration in JSON is expected")
        text = file.read_text(encoding="utf-8")
        if text.startswith("version https://git-lfs"):
            raise ModelSpecError(f"{name}: {one_line(file)} is a Git-LFS pointer; run git lfs pull")
        fields = json.loads(text)
    except OSError as error:
        raise ModelSpecError(f"{name}: cannot read {one_line(path)}: {error.strerror or one_line(error)}") from error
    except (ValueError, RecursionError) as error:
        raise ModelSpecError(f"{name}: {one_line(file)} is not JSON: {one_line(error)}") from error
    if not isinstance(fields, dict) or not isinstance(fields.get("model_type"), str):
        what = "no model_type" if isinstance(fields, dict) else f"a {type(fields).__name__}"
        raise ModelSpecError(
            f"{name}: {one_line(file)} must hold a JSON object with model_type, as transformers writes it;"
            f" it has {what}"
        )
    return fields


def example_inputs(model: nn.Module, input_shape: tuple[int, ...] | None, name: str) -> dict[str, Tensor]:
    """Make the inputs that a transformers model takes, on the CPU, in the sizes its configuration asks for.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        The model; only ``config`` and ``main_input_name`` are read.
    input_shape : tuple of int, optional
        Shape of the main input.
    name : str
        Named in the error.

    Returns
    -------
    dict of str to Tensor
        The main input and, for an encoder with a decoder, ``decoder_input_ids``.

    Raises
    ------
    ModelSpecError
        If the main input is of a kind that weyl cannot make up.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> module = nn.Identity()
    >>> module.config = SimpleNamespace(image_size=8, num_channels=1)
    >>> module.main_input_name = "pixel_values"
    >>> {key: tuple(value.shape) for key, value in example_inputs(module, None, "hf:...").items()}
    {'pixel_values': (2, 1, 8, 8)}
    """
    config, main = model.config, str(getattr(model, "main_input_name", "input_ids"))
    # Without a padding id, the classification heads of language models refuse a batch of more than one.
    batch = BATCH if _field(config, "pad_token_id") is not None or main != "input_ids" else 1
    if main == "input_ids":
        shape = input_shape or (batch, min(STEPS, _field(config, "max_position_embeddings") or STEPS))
        inputs = {main: _token_ids(config, shape)}
    else:
        inputs = {main: torch.randn(input_shape or _float_shape(config, main, name))}
    if getattr(config, "is_encoder_decoder", False):
        # Not as long as the encoder's sequence: the two are different axes.
        inputs["decoder_input_ids"] = _token_ids(config, (inputs[main].shape[0], STEPS - 2))
    return inputs


def _transformers(name: str) -> Any:
    """Import transformers, which only the extra ``hf`` installs."""
    try:
        import transformers
    except ImportError as error:
        raise ModelSpecError(f"{name}: hf: models need transformers; pip install 'weyl[hf]'") from error
    return transformers


def _configure(fields: Mapping[str, Any], overrides: Mapping[str, Any], name: str) -> Any:
    """Make the configuration object, with the overrides in place and the cache off."""
    from transformers import CONFIG_MAPPING

    model_type = fields["model_type"]
    if model_type not in CONFIG_MAPPING:
        hint = near(model_type, CONFIG_MAPPING.keys())
        raise ModelSpecError(f"{name}: transformers knows no model_type {one_line(repr(model_type))}{hint}")
    kind = CONFIG_MAPPING[model_type]
    aliases = getattr(kind, "attribute_map", {})
    try:
        known = kind.from_dict(dict(fields)).to_dict().keys() | aliases.keys() | {"attn_implementation"}
        for key in overrides:
            if key not in known:
                raise ModelSpecError(f"{name}: the configuration of {model_type} has no {key!r}{near(key, known)}")
        changed = {aliases.get(key, key): value for key, value in overrides.items()}
        config = kind.from_dict({**fields, **changed})
    except ModelSpecError:
        raise
    except Exception as error:
        raise ModelSpecError(f"{name}: not a configuration of {model_type}: {one_line(error)}") from error
    for part in _parts(config):
        if hasattr(part, "use_cache"):
            part.use_cache = False
    return config


def _parts(config: Any) -> Iterator[Any]:
    """Give the configuration and those nested in it (text, vision, encoder, decoder)."""
    yield config
    for key in getattr(config, "sub_configs", {}):
        part = getattr(config, key, None)
        if part is not None:
            yield from _parts(part)


def _field(config: Any, *names: str) -> Any:
    """Return the first of these fields that the configuration, or one nested in it, sets."""
    values = (getattr(part, name, None) for part in _parts(config) for name in names)
    return next((value for value in values if value is not None), None)


def _architecture(transformers: Any, config: Any, name: str) -> Any:
    """Pick the model class: the one the configuration names, else the usual task of its type."""
    for wanted in config.architectures or ():
        kind = getattr(transformers, wanted, None)
        if not isinstance(kind, type) or not issubclass(kind, transformers.PreTrainedModel):
            hint = difflib.get_close_matches(wanted, dir(transformers), n=1)
            raise ModelSpecError(
                f"{name}: transformers has no architecture {one_line(repr(wanted))}, and code shipped with a"
                f" checkpoint is never run{f'; did you mean {hint[0]!r}?' if hint else ''}"
            )
        return kind
    mappings = transformers.models.auto.modeling_auto
    for mapping, auto in TASKS:
        if config.model_type in getattr(mappings, mapping):
            return getattr(transformers, auto)._model_mapping[type(config)]
    raise ModelSpecError(
        f"{name}: no usual architecture is known for model_type {config.model_type!r};"
        " name one under 'architectures' in the configuration"
    )


@contextmanager
def _offline() -> Iterator[None]:
    """Keep the hub out of it: some configurations ask for a pretrained backbone while they are built."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _build(kind: Any, config: Any, device: torch.device, name: str) -> nn.Module:
    """Build the model. The attention is transformers' default, which exports whether it is sdpa or eager."""
    try:
        with device:
            # Of the ways to run experts, "eager" loops over those that were hit and does not export;
            # "batched_mm" gathers each token's weights and keeps the graph free of sorting.
            model: nn.Module = kind._from_config(config, dtype=torch.float32, experts_implementation="batched_mm")
    except Exception as error:
        text = f"{type(error).__name__}: {one_line(error)}"
        raise ModelSpecError(f"{name}: building {kind.__name__} from the configuration raised {text}") from error
    return model.eval()


def _token_ids(config: Any, shape: tuple[int, ...]) -> Tensor:
    """Draw token ids, none of them the padding id."""
    vocab = _field(config, "vocab_size") or 2
    pad = _field(config, "pad_token_id")
    ids = torch.randint(vocab, shape)
    return torch.where(ids == pad, (ids + 1) % vocab, ids) if pad is not None else ids


def _float_shape(config: Any, main: str, name: str) -> tuple[int, ...]:
    """Shape of an image, a spectrogram or a sound that fits the configuration."""
    mels = _field(config, "num_mel_bins")
    if main == "pixel_values":
        size = _field(config, "image_size") or 224
        sides = tuple(size.values()) if isinstance(size, dict) else size
        sides = (sides, sides) if isinstance(sides, int) else tuple(sides)
        return (BATCH, _field(config, "num_channels", "in_channels") or 3, *sides)
    if main == "input_features" and mels:
        return (BATCH, mels, 2 * _field(config, "max_source_positions"))
    if main == "input_values" and mels:
        return (BATCH, _field(config, "max_length"), mels)
    if main == "input_values" and (strides := _field(config, "conv_stride")):
        return (BATCH, STEPS * math.prod(strides) + 400)
    raise ModelSpecError(
        f"{name}: no example for the input {main!r} can be made up;"
        " give --input-shape, or a factory that returns (module, args, kwargs)"
    )
