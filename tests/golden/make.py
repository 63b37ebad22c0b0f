"""Make goldens: what this checkout writes, with the figures it reads from it.

    python tests/golden/make.py v2            # from the repository's root, into tests/golden/v2
    python tests/golden/make.py v2 probes     # only these recipes, and what they need

Everything is made in a neutral folder outside the repository (`PLACE`), since runs record absolute
paths, and under a neutral host name (`HOST`), since they record that too: a `sitecustomize.py` on
PYTHONPATH replaces `platform.node` in every process, and nothing else. Processes that are to be
killed are killed by real signals. The folder is then moved to `tests/golden/vN`, which must be new:
goldens are never made again.

1. `texts.py` writes the inputs; 2. `recipes.py` lists the commands; 3. `readings.py` lists what is
read with `--json`, kept in `vN/expected/*.json`; 4. `answers.py` has what is asked of models,
dictionaries and probes in Python, kept in `vN/expected/*.safetensors`; 5. `vN/README.md` names the
commit, the versions and every command; 6. `vN/SHA256SUMS` has the checksum of every file.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
PLACE = Path("/tmp/cutaway-golden")  # recorded in the goldens; must not exist
HOST = "golden"
_NODE = f'import platform\n\nplatform.node = lambda: "{HOST}"\n'
_PACKAGES = (
    *("torch", "numpy", "scipy", "safetensors", "tokenizers", "transformers", "pyarrow"),
    *("duckdb", "pydantic"),
)
_PATIENCE = 300  # seconds a command may take

sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "src")]

from golden.answers import save_answers  # noqa: E402
from golden.folders import SUMS, sums  # noqa: E402
from golden.readings import READINGS, age_owners, save_readings  # noqa: E402
from golden.recipes import RECIPES, Step, with_needs  # noqa: E402
from golden.texts import write_texts  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("version", help="a new folder's name, v2")
    parser.add_argument("recipes", nargs="*", metavar="recipe", help=f"of {', '.join(RECIPES)}")
    asked_for = parser.parse_args()
    if unknown := set(asked_for.recipes) - set(RECIPES):
        parser.error(f"{', '.join(unknown)}: expected some of {', '.join(RECIPES)}")
    recipes = with_needs(asked_for.recipes or RECIPES)
    out = HERE / asked_for.version
    if out.exists():
        sys.exit(f"{out}: exists; goldens are never made again")
    if PLACE.exists():
        sys.exit(f"{PLACE}: exists; remove it first")
    folder, tools = PLACE / out.name, PLACE / "tools"
    tools.mkdir(parents=True)
    (tools / "sitecustomize.py").write_text(_NODE)
    write_texts(folder / "texts")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join((str(tools), str(ROOT / "src"))),
        "CUTAWAY_CACHE": str(PLACE / "cache"),
        "CUTAWAY_HUB": "texts/hub",
        "HF_HOME": str(PLACE / "cache"),
        "OMP_NUM_THREADS": "1",
        "TQDM_DISABLE": "1",
    }
    os.environ.update(environment)
    for name in recipes:
        for step in RECIPES[name]:
            print(f"{name}: cutaway {step.command}", flush=True)
            perform(step, folder, environment)
    if "imports" in recipes:
        (folder / "imports/backpack").mkdir()
        shutil.copy(folder / "language/backpack/training_log.json", folder / "imports/backpack")
    finish(folder, out, recipes)


def finish(folder: Path, out: Path, recipes: list[str]) -> None:
    """Ask what is to be kept of what was made in `folder`, describe it and move it to `out`."""
    shrink_pictures(folder)
    platform.node = lambda: HOST  # asked under the name that wrote
    asked = PLACE / "asked"  # where nothing is where it was recorded, as in tests
    shutil.copytree(folder, asked)
    folder.rename(PLACE / "made")
    age_owners(asked)
    save_readings(asked, recipes)
    save_answers(asked)
    folder = (PLACE / "made").rename(folder)
    shutil.copytree(asked / "expected", folder / "expected")
    (folder / "README.md").write_text(described(out.name, recipes))
    (folder / SUMS).write_text(sums(folder))
    shutil.copytree(folder, out)
    shutil.rmtree(PLACE)
    print(f"{out}: {sum(one.stat().st_size for one in out.rglob('*') if one.is_file()):,} bytes")


def perform(step: Step, folder: Path, environment: dict[str, str]) -> None:
    """Run one command, killing it where the step says so; its exit code must be the expected one."""
    process = subprocess.Popen(
        [sys.executable, "-m", "cutaway", *step.command.split(), "--quiet"],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    if step.kill_at is not None:
        while process.poll() is None and not (folder / step.kill_at).exists():
            time.sleep(0.001)
        process.send_signal(step.signal)
    _, errors = process.communicate(timeout=_PATIENCE)
    if process.returncode != step.exits:
        sys.exit(f"{step.command}: exit code {process.returncode}, not {step.exits}\n{errors}")


def shrink_pictures(folder: Path) -> None:
    """Redraw the PNG files in 16 colours and half the size: they would be half of all bytes."""
    from PIL import Image

    for path in folder.rglob("*.png"):
        with Image.open(path) as picture:
            small = picture.convert("RGB").reduce(2).quantize(16)
        small.save(path, optimize=True)


def described(version: str, recipes: list[str]) -> str:
    """`README.md` of the goldens: who made them, and how."""
    commit = subprocess.run(
        ["git", "-C", str(ROOT), "log", "-1", "--format=%H %cs", "--", "src"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    versions = "\n".join(f"- {name} {metadata.version(name)}" for name in _PACKAGES)
    made = "\n".join(
        f"    cutaway {step.command}{_ended(step)}" for name in recipes for step in RECIPES[name]
    )
    read = "\n".join(f"    cutaway {command}" for name in recipes for _, command in READINGS[name])
    return f"""# Goldens {version}

Made by `python tests/golden/make.py {version}` with the code of commit {commit}, on
{platform.machine()}, {platform.system()}, one thread, with

- Python {platform.python_version()}
{versions}

Never made again and never changed: later versions of cutaway must open them, go on with them and
give the same figures. Paths in them begin with `{PLACE}/{version}`, where they were made; the host
is called `{HOST}`.

## Commands, in `{PLACE}/{version}`

{made}

`imports/backpack/training_log.json` is a copy of the one in `language/backpack`. Pictures were reduced to
16 colours and half their size afterwards.

## Figures kept in `expected/`

{read}

`expected/*.safetensors` are what `tests/golden/answers.py` asks in Python.
"""


def _ended(step: Step) -> str:
    if step.kill_at is not None:
        return f"    # killed by signal {int(step.signal)} once {step.kill_at} was there"
    return f"    # exit code {step.exits}" if step.exits else ""


if __name__ == "__main__":
    main()
