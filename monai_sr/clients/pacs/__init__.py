"""A DICOMweb archive as a source and a target: find thick series, super-resolve them, store the result beside them."""

from .access import Credentials
from .archive import Archive, PacsError, RemoteSeries
from .thick import why_not
from .watch import Round, Watcher, watch

__all__ = ["Archive", "Credentials", "PacsError", "RemoteSeries", "Round", "Watcher", "watch", "why_not"]
