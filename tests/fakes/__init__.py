"""Small real classes that stand in for parts with the network or a mailbox behind them."""
