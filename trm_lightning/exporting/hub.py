"""Upload an exported folder to Hugging Face's hub."""

from pathlib import Path

from trm_lightning.exporting.graphs import GRAPHS
from trm_lightning.runs.hub import FILES, hub_error, quieten


def push(folder: Path, name: str, private: bool) -> str:
    """Upload an exported folder in one commit; the repository is made where there is none.

    Args:
        folder: that ``trm-export`` wrote.
        name: of the repository, ``user/name``.
        private: whether a new repository is seen by its owner alone.

    Returns:
        The address of the commit.

    Raises:
        UserError: where the hub refuses or cannot be reached.
    """
    from huggingface_hub import HfApi

    quieten()
    hub = HfApi()
    try:
        hub.create_repo(name, private=private, exist_ok=True)
        commit = hub.upload_folder(
            repo_id=name,
            folder_path=folder,
            allow_patterns=[*FILES, *(form.file for form in GRAPHS.values())],
            commit_message="Export of trm_lightning",
        )
    except Exception as error:  # the library's own errors, its HTTP client's, the system's
        what = f"{folder} could not be uploaded to {name}"
        raise hub_error(what, error, "The folder is written.") from error
    return str(commit.commit_url)
