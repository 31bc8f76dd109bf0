"""model.json: a checkpoint's model configuration as plain JSON, readable without torch and without `config/`."""

from pathlib import Path

from minimind.model.config import ModelConfig
from minimind.runs.checkpoints import CONFIG, MODEL
from minimind.runs.stored_config import read_config
from minimind.utils.errors import ConfigError, UserError, in_brief
from minimind.utils.files import read_object, to_json


def stored_model(checkpoint: Path) -> ModelConfig:
    """Read model.json, or config.yaml in a checkpoint of an older version.

    Raises:
        UserError: the file cannot be read, or does not describe a model that this version supports.
    """
    if not (checkpoint / MODEL).is_file():
        return configured_model(checkpoint / CONFIG)
    return _model(checkpoint / MODEL, read_object(checkpoint / MODEL))


def configured_model(config: Path) -> ModelConfig:
    """The model in a stored configuration; raises as `stored_model` does."""
    return _model(config, read_config(config).get("model"))


def model_file(config: Path) -> bytes:
    """The content of model.json for the model in a stored configuration."""
    return to_json(configured_model(config).to_dict()).encode()


def _model(path: Path, values: object) -> ModelConfig:
    try:
        return ModelConfig.from_dict(values)
    except ConfigError as error:
        raise UserError(f"{path} must describe a model that this version supports, but: {in_brief(error)}.") from None
