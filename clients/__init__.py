"""Programs that use nextchar from outside, over HTTP only."""
