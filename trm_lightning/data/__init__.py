"""Text to tokens to batches, for any model."""

from trm_lightning.data.bpe_tokenizers import BPETokenizer, GPT2Tokenizer
from trm_lightning.data.builtin_corpus import BuiltinPlay
from trm_lightning.data.character_tokenizer import CharacterTokenizer
from trm_lightning.data.corpus import Corpus
from trm_lightning.data.datamodule import TextDataModule
from trm_lightning.data.eval_windows import EvalWindows
from trm_lightning.data.huggingface_json import huggingface_tokenizer_json
from trm_lightning.data.infilling import InfillingDataModule
from trm_lightning.data.shakespeare import TinyShakespeare
from trm_lightning.data.text_counts import TextCounts
from trm_lightning.data.token_cache import TokenSplit
from trm_lightning.data.tokenizer import Tokenizer, tokenizer_from_state
from trm_lightning.data.train_batches import TrainBatches
from trm_lightning.data.user_text import TextCorpus, text_data
from trm_lightning.data.wikitext import WikiText
from trm_lightning.data.word_tokenizers import WhitespaceTokenizer, WordTokenizer

__all__ = [
    "BPETokenizer",
    "BuiltinPlay",
    "CharacterTokenizer",
    "Corpus",
    "EvalWindows",
    "GPT2Tokenizer",
    "InfillingDataModule",
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
    "huggingface_tokenizer_json",
    "text_data",
    "tokenizer_from_state",
]
