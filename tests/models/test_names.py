"""Names of models, known without torch."""

from dpo_video.models.families import FAMILIES
from dpo_video.models.names import FAMILY_NAMES


def test_the_names_of_the_families_are_those_of_their_table() -> None:
    assert tuple(FAMILIES) == FAMILY_NAMES
