"""Models of ours in the files of other projects, and theirs in ours."""
