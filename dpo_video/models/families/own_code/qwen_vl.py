"""Qwen-VL 1 (model type `qwen`): its tower and resampler in the repository's own code, its language
model, whose own code takes neither 4D masks nor a cache of today, on transformers' Qwen2.

Published code: QwenLM/Qwen-VL; on the hub Qwen/Qwen-VL-Chat, modeling_qwen.py, visual.py,
tokenization_qwen.py, qwen_generation_utils.py. Shapes: F frames, Q queries of a frame, T tokens.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import (
    AutoConfig,
    CLIPImageProcessorPil,
    GenerationMixin,
    LlavaProcessor,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import Chunk, WeightConverter, WeightRenaming

from dpo_video.core.errors import UserError
from dpo_video.models.families.family import (
    ClipFeatures,
    Family,
    FrameSize,
    Model,
    Tower,
    VideoProcessor,
    no_pixel_bounds,
    pack_tensor,
    square_size,
    whole_patches,
)
from dpo_video.models.families.own_code.loading import own_function, with_text_config
from dpo_video.models.families.own_code.repository_files import copy_files, repository_file
from dpo_video.models.families.own_code.tiktoken_file import read_tiktoken

END_OF_TEXT, START, END, PAD = "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<imgpad>"
MARKS = ("<ref>", "</ref>", "<box>", "</box>", "<quad>", "</quad>")
"""What answers may name objects and places by."""
SPECIAL = (
    *(END_OF_TEXT, START, END),
    *(f"<|extra_{number}|>" for number in range(205)),
    *(*MARKS, "<img>", "</img>", PAD),
)
"""Tokens behind those of qwen.tiktoken, in the order of tokenization_qwen.py."""
VOCABULARY = "qwen.tiktoken"
FILES = (
    VOCABULARY,
    "configuration_qwen.py",
    "modeling_qwen.py",
    "qwen_generation_utils.py",
    "tokenization_qwen.py",
    "visual.py",
)
"""What a checkpoint holds beside weights and configs, and a merged one gets too."""
TEMPLATE = (
    "{% set count = namespace(pictures=0) %}{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for c in message['content'] %}{% if c['type'] == 'image' %}"
    "{% set count.pictures = count.pictures + 1 %}"
    "{{ 'Picture ' ~ count.pictures ~ ': <img><imgpad></img>\n' }}"
    "{% elif c['type'] == 'text' %}{{ c['text'] }}{% endif %}{% endfor %}{% endif %}"
    "<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""ChatML as `make_context` writes it, pictures as `from_list_format` does."""
LAYER, TARGET = r"^transformer\.h\.(\d+)\.", r"^language_model.model.layers.(\d+)."


class QwenVL(PreTrainedModel, GenerationMixin):
    """Tower and language model of a checkpoint; saved, its weights have their published names."""

    base_model_prefix = "qwen_vl"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _no_split_modules = ["Qwen2DecoderLayer", "VisualAttentionBlock"]  # noqa: RUF012  # a list or set is asked for

    def __init__(self, config: PretrainedConfig, source: Mapping[str, Any]) -> None:
        super().__init__(config)
        self._source = source
        tower = own_function("visual.VisionTransformer", source["name"], source)
        self.visual = tower(**vars(config)["visual"])
        text: Any = config.get_text_config()
        if text.rope_parameters["rope_type"] != "default":
            raise UserError(
                "model.rope_factor is set, and the config of Qwen-VL 1 has no place for it: its "
                "own code stretches RoPE by the length of the prompt. Leave it out"
            )
        self.language_model = Qwen2ForCausalLM(text)
        self.post_init()

    @classmethod
    def from_pretrained(cls, name: str, **options: Any) -> Any:  # type: ignore[override]
        """Load a checkpoint; attention is the language model's."""
        config = options["config"]
        if "attn_implementation" in options:
            config.get_text_config()._attn_implementation = options.pop("attn_implementation")
        options.pop("trust_remote_code", None)
        source = {"name": name, "revision": options.get("revision")}
        return super().from_pretrained(name, source=source, **options)

    @classmethod
    def from_config(cls, config: PretrainedConfig, **options: Any) -> "QwenVL":
        """Make a model of random weights."""
        revision = vars(config).get("_commit_hash")
        return cls(config, {"name": config.name_or_path, "revision": revision})

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> None:  # type: ignore[override]
        """Write weights by their published names, a config that names the published class, and the
        repository's files beside them.
        """
        published = self.config.architectures
        super().save_pretrained(save_directory, **options)
        self.config.architectures = published
        self.config.save_pretrained(save_directory)
        copy_files(FILES, Path(save_directory), self._source["name"], self._source)

    def get_input_embeddings(self) -> Any:
        """Return the language model's."""
        return self.language_model.get_input_embeddings()

    def forward(self, input_ids: Tensor, pixel_values: Tensor, **inputs: Any) -> Any:
        """Return logits for ids (1, T) whose placeholders stand for frames (F, 3, H, W)."""
        embeddings = self.get_input_embeddings()(input_ids)
        holes = (input_ids == image_pad(self.config))[..., None]
        features = self.visual(pixel_values).to(embeddings)
        return self.language_model(
            inputs_embeds=embeddings.masked_scatter(holes, features), **inputs
        )


register_checkpoint_conversion_mapping(
    QwenVL.__name__,
    [
        *(
            WeightRenaming(LAYER + theirs, TARGET + ours)
            for theirs, ours in {
                r"ln_1\.": "input_layernorm.",
                r"ln_2\.": "post_attention_layernorm.",
                r"attn\.c_attn\.": "attn.c_attn.",
                r"attn\.c_proj\.": "self_attn.o_proj.",
                r"mlp\.w1\.": "mlp.up_proj.",
                r"mlp\.w2\.": "mlp.gate_proj.",
                r"mlp\.c_proj\.": "mlp.down_proj.",
            }.items()
        ),
        WeightRenaming(r"^transformer\.wte\.", "^language_model.model.embed_tokens."),
        WeightRenaming(r"^transformer\.ln_f\.", "^language_model.model.norm."),
        WeightRenaming(r"^transformer\.visual\.", "^visual."),
        WeightRenaming(r"^lm_head\.", "^language_model.lm_head."),
        WeightConverter(
            "attn.c_attn",
            ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
            [Chunk(dim=0)],
        ),
    ],
    overwrite=True,
)


def image_pad(config: PretrainedConfig) -> int:
    """Return the id that stands for one query of a frame: `<imgpad>`."""
    return int(vars(config)["visual"]["image_start_id"]) + 2


def _text_config(config: PretrainedConfig) -> Qwen2Config:
    """Return the same language model as a config of Qwen2."""
    return Qwen2Config(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size // 2,  # a half each for `w1` and `w2`
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        num_key_value_heads=config.num_attention_heads,
        max_position_embeddings=_context(config),
        initializer_range=config.initializer_range,
        rms_norm_eps=config.layer_norm_epsilon,
        rope_parameters={"rope_type": "default", "rope_theta": float(config.rotary_emb_base)},
        tie_word_embeddings=config.tie_word_embeddings,
        eos_token_id=config.eos_token_id,
        dtype=config.dtype,
    )


def _context(config: PretrainedConfig) -> int:
    """Return the tokens up to which the published attention is the plain one.

    Behind `seq_length` it stretches RoPE by the length of the prompt, and scales queries.
    """
    stretched = config.use_dynamic_ntk or config.use_logn_attn
    return int(config.seq_length if stretched else config.max_position_embeddings)


def _read_config(
    config: PretrainedConfig, name: str, source: Mapping[str, Any]
) -> PretrainedConfig:
    return config if _refuses(config) else with_text_config(config, _text_config(config))


def _refuses(config: PretrainedConfig) -> str | None:
    if "visual" not in vars(config):
        return (
            "it is a text model of Qwen 1, without a tower. Use Qwen/Qwen-VL-Chat, or the nearest "
            "family, 'qwen2_5_vl' (Qwen/Qwen2.5-VL-3B-Instruct)"
        )
    fields = {
        "rotary_pct": config.rotary_pct == 1,
        "no_bias": config.no_bias,
        "kv_channels": config.kv_channels * config.num_attention_heads == config.hidden_size,
    }
    odd = [f"{field} {vars(config)[field]}" for field, fits in fields.items() if not fits]
    if not odd:
        return None
    return (
        f"its config has {odd[0]}, and its language model is then none that transformers' Qwen2 "
        "computes. Use Qwen/Qwen-VL-Chat, or the nearest family, 'qwen2_5_vl'"
    )


def _processor(name: str, source: Mapping[str, Any]) -> LlavaProcessor:
    """Return transformers' processor of one picture in one square, with this vocabulary."""
    file = repository_file(VOCABULARY, name, source)
    if file is None:
        raise UserError(
            f"the checkpoint {name!r} has no {VOCABULARY}, the vocabulary of Qwen 1: copy it from "
            "the repository that its weights come from"
        )
    visual = vars(AutoConfig.from_pretrained(name, **source))["visual"]
    side = visual["image_size"]
    tokenizer = read_tiktoken(Path(file), SPECIAL, plain=frozenset(MARKS), end=END, pad=END_OF_TEXT)
    return LlavaProcessor(
        image_processor=CLIPImageProcessorPil(
            size={"height": side, "width": side}, do_center_crop=False
        ),
        tokenizer=tokenizer,
        patch_size=side // math.isqrt(_queries(visual)),  # of the queries' grid
        vision_feature_select_strategy="full",
        image_token=PAD,
        chat_template=TEMPLATE,
    )


def _queries(visual: Mapping[str, Any]) -> int:
    return int(visual.get("n_queries", 256))  # as VisionTransformer's default has it


def _features(model: Model, inputs: Mapping[str, Tensor]) -> ClipFeatures:
    return ClipFeatures(model.visual(inputs["pixel_values"]).flatten(0, 1))


def _tokens(
    processor: VideoProcessor, config: PretrainedConfig, num_frames: int, size: FrameSize
) -> int:
    return num_frames * _queries(vars(config)["visual"])


def _patches(
    processor: VideoProcessor, config: PretrainedConfig, num_frames: int, size: FrameSize
) -> int:
    return num_frames * whole_patches(size, vars(config)["visual"]["patch_size"])


def _tower(config: PretrainedConfig) -> Tower:
    visual = vars(config)["visual"]
    inner = int(visual["width"] * visual["mlp_ratio"])
    return Tower(width=visual["width"], inner=inner, patch=visual["patch_size"])


ROW = Family(
    name="qwen",
    title="Qwen-VL 1 (Qwen/Qwen-VL-Chat)",
    features=_features,
    pack=pack_tensor,
    modality="image",
    frames_as="images",
    prompt_token=lambda processor: PAD,
    placeholder=image_pad,
    pixel_inputs=("pixel_values",),
    language=lambda model: model.language_model,
    auto_model=QwenVL,
    load_processor=_processor,
    read_config=_read_config,
    refuses=_refuses,
    own_names=lambda config: True,
    end_of_turn=END,
    context_length=_context,
    frame_size=square_size,
    video_tokens=_tokens,
    vision_patches=_patches,
    pixel_kwargs=no_pixel_bounds,
    tower=_tower,
    formula="F x 256",
    quirks="Qwen-VL 1 knows pictures and no video: frames are pictures, `Picture 1: ` and so on, "
    "squeezed to 448 x 448, without times. Each takes 256 tokens, and the context ends at the "
    "2,048 of its training, so that a clip has up to 7 frames.",
)
