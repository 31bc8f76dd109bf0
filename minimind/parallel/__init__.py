"""How the work is spread over processes and devices, from outside the model."""
