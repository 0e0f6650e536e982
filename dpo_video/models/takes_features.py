"""Models whose own forward takes pixels only, made to take features: these are put in the place of
the placeholders' embeddings, and the language model runs on them.

Shapes: B rows, T tokens, D hidden size.
"""

from typing import Any

from torch import Tensor
from transformers import GenerationMixin

from dpo_video.models.families import Family, Model

FAMILY = "_feature_family"
"""Name under which a model holds its row."""


def take_features(model: Model, family: Family) -> None:
    """Give a bare model the interface of those whose forward takes `mm_encoder_outputs`.

    Its class becomes a subclass of the same name, so that modules, and with them adapters, keep
    theirs.
    """
    own = type(model)
    model.__dict__[FAMILY] = family
    model.__class__ = type(own.__name__, (TakesFeatures, own), {"__module__": own.__module__})


class TakesFeatures:
    """Answers forwards that bring features, or nothing but text, by the language model; those with
    pixels stay the model's own.
    """

    @property
    def base_model(self) -> "Body":
        """What gives hidden states: TRL's fused head asks for it."""
        return Body(self)

    def get_decoder(self) -> Model:
        """Return the language model without its head."""
        return _language(self).get_decoder()

    def get_output_embeddings(self) -> Model:
        """Return the head."""
        return _language(self).get_output_embeddings()

    def forward(self, input_ids: Tensor | None = None, **inputs: Any) -> Any:
        """Return logits; features stand in `mm_encoder_outputs`, as elsewhere in transformers."""
        row = _family(self)
        if any(name in inputs for name in row.pixel_inputs):
            return super().forward(input_ids=input_ids, **inputs)  # type: ignore[misc]
        language = _language(self)
        call = super().forward if language is self else language  # type: ignore[misc]
        return call(**embedded(self, input_ids, inputs))

    def generate(self, **inputs: Any) -> Any:
        """Go on from a cache that holds the clip, as a language model does."""
        language = _language(self)
        own = GenerationMixin.generate if language is self else type(language).generate
        return own(language, **inputs)

    def prepare_inputs_for_generation(self, *values: Any, **named: Any) -> Any:
        """Return a step's inputs as the language model does; PEFT asks each causal model for it."""
        language = _language(self)
        if language is self:
            return super().prepare_inputs_for_generation(*values, **named)  # type: ignore[misc]
        return language.prepare_inputs_for_generation(*values, **named)


class Body:
    """The language model without its head, on features and ids."""

    def __init__(self, model: Model) -> None:
        self._model = model

    def __call__(self, input_ids: Tensor | None = None, **inputs: Any) -> Any:
        """Return hidden states (B, T, D) as `last_hidden_state`."""
        model = self._model
        return model.get_decoder()(**embedded(model, input_ids, inputs))


def embedded(model: Model, input_ids: Tensor | None, inputs: dict[str, Any]) -> dict[str, Any]:
    """Return a language model's keyword arguments for ids (B, T) and the features of their clips.

    Without features they stay ids.
    """
    row = _family(model)
    ours = ("inputs_embeds", "mm_encoder_outputs", "mm_token_type_ids", *row.clip_inputs)
    rest = {name: value for name, value in inputs.items() if name not in ours}
    packed = inputs.get("mm_encoder_outputs")
    if packed is None or input_ids is None:
        return {"input_ids": input_ids, **rest}
    embeddings = _language(model).get_input_embeddings()(input_ids)
    holes = (input_ids == row.placeholder(model.config))[..., None]
    features = packed[row.modality].pooler_output.to(embeddings)
    assert int(holes.sum()) == len(features), (
        f"{int(holes.sum())} placeholders and {len(features)} rows of features"
    )
    return {"inputs_embeds": embeddings.masked_scatter(holes, features), **rest}


def _family(model: Any) -> Family:
    family: Family = model.__dict__[FAMILY]
    return family


def _language(model: Any) -> Model:
    find = _family(model).language
    assert find is not None, "only rows with `language` are made to take features"
    return find(model)
