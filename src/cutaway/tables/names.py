"""Names of tables and columns as SQL takes them: plain words, told apart without regard to case."""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Iterable

_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)


def is_table_name(name: str) -> bool:
    """Whether a table can have this name: a plain word that means nothing else in queries."""
    return name.isidentifier() and name.isascii() and name.islower() and name != "runs"


def fold(name: str) -> str:
    """A name as SQL compares it: DuckDB ignores the case of A to Z, and of no other letters."""
    return name if name.islower() else name.translate(_LOWER)


def told_apart(names: Iterable[str], taken: Iterable[str] = ()) -> list[str]:
    """Names that SQL, which ignores case, can tell apart: repeated ones become `loss_2`, `loss_3`.

    `taken` are names that none may have. Names without any character and characters that no name
    may hold are replaced.
    """
    wanted = [name.replace("\0", "\\0") or "unnamed" for name in names]
    reserved = {fold(name) for name in taken}
    free = set(map(fold, wanted))
    if len(free) == len(wanted) and free.isdisjoint(reserved):
        return wanted
    free -= reserved
    used: set[str] = set()
    found = []
    for name in wanted:
        number, spelled = 2, name
        if fold(name) in used | reserved:
            while fold(spelled := f"{name}_{number}") in used | reserved | free:
                number += 1
        used.add(fold(spelled))
        found.append(spelled)
    return found


def common_spelling(names: Iterable[str]) -> dict[str, str]:
    """Each name, without regard to case → the spelling most of them have, else the first."""
    spelled: dict[str, Counter[str]] = {}
    for name in names:
        spelled.setdefault(fold(name), Counter())[name] += 1
    return {folded: counts.most_common(1)[0][0] for folded, counts in spelled.items()}
