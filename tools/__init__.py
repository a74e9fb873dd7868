"""Tools of the developers; nothing of them is in the product."""
