"""What runs are called in titles, from their config: model, text and its tokens."""

import re
from typing import Any

MODELS = {
    "AR": "Autoregressive Transformer",
    "TRM": "TRM",
    "Looped": "Looped Transformer",
    "SourceTRM": "The notes' TRM",
}
TEXTS = {"BuiltinPlay": "the built-in play", "TinyShakespeare": "Tiny Shakespeare"}
TOKENS = {
    "CharacterTokenizer": "characters",
    "WordTokenizer": "words",
    "WhitespaceTokenizer": "words",
    "BPETokenizer": "byte pairs",
    "GPT2Tokenizer": "GPT-2's byte pairs",
}


def run_title(config: dict[str, Any]) -> str:
    """Return such as "TRM on Tiny Shakespeare, characters"."""
    return f"{model_title(config)} on {data_title(config['data'])}"


def model_title(config: dict[str, Any]) -> str:
    """Return the model's name, or its class's in words."""
    name = _class_of(config["model"])
    return MODELS.get(name, _in_words(name))


def data_title(data: dict[str, Any]) -> str:
    """Return text and tokens, or the data's own name where a config has none of them."""
    corpus, tokenizer = data.get("corpus") or {}, data.get("tokenizer") or {}
    text, tokens = _class_of(corpus), _class_of(tokenizer)
    if not text or not tokens:
        return str(data.get("name", "unnamed data"))
    if text == "WikiText":
        shown = f"WikiText-{corpus.get('size', 2)}"
    elif text == "TextCorpus":
        shown = str(data.get("name", "a text"))
    else:
        shown = TEXTS.get(text, _in_words(text))
    return (
        f"{shown}, {TOKENS.get(tokens, _in_words(tokens).removesuffix(' tokenizer') + ' tokens')}"
    )


def _class_of(node: dict[str, Any]) -> str:
    return str(node.get("_target_", "")).rpartition(".")[2]


def _in_words(name: str) -> str:
    """Return CamelCase as words, the first of them as it is."""
    first, *rest = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name).split(" ")
    return " ".join([first, *(word if word.isupper() else word.lower() for word in rest)])
