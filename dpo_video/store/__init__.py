"""The run folder: a working store with one writer thread, finished stages, a lock with the owner's
pid and machine.
"""

from dpo_video.store.keys import content_hash, row_key
from dpo_video.store.overlay import OverlayStore, RowStore
from dpo_video.store.run_store import RunStore

__all__ = ["OverlayStore", "RowStore", "RunStore", "content_hash", "row_key"]
