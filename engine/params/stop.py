"""When a search is content: the stop rules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self

from engine.errors import InvalidParameter
from engine.params.checking import check


@dataclass(frozen=True, kw_only=True, slots=True)
class StopRule:
    """What a candidate must do for the search to end with it.

    Attributes
    ----------
    kind
        ``ensemble``: the argmax of Eq. 12 is wrong (the paper); ``vote``: at
        least `votes` members are wrong; ``all``: every member is; ``margin``: in
        every member another class leads by at least `margin` (difference of
        logits); ``never``: the whole budget is spent and the candidate of the
        largest mean margin wins.
    votes
        m of ``vote``.
    margin
        κ of ``margin``, in logits.
    """

    kind: Literal["ensemble", "vote", "all", "margin", "never"] = "ensemble"
    votes: int = 1
    margin: float = 0.0

    def __post_init__(self) -> None:
        check(holds=self.votes >= 1, message=f"votes={self.votes}: must be at least 1")
        check(
            holds=0 <= self.margin < 1e6,
            message=f"margin={self.margin}: must be a number that is not negative",
        )

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``ensemble``, ``all``, ``never``, ``vote:M`` or ``margin:K``.

        Raises
        ------
        InvalidParameter
            If it is none of these.
        """
        kind, colon, value = text.partition(":")
        try:
            if kind == "vote" and colon:
                return cls(kind="vote", votes=int(value))
            if kind == "margin" and colon:
                return cls(kind="margin", margin=float(value))
        except ValueError as error:
            raise InvalidParameter(
                f"stop rule {text!r}: {value!r} is no number; write vote:3 or margin:2"
            ) from error
        if kind in {"ensemble", "all", "never"} and not colon:
            return cls(kind=kind)  # type: ignore[arg-type]  # narrowed by the test
        raise InvalidParameter(
            f"stop rule {text!r}: write auto, ensemble, vote:M, all, margin:K or never"
        )
