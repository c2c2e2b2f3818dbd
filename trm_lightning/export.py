"""Give a trained model away: ``python -m trm_lightning.export run=outputs/…``."""

from omegaconf import DictConfig

from trm_lightning.cli import command
from trm_lightning.errors import need


@command("export")
def main(cfg: DictConfig) -> None:
    """Write a folder with weights, config, tokenizer and model card, which plain torch loads.

    Examples:
        trm-export run=outputs/2025-01-31/12-00-00_builtin_word_trm_1a2b3c
        trm-export run=latest to=my_model license=mit
        trm-export run=latest format=onnx
        trm-export run=latest push_to_hub=user/name license=mit
    """
    if cfg.push_to_hub is not None:
        need("huggingface_hub", "hub")
    from trm_lightning.exporting.command import export

    export(cfg)


if __name__ == "__main__":
    main()
