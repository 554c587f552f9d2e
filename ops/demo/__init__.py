"""The demo: a bank, its payments, and the bundle that scores them."""
