"""How good results are where a reference is known."""
