"""`dpo-video push`: an adapter, a merged model or pairs to the hub; shown first, sent when told."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

from dpo_video.cards.facts import CardFacts, read_facts
from dpo_video.cards.model_card import model_card
from dpo_video.cards.published_recipe import published_recipe
from dpo_video.core.errors import UserError
from dpo_video.core.seal import CARD, DOCUMENTS, RECIPE, broken_seal, is_sealed
from dpo_video.recipe import Recipe
from dpo_video.recipe.file import dump_recipe

What = Literal["adapter", "merged", "pairs"]
TOKEN = "HF_TOKEN"
HUB_OWN = frozenset({".gitattributes"})
"""Files that the hub puts into every repository."""
MOST_NAMED = 3


@dataclass(frozen=True, kw_only=True)
class PushFile:
    """One file of a push."""

    name: str
    """In the repository."""
    content: Path | bytes

    @property
    def num_bytes(self) -> int:
        """How large it is."""
        if isinstance(self.content, bytes):
            return len(self.content)
        return self.content.stat().st_size


@dataclass(frozen=True, kw_only=True)
class Upload:
    """What a push would send."""

    what: What
    repo: str
    files: Sequence[PushFile]
    card: str
    notes: Sequence[str] = ()
    """What one should know before it is sent, a sentence each."""

    @property
    def repo_type(self) -> str:
        """The hub's word for the kind of repository."""
        return "dataset" if self.what == "pairs" else "model"


@dataclass(frozen=True, kw_only=True)
class PushOptions:
    """Where a push may go."""

    public: bool = False
    update: bool = False
    """Whether files of an earlier push may be replaced."""


def model_upload(folder: Path, recipe: Recipe, what: What, repo: str) -> Upload:
    """Return what a push of a run's adapter or merged model would send; UserError where it is not
    there, or damaged.
    """
    source = folder / what
    if not (source / ("adapter_config.json" if what == "adapter" else "config.json")).is_file():
        command = "train RECIPE" if what == "adapter" else f"merge {folder}"
        raise UserError(f"no {what} in {str(folder)!r} to push; make it first: dpo-video {command}")
    reason = broken_seal(source) if is_sealed(source) else None
    if reason is not None:
        raise UserError(f"{str(source)!r} is damaged and not pushed: {reason}")
    facts = read_facts(folder, recipe)
    card = model_card(facts, "adapter" if what == "adapter" else "merged", source=repo)
    published, changed = published_recipe(facts)
    documents = {CARD: card, RECIPE: dump_recipe(published)}
    files = [
        PushFile(name=path.relative_to(source).as_posix(), content=path)
        for path in sorted(source.rglob("*"))
        if path.is_file() and path.name not in DOCUMENTS
    ]
    files += [PushFile(name=name, content=text.encode()) for name, text in documents.items()]
    return Upload(what=what, repo=repo, files=files, card=card, notes=list(_notes(facts, changed)))


def pairs_upload(folder: Path, repo: str, *, card: Path) -> Upload:
    """Return what a push of exported rows would send: the folder, its card as README.md."""
    files = [
        PushFile(name=path.relative_to(folder).as_posix(), content=path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != card
    ]
    text = card.read_text(encoding="utf-8")
    files.append(PushFile(name=CARD, content=text.encode()))
    return Upload(what="pairs", repo=repo, files=files, card=text)


def _notes(facts: CardFacts, changed: Sequence[str]) -> Iterator[str]:
    if facts.base_model is None:
        yield (
            f"the base model {facts.base_name!r} has no name on the hub, so nobody else can load "
            "the adapter: set card.base_model=OWNER/NAME"
        )
    if facts.recipe.card.license is None:
        yield "no licence is stated: set card.license, e.g. card.license=apache-2.0"
    if facts.metrics is None:
        yield f"the card has no numbers. {facts.why_no_metrics}"
    if changed:
        listed = ", ".join(changed)
        yield f"recipe.yaml is sent without folders and servers of this machine: {listed}"


def send(upload: Upload, options: PushOptions) -> str:
    """Send an upload in one commit; return its address. The token is that of HF_TOKEN alone."""
    token = os.environ.get(TOKEN, "").strip()
    if not token:
        raise UserError(
            f"no token: set {TOKEN} to one that may write (the hub's settings, Access Tokens). "
            "Nothing was sent"
        )
    api = HfApi(token=token)
    with _one_line(upload.repo, token):
        repo = upload.repo if "/" in upload.repo else f"{api.whoami()['name']}/{upload.repo}"
        parent = _checked_repo(api, repo, upload, options)
        operations = [
            CommitOperationAdd(
                path_in_repo=file.name,
                path_or_fileobj=str(file.content)
                if isinstance(file.content, Path)
                else file.content,
            )
            for file in upload.files
        ]
        commit = api.create_commit(
            repo,
            operations,
            commit_message=f"dpo-video push: {upload.what}",
            repo_type=upload.repo_type,
            parent_commit=parent,
        )
    return str(commit.commit_url)


def _checked_repo(api: HfApi, repo: str, upload: Upload, options: PushOptions) -> str | None:
    """Make the repository, or return the commit of one that is there and may be written to."""
    try:
        info: Any = api.repo_info(repo, repo_type=upload.repo_type)
    except RepositoryNotFoundError:
        api.create_repo(repo, repo_type=upload.repo_type, private=not options.public)
        return None
    names = {sibling.rfilename for sibling in info.siblings or []} - HUB_OWN
    foreign = sorted(names - {file.name for file in upload.files})
    if foreign:
        more = f" and {len(foreign) - MOST_NAMED} more" if len(foreign) > MOST_NAMED else ""
        raise UserError(
            f"the repository {repo!r} exists and holds other files ({', '.join(foreign[:3])}"
            f"{more}): give another --repo. Nothing was sent"
        )
    if not info.private and not options.public:
        raise UserError(
            f"the repository {repo!r} exists and is public: add --public to send there, or give "
            "another --repo. Nothing was sent"
        )
    if names and not options.update:
        raise UserError(
            f"the repository {repo!r} holds an earlier push: add --update to replace its files. "
            "Nothing was sent"
        )
    sha: str | None = info.sha
    return sha


@contextmanager
def _one_line(repo: str, token: str) -> Iterator[None]:
    """Turn the hub's refusals into a UserError without the token."""
    try:
        yield
    except (HfHubHTTPError, HFValidationError, OfflineModeIsEnabled, OSError) as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        reason = (lines[-1] if lines else type(error).__name__).replace(token, "***")
        raise UserError(
            f"the push to {repo!r} failed: {reason[:300].rstrip('.')}. What the token may do "
            "and whether the hub can be reached decide; the same command tries again"
        ) from None
