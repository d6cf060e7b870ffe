"""A run on the hub: one folder, checked for anything that could undo the erasure, private unless asked otherwise."""

from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import validate_repo_id

from pipelines.errors import MissingError, UsageError
from pipelines.release import check_release

from ..rundir import find_run

# The base of whatever the hub's client raises without a connection; it is not always an OSError.
UNREACHABLE = (OSError, HfHubHTTPError.__mro__[1])


def publish(run: str | Path, name: str, *, public: bool = False, unscored: bool = False) -> str:
    """Upload the erased model of a run as the hub repository ``OWNER/NAME``; returns its address.

    Raises ``UsageError`` for a name that is none, a run without scores unless ``unscored`` allows it, a folder with a
    file that does not belong there, and a repository that is public already unless ``public`` says so; ``MissingError``
    for a run that is not finished and when the hub cannot be reached or refuses.
    """
    folder = find_run(run)
    try:
        validate_repo_id(name)
    except ValueError as error:
        raise UsageError(f"--push-to-hub {name!r} is no name of a repository: {error}") from error
    if not (folder.model_dir / "model_index.json").exists():
        raise MissingError(f"{folder.path} is not finished: repeat its command first")
    if not folder.results_path.exists() and not unscored:
        raise UsageError(f"{folder.path} has no scores: score it first, or release it as it is with --unscored")
    check_release(folder.model_dir)
    try:
        return upload(folder.model_dir, name, public=public)
    except UNREACHABLE as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise MissingError(f"--push-to-hub {name}: the hub cannot be reached or refuses ({reason})") from error


def upload(folder: Path, name: str, *, public: bool) -> str:
    """Create the repository where there is none and put the folder there in one commit."""
    hub = HfApi()
    address = hub.create_repo(name, private=not public, exist_ok=True)
    if not public and not hub.model_info(address.repo_id).private:
        raise UsageError(f"--push-to-hub {name} is a public repository: add --public to release the model there")
    hub.upload_folder(
        repo_id=address.repo_id, folder_path=folder, commit_message="Model with a class erased by dit-erase"
    )
    return str(address)
