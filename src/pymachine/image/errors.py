"""Errors of building and using images."""

from __future__ import annotations

from pymachine.errors import PymachineError


class ImageError(PymachineError):
    """An image cannot be built or used."""

    code = "image"


class MirrorError(ImageError):
    """A mirror does not answer, or lacks a file."""

    code = "mirror"


class SignatureError(ImageError):
    """A repository's InRelease is not signed by a key that its source trusts."""

    code = "signature"


class ExpiredError(ImageError):
    """A repository's InRelease has passed its Valid-Until date."""

    code = "release-expired"


class ReleaseError(ImageError):
    """A repository's InRelease is signed, but malformed, of another suite, or made in the future."""

    code = "bad-release"


class RollbackError(ImageError):
    """A repository's InRelease is older than one seen there before."""

    code = "release-rollback"


class DigestError(ImageError):
    """A file does not match the digest in its index: it was truncated or changed."""

    code = "digest"


class ResolveError(ImageError):
    """A package or one of its dependencies is in none of the sources."""

    code = "unresolved"


class PackageError(ImageError):
    """A .deb that cannot be read as one."""

    code = "bad-package"


class RecipeError(ImageError):
    """A recipe, an overlay or a lock file that cannot be read."""

    code = "bad-recipe"


class ImageNotFoundError(ImageError):
    """No image of that name is in the cache."""

    code = "image-not-found"
