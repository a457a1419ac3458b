"""What runs in a router: resolve, tokenize, plan, dispatch, answer."""
