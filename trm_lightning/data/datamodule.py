"""The Lightning data module: a corpus, a tokenizer, windows and batches."""

import math
import re

import numpy as np
from lightning import LightningDataModule

from trm_lightning.data.cache_builder import SCRAMBLED
from trm_lightning.data.character_tokenizer import CharacterTokenizer
from trm_lightning.data.corpus import Corpus
from trm_lightning.data.eval_windows import EvalWindows, default_stride
from trm_lightning.data.find_or_download import resolve_cache_dir
from trm_lightning.data.token_cache import TokenCache, TokenSplit, open_or_build
from trm_lightning.data.tokenizer import Tokenizer
from trm_lightning.data.train_batches import Order, TrainBatches, windows_per_epoch
from trm_lightning.errors import UserError

# An evaluation batch has a float32 per token and vocabulary entry: so many of them are 128 MB.
MAX_BATCH_SCORES = 1 << 25
_SAFE_NAME = re.compile(r"\w[\w .+-]*")
_LONGEST_NAME = 100  # bytes; most file systems take 255, and the cache's name goes on


class TextDataModule(LightningDataModule):
    """Text as batches of token ids.

    ``setup`` provides ``tokenizer`` (fitted), ``vocab_size``, ``splits`` and ``fingerprint``: a
    hash of all that determines the ids. Training batches are int64 (B, L); evaluation batches are
    (ids (B, T), index of the first scored position).

    Training shows one epoch, unless :meth:`show` says otherwise.

    Args:
        name: of the data set; its cache folder's name begins with it, so letters, digits, blanks
            and ``_.+-`` only.
        corpus: where the text comes from; None for a subclass that opens ids of its own.
        tokenizer: unfitted; it is fitted on the training split.
        window_size: L, tokens of a window.
        batch_size: B, windows of a training batch, summed over all processes.
        windows: training windows: "sliding" (each epoch shows each token once) or "random"
            (starts drawn uniformly, as in the systems that are reproduced).
        supervised_tokens: how many tokens at the end of a window count in the loss; None for all.
        train_tokens: train on the first so many tokens of the training split only; None for all.
        eval_stride: step between evaluation windows, 1 to L; None for half a window.
        eval_batch_tokens: most tokens of an evaluation batch; fewer if the vocabulary is large.
        seed: of the order of training windows.
        cache_dir: folder for downloads and token ids; None for ``$TRM_CACHE_DIR``, or else the
            platform's cache folder.
        scrambled_validation_alphabet: add the split "val_scrambled": the validation text encoded
            with an alphabet of its own, as one published baseline was evaluated. Needs a
            ``CharacterTokenizer``.

    Raises:
        UserError: values out of range (all of them at once).
    """

    is_running_text = True  # whether evaluation scores a split's tokens one after the other
    is_puzzle = False  # whether a window is a puzzle, scored by whether its answer is right

    def __init__(
        self,
        name: str,
        corpus: Corpus | None,
        tokenizer: Tokenizer,
        window_size: int,
        batch_size: int,
        windows: Order = "sliding",
        supervised_tokens: int | None = None,
        train_tokens: int | None = None,
        eval_stride: int | None = None,
        eval_batch_tokens: int = 16384,
        seed: int = 0,
        cache_dir: str | None = None,
        scrambled_validation_alphabet: bool = False,
    ) -> None:
        super().__init__()
        self.name: str = str(name)
        self.corpus = corpus
        self.unfitted_tokenizer = tokenizer
        self.window_size = window_size
        self.batch_size = batch_size
        self.windows = windows
        self.supervised_tokens = window_size if supervised_tokens is None else supervised_tokens
        self.train_tokens = train_tokens
        self.eval_stride = eval_stride
        self.eval_batch_tokens = eval_batch_tokens
        self.seed = seed
        self.cache_dir = resolve_cache_dir(cache_dir)
        self.scrambled = scrambled_validation_alphabet
        self.n_batches: int | None = None
        self.start_batch = 0
        self._cache: TokenCache | None = None
        self._check_arguments()

    def _check_arguments(self) -> None:
        least = {"window_size": 1, "batch_size": 1, "eval_batch_tokens": 1, "seed": 0}
        problems = [
            f"{key} is {getattr(self, key)}; it must be at least {minimum}."
            for key, minimum in least.items()
            if getattr(self, key) < minimum
        ]
        if not _SAFE_NAME.fullmatch(self.name) or len(self.name.encode()) > _LONGEST_NAME:
            problems.append(
                f"name is {self.name!r}; it must be a short name of letters, digits and _.+- that "
                "begins with a letter or digit: a folder is named so."
            )
        if self.train_tokens is not None and self.train_tokens < self.window_size:
            problems.append(
                f"train_tokens is {self.train_tokens}; it must be at least "
                f"window_size={self.window_size}."
            )
        if self.windows not in ("sliding", "random"):
            problems.append(f"windows is {self.windows!r}; it must be 'sliding' or 'random'.")
        for key in ("supervised_tokens", "eval_stride"):
            value = getattr(self, key)
            if value is not None and not 1 <= value <= max(1, self.window_size):
                problems.append(
                    f"{key} is {value}; it must be 1 to window_size={self.window_size}."
                )
        if self.scrambled and not isinstance(self.unfitted_tokenizer, CharacterTokenizer):
            problems.append("scrambled_validation_alphabet needs the CharacterTokenizer.")
        if problems:
            raise UserError(f"data={self.name}: " + "\n".join(problems), "Correct these data keys.")

    def prepare_data(self) -> None:
        """Find or download the text and build the token cache, where there is none yet."""
        self._open()

    def setup(self, stage: str | None = None) -> None:
        """Open the token cache (on every process).

        Raises:
            UserError: the training split is shorter than a window.
        """
        n_tokens = self._open().splits["train"].n_tokens
        if n_tokens < self.window_size:
            raise UserError(
                f"The training split of {self.name} has {n_tokens} tokens, fewer than one window "
                f"of {self.window_size}.",
                "Use more text or a smaller data.window_size.",
            )

    def _open(self) -> TokenCache:
        if self._cache is None:
            assert self.corpus is not None
            self._cache = open_or_build(
                self.name, self.corpus, self.unfitted_tokenizer, self.cache_dir, self.scrambled
            )
        return self._cache

    @property
    def _opened(self) -> TokenCache:
        if self._cache is None:
            raise RuntimeError("call prepare_data() and setup() first")
        return self._cache

    @property
    def tokenizer(self) -> Tokenizer:
        """The fitted tokenizer."""
        return self._opened.tokenizer

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        return self.tokenizer.vocab_size

    @property
    def fingerprint(self) -> str:
        """Hash of text, split, tokenizer and their versions, in hexadecimal."""
        return self._opened.fingerprint

    @property
    def ids_digest(self) -> str:
        """Hash of the token ids of all splits, in hexadecimal."""
        return self._opened.ids_digest

    @property
    def splits(self) -> dict[str, TokenSplit]:
        """Splits by name: "train", "val", and where they exist "test" and "val_scrambled"."""
        return self._opened.splits

    @property
    def train_ids(self) -> np.ndarray:
        """The ids that are trained on, (N,)."""
        return self.splits["train"].tokens[: self.train_tokens]

    @property
    def tokens_per_epoch(self) -> int:
        """Number of tokens in the windows of one epoch."""
        return windows_per_epoch(len(self.train_ids), self.window_size) * self.window_size

    @property
    def batches_per_epoch(self) -> float:
        """Number of batches of one epoch; rarely a whole number."""
        return self.tokens_per_epoch / (self.batch_size * self.window_size)

    def show(self, n_batches: int, start_batch: int = 0) -> None:
        """Let training show ``n_batches``, of which an earlier run has had ``start_batch``."""
        self.n_batches, self.start_batch = n_batches, start_batch

    def train_batches(
        self, n_batches: int, start_batch: int = 0, rank: int = 0, world_size: int = 1
    ) -> TrainBatches:
        """Return training batches ``start_batch`` to ``n_batches - 1``; see ``TrainBatches``.

        Raises:
            UserError: the batch cannot be divided among the processes.
        """
        self.check_processes(world_size)
        return TrainBatches(
            self.train_ids,
            window_size=self.window_size,
            batch_size=self.batch_size,
            order=self.windows,
            seed=self.seed,
            n_batches=n_batches,
            start_batch=start_batch,
            rank=rank,
            world_size=world_size,
        )

    def check_processes(self, world_size: int) -> None:
        """Check that a batch can be divided among the processes.

        Raises:
            UserError: it cannot.
        """
        if self.batch_size % world_size:
            raise UserError(
                f"data.batch_size={self.batch_size} cannot be divided among {world_size} devices.",
                "It counts the windows of all devices together: use a multiple.",
            )

    def eval_windows(
        self,
        split: str,
        window_size: int | None = None,
        stride: int | None = None,
        batch_size: int | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> EvalWindows:
        """Return windows that score every token of a split once; see ``EvalWindows``.

        Args:
            split: a key of ``splits``.
            window_size: None for that of training.
            stride: None for ``eval_stride``, else half a window.
            batch_size: None for as many windows as ``eval_batch_tokens`` and memory allow.
            rank: of this process.
            world_size: number of processes.

        Raises:
            UserError: no such split, or a value out of range.
        """
        tokens = self._ids_of(split)
        length = self.window_size if window_size is None else window_size
        if stride is None:
            stride = self.eval_stride or default_stride(length)
        if length < 1 or not 1 <= stride <= length:
            raise UserError(
                f"There are no evaluation windows of {length} tokens with a stride of {stride}.",
                "The stride must be 1 to the window size.",
            )
        batch_size = batch_size or self.eval_batch_size(length)
        return EvalWindows(tokens, length, stride, batch_size, rank, world_size)

    def _ids_of(self, split: str) -> np.ndarray:
        """Return the ids of a split's text, (N,).

        Raises:
            UserError: no such split.
        """
        known = self._opened.splits
        if split not in known:
            raise UserError(
                f"The data set {self.name} has no split {split!r}.", f"It has: {', '.join(known)}."
            )
        return known[split].tokens

    def eval_batch_size(self, window_size: int) -> int:
        """Return how many windows ``eval_batch_tokens`` and memory allow."""
        n_tokens = min(self.eval_batch_tokens, MAX_BATCH_SCORES // self.vocab_size)
        return max(1, n_tokens // window_size)

    def train_dataloader(self) -> TrainBatches:
        """Return this process's training batches."""
        n_batches = self.n_batches
        if n_batches is None:
            n_batches = math.ceil(self.batches_per_epoch)
        return self.train_batches(n_batches, self.start_batch, *self._rank_and_world_size())

    @property
    def eval_splits(self) -> list[str]:
        """Names of the splits that ``val_dataloader`` returns, in its order."""
        return ["val", SCRAMBLED] if self.scrambled else ["val"]

    def val_dataloader(self) -> EvalWindows | list[EvalWindows]:
        """Return windows of "val", or of "val" and "val_scrambled" with the scrambled alphabet."""
        loaders = [self._eval_loader(split) for split in self.eval_splits]
        return loaders if self.scrambled else loaders[0]

    def test_dataloader(self) -> EvalWindows:
        """Return the windows of "test".

        Raises:
            UserError: the data set has no test split.
        """
        return self._eval_loader("test")

    def _eval_loader(self, split: str) -> EvalWindows:
        rank, world_size = self._rank_and_world_size()
        return self.eval_windows(split, rank=rank, world_size=world_size)

    def _rank_and_world_size(self) -> tuple[int, int]:
        if self.trainer is None:
            return 0, 1
        return self.trainer.global_rank, self.trainer.world_size
