"""Put the files that Video-LLaMA is published in together into one checkpoint, which
`model.name` takes: its learnt parts, BLIP-2's tower and Q-Former, and Llama-2-chat.

    python scripts/video_llama_checkpoint.py --llama llama-2-7b-chat-hf --tower eva_vit_g.pth \\
        --qformer blip2_pretrained_flant5xxl.pth --branch VL_LLaMA_2_7B_Finetuned.pth --out FOLDER
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from to_safetensors import damaged, ends_in_one_line, read_pickled
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer
from transformers.core_model_loading import revert_weight_conversion

from dpo_video.core.errors import UserError
from dpo_video.models.families.own_code.video_llama_model import VideoLLAMA, VideoLlamaConfig
from dpo_video.models.load_errors import one_line_errors, refuse_no_tokenizer

VIDEO_QFORMER = {
    "num_hidden_layers": 2,
    "cross_attention_frequency": 1,
    "encoder_hidden_size": 768,
}
"""As `init_video_Qformer` makes it; the other sizes of all parts are those of BLIP-2 in
transformers.
"""


def published_config(llama: Path) -> VideoLlamaConfig:
    """Return the sizes of the published parts on a Llama."""
    with one_line_errors(str(llama)):
        text = AutoConfig.from_pretrained(llama)
    return VideoLlamaConfig(
        text_config=text.to_dict(), video_qformer_config=VIDEO_QFORMER, dtype=text.dtype
    )


def published_weights(config: VideoLlamaConfig) -> dict[str, Tensor]:
    """Return all weights by their published names, without their values."""
    with torch.device("meta"):
        model = VideoLLAMA(config)
    weights: dict[str, Tensor] = revert_weight_conversion(model, model.state_dict())
    return weights


def join(wanted: Mapping[str, Tensor], *sources: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return each weight from the first source that has it; raise UserError where none has it, or
    where it has another shape.
    """
    joined = {}
    for name, weight in wanted.items():
        found = next((source[name] for source in sources if name in source), None)
        if not isinstance(found, Tensor):
            raise UserError(
                f"no file has the weight {name!r}: give all the files of one checkpoint"
            )
        if found.shape != weight.shape:
            raise UserError(
                f"the weight {name!r} has the shape {tuple(found.shape)}, and must have "
                f"{tuple(weight.shape)}: is this file of another size of the model?"
            )
        joined[name] = found.contiguous().clone()
    return joined


def read_weights(file: Path) -> dict[str, Tensor]:
    """Return a published file's weights, which may stand in it as `model`."""
    contents = read_pickled(file)
    weights = contents.get("model", contents)
    if not isinstance(weights, dict):
        raise UserError(
            f"{file} holds no weights by name, but a {type(weights).__name__} as `model`"
        )
    return weights


def read_language_model(folder: Path) -> dict[str, Tensor]:
    """Return a checkpoint's weights, from safetensors where it has any."""
    files = sorted(folder.glob("*.safetensors"))
    parts = [read_safetensors(file) for file in files] or [
        read_pickled(file) for file in sorted(folder.glob("pytorch_model*.bin"))
    ]
    return {name: weight for part in parts for name, weight in part.items()}


def read_safetensors(file: Path) -> dict[str, Tensor]:
    """Return a file's weights; raise UserError where it is damaged."""
    try:
        weights: dict[str, Tensor] = load_file(file)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file} {damaged(error)}") from error
    return weights


def prefixed(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return weights with a prefix before each name."""
    return {f"{prefix}{name}": weight for name, weight in weights.items()}


def convert(files: Mapping[str, Path], config: VideoLlamaConfig, out: Path) -> None:
    """Write the checkpoint of `llama`, `tower`, `qformer` and `branch` into a folder."""
    weights = join(
        published_weights(config),
        read_weights(files["branch"]),
        read_weights(files["qformer"]),
        prefixed(read_weights(files["tower"]), "visual_encoder."),
        prefixed(read_language_model(files["llama"]), "llama_model."),
    )
    out.mkdir(parents=True, exist_ok=True)
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    config.architectures = [VideoLLAMA.__name__]
    config.save_pretrained(out)
    AutoTokenizer.from_pretrained(files["llama"]).save_pretrained(out)


def main() -> None:
    """Read the arguments and write the checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    for name in ("llama", "tower", "qformer", "branch", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    given: dict[str, Any] = vars(parser.parse_args())
    out = given.pop("out")
    for name, path in given.items():
        if not path.exists():
            raise UserError(
                f"--{name} {path}: there is no such {'folder' if name == 'llama' else 'file'}"
            )
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file: give a folder for the checkpoint")
    refuse_no_tokenizer(given["llama"], setting=f"--llama {given['llama']}")
    convert(given, published_config(given["llama"]), out)
    print(out)


if __name__ == "__main__":
    ends_in_one_line(main)
