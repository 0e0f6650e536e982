"""Run the command line as `python -m dpo_video`."""

from dpo_video.cli.app import main

if __name__ == "__main__":
    main()
