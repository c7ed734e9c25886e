"""Files of arrays (.npz) from anywhere: read within a limit of memory, never unpickled.

`numpy.load` allocates what an array's header names before it reads the data, and a compressed entry may
expand a thousandfold, so both are checked first.
"""

import io
import math
import zipfile
import zlib
from typing import IO, Any

from numpy.lib import format as npy
from numpy.typing import NDArray

MAX_BYTES = 1 << 30
"""Maximum size of all arrays of one file together."""

_READ_HEADER = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
# zipfile raises RuntimeError for encrypted entries; numpy parses headers as Python literals.
_ERRORS = (
    ValueError, EOFError, KeyError, OverflowError, RuntimeError, SyntaxError, TypeError, zipfile.BadZipFile,
    zlib.error,
)  # fmt: skip


def read_arrays(data: bytes | IO[bytes], *, max_bytes: int = MAX_BYTES) -> dict[str, NDArray[Any]]:
    """Return the arrays of an .npz file, by name. Raises ValueError: it is none, or has more bytes.

    Errors of reading the file itself (OSError) are raised as they are: it may be undamaged.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data) if isinstance(data, bytes) else data) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
            if size > max_bytes:
                raise ValueError(f"its arrays have {size:,} bytes; the limit is {max_bytes:,}")
            return {
                entry.filename.removesuffix(".npy"): _read(archive, entry) for entry in archive.infolist()
            }
    except _ERRORS as error:
        raise ValueError(f"not a file of arrays: {error}") from error


def _read(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> NDArray[Any]:
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{entry.filename} is compressed in an unknown way")
    with archive.open(entry) as file:
        read_header = _READ_HEADER.get(npy.read_magic(file))
        if read_header is None:
            raise ValueError(f"{entry.filename} has an unknown format")
        shape, _, dtype = read_header(file)
        if dtype.hasobject or math.prod(shape) * dtype.itemsize > entry.file_size:
            raise ValueError(f"{entry.filename} has objects, or fewer bytes than its shape needs")
    with archive.open(entry) as file:
        array: NDArray[Any] = npy.read_array(file, allow_pickle=False)
        return array


def inflate(data: bytes, *, max_bytes: int) -> bytes:
    """Return decompressed zlib data. Raises ValueError: it is damaged, or longer than `max_bytes`."""
    stream = zlib.decompressobj()
    try:
        inflated = stream.decompress(data, max_bytes)
    except zlib.error as error:
        raise ValueError(f"not compressed data: {error}") from error
    if not stream.eof:
        raise ValueError(f"incomplete, or longer than {max_bytes:,} bytes")
    return inflated
