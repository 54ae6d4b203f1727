"""A discrete-event model of servers and agents that makes the product's own decisions."""
