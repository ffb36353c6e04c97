"""A repository of the Hugging Face hub: private unless asked otherwise, with card, recipe and report.

The token comes from the environment (HF_TOKEN) or from `hf auth login`, and from nowhere else.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from tunesmith.disk import write_text
from tunesmith.errors import ModelError, RunError
from tunesmith.models.card import portable
from tunesmith.models.find import ModelSource
from tunesmith.models.reach import endpoint, is_offline
from tunesmith.recipe import Recipe
from tunesmith.redact import first_line
from tunesmith.run.directory import RECIPE, REPORT, RunDir


def address(repo: str) -> str:
    """The web address of a repository on the hub that is set."""
    return f"{endpoint()}/{repo}"


def check(repo: str, *, force: bool, public: bool) -> None:
    """Before any work: there is a token, the name is free, or its content may be replaced and is as private as asked.

    Raises ModelError or RunError with what to do.
    """
    from huggingface_hub.errors import HFValidationError

    api = _api()
    try:
        exists = api.repo_exists(repo)
        is_open = exists and api.repo_info(repo).private is False
    except HFValidationError as error:
        raise RunError(f"export --repo {repo}: expected OWNER/NAME ({first_line(error)}).") from None
    except Exception as error:  # its kinds of exception change with the release
        raise ModelError(f"export --repo {repo}: the hub does not answer ({first_line(error)}).") from None
    if "/" not in repo:
        raise RunError(f"export --repo {repo}: expected OWNER/NAME.")
    if exists and not force:
        raise RunError(f"export --repo {repo}: exists already. Write over it with --force, or choose another name.")
    if is_open and not public:
        raise RunError(f"export --repo {repo}: all can see it. Say so with --public, or choose another name.")


def push(folder: Path, repo: str, run_dir: RunDir, recipe: Recipe, base: ModelSource, *, public: bool) -> None:
    """Upload a folder, after adding recipe and report to it. Raises ModelError when the hub refuses, or keeps less."""
    write_text(folder / RECIPE, portable(recipe, base).to_yaml())
    if run_dir.has(REPORT):
        shutil.copyfile(run_dir.file(REPORT), folder / REPORT)
    api = _api()
    try:
        api.create_repo(repo, private=not public, exist_ok=True)
        api.upload_folder(
            repo_id=repo, folder_path=folder, commit_message=f"Export of {run_dir.path.name} by tunesmith"
        )
        there = set(api.list_repo_files(repo))
    except Exception as error:  # as above
        raise ModelError(
            f"export --repo {repo}: the hub refused it ({first_line(error)}). Give a token that "
            "may write there, and run the same command again with --force."
        ) from error
    missing = sorted({str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()} - there)
    if missing:
        raise ModelError(f"export --repo {repo}: {', '.join(missing[:3])} did not arrive. Run the same command again.")


def _api() -> Any:
    """The hub's client. Raises ModelError without a token, or when told to stay offline."""
    from huggingface_hub import HfApi, get_token

    if is_offline():
        raise ModelError("export --format hub: HF_HUB_OFFLINE is set. Unset it, or export safetensors.")
    token = get_token()
    if token is None:
        raise ModelError("export --format hub: no token. Log in with: hf auth login, or set HF_TOKEN.")
    return HfApi(endpoint=endpoint(), token=token)
