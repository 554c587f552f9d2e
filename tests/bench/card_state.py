"""The features of "card features" as one would write them in plain Python, for frameworks that go event by event."""

from bisect import bisect_left, bisect_right, insort
from collections import Counter
from math import sqrt

HOUR_MS, DAY_MS, LATENESS_MS = 3_600_000, 86_400_000, 5_000


class CardState:
    """The last day of one card; `add` takes an event and returns its features."""

    def __init__(self):
        self.events = []  # (ts, merchant, amount), by time
        self.sum_1h = self.squares_1h = self.sum_24h = 0.0
        self.merchants = Counter()
        self.hour_from = 0  # the first event of the hour before the newest

    def add(self, ts, merchant, amount):
        """Insert an event where it belongs and return the features of what it sees."""
        event = (ts, merchant, amount)
        newest = self.events[-1][0] if self.events else ts
        if ts >= newest:
            self.events.append(event)
            self._enter(event)
            self._leave(ts)
            return self._features(self.hour_from, len(self.events))
        insort(self.events, event)
        if bisect_left(self.events, event) >= self.hour_from:
            self._enter(event)
        else:
            self.sum_24h += amount
            self.hour_from += 1
        first = bisect_right(self.events, (ts - HOUR_MS, "\uffff", 0.0))
        return self._features_of(self.events[first : bisect_right(self.events, (ts, "\uffff", 0.0))], ts)

    def _enter(self, event):
        _, merchant, amount = event
        self.sum_1h += amount
        self.squares_1h += amount * amount
        self.sum_24h += amount
        self.merchants[merchant] += 1

    def _leave(self, now):
        while self.events[self.hour_from][0] <= now - HOUR_MS:
            _, merchant, amount = self.events[self.hour_from]
            self.sum_1h -= amount
            self.squares_1h -= amount * amount
            self.merchants[merchant] -= 1
            if not self.merchants[merchant]:
                del self.merchants[merchant]
            self.hour_from += 1
        gone = 0
        while self.events[gone][0] <= now - DAY_MS - LATENESS_MS:
            self.sum_24h -= self.events[gone][2]
            gone += 1
        if gone > 64:  # cutting a list copies it
            del self.events[:gone]
            self.hour_from -= gone
        elif gone:
            self.sum_24h += sum(amount for _, _, amount in self.events[:gone])

    def _features(self, first, end):
        count = end - first
        mean = self.sum_1h / count
        return {
            "count_1h": count, "sum_1h": self.sum_1h, "mean_1h": mean,
            "std_1h": sqrt(max(self.squares_1h / count - mean * mean, 0.0)),
            "max_1h": max(amount for _, _, amount in self.events[first:end]), "merchants_1h": len(self.merchants),
            "count_24h": end, "sum_24h": self.sum_24h,
        }  # fmt: skip

    def _features_of(self, hour, ts):
        amounts = [amount for _, _, amount in hour]
        mean = sum(amounts) / len(amounts)
        day = self.events[: bisect_right(self.events, (ts, "\uffff", 0.0))]
        return {
            "count_1h": len(amounts), "sum_1h": sum(amounts), "mean_1h": mean,
            "std_1h": sqrt(max(sum(a * a for a in amounts) / len(amounts) - mean * mean, 0.0)), "max_1h": max(amounts),
            "merchants_1h": len({merchant for _, merchant, _ in hour}), "count_24h": len(day),
            "sum_24h": sum(amount for _, _, amount in day),
        }  # fmt: skip
