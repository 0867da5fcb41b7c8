"""What can go wrong with a download: errors of ours, each with a remedy, for what libraries and servers say.

    status 401, 403     AccessError                 a full disk                          NoSpaceError
    status 404          GoneError                   a folder that may not be written     UnwritableError
    other statuses      InterruptedDownloadError    whatever a broken connection raises  InterruptedDownloadError

Each is one line: which address or file, what happened, what to do.
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from urllib.error import HTTPError, URLError

from huggingface_hub import constants
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
)
from huggingface_hub.errors import HTTPError as HubLibraryError  # of the HTTP library that this version of it uses

FULL = (errno.ENOSPC, errno.EDQUOT)
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)  # the last two: a file is in the way


class DownloadError(OSError):
    """A published model that could not be fetched, or is not what it was."""


class InterruptedDownloadError(DownloadError):
    """A transfer that stopped, or a server that cannot be reached."""


class WrongSizeError(DownloadError):
    """A file of another size than its server said."""


class WrongHashError(DownloadError):
    """A file whose sha256 is not the published one, or not the one recorded when it was first downloaded."""


class GoneError(DownloadError):
    """A file or repository that is not where it was published."""


class AccessError(DownloadError):
    """A file for which one must log in, or accept a licence."""


class OfflineError(DownloadError):
    """A file that is not here, in offline mode."""


class NoSpaceError(DownloadError):
    """Too little room on the disk."""


class UnwritableError(DownloadError):
    """A folder that may not be written to."""


class RecordError(DownloadError):
    """A record of a download that cannot be read."""


@dataclass(frozen=True)
class Host:
    """Where a model is published, and what a user can do when that place refuses or stops."""

    model: str
    address: str
    access: str  # where it answers 401 or 403
    network: str  # where it cannot be reached
    again: str  # what the same command does with what is here
    variables: str  # that move the folder which is written to


@contextmanager
def explained(host: Host) -> Iterator[None]:
    """What huggingface_hub, its HTTP library, Python's and the disk raise, as errors of ours; bugs stay bugs."""
    try:
        yield
    except DownloadError:
        raise
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        cause = error.__cause__ or error
        raise (refused(host, cause) if isinstance(cause, HfHubHTTPError) else broken(host, cause)) from None
    except (HfHubHTTPError, HTTPError) as error:
        raise refused(host, error) from None
    except EntryNotFoundError:  # without an answer: what the listing had is gone
        raise gone(host) from None
    except HFValidationError as error:
        raise DownloadError(f"{host.model} is no repository's name at {host.address}: {first_line(error)}") from None
    except (OSError, HTTPException, HubLibraryError) as error:
        raise broken(host, error) from None


def refused(host: Host, error: HfHubHTTPError | HTTPError) -> DownloadError:
    """What a server means by its status."""
    status = error.code if isinstance(error, HTTPError) else error.response.status_code
    if status in (401, 403):
        gone_too = "; the hub answers 401 for what is gone, too" if isinstance(error, HfHubHTTPError) else ""
        hint = gone_too if status == 401 else ""
        return AccessError(f"{host.address} is not open to you ({status}): {host.access}{hint}")
    if status == 404:
        return gone(host)
    return InterruptedDownloadError(f"{host.address} answers {status}: try again later; the same command {host.again}")


def gone(host: Host) -> GoneError:
    return GoneError(f"{host.address} is not there (404): it was renamed or removed; look for {host.model} anew")


def broken(host: Host, error: Exception) -> DownloadError:
    """What a disk or a connection means by its error."""
    text = first_line(error.reason if isinstance(error, URLError) else error)
    number, path = (error.errno, error.filename) if isinstance(error, OSError) else (None, None)
    if number in FULL:
        return NoSpaceError(f"the disk is full: make room, then run the same command again ({text})")
    if number in FORBIDDEN and path is not None:
        return UnwritableError(f"{path} cannot be written ({error.strerror}): set {host.variables}")
    if number is not None and path is not None:
        return DownloadError(f"{path} fails ({error.strerror}): look at its disk, then run the same command again")
    if offline():
        return absent(host.model)
    if text.startswith("Consistency check failed"):  # huggingface_hub's, of a size
        return WrongSizeError(f"{text} Run the same command again, and tell {host.address} if that does not help")
    return stopped(host, text)


def stopped(host: Host, reason: str) -> InterruptedDownloadError:
    return InterruptedDownloadError(
        f"the download of {host.model} stopped at {host.address} ({reason}): {host.network}; the same command"
        f" {host.again}"
    )


def absent(model: str) -> OfflineError:
    return OfflineError(
        f"{model} is not here, or not all of it, and HF_HUB_OFFLINE is set: unset it, then `skipdit download {model}`"
    )


def first_line(error: object) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def offline() -> bool:
    return constants.HF_HUB_OFFLINE
