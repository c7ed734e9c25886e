"""Other people's protocols on our engine, so that tools which speak them need no change."""
