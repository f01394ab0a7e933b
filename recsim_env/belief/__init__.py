"""What a shop infers about each shopper: the belief that a simulator keeps and policies read."""
