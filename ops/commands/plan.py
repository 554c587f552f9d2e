"""`pelton plan`."""

from ops.commands.options import App


def plan(app: App) -> None:
    """Print what an app computes: streams, keys, windows, features.

    \b
    For example: pelton plan bank.py
    """
    from ops.terminal import heading, say
    from ops.views.plan import lines
    from pipeline.loading import load_app

    for depth, text in lines(load_app(app)):
        say("  " * depth + (heading(text) if depth == 0 else text))
