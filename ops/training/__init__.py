"""From history to models, and how good they are."""
