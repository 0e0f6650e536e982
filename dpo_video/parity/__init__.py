"""Is what a server answers what was trained (`dpo-video parity`), and how a run is served."""
