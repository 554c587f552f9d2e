"""Commands, one file each: what can be typed and what is printed; the work lives elsewhere."""
