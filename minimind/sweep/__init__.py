"""Many runs from one command: which, in what order, where, and what came of them."""
