"""What every route shares: bodies, errors, keys, middleware, event streams, paging."""
