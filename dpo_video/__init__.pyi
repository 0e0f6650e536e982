from dpo_video.api.runs import open_run as open_run
from dpo_video.api.runs import read_answers as read_answers
from dpo_video.api.runs import read_pairs as read_pairs
from dpo_video.api.runs import run_stages as run_stages
from dpo_video.api.tuned import open_tuned as open_tuned
from dpo_video.core.records import Candidate as Candidate
from dpo_video.core.records import Judgment as Judgment
from dpo_video.core.records import Pair as Pair
from dpo_video.core.records import Sample as Sample
from dpo_video.recipe.file import change_recipe as change_recipe
from dpo_video.recipe.file import load_recipe as load_recipe

__version__: str
