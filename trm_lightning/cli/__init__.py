"""The command line: how a config is found, composed, checked, run and reported when it fails."""

from trm_lightning.cli.command import command

__all__ = ["command"]
