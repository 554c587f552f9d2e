"""What customers of a made-up bank write: for each intent ways to say it, and an article that answers it."""

from __future__ import annotations

from dataclasses import dataclass

SLOTS: dict[str, tuple[str, ...]] = {
    "card": ("card", "debit card", "credit card", "bank card"),
    "days": ("two days", "a week", "10 days", "three weeks", "ages"),
    "amount": ("20 euros", "$150", "about 300", "1,200 euros", "a lot of money"),
    "shop": ("a supermarket", "an online shop", "the pharmacy", "a petrol station", "my gym"),
    "place": ("Spain", "the US", "Berlin", "Japan", "abroad"),
    "please": ("", "please", "can you help?", "thanks", "what should I do?", "help!"),
    "hello": ("", "hi,", "hello,", "hey there,", "good morning,", "so"),
}


@dataclass(frozen=True)
class Intent:
    """One thing that customers want.

    Attributes:
        name: of the intent.
        priority: of its messages, unless the writer is in a hurry.
        ways: to say it; words in braces are filled in.
        title, body: of the article that answers it.
    """

    name: str
    priority: str
    ways: tuple[str, ...]
    title: str = ""
    body: str = ""


INTENTS: tuple[Intent, ...] = (
    Intent("card_not_arrived", "normal", (
        "my new {card} has not arrived yet", "where is my {card}? I ordered it {days} ago",
        "still waiting for the {card}",
        "how do I track the delivery of my {card}", "the {card} should be here since {days}",
        "no {card} in the post so far",
    ), "My card has not arrived",
        "A card is sent within two days and takes five to eight working days. Track it under "
        "Card, Delivery. After ten days we send a new one free of charge."),
    Intent("card_lost_or_stolen", "urgent", (
        "I lost my {card}", "someone stole my {card} in {place}", "my purse is gone and the {card} was in it",
        "block my {card}, it was stolen", "I left the {card} in {shop} and it is gone",
        "cannot find my {card} anywhere",
    ), "Report a lost or stolen card",
        "Freeze the card at once under Card, Freeze, or call us at any hour. Nobody can pay "
        "with it from then on. You can order a replacement on the same page."),
    Intent("unknown_payment", "urgent", (
        "there is a payment of {amount} that I did not make", "who took {amount} from my account?",
        "I do not recognise a charge from {shop}", "somebody used my {card} in {place}, I was never there",
        "a transaction on my statement is not mine", "I think this is fraud: {amount} to {shop}",
    ), "I see a payment that I did not make",
        "Freeze your card, then mark the payment as not mine. We look into it and pay "
        "the money back while we do. Fraud is reported to us, not to the shop."),
    Intent("charged_twice", "normal", (
        "I was charged twice by {shop}", "the same payment of {amount} is there two times",
        "{shop} took the money double",
        "why do I see one purchase twice on my statement", "duplicate charge of {amount}",
    ), "A payment shows up twice",
        "A shop may reserve an amount first and book it later: the first one vanishes within "
        "seven days. If both are booked, ask the shop or dispute the duplicate."),
    Intent("refund_missing", "normal", (
        "{shop} says they refunded me but I got nothing", "where is my refund of {amount}?",
        "my refund is not on my account after {days}", "the shop returned the money {days} ago, still not here",
        "how long does a refund take", "waiting for money back from {shop}",
    ), "Where is my refund",
        "A refund reaches your account five to ten days after the shop sent it. It stands with the "
        "date of the purchase, not on top of the list."),
    Intent("transfer_pending", "normal", (
        "my transfer of {amount} is still pending", "I sent money {days} ago and it has not arrived",
        "the recipient did not get my transfer", "how long does a bank transfer to {place} take",
        "transfer stuck for {days}", "money that I sent is not there yet",
    ), "How long a transfer takes",
        "Within the country a transfer takes a second to a day, to other countries up to three "
        "working days. A pending transfer can be recalled until it is executed."),
    Intent("cash_machine_wrong_amount", "high", (
        "the cash machine gave me less than I asked for", "ATM paid out only a part of {amount}",
        "I got no money from the ATM but {amount} was taken", "wrong amount of cash from the machine in {place}",
        "cash withdrawal shows {amount}, the machine gave me nothing",
    ), "A cash machine paid the wrong amount",
        "Keep the receipt and tell us the time and place of the withdrawal. The "
        "owner of the machine counts its cash, and you get the difference within ten days."),
    Intent("pin_blocked", "high", (
        "I entered the wrong PIN three times", "my PIN is blocked", "how can I unblock my pin",
        "the {card} says pin tries exceeded", "I forgot my PIN and now it does not work", "need a new pin code",
    ), "Unblock or change your PIN",
        "See your PIN in the app under Card, PIN. Unblock it at any cash machine with PIN "
        "services, after three wrong tries."),
    Intent("exchange_rate", "normal", (
        "what exchange rate do you use in {place}", "the exchange rate for my purchase in {place} was wrong",
        "which rate applies when I pay in dollars", "why was my payment in {place} converted so badly",
        "do you take a fee for foreign currency", "how is the currency conversion computed",
    ), "Exchange rates and foreign currency",
        "We use the interbank rate of the moment when the payment is booked, and add "
        "nothing on weekdays. A shop that converts itself uses its own rate."),
    Intent("close_account", "normal", (
        "I want to close my account", "how do I delete my account with you", "please cancel my contract",
        "I am leaving, terminate the account", "close everything and send me the rest of the money",
    ), "Close your account",
        "Move your money first, then choose Profile, Close account. Statements stay available for ten "
        "years by post."),
    Intent("change_address", "low", (
        "I moved, how do I change my address", "update my address please", "my street name changed",
        "I live in {place} now, can you change that in my profile", "new postal address",
    ), "Change your address",
        "Under Profile, Address. We ask for a document that shows the new one, for example a bill."),
    Intent("top_up_failed", "high", (
        "my top up of {amount} failed", "I tried to add money and it was declined",
        "top-up does not work with my {card}",
        "adding {amount} by {card} is rejected every time", "why can I not load money on my account",
    ), "A top-up was declined",
        "Check that your other bank allows online payments and that the name on both cards is the "
        "same. Three failed tries block top-ups for a day."),
)  # fmt: skip
OUTSIDE: tuple[str, ...] = (
    "do you have any open jobs", "what is the weather like in {place}", "I love your new logo",
    "who won the match yesterday",
    "can you recommend a restaurant in {place}", "please stop sending me newsletters about crypto",
    "happy new year to the team",
    "my neighbour's dog barks all night", "tell me a joke", "how tall is the Eiffel tower",
    "is the museum open on Sunday",
    "write a poem about {shop}", "I would like to sponsor your football club", "what phone should I buy",
    "are you a human or a robot", "translate this letter into French", "my printer is out of paper",
    "which film is good",
)  # fmt: skip
HURRY = ("this is urgent", "immediately!!", "I need this today", "right now please", "ASAP")
SYNONYMS = {
    "where": ("where", "wher"), "money": ("money", "cash", "funds"), "payment": ("payment", "transaction", "charge"),
    "arrived": ("arrived", "come", "been delivered"), "shop": ("shop", "store", "merchant"), "wrong": ("wrong",
    "incorrect"),
    "account": ("account", "bank account"), "help": ("help", "assist"), "want": ("want", "would like", "wish"),
}  # fmt: skip
