"""What every section of a recipe, and every scorer file, has in common."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A part of a recipe: unknown keys are errors, values do not change after loading."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        protected_namespaces=(),
        use_attribute_docstrings=True,
    )


def server_address(url: str) -> str:
    """Return a server's address as given; one without http:// or https:// in front is refused."""
    if not url.startswith(("http://", "https://")):
        raise ValueError("must begin with http:// or https://, e.g. http://localhost:8000/v1")
    return url
