"""Reading config.yaml of a run or checkpoint as plain data, since it may come from an untrusted source.

Stored values are resolved, so `${…}` in them is text: OmegaConf would replace `${oc.env:SECRET}` in an untrusted folder
by a secret of this machine, and write that to the next config.yaml.
"""

import re
from functools import cache
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from omegaconf._utils import get_omega_conf_dumper, get_yaml_loader

from minimind.utils.errors import DamagedFile, UserError, in_brief
from minimind.utils.files import write_text

RENAMED = {"trainer": {"max_bad_steps": "max_nonfinite_steps"}}  # group → old name of a setting → new name


def read_config(path: Path) -> dict[str, Any]:
    """Read a configuration as plain types, with `${…}` unresolved.

    Raises:
        UserError: there is no such file.
        DamagedFile: it cannot be parsed or is not a mapping of settings.
    """
    if not path.is_file():
        raise UserError(f"{path.parent} must be a run folder or a checkpoint, but has no {path.name}.")
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_loader())
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        reason = f"it cannot be parsed (line {mark.line + 1})" if mark else in_brief(error)
        raise DamagedFile(f"{path} must be a stored configuration, but: {reason}.") from None
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise DamagedFile(f"{path} must be a stored configuration, but is not a mapping of settings.")
    for group, names in RENAMED.items():
        if isinstance(settings := content.get(group), dict):
            content[group] = {names.get(name, name): value for name, value in settings.items()}
    return content


def write_config(path: Path, config: dict[str, Any]) -> None:
    write_text(path, yaml.dump(config, sort_keys=False, allow_unicode=True, Dumper=get_omega_conf_dumper()))


def escaped(value: Any) -> Any:
    """Escape `${…}` in all strings, so that OmegaConf reads it as text."""
    if isinstance(value, dict):
        return {key: escaped(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [escaped(inner) for inner in value]
    if isinstance(value, str):
        return re.sub(r"(\\*)\$\{", lambda match: 2 * match[1] + "\\${", value)
    return value


@cache
def _loader() -> Any:
    class Loader(get_yaml_loader()):  # type: ignore[misc]  # safe, and parses 1e-4 as a number
        def compose_node(self, parent: Any, index: Any) -> Any:
            """Refuse aliases, which `write_config` never writes: a few nested ones could expand to gigabytes."""
            if self.check_event(yaml.events.AliasEvent):
                raise yaml.YAMLError("it has aliases (*name)")
            return super().compose_node(parent, index)

    return Loader
