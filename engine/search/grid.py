"""Sampling grid and mutation step of the search (Eqs. 9 and 10)."""

from __future__ import annotations

import math


def pitch(r_p: float) -> int:
    """Distance of neighbouring grid points in pixels, g of Eq. 9."""
    # The tiny term keeps 1/r_p of exact squares (0.01 -> 100) from falling short.
    return math.floor(math.sqrt(1 / r_p) + 1e-9)


def grid_points(
    frame: tuple[int, int], patch: tuple[int, int], r_p: float
) -> tuple[tuple[int, int], ...]:
    """Candidate positions of the upper-left corner (Eq. 9).

    Parameters
    ----------
    frame
        Width and height of the model grid, W and H.
    patch
        Width and height of the scaled logo, w' and h'.
    r_p
        Sampling rate of positions.

    Returns
    -------
    tuple of (x, y)
        (n·g, m·g) for n = 0..N_x and m = 0..N_y, both inclusive; empty where
        the logo is larger than the frame. All lie within 0..W-w', 0..H-h'.
    """
    free_x, free_y = frame[0] - patch[0], frame[1] - patch[1]
    if free_x < 0 or free_y < 0:
        return ()
    g = pitch(r_p)
    last_x, last_y = _counts(free_x, free_y, r_p)
    return tuple((n * g, m * g) for n in range(last_x + 1) for m in range(last_y + 1))


def _counts(free_x: int, free_y: int, r_p: float) -> tuple[int, int]:
    """N_x and N_y; without room along one axis, a single row or column."""
    g = pitch(r_p)
    if free_x == 0 or free_y == 0:
        return free_x // g, free_y // g
    n = math.floor(r_p * free_x * free_y)
    return (
        min(math.floor(math.sqrt(n * free_x / free_y)), free_x // g),
        min(math.floor(math.sqrt(n * free_y / free_x)), free_y // g),
    )


def mutation_step(r_p: float, n_g: int) -> int:
    """Position step s_p of Eq. 10, so that a parent stays in its own cell.

    Parameters
    ----------
    r_p
        Sampling rate; the distance d is the pitch of the grid.
    n_g
        Number of generations.
    """
    d = pitch(r_p)
    return d // (2 * n_g) if n_g and d > 2 * n_g else 1
