"""The verdict on one signature, of whatever scheme."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from singrun.signatures import signers

_WORDS = {signers.GOOD: "", signers.UNKNOWN: "not known: ", signers.REFUSED: "refused: "}


@dataclass(frozen=True)
class Finding:
    """A signature and the verdict on it.

    status: one of singrun.signatures.signers; reason: why it is not GOOD; principals: whose it is;
    date: as its signer says, 20261129T210000Z or ""; place: where it stands.
    """

    status: str
    reason: str
    principals: tuple[str, ...]
    scheme: str
    claim: str
    date: str
    key_type: str
    fingerprint: str
    place: str

    @property
    def is_checked(self) -> bool:
        """Whether it is over this image, whoever made it: an SSH signature has its key with it."""
        return self.status == signers.GOOD or (self.status, self.scheme) == (signers.UNKNOWN, "ssh")

    def __str__(self) -> str:
        d, t = self.date[:8], self.date[9:]
        when = f" on {d[:4]}-{d[4:6]}-{d[6:]} {t[:2]}:{t[2:4]}:{t[4:6]} UTC" if d else ""
        who = f" by {', '.join(self.principals)}" if self.principals else ""
        reason = "" if self.status == signers.GOOD else f"; {self.reason}"
        word = _WORDS.get(self.status, "bad: ")
        key = f" with {self.key_type} {self.fingerprint}" if self.fingerprint else ""
        return f"{word}{self.claim}{who}{when}{key} ({self.place}){reason}"

    def as_json(self) -> dict[str, Any]:
        """Return it as `verify --json` prints it."""
        return asdict(self) | {"principals": [*self.principals]}
