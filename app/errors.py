"""The errors of API keys and request bodies; `nextchar.models.errors` has the others."""

from nextchar.models.errors import DomainError


class Unauthorized(DomainError):
    """The request has no API key, or one that is not in the key file."""

    code = "api_key_missing"


class Forbidden(DomainError):
    """The API key does not permit this call."""

    code = "not_permitted"


class UnsupportedMedia(DomainError):
    """The body has a media type or an encoding that the call does not accept."""

    code = "unsupported_media_type"
