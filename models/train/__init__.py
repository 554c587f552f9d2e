"""Training of the network. Needs the extra `train` (torch, scikit-learn, matplotlib); serving never imports it."""
