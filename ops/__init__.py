"""Everything that a person touches: commands, views, settings, the process that runs an app."""
