"""Who is live: each has a session with pictures of their own, as long as their frames come."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from inference.jobs import find_places, make_job, source_of
from inference.live import LiveAnimation
from inference.networks import InferenceNetworks, size_for
from inference.options import DemoOptions
from utils.errors import UserError
from utils.progress import no_bar

MAX_SESSIONS = 8
IDLE_SECONDS = 60.0  # after which a browser must have crashed: others say that they stop


@dataclass
class Session:
    """What the page of a browser animates, and when its last frame came."""

    page: str
    live: LiveAnimation
    last: float


class Opened(NamedTuple):
    """A session with its token, and the pictures (H, W, 3) as they were cut out."""

    token: str
    session: Session
    pieces: list[np.ndarray]


SESSIONS: dict[str, Session] = {}  # by their tokens, which are secret; one thread alone adds and deletes


def open_session(
    page: str,
    begins: bool,
    pictures: Sequence[tuple[Path, np.ndarray]],
    options: DemoOptions,
    networks: InferenceNetworks,
) -> Opened | None:
    """Change the session of a page, or open one if that `begins`; else it was stopped in the meantime.

    The `pictures`, which lie at their paths, are cut as for a video. Raises `UserError`.
    """
    oldest = time.monotonic() - IDLE_SECONDS
    end_sessions(lambda session: session.last < oldest)
    tokens = [token for token, session in SESSIONS.items() if session.page == page]
    if not tokens and not begins:
        return None
    if not tokens and len(SESSIONS) >= MAX_SESSIONS:
        raise UserError(f"{MAX_SESSIONS} people are live already; try again in a minute")
    job = make_job(options, size_for(networks[0], pictures[0][1]))
    places = find_places([path for path, _ in pictures], job, no_bar)
    pieces = [source_of(path, picture, job, places).pictures[0] for path, picture in pictures]

    # As long as the model stays, the reference does.
    token = tokens[0] if tokens else secrets.token_urlsafe(16)
    if tokens and SESSIONS[token].live.networks is networks:
        SESSIONS[token].live.set_pictures(pieces)
    else:
        SESSIONS[token] = Session(page, LiveAnimation(networks, pieces), time.monotonic())
    return Opened(token, SESSIONS[token], pieces)


def end_sessions(ends: Callable[[Session], bool]) -> None:
    for token in [token for token, session in SESSIONS.items() if ends(session)]:
        del SESSIONS[token]
