"""Sources, sinks and codecs: how records come in and decisions go out."""
