"""What every section of a recipe, and every scorer file, has in common."""

from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A part of a recipe: unknown keys are errors, values do not change after loading."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        protected_namespaces=(),
    )


def server_address(url: str) -> str:
    """Return a server's address as given; one without http:// or https:// in front is refused, and
    one that holds a secret, which would stand in manifest.json, in errors and in trackers.
    """
    if not url.startswith(("http://", "https://")):
        raise ValueError("must begin with http:// or https://, e.g. http://localhost:8000/v1")
    parts = urlsplit(url)
    if "@" in url:
        raise ValueError(
            "must not hold a user or a password. Put the key into an environment variable and "
            "name it in `api_key_env`"
        )
    if parts.query or parts.fragment:
        raise ValueError(
            "must not have anything behind `?` or `#`. A key belongs into an environment variable, "
            "named in `api_key_env`; a server that wants more in its address needs a gateway"
        )
    return url
