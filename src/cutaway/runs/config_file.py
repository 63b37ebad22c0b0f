"""`config.yaml`: a run's settings for people, which fed back repeat it."""

from __future__ import annotations

import io

from cutaway.runs.record import TOGETHER, RunRecord

_REPEATS = (
    "This run's configuration. If cutaway trained it, `cutaway train` with this file repeats it,",
    "with what was measured or found out as it began; bit for bit on the same machine with the same",
    "versions, elsewhere within rounding.",
)
_EXTENDED = (
    "It was extended: extra_steps are the steps trained after the planned ones, at the final rate.",
)


def text(content: RunRecord) -> str:
    """The file's content: how far it repeats the run, then the study and its settings."""
    from ruamel.yaml import YAML

    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.allow_unicode = True
    yaml.sort_base_mapping_type_on_output = False
    written = io.StringIO()
    yaml.dump({"study": content.study} | content.config, written)
    lines = [*_REPEATS, *(_EXTENDED if content.config.get("extra_steps") else ())]
    if together := content.resolved.get(TOGETHER):
        lines.append(
            f"It was trained in one stack with {len(together) - 1} other runs: trained alone it "
            "repeats within rounding."
        )
    return "".join(f"# {line}\n" for line in lines) + written.getvalue()
