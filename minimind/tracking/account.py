"""Whether W&B can be reached, found out without a question to the user."""

import os


def why_offline() -> str | None:
    """The reason to write offline, in a few words, or None; asks the server, so it may take seconds."""
    import wandb

    if os.environ.get("WANDB_MODE", "online") != "online":
        return "as WANDB_MODE says"
    try:
        return None if wandb.login(prompt=False) else "no API key"
    except Exception as error:  # wandb's own kinds, for a key that is not accepted and a network that is not there
        return f"{error}".split("\n")[0].rstrip(".") or type(error).__name__
