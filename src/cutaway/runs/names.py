"""Names of tables and columns as SQL takes them: plain words, told apart without regard to case."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable


def is_table_name(name: str) -> bool:
    """Whether a table can have this name: a plain word that means nothing else in queries."""
    return name.isidentifier() and name.isascii() and name.islower() and name != "runs"


def told_apart(names: Iterable[str], taken: Iterable[str] = ()) -> list[str]:
    """Names that SQL, which ignores case, can tell apart: repeated ones become `loss_2`, `loss_3`.

    `taken` are names that none may have. Names without any character and characters that no name
    may hold are replaced.
    """
    wanted = [name.replace("\0", "\\0") or "unnamed" for name in names]
    reserved = {name.casefold() for name in taken}
    free = {name.casefold() for name in wanted} - reserved
    used: set[str] = set()
    found = []
    for name in wanted:
        number, spelled = 2, name
        if name.casefold() in used | reserved:
            while (spelled := f"{name}_{number}").casefold() in used | reserved | free:
                number += 1
        used.add(spelled.casefold())
        found.append(spelled)
    return found


def common_spelling(names: Iterable[str]) -> dict[str, str]:
    """Each name, without regard to case → the spelling most of them have, else the first."""
    spelled: dict[str, Counter[str]] = {}
    for name in names:
        spelled.setdefault(name.casefold(), Counter())[name] += 1
    return {folded: counts.most_common(1)[0][0] for folded, counts in spelled.items()}
