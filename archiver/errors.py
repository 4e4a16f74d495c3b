"""Errors of the archiver. Each message names what was wrong, with the value, and what to do.

    ArchiverError
    +-- PackError         an archive cannot be written: an input or the output is not usable
    |   +-- MissingInput  a file that was named is not there; a FileNotFoundError as well
    +-- InvalidArchive    a file is no archive, is damaged, or holds an entry that is refused
    +-- InvalidManifest   MAR-INF/MANIFEST.json cannot be used
    +-- InvalidConfig     the model-config YAML cannot be used

A full disk or a missing permission is no fault of an archive: reading and unpacking let `OSError` through.
"""


class ArchiverError(Exception):
    """Base of everything the archiver refuses."""


class PackError(ArchiverError):
    """The archive that was asked for cannot be written."""


class MissingInput(PackError, FileNotFoundError):
    """A file to be packed is not there."""


class InvalidArchive(ArchiverError):
    """The file is not an archive that may be opened."""


class InvalidManifest(ArchiverError):
    """The archive's manifest cannot be used."""


class InvalidConfig(ArchiverError):
    """The archive's model configuration cannot be used."""
