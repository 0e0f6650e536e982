"""A tuned model that answers questions about clips, with the frames and positions of its recipe."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dpo_video.core.errors import UserError
from dpo_video.core.records import EarlierTurn, Sample
from dpo_video.core.seal import RECIPE
from dpo_video.models.clip_source import ClipSource
from dpo_video.models.collate import TokenRow
from dpo_video.models.generation import generate_answers
from dpo_video.models.load import Policy, load_policy
from dpo_video.models.prompts import encode_prompt
from dpo_video.models.sampling import Sampler
from dpo_video.recipe import ModelSettings, Recipe
from dpo_video.recipe.file import load_recipe
from dpo_video.video import clip_request


@dataclass(frozen=True, kw_only=True, eq=False)
class TunedModel:
    """A loaded model and the recipe that it was tuned by."""

    policy: Policy
    recipe: Recipe

    def answer(
        self,
        video: str | Path,
        question: str,
        *,
        start: float | None = None,
        end: float | None = None,
        temperature: float = 0.0,
        max_new_tokens: int | None = None,
        seed: int = 0,
        history: Sequence[tuple[str, str]] = (),
    ) -> str:
        """Return the answer to a question about a clip, a file or a folder of frames.

        Args:
            start, end: seconds into the file.
            max_new_tokens: None is what the recipe evaluated with.
            history: earlier questions about the clip with their answers.
        """
        path = Path(video).expanduser().absolute()
        sample = Sample(id=path.name, video=str(path), prompt=question, start=start, end=end)
        sampler = Sampler(
            temperature=temperature,
            max_new_tokens=max_new_tokens or self.recipe.evaluate.max_new_tokens,
        )
        settings = self.recipe.video.model_copy(update={"cache": "none", "workers": 1})
        with ClipSource(self.policy, settings) as source:
            _, ready = next(iter(source.map([clip_request(sample, Path("/"))])))
            if isinstance(ready, UserError):
                raise ready
            clip = source.encode(ready)
        turns = tuple(EarlierTurn(question=asked, answer=answer) for asked, answer in history)
        row = TokenRow(
            prompt=encode_prompt(self.policy, question, clip.inputs, history=turns or None),
            clip=clip.inputs,
            features=clip.features,
        )
        ((answer,),) = generate_answers(self.policy, [row], seeds=[[seed]], sampler=sampler)
        return answer.text


def open_tuned(
    source: str | Path, *, device: str = "auto", trust_remote_code: bool = False
) -> TunedModel:
    """Load an adapter with its base, or a merged model, from a folder or the hub: as `dpo-video
    push` sent it, with recipe.yaml beside the weights.

    Args:
        trust_remote_code: whether code from the base model's repository may run; what recipe.yaml
            says of it counts for nothing, for it came with the weights.
    """
    folder = _folder(str(source))
    if not (folder / RECIPE).is_file():
        raise UserError(
            f"no {RECIPE} in {str(source)!r}: which frames it was tuned on is not known. Give the "
            "adapter's folder of a run, or what `dpo-video push` sent"
        )
    recipe = load_recipe(str(folder / RECIPE))
    is_adapter = (folder / "adapter_config.json").is_file()
    update = {
        "device": device,
        "adapter": None,
        "trust_remote_code": trust_remote_code,
        **({} if is_adapter else {"name": str(folder), "revision": None, "quantize": "none"}),
    }
    model = ModelSettings.model_validate(recipe.model.model_dump() | update)
    return TunedModel(
        policy=load_policy(model, adapter=folder if is_adapter else None), recipe=recipe
    )


def _folder(source: str) -> Path:
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(source))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        raise UserError(
            f"no folder {source!r}, and the hub does not give it: {str(error).splitlines()[0]}"
        ) from error
