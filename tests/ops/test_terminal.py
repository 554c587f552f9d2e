"""What is printed where there is no terminal: plain, aligned lines."""

from ops.progress import Stage
from ops.terminal import facts, progress, stages, table


def test_a_table_is_aligned_with_numbers_to_the_right(capsys):
    table(("topic", "records"), [("payments", 8), ("frauds", 12_345)])
    assert capsys.readouterr().out == "topic     records\npayments        8\nfrauds      12345\n"


def test_facts_stand_below_each_other(capsys):
    facts([("id", "41c9e2"), ("task", "risk")])
    assert capsys.readouterr().out == "id    41c9e2\ntask  risk\n"


def test_stages_end_with_a_line_each(capsys):
    with stages() as step:
        for stage in (Stage("replay", 1, 2), Stage("replay", 2, 2, "10 events"), Stage("replay", 2, 2),
                      Stage("network", 0, 3, "loss 0.5"), Stage("network", 3, 3, "loss 0.1")):  # fmt: skip
            step(stage)
    assert capsys.readouterr().err == "replay: 10 events\nnetwork: loss 0.1\n"


def test_short_work_prints_no_progress(capsys):
    with progress("replaying") as step:
        step(1, 2, "5 events")
    assert capsys.readouterr() == ("", "")
