"""From a video and sentences to masks: `python -m scripts.segment`."""
