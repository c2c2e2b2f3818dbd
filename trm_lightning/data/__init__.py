"""Text to tokens to batches, for any model."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from trm_lightning.data.bpe_tokenizers import BPETokenizer, GPT2Tokenizer
from trm_lightning.data.builtin_corpus import BuiltinPlay
from trm_lightning.data.character_tokenizer import CharacterTokenizer
from trm_lightning.data.corpus import Corpus
from trm_lightning.data.huggingface_corpus import HuggingFaceCorpus
from trm_lightning.data.huggingface_json import huggingface_tokenizer_json
from trm_lightning.data.huggingface_tokenizer import HuggingFaceTokenizer
from trm_lightning.data.id_tokenizer import IdTokenizer
from trm_lightning.data.maze import Maze
from trm_lightning.data.puzzle_corpus import PuzzleCorpus
from trm_lightning.data.puzzle_files import MazeFiles, SudokuFiles
from trm_lightning.data.sequences import Addition, Brackets, Multiplication, Parity
from trm_lightning.data.shakespeare import TinyShakespeare
from trm_lightning.data.sudoku import Sudoku
from trm_lightning.data.text_counts import TextCounts
from trm_lightning.data.token_cache import TokenSplit
from trm_lightning.data.tokenizer import Tokenizer, tokenizer_from_state
from trm_lightning.data.wikitext import WikiText
from trm_lightning.data.word_tokenizers import WhitespaceTokenizer, WordTokenizer

if TYPE_CHECKING:
    from trm_lightning.data.datamodule import TextDataModule
    from trm_lightning.data.eval_windows import EvalWindows
    from trm_lightning.data.infilling import InfillingDataModule
    from trm_lightning.data.puzzles import PuzzleDataModule
    from trm_lightning.data.shards import ShardsDataModule, write_shards
    from trm_lightning.data.train_batches import TrainBatches
    from trm_lightning.data.user_text import TextCorpus, text_data

__all__ = [
    "Addition",
    "BPETokenizer",
    "Brackets",
    "BuiltinPlay",
    "CharacterTokenizer",
    "Corpus",
    "EvalWindows",
    "GPT2Tokenizer",
    "HuggingFaceCorpus",
    "HuggingFaceTokenizer",
    "IdTokenizer",
    "InfillingDataModule",
    "Maze",
    "MazeFiles",
    "Multiplication",
    "Parity",
    "PuzzleCorpus",
    "PuzzleDataModule",
    "ShardsDataModule",
    "Sudoku",
    "SudokuFiles",
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
    "write_shards",
]

# Worker processes tokenize without torch, which takes seconds to load.
_WITH_TORCH = {
    "EvalWindows": "eval_windows",
    "InfillingDataModule": "infilling",
    "PuzzleDataModule": "puzzles",
    "ShardsDataModule": "shards",
    "TextCorpus": "user_text",
    "TextDataModule": "datamodule",
    "TrainBatches": "train_batches",
    "text_data": "user_text",
    "write_shards": "shards",
}


def __getattr__(name: str) -> Any:
    """Load what needs torch on first use."""
    if name in _WITH_TORCH:
        return getattr(import_module(f"{__name__}.{_WITH_TORCH[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
