"""What every model family must do, as checks on a checkpoint; `dpo-video family test` runs them."""
