"""Events written down before they are acknowledged and learned, to be read again after a crash."""
