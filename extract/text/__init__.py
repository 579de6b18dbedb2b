"""The text side of stage one: frozen RoBERTa word features and static/motion word maps."""

from extract.text.decoupler import WordDecoupler
from extract.text.encoder import TextEncoder
from extract.text.pipeline import EncodedText, TextPipeline, normalise
