"""Text to tokens to batches. Knows nothing of models."""

from trm_lightning.data.bpe import BPETokenizer, GPT2Tokenizer
from trm_lightning.data.builtin import BuiltinPlay
from trm_lightning.data.cache import TokenSplit
from trm_lightning.data.characters import CharacterTokenizer
from trm_lightning.data.corpora import Corpus, TextCorpus, TinyShakespeare
from trm_lightning.data.counts import TextCounts
from trm_lightning.data.datamodule import TextDataModule
from trm_lightning.data.text import text_data
from trm_lightning.data.tokenizer import Tokenizer, tokenizer_from_state
from trm_lightning.data.wikitext import WikiText
from trm_lightning.data.windows import EvalWindows, TrainBatches
from trm_lightning.data.words import WhitespaceTokenizer, WordTokenizer

__all__ = [
    "BPETokenizer",
    "BuiltinPlay",
    "CharacterTokenizer",
    "Corpus",
    "EvalWindows",
    "GPT2Tokenizer",
    "TextCorpus",
    "TextCounts",
    "TextDataModule",
    "TinyShakespeare",
    "TokenSplit",
    "Tokenizer",
    "TrainBatches",
    "WhitespaceTokenizer",
    "WikiText",
    "WordTokenizer",
    "text_data",
    "tokenizer_from_state",
]
