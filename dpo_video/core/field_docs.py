"""The docstring under a field of a class, read from the source when it is asked for.

pydantic's `use_attribute_docstrings` reads those of every class that is imported, in each command.
"""

import ast
import inspect
import textwrap
from functools import cache


def field_meaning(model: type, name: str) -> str:
    """Return what stands under a field as one line; empty where nothing does.

    Example: for `class Settings(BaseModel)` with `fps: float = 2.0` and the docstring
    `Frames per second.` under it, `field_meaning(Settings, "fps")` is "Frames per second.".
    """
    owner = next(kind for kind in model.__mro__ if name in inspect.get_annotations(kind))
    return " ".join(_docstrings(owner).get(name, "").split())


@cache
def _docstrings(kind: type) -> dict[str, str]:
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(definition, ast.ClassDef)
    return {
        field.target.id: text.value.value
        for field, text in zip(definition.body, definition.body[1:], strict=False)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
        and isinstance(text.value.value, str)
    }
