"""What image sets share whose images are encoded files (JPEG, PNG, ...), wherever the bytes of those lie."""

import dataclasses
import hashlib
import json
from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from .archives import READ_ERRORS
from .decoding import HEADER_BYTES, UnreadableImage, decode_image, has_image_header
from .image_set import Decoded, ImageSet, in_threads

KEY_FILES, KEY_BYTES = 256, 65536  # what of the content goes into the key


class EncodedImages(ImageSet):
    """Images as encoded files; its subclasses are dataclasses."""

    @abstractmethod
    def name(self, index: int) -> str:
        """What a file is called within the set's source."""

    @abstractmethod
    def read_bytes(self, index: int, *, limit: int = -1) -> bytes:
        """The first ``limit`` bytes of a file, or all; raises one of ``READ_ERRORS``."""

    @abstractmethod
    def listing(self) -> Sequence[Any]:
        """What is known of each file without reading it, as plain JSON types."""

    @cached_property
    def key(self) -> str:
        """Fingerprint of the content: of the listing, in order, and of the first 64 KiB of 256 files.

        The files are spread evenly over the set (all files when there are no more). It does not cover the image size,
        or an edit that keeps the size of a file that is not among the 256.
        """
        digest = hashlib.sha256(json.dumps(self.listing()).encode())
        for place in range(min(KEY_FILES, len(self))):
            digest.update(self._start(place * len(self) // min(KEY_FILES, len(self)), limit=KEY_BYTES))
        return digest.hexdigest()[:24]

    def decode(self, index: int) -> Decoded:
        """One image, or why its file cannot be decoded."""
        try:
            return Decoded(decode_image(self.read_bytes(index), image_size=self.image_size), None)
        except UnreadableImage as error:
            return Decoded(None, str(error))
        except READ_ERRORS as error:
            return Decoded(None, f"cannot be read: {error}")

    def with_headers(self) -> "EncodedImages":
        """Without the files that do not begin as an image; reads 16 bytes of each."""
        starts = in_threads(lambda index: self._start(index, limit=HEADER_BYTES), range(len(self)))
        wrong = {index: start for index, start in enumerate(starts) if not has_image_header(start)}
        return self._without({index: "not an image" if start else "cannot be read" for index, start in wrong.items()})

    def decodable(self) -> "EncodedImages":
        """Without the files that cannot be decoded; decodes each once."""
        reasons = in_threads(lambda index: self.decode(index).reason, range(len(self)))
        return self._without({index: reason for index, reason in enumerate(reasons) if reason is not None})

    def _without(self, reasons: dict[int, str]) -> "EncodedImages":
        """Move some files from the set to ``skipped``."""
        if not reasons:
            return self
        skipped = [(self.name(index), reason) for index, reason in reasons.items()]
        kept = self.subset([index for index in range(len(self)) if index not in reasons])
        return dataclasses.replace(kept, skipped=(*self.skipped, *skipped))

    def _start(self, index: int, *, limit: int) -> bytes:
        """The first bytes of a file, none when it cannot be read."""
        try:
            return self.read_bytes(index, limit=limit)
        except READ_ERRORS:
            return b""
