"""Models of the Hugging Face hub: fetched once, safetensors only, each refusal with its way on."""

from __future__ import annotations

import os
from pathlib import Path

from tunesmith.errors import ModelError
from tunesmith.redact import first_line

_HUB_SMALL_FILES = ("*.json", "*.model", "*.txt", "*.jinja", "README.md")


def snapshot(name: str, revision: str | None, *, weights: bool, near: str = "") -> Path:
    """The folder of a hub model in the local cache, fetched where it is missing; without `weights`, its small files.

    near: what to say of names that are spelled nearly so. Raises ModelError that names the cause and what to do.
    """
    from huggingface_hub import errors, snapshot_download

    patterns = [*_HUB_SMALL_FILES, *(["*.safetensors"] if weights else [])]
    try:
        return Path(
            snapshot_download(
                name, revision=revision, allow_patterns=patterns, ignore_patterns=["*/*", "consolidated*"]
            )
        )
    except errors.GatedRepoError:
        raise ModelError(
            f"model {name}: its owner asks you to accept conditions first. Do so at https://huggingface.co/{name}, "
            "then log in: hf auth login"
        ) from None
    except errors.RepositoryNotFoundError:
        raise ModelError(
            f"model {name}: not on the hub, or private.{near} For a private model log in: hf auth login"
        ) from None
    except errors.RevisionNotFoundError:
        raise ModelError(
            f"model {name}: has no revision {revision!r}. Leave model.revision out for the newest."
        ) from None
    except errors.HFValidationError as error:
        raise ModelError(f"model {name}: not a hub id ({first_line(error)}).{near}") from None
    except OSError as error:  # not in the local cache, and no way to the hub
        reason = (
            "HF_HUB_OFFLINE is set" if os.environ.get("HF_HUB_OFFLINE", "0") not in ("0", "") else first_line(error)
        )
        raise ModelError(
            f"model {name}: no such directory, and the hub cannot be asked ({reason}).{near} "
            f"Get online, give a local directory, or use smollm2-135m."
        ) from None
