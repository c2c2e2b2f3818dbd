"""Tokenizers that the ``tokenizers`` library made, used for text."""

from pathlib import Path

import pytest
import tokenizers
from small_text import TEXT, ready
from tokenizers import models, normalizers, pre_tokenizers, processors, trainers

from trm_lightning.data import HuggingFaceTokenizer, text_data, tokenizer_from_state
from trm_lightning.errors import UserError


def gpt2_like() -> tokenizers.Tokenizer:
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    specials = ["<|endoftext|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator([TEXT], trainer)
    return made


def bert_like() -> tokenizers.Tokenizer:
    """Truncates, pads and frames what it encodes: all of which a text must not have."""
    made = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    specials = ["[UNK]", "[CLS]", "[SEP]", "[PAD]"]
    trainer = trainers.WordPieceTrainer(vocab_size=80, special_tokens=specials, show_progress=False)
    made.train_from_iterator([TEXT], trainer)
    made.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    made.enable_truncation(8)
    made.enable_padding(length=8)
    return made


def saved(made: tokenizers.Tokenizer, folder: Path) -> Path:
    path = folder / "theirs.json"
    made.save(str(path))
    return path


@pytest.mark.parametrize("make", [gpt2_like, bert_like])
def test_text_gets_the_library_s_own_ids(make, tmp_path):
    made, text = make(), tmp_path / "text.txt"
    text.write_text(TEXT + "naïve 中文")
    data = text_data(
        str(text), "word", 16, 4, tokenizer_json=str(saved(made, tmp_path)),
        cache_dir=str(tmp_path / "cache"),
    )  # fmt: skip
    ready(data)
    made.no_truncation()
    made.no_padding()
    ids = [i for split in data.splits.values() for i in split.tokens.tolist()]
    n = int(0.9 * len(TEXT + "naïve 中文"))
    parts = (TEXT + "naïve 中文")[:n], (TEXT + "naïve 中文")[n:]
    assert ids == [i for part in parts for i in made.encode(part, add_special_tokens=False).ids]
    assert data.vocab_size == made.get_vocab_size()
    unknown = sum(split.counts.unknown for split in data.splits.values())
    assert unknown == (0 if make is gpt2_like else ids.count(0)) and (make is gpt2_like or unknown)
    restored = tokenizer_from_state(data.tokenizer.state())  # without the file
    assert restored.encode(TEXT).tolist() == data.tokenizer.encode(TEXT).tolist()


def test_the_token_before_a_text_is_found_or_named(tmp_path):
    path = str(saved(bert_like(), tmp_path))
    assert HuggingFaceTokenizer(path).fit().start_id == 1
    assert HuggingFaceTokenizer(path, "[SEP]").fit().start_id == 2
    with pytest.raises(UserError, match=r"no token '<none>'"):
        HuggingFaceTokenizer(path, "<none>").prepare(tmp_path)


@pytest.mark.parametrize("content", [None, "", "{}", '{"model": {"type": "none"}}'])
def test_a_file_that_is_no_tokenizer_is_named(tmp_path, content):
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=r"tokenizer\.json"):
        HuggingFaceTokenizer(str(path)).prepare(tmp_path)
