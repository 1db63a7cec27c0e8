"""Names of repositories, as `hf-hub:user/name@revision` and as `--repo` takes them."""

from __future__ import annotations

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from timm_asap.errors import UserError

__all__ = ["check_repo", "split_revision"]


def check_repo(repo: str) -> None:
    """See that the Hub would take the name of a repository, without asking it.

    Args:
        repo: `user/name`, or `name` for the user's own namespace.

    Raises:
        UserError: If it would not.
    """
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise UserError(
            f"repository {repo!r}: expected user/name, such as you/resnet20_lowres_asap.fashion_mnist; "
            f"{' '.join(str(error).split())}"
        ) from error


def split_revision(name: str) -> tuple[str, str | None]:
    """Repository and revision of `user/name@revision`; None where no revision is given.

    Raises:
        UserError: If the Hub would refuse the name, or the revision is empty.
    """
    repo, at, revision = name.partition("@")
    check_repo(repo)
    if at and (not revision or "@" in revision):
        raise UserError(f"hf-hub:{name}: expected a branch, a tag or a commit after the @, got {revision!r}")
    return repo, revision or None
