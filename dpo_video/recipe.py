"""Every setting with its default, once. `recipe_file.py` reads YAML into these and names file and line of an error."""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt


class Section(BaseModel):
    """A part of a recipe: unknown keys are errors, values do not change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), use_attribute_docstrings=True)


class ModelSettings(Section):
    """The policy: the video model that is tuned."""

    name: str
    """Hub id, local folder, or `toy:NAME`."""
    revision: str | None = None
    """Hub revision (branch, tag or commit)."""
    family: str | None = None
    """Row of FAMILIES; None reads it from the checkpoint's `model_type`."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Weights and compute; auto is bfloat16 where the device has it, else float32."""
    quantize: Literal["none", "nf4"] = "none"
    """`nf4` loads the language model in 4 bit (QLoRA); tower, projector and head stay out."""
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2"] = "auto"
    """Attention kernel; auto leaves the choice to transformers."""
    positions: Literal["checkpoint", "transformers"] = "checkpoint"
    """M-RoPE rule: that of the published Qwen2/2.5-VL checkpoints, or that of transformers >= 5.3."""
    trust_remote_code: bool = False
    """Allow code from the checkpoint's repository to run."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto is cuda when there is one."""


class DataSettings(Section):
    """Where clips, captions and questions come from."""

    samples: str
    """JSONL of Sample to train on, or `toy:train`."""
    heldout: str | None = None
    """JSONL of Sample to evaluate on, or `toy:heldout`; its clips must not be among the training clips."""
    video_root: str | None = None
    """Folder that relative video paths start from; None is the folder of the JSONL file."""
    limit: PositiveInt | None = None
    """Use the first N training samples."""
    heldout_limit: PositiveInt | None = None
    """Use the first N held-out samples."""
    max_bad_fraction: float = Field(default=0.05, ge=0, le=1)
    """Stop when a larger share of the clips cannot be read."""


class VideoSettings(Section):
    """Which frames the model sees; one policy for generate, train and evaluate."""

    policy: Literal["uniform", "fps"] = "uniform"
    """`uniform` spreads `num_frames` over the clip; `fps` takes frames at a rate."""
    num_frames: PositiveInt = 8
    """Frames per clip under `uniform`."""
    fps: PositiveFloat = 2.0
    """Frames per second under `fps`."""
    min_frames: PositiveInt = 4
    """Fewest frames under `fps`."""
    max_frames: PositiveInt = 768
    """Most frames under `fps`."""
    min_pixels: PositiveInt | None = None
    """Least height x width of a frame after resizing; None keeps the checkpoint's value."""
    max_pixels: PositiveInt | None = None
    """Most height x width of a frame after resizing; None keeps the checkpoint's value."""
    max_tokens: PositiveInt | None = None
    """Most video tokens per clip; a clip over it loses frames, evenly, and is counted."""
    backend: Literal["pyav", "decord"] = "pyav"
    """`pyav` is exact everywhere; `decord` reads only files that it is known to read right, else pyav, counted."""
    workers: int = Field(default=2, ge=1)
    """Decoding processes."""
    timeout: PositiveFloat = 120.0
    """Seconds after which a clip is given up and set aside."""
    cache: Literal["none", "frames", "features"] = "none"
    """What of a clip is kept on disk: `frames` saves decoding it again (uncompressed, exact), `features` the vision
    tower as well. Every stage reads it."""
    cache_gb: PositiveFloat = 50.0
    """Size limit of the cache in GiB; what was not read for longest goes first."""
    cache_folder: str | None = None
    """Folder of the cache, which runs may share; None is `cache` in the run folder."""


class GenerateSettings(Section):
    """Candidates: N sampled answers of the policy to each sample."""

    engine: Literal["local", "openai"] = "local"
    """`local` runs the policy here; `openai` asks a compatible server that takes video (vLLM, SGLang)."""
    num_candidates: PositiveInt = 8
    """Answers per sample."""
    temperature: float = Field(default=1.0, ge=0)
    """Sampling temperature; 0 is greedy."""
    top_p: float = Field(default=0.95, gt=0, le=1)
    """Nucleus sampling."""
    top_k: int = Field(default=0, ge=0)
    """Keep the k likeliest tokens; 0 keeps all."""
    max_new_tokens: PositiveInt = 256
    """An answer is cut there, and marked as cut."""
    batch_size: PositiveInt = 8
    """Sequences (answers) generated at a time."""
    base_url: str | None = None
    """Server address under `openai`."""
    api_key_env: str = "OPENAI_API_KEY"
    """Environment variable that holds the server's key; servers on loopback need none."""
    served_model: str | None = None
    """The model's name on the server; None uses `model.name`."""
    video_as: Literal["images", "video_url"] = "images"
    """How a server gets the clip: the policy's frames as images, or the file."""
    concurrency: PositiveInt = 16
    """Requests in flight under `openai`."""
    timeout: PositiveFloat = 300.0
    """Seconds per request."""
    retries: int = Field(default=5, ge=0)
    """Attempts after the first for connection errors, 408, 429 and 5xx."""


class JudgeSettings(Section):
    """Who scores the candidates, and by which scorer."""

    backend: Literal["local", "openai"] = "openai"
    """`local` runs a transformers causal LM here; `openai` asks any compatible server."""
    model: str
    """Hub id, folder or `toy:judge` for `local`; the served name for `openai`."""
    revision: str | None = None
    """Hub revision of a local judge."""
    scorer: str = "hound_quality"
    """Shipped scorer or a path that ends in .yaml."""
    base_url: str | None = None
    """Server address, e.g. http://localhost:8000/v1; None is the vendor's default."""
    api_key_env: str = "OPENAI_API_KEY"
    """Environment variable that holds the key; servers on loopback need none."""
    score_from: Literal["scorer", "verdict"] = "scorer"
    """`scorer` reads the score as the scorer file says; `verdict` has a label scorer's verdict written out instead, for
    servers without logprobs."""
    temperature: float = Field(default=0.0, ge=0)
    """Sampling temperature of written verdicts."""
    max_tokens: PositiveInt = 512
    """Longest reply."""
    batch_size: PositiveInt = 32
    """Prompts per forward under `local`."""
    concurrency: PositiveInt = 32
    """Requests in flight under `openai`."""
    timeout: PositiveFloat = 120.0
    """Seconds per request."""
    retries: int = Field(default=5, ge=0)
    """Attempts after the first for connection errors, 408, 429 and 5xx."""
    max_failed_fraction: float = Field(default=0.2, ge=0, le=1)
    """Stop when a larger share of judgments failed."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Weights of a local judge."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device of a local judge."""


class PairSettings(Section):
    """Which candidates become chosen and rejected."""

    rule: Literal["hound", "best_worst", "all_pairs"] = "best_worst"
    """`hound`: one at or above `threshold` against one below; `best_worst`; `all_pairs` by margin."""
    min_margin: float = Field(default=0.5, ge=0)
    """Least score difference under `best_worst` and `all_pairs`."""
    threshold: float | None = None
    """Score from which an answer counts as good under `hound`; None takes the scorer's."""
    max_pairs_per_sample: PositiveInt = 2
    """Cap under `all_pairs`; the widest margins stay."""
    balance_length: bool = False
    """Drop smallest-margin pairs until chosen and rejected are equally long on average."""


class LoraSettings(Section):
    """The adapter: low-rank updates of the language model's linear layers."""

    rank: PositiveInt = 64
    """Width of the update; more can learn more and needs more memory."""
    alpha: PositiveInt = 64
    """The update is scaled by alpha / rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """TRL sets dropout to 0 for DPO unless `train.trl.disable_dropout` is false."""


class TrainSettings(Section):
    """DPO through TRL; any other DPOConfig field goes under `trl`."""

    loss: list[str] = ["sigmoid"]
    """TRL loss types, summed with `trl.loss_weights`."""
    beta: PositiveFloat = 0.1
    """Strength of the pull to the reference; higher stays closer."""
    learning_rate: PositiveFloat = 1e-5
    """Peak learning rate."""
    epochs: PositiveFloat = 1.0
    """Passes over the pairs."""
    max_steps: PositiveInt | None = None
    """Stop after this many optimizer steps."""
    batch_size: PositiveInt = 1
    """Pairs per device and forward."""
    gradient_accumulation: PositiveInt = 8
    """Forwards per optimizer step."""
    warmup_ratio: float = Field(default=0.1, ge=0, le=1)
    """Share of the steps over which the learning rate rises."""
    scheduler: str = "linear"
    """Learning-rate schedule by its transformers name."""
    optimizer: str = "adamw_torch"
    """Optimizer by its transformers name, e.g. paged_adamw_8bit."""
    lora: LoraSettings = LoraSettings()
    tokens_per_batch: PositiveInt | None = None
    """Most tokens per forward: the pairs of an optimizer step, batch_size x gradient_accumulation per device, are cut
    by it instead of by batch_size. The memory is even, and the result the same but for the loss `sft`, which averages
    over the tokens of a forward. None cuts by batch_size."""
    share_prefix: bool = True
    """Run what answers to one clip have in common, video and question, once instead of once per answer."""
    gradient_checkpointing: bool | Literal["auto"] = "auto"
    """Recompute activations in the backward pass: less memory, more time. auto is true from 3 billion parameters on."""
    activation_offloading: bool = False
    """Keep activations in main memory until the backward pass: less GPU memory, more time."""
    max_length: PositiveInt | None = None
    """Longest prompt + answer in tokens; longer pairs are dropped and counted. None is the model's context."""
    save_steps: PositiveInt = 100
    """Optimizer steps between checkpoints; training resumes from the last one."""
    logging_steps: PositiveInt = 5
    """Optimizer steps between logged metrics."""
    trl: dict[str, Any] = {}
    """Other fields of trl.DPOConfig by their own names."""


class EvaluateSettings(Section):
    """Before and after on held-out clips."""

    temperature: float = Field(default=0.0, ge=0)
    """Sampling temperature of the evaluated answers; 0 is greedy."""
    max_new_tokens: PositiveInt = 256
    """An evaluated answer is cut there."""
    hallucination_scorer: str | None = "caption_support"
    """Scorer whose share below its threshold is the hallucination rate; None leaves it out."""
    pair_samples: int = Field(default=100, ge=0)
    """Held-out samples to build held-out pairs from."""
    pair_candidates: int = Field(default=4, ge=0)
    """Answers of the base model per such sample."""
    bootstrap: PositiveInt = 2000
    """Resamples behind every 95 % interval; whole clips are resampled."""


class TrackingSettings(Section):
    """Experiment tracking."""

    to: Literal["wandb", "none"] = "wandb"
    """`wandb` goes online with a key and is written offline without."""
    project: str = "dpo-video"
    """W&B project."""
    entity: str | None = None
    """W&B user or team; None is the key's own."""
    pair_table_rows: int = Field(default=32, ge=0)
    """Sampled pairs shown with a strip of frames."""


class Recipe(Section):
    """All settings of a run."""

    name: str
    """Run folder under `runs_folder`."""
    description: str = ""
    """What the run is for; shown in tracking."""
    seed: int = 0
    """Seeds sampling, pair rules, LoRA initialisation and data order."""
    runs_folder: str = "runs"
    """Folder that holds the run folders."""
    model: ModelSettings
    data: DataSettings
    video: VideoSettings = VideoSettings()
    generate: GenerateSettings = GenerateSettings()
    judge: JudgeSettings
    pair: PairSettings = PairSettings()
    train: TrainSettings = TrainSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    tracking: TrackingSettings = TrackingSettings()

    @property
    def run_folder(self) -> Path:
        """The folder that holds everything of this run."""
        return Path(self.runs_folder) / self.name
