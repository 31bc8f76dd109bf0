"""Where figures go besides the run folder."""
