"""config.yaml of a run or a checkpoint, which may come from others: data, of which nothing is run.

What was stored is resolved, so `${…}` in it is text: OmegaConf would take `${oc.env:SECRET}` in somebody's folder for
a secret of this machine, and put that into the next config.yaml.
"""

import re
from functools import cache
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from omegaconf._utils import get_omega_conf_dumper, get_yaml_loader

from minimind.utils.errors import DamagedFile, UserError, in_brief
from minimind.utils.files import write_text

RENAMED = {"trainer": {"max_bad_steps": "max_nonfinite_steps"}}  # group → what earlier versions called a setting


def read_config(path: Path) -> dict[str, Any]:
    """In plain types, `${…}` as it stands.

    Raises:
        UserError: there is none.
        DamagedFile: it says something else than settings, or nothing.
    """
    if not path.is_file():
        raise UserError(f"{path.parent} must be a run folder or a checkpoint, but has no {path.name}.")
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_loader())
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        reason = f"cannot be read from line {mark.line + 1} on" if mark else in_brief(error)
        raise DamagedFile(f"{path} must be a configuration as it was stored, but: {reason}.") from None
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise DamagedFile(f"{path} must be a configuration as it was stored, but has no settings by name.")
    for group, names in RENAMED.items():
        if isinstance(settings := content.get(group), dict):
            content[group] = {names.get(name, name): value for name, value in settings.items()}
    return content


def write_config(path: Path, config: dict[str, Any]) -> None:
    write_text(path, yaml.dump(config, sort_keys=False, allow_unicode=True, Dumper=get_omega_conf_dumper()))


def escaped(value: Any) -> Any:
    """The same for OmegaConf, which then reads `${…}` in every text as text."""
    if isinstance(value, dict):
        return {key: escaped(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [escaped(inner) for inner in value]
    if isinstance(value, str):
        return re.sub(r"(\\*)\$\{", lambda found: 2 * found[1] + "\\${", value)
    return value


@cache
def _loader() -> Any:
    class Loader(get_yaml_loader()):  # type: ignore[misc]  # safe, and reads 1e-4 as a number
        def compose_node(self, parent: Any, index: Any) -> Any:
            """A few aliases of aliases would be gigabytes; we write none."""
            if self.check_event(yaml.events.AliasEvent):
                raise yaml.YAMLError("it has aliases (*name)")
            return super().compose_node(parent, index)

    return Loader
