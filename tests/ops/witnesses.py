"""Agents that note what they get."""


def witnesses(app, fails_at):
    """Declare two agents, one of which fails once, at an event; return what they note: decisions and batches of ids."""
    got, batches, failures = [], [], [ValueError("the ticket system is away")]

    @app.agent
    async def open_ticket(decision):
        if decision["event_id"] == fails_at and failures:
            raise failures.pop()
        got.append((decision["event_id"], decision["decision"]))

    @app.agent(batches=True)
    async def count(decisions):
        batches.append([each["event_id"] for each in decisions])

    return got, batches
