"""Clips in, features out: the one way from a file to what the language model reads, for every
stage.

Decoding runs in worker processes and the processor in threads, ahead of the caller; the tower runs
in the caller's thread. What `video.cache` keeps is not made again: frames need no decoding,
features neither decoding nor the tower.
"""

import copy
import threading
from collections import Counter, OrderedDict, deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

import torch

from dpo_video import __version__
from dpo_video.core.errors import UserError
from dpo_video.models.decoding import model_pool, sound_format
from dpo_video.models.encoded_clip import EncodedClip, move, read_features, write_features
from dpo_video.models.families import ClipFeatures
from dpo_video.models.features import encode_video
from dpo_video.models.kept_clips import kept_of_clips
from dpo_video.models.load import Policy
from dpo_video.models.lora import tunes_tower
from dpo_video.models.prompts import ClipInputs, video_inputs
from dpo_video.models.tokens import fit_frames, size_identity, token_budget
from dpo_video.recipe import Recipe, VideoSettings
from dpo_video.store import row_key
from dpo_video.video import ClipRequest, Frames, VideoError, corrupt
from dpo_video.video.cache import (
    DiskCache,
    frames_identity,
    open_cache,
    read_frames_entry,
    write_frames,
)

WAITING_WRITES = 4
"""Entries of features that may wait for the disk, in memory."""
RECENT_CLIPS = 2
"""Clips whose frames stay in memory: what is asked for next may be a corruption of one of them."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ReadyClip:
    """A clip that the tower can take, or need not take any more."""

    inputs: ClipInputs
    """Without pixels where `features` is given."""
    features: ClipFeatures | None
    """On the CPU, from the cache."""
    frames_dropped: int
    """Frames that `video.max_tokens` cost it."""
    entry: str | None
    """Name under which its features are to be stored."""


class ClipSource:
    """Reads clips for one policy: `with ClipSource(policy, settings) as source: ...
    source.map(requests)`.
    """

    def __init__(
        self, policy: Policy, settings: VideoSettings, *, cache: DiskCache | None = None
    ) -> None:
        """Read as `settings` say; `cache` keeps frames or features, as `settings.cache` says, where
        `open_source` has put what `auto` means.

        Raises UserError for a cache of features with an adapter that has tuned what makes them.
        """
        assert cache is None or settings.cache != "auto", "what is kept is not yet chosen"
        if settings.cache == "features" and policy.family.encode == "in_forward":
            raise UserError(
                f"`video.cache` is 'features', and those of the family {policy.family.name!r} "
                "depend on the question. Set it to 'frames' or 'none'"
            )
        if settings.cache == "features" and tunes_tower(policy.model):
            raise UserError(
                "`video.cache` is 'features', and this adapter has tuned the vision tower or the "
                "projector, which make them. Set it to 'frames' or 'none'"
            )
        self.counts: Counter[str] = Counter()
        """decoded, encoded: clips for which the work was done; frames_looked_at, frames_kept: by
        policies that look; clips_with_sound, clips_without_sound: of a model that hears.
        """
        self.notes: dict[str, str] = {}
        """What a reader should know of a clip, by its key: `Frames.note` of those that have one."""
        self._policy = policy
        # Threads of the pool prepare clips while the caller tokenizes prompts: a fast tokenizer is
        # not safe for two.
        self._preparing = replace(policy, processor=copy.deepcopy(policy.processor))
        self._lock = threading.Lock()
        self._recent: OrderedDict[ClipRequest, Future[Frames | VideoError]] = OrderedDict()
        self._settings = settings
        self._frames = cache if settings.cache == "frames" else None
        self._features = cache if settings.cache == "features" else None
        self._tower = tower_identity(policy, settings) if self._features is not None else {}
        self._decoded = decoded_identity(policy, settings) if self._frames is not None else {}
        self._pool = model_pool(policy.spec, settings)
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="clip-source")
        self._writes: deque[Future[None]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._pool.close()
        self._writer.shutdown(wait=True)

    def map(
        self, requests: Iterable[ClipRequest]
    ) -> Iterator[tuple[ClipRequest, ReadyClip | UserError]]:
        """Yield each request with its clip, or the reason why there is none, in order; the next
        ones are under way.
        """
        return self._pool.each(requests, self._prepare)

    @property
    def keeps_features(self) -> bool:
        """Whether a clip that was encoded need not be read again."""
        return self._features is not None

    def encode(self, clip: ReadyClip, *, adapter: bool = True) -> EncodedClip:
        """Return a clip's features on the policy's device: from the cache, or through the tower,
        and kept.

        Args:
            adapter: False for the features of the policy without its adapter, where that has tuned
                the tower.
        """
        if clip.features is not None:
            return EncodedClip(
                inputs=clip.inputs,
                features=move(clip.features, self._policy.device),
                frames_dropped=clip.frames_dropped,
            )
        features = encode_video(self._policy, clip.inputs, adapter=adapter)
        if self._policy.family.encode == "in_forward":
            return EncodedClip(
                inputs=clip.inputs, features=features, frames_dropped=clip.frames_dropped
            )
        self.counts["encoded"] += 1
        clip_features = EncodedClip(
            inputs=replace(clip.inputs, pixels={}),
            features=features,
            frames_dropped=clip.frames_dropped,
        )
        if self._features is not None and clip.entry is not None:
            while len(self._writes) >= WAITING_WRITES:
                self._writes.popleft().result()
            on_cpu = replace(clip_features, features=move(features, torch.device("cpu")))
            self._writes.append(
                self._writer.submit(self._store, self._features, clip.entry, on_cpu)
            )
        return clip_features

    @staticmethod
    def _store(cache: DiskCache, entry: str, clip: EncodedClip) -> None:
        cache.put(entry, write_features(clip))

    def _prepare(self, request: ClipRequest) -> ReadyClip | UserError:
        """Return a clip as far as it can be made without the tower, and count whether a model that
        hears hears it; runs in the pool's threads.
        """
        clip = self._ready(request)
        if self._pool.sound is not None and isinstance(clip, ReadyClip):
            heard = "clips_with_sound" if clip.inputs.sound_samples else "clips_without_sound"
            with self._lock:
                self.counts[heard] += 1
        return clip

    def _ready(self, request: ClipRequest) -> ReadyClip | UserError:
        identity, entry = None, None
        if self._features is not None:
            identity = self._identity(request)
        if self._features is not None and identity is not None:
            entry = entry_name(identity, self._tower) + ".safetensors"
            cached = self._features.get(entry, read_features)
            if cached is not None:
                return ReadyClip(
                    inputs=cached.inputs,
                    features=cached.features,
                    frames_dropped=cached.frames_dropped,
                    entry=None,
                )
        decoded = self._read_once(replace(request, corruption=None))
        if isinstance(decoded, VideoError):
            return decoded
        try:
            with self._lock:
                if decoded.note is not None:
                    self.notes[request.key] = decoded.note
                if decoded.looked_at:
                    self.counts.update(
                        frames_looked_at=decoded.looked_at, frames_kept=len(decoded.indices)
                    )
                fitting = fit_frames(self._preparing.spec, self._settings, decoded)
                if request.corruption is not None:
                    path = request.video if isinstance(request.video, Path) else request.key
                    fitting = corrupt(fitting, request.corruption, path)
                inputs = video_inputs(self._preparing, fitting, self._settings)
        # frames that the processor refuses, that no budget fits, or that stay as they were
        except UserError as error:
            return error
        return ReadyClip(
            inputs=inputs,
            features=None,
            frames_dropped=len(decoded.indices) - len(fitting.indices),
            entry=entry,
        )

    def _read_once(self, request: ClipRequest) -> Frames | VideoError:
        """Return the frames of one of the last clips, or read them; a thread that asks meanwhile
        waits for these.
        """
        clip = replace(request, key="")
        with self._lock:
            pending = self._recent.get(clip)
            frames: Future[Frames | VideoError] = Future() if pending is None else pending
            self._recent[clip] = frames
            self._recent.move_to_end(clip)
            while len(self._recent) > RECENT_CLIPS:
                self._recent.popitem(last=False)
        if pending is None:
            try:
                frames.set_result(self._read(request))
            except BaseException as error:
                frames.set_exception(error)
                raise
        return frames.result()

    def _read(self, request: ClipRequest) -> Frames | VideoError:
        identity = None
        if self._frames is not None:
            identity = self._identity(request)
        if self._frames is None or identity is None:
            return self._decode(request)
        name = entry_name(identity, self._decoded) + ".npz"
        cached = self._frames.get(name, read_frames_entry)
        if cached is not None:
            return cached
        decoded = self._decode(request)
        if isinstance(decoded, Frames):
            self._frames.put(name, write_frames(decoded))
        return decoded

    def _identity(self, request: ClipRequest) -> dict[str, Any] | None:
        return frames_identity(
            request,
            self._settings,
            multiple_of=self._pool.multiple_of,
            sound=self._pool.sound,
        )

    def _decode(self, request: ClipRequest) -> Frames | VideoError:
        with self._lock:
            self.counts["decoded"] += 1
        return self._pool.read(request)


def open_source(policy: Policy, recipe: Recipe) -> ClipSource:
    """Return the source of a recipe's clips for a policy, with the recipe's cache."""
    kept = kept_of_clips(recipe, policy.family)
    if recipe.video.cache == "auto" and tunes_tower(policy.model):
        kept = "frames"  # the adapter that the policy starts with makes features of its own
    settings = recipe.video.model_copy(update={"cache": kept})
    return ClipSource(policy, settings, cache=open_cache(recipe))


def entry_name(frames: Mapping[str, Any], model: Mapping[str, Any]) -> str:
    """Return the name of a clip's entry, its ending left out: the key of all that determines it,
    and that of its settings, which those of all clips share.
    """
    kind = {name: value for name, value in frames.items() if name not in ("clip", "corruption")}
    return f"{row_key(frames=frames, **model)}-{row_key(frames=kind, **model)[:12]}"


def tower_identity(policy: Policy, settings: VideoSettings) -> dict[str, Any]:
    """Return all that determines a clip's features, besides its frames. No adapter tunes what makes
    them.
    """
    return {
        "family": policy.family.name,
        "revision": policy.revision,
        "dtype": str(policy.dtype),
        "device": policy.device.type,
        "attention": policy.settings.attention,
        "size": size_identity(settings),
        **_fit(policy, settings),
        "processor": policy.frame_processor.to_json_string(),
        **_sound_processor(policy, settings),
        "versions": {
            "dpo-video": __version__,
            **{name: version(name) for name in ("torch", "transformers")},
        },
    }


def decoded_identity(policy: Policy, settings: VideoSettings) -> dict[str, Any]:
    """Return what determines decoded frames besides `frames_identity`: the model's size, where they
    are decoded at that.
    """
    if settings.decode_size == "native":
        return {}
    return {
        "family": policy.family.name,
        "size": size_identity(settings),
        **_fit(policy, settings),
        "processor": policy.frame_processor.to_json_string(),
    }


def _sound_processor(policy: Policy, settings: VideoSettings) -> dict[str, str]:
    """Return the settings of what makes spectra of sound, where the processor has such a part."""
    extractor = getattr(policy.processor, "feature_extractor", None)
    if extractor is None or sound_format(policy.spec, settings) is None:
        return {}
    return {"sound_processor": extractor.to_json_string()}


def _fit(policy: Policy, settings: VideoSettings) -> dict[str, int | None]:
    """Return the context's part in how many frames are kept: `model.rope_factor` stretches it."""
    return {"budget": token_budget(policy.spec, settings)} if settings.policy == "fit" else {}
