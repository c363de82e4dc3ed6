"""Uploading a model folder to the Hugging Face hub."""

import re
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

from polycycle.engines import GGUF_FILE
from polycycle.errors import ExportError
from polycycle.export.records import VERIFICATION_FILE, read_proof, read_record

_REPO = re.compile(r"[\w.-]+/[\w.-]+")
# Of a stage's folder, what is about the making and not about the model.
_LEFT_OUT = ("manifest.json", "training.json", "metrics.jsonl", "ungrafted")


@dataclass(frozen=True, kw_only=True, slots=True)
class PushPlan:
    """What would be uploaded.

    Attributes:
        folder: from where.
        repo: owner/name.
        files: (path in the folder, bytes), sorted.
    """

    folder: Path
    repo: str
    files: tuple[tuple[str, int], ...]


def plan_push(folder: Path, repo: str, *, force: bool = False) -> PushPlan:
    """Look at what would be uploaded, without the network.

    Args:
        folder: an export or a model of ours.
        repo: owner/name.
        force: take a folder without a card, and an export without its proof.

    Raises:
        ExportError: the folder is no model, has no card, or is an export that is not proved.
    """
    if not _REPO.fullmatch(repo):
        raise ExportError(f"{repo!r}: a repository on the hub is owner/name")
    if not any((folder / name).is_file() for name in ("config.json", GGUF_FILE)):
        raise ExportError(
            f"{folder} is no model folder: there is neither config.json nor {GGUF_FILE} in it"
        )
    if not force:
        _refuse_unready(folder)
    files = sorted(
        (str(path.relative_to(folder)), path.stat().st_size)
        for path in folder.rglob("*")
        if path.is_file() and path.relative_to(folder).parts[0] not in _LEFT_OUT
    )
    return PushPlan(folder=folder, repo=repo, files=tuple(files))


def _refuse_unready(folder: Path) -> None:
    if not (folder / "README.md").is_file():
        raise ExportError(
            f"{folder} has no model card (README.md): `polycycle run`, `export` and `verify` write "
            "one. Or say --force"
        )
    if read_record(folder) is not None:
        proof = read_proof(folder)
        if proof is None:
            raise ExportError(f"{folder} is not proved yet: run `polycycle verify {folder}` first")
        if not proof["passed"]:
            raise ExportError(
                f"{folder} failed its proof, see {folder / VERIFICATION_FILE}; do not share it"
            )


def upload(plan: PushPlan, *, private: bool, message: str, api: HfApi | None = None) -> str:
    """Create the repository if need be, upload in one commit, and return its address.

    Raises:
        ExportError: nobody is logged in, or the hub refuses.
    """
    api = api or HfApi()
    try:
        address = api.create_repo(plan.repo, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=plan.repo,
            folder_path=plan.folder,
            commit_message=message,
            ignore_patterns=[*_LEFT_OUT, *(f"{name}/*" for name in _LEFT_OUT)],
        )
    except LocalTokenNotFoundError as error:
        raise ExportError("nobody is logged in to the hub: run `hf auth login` first") from error
    except HfHubHTTPError as error:
        raise ExportError(f"the hub refused {plan.repo}: {error}") from error
    return str(address)
