"""Make a checkpoint for clips, which `model.name` takes, of InstructBLIP's for images: the same
weights, frames in place of a picture, and a token for them.

    python scripts/instructblip_checkpoint.py instructblip-vicuna-7b --out FOLDER
"""

import argparse
from pathlib import Path

from to_safetensors import ends_in_one_line
from transformers import (
    AutoConfig,
    AutoTokenizer,
    BlipImageProcessor,
    InstructBlipVideoForConditionalGeneration,
    InstructBlipVideoProcessor,
    InstructBlipVideoVideoProcessor,
)

from dpo_video.core.errors import UserError
from dpo_video.models.hub import refuse_pickled_weights
from dpo_video.models.load_errors import one_line_errors

PICTURE = ("size", "image_mean", "image_std", "rescale_factor", "resample")
"""What is done to a picture, and then to each frame."""


def processor_for_clips(name: str, num_queries: int) -> InstructBlipVideoProcessor:
    """Return the processor for clips of a checkpoint for images."""
    pictures = vars(BlipImageProcessor.from_pretrained(name))
    frames = InstructBlipVideoVideoProcessor(**{field: pictures[field] for field in PICTURE})
    return InstructBlipVideoProcessor(
        frames,
        AutoTokenizer.from_pretrained(name),
        AutoTokenizer.from_pretrained(name, subfolder="qformer_tokenizer"),
        num_query_tokens=num_queries,
    )


def convert(name: str, out: Path) -> None:
    """Write the checkpoint for clips of a folder or hub id into a folder."""
    with one_line_errors(name):
        kind = AutoConfig.from_pretrained(name).model_type
        if kind != "instructblip":
            raise UserError(f"{name} is of model type {kind!r}, and this takes 'instructblip'")
        model = InstructBlipVideoForConditionalGeneration.from_pretrained(
            name, dtype="auto", use_safetensors=True
        )
        processor = processor_for_clips(name, model.config.num_query_tokens)
    tokenizer = processor.tokenizer
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.config.video_token_index = tokenizer.convert_tokens_to_ids(str(processor.video_token))
    model.save_pretrained(out)
    processor.save_pretrained(out)


def main() -> None:
    """Read the arguments and write the checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("name", help="Folder or hub id of the checkpoint for images.")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    if given.out.exists() and not given.out.is_dir():
        raise UserError(f"--out {given.out} is a file: give a folder for the checkpoint")
    refuse_pickled_weights(Path(given.name), setting=given.name)
    convert(given.name, given.out)
    print(given.out)


if __name__ == "__main__":
    ends_in_one_line(main)
