"""Every test runs offline and on one thread, so that a suite of several processes does not fight for cores."""

import os
import signal

from hypothesis import HealthCheck, settings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("WANDB_MODE", "offline")

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # a suite in the background of a shell: its children inherit that
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])  # on a busy machine
settings.load_profile("untimed")
