"""Commands that make what is shipped: logs, shoppers, markets and rankers."""
