"""Loaded by ms-swift (`--external_plugins`) in its own environment: the checkpoint's own id of a
video token, where its template has that of the published tokenizer.
"""

import os

from swift.template.templates.qwen import Qwen2_5VLTemplate

Qwen2_5VLTemplate.video_token_id = int(os.environ["BENCH_VIDEO_TOKEN_ID"])
